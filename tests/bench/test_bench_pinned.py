"""Timed steps read their images from pinned memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cconvnet import nets
from cconvnet.bench import checkpoint, roofline, scaling
from cconvnet.bench.peers.cconvnet_step import OurStep
from cconvnet.devices import Device, Feed, get_device
from cconvnet.formats.networks import build_network
from cconvnet.nets import spec_to_dict
from cconvnet.network.synthetic import Training


class Pinned(np.ndarray[Any, Any]):
    pass


class Watched(Feed):
    def start(self, host: np.ndarray[Any, Any]) -> None:
        self._device.fed.append(type(host))  # type: ignore[attr-defined]
        super().start(host)


def staging(self: Device, shape: Any, dtype: Any) -> Any:
    return np.empty(shape, dtype).view(Pinned)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A CPU whose staged memory can be told from other memory where its feeds read it."""
    found: Any = get_device("cpu:0")
    monkeypatch.setattr(Device, "fed", [], raising=False)
    monkeypatch.setattr(Device, "staging", staging)
    monkeypatch.setattr(Device, "feed", lambda self, target: Watched(self, target))
    return found


def test_images_are_staged_unless_asked_otherwise(watched: Any) -> None:
    network = build_network("lenet", ["cpu:0"], 4)
    staged, pageable = Training(network), Training(network, pageable=True)
    assert isinstance(staged.images, Pinned) and not isinstance(pageable.images, Pinned)
    assert (staged.images == pageable.images).all() and len(np.unique(staged.images)) > 50
    staged.step()
    assert watched.fed == [Pinned]
    pageable.step()
    assert watched.fed == [Pinned, np.ndarray]


def test_every_measurement_of_steps_feeds_staged_images(watched: Any, tmp_path: Path) -> None:
    spec = nets.build("lenet")
    ours = OurStep(spec_to_dict(spec), 2, ["cpu:0"], "fp32", str(tmp_path))
    ours.step()
    limits = roofline.Peaks(1e9, 1e9)
    roofline.roofline("lenet", devices=["cpu:0"], batch=2, steps=1, warmup=0, peaks=limits)
    scaling.Points("cpu:0", "fp32").measure(spec_to_dict(spec), 2, 1e-3)
    checkpoint.checkpoint("lenet", devices=["cpu:0"], batch=2, folder=tmp_path, steps=1, saves=1)
    assert len(watched.fed) > 6 and set(watched.fed) == {Pinned}
