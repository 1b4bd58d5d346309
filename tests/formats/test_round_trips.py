"""Every built-in network: to a file and back, bit-identical."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.trained import drawn

from cconvnet import nets
from cconvnet.formats.weights import fit, read_weights, write_weights
from cconvnet.nets.transform import scaled


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("name", nets.NAMES)
def test_files_hold_every_bit(tmp_path: Path, name: str, ending: str) -> None:
    spec = scaled(nets.build(name), width=1 / 16)
    tensors = drawn(spec)
    file = tmp_path / f"a.{ending}"
    write_weights(file, {"pth": "torch"}.get(ending, ending), spec, tensors)
    found = fit(read_weights(file), spec)
    assert set(found.tensors) == set(tensors)
    assert all(np.array_equal(found.tensors[tensor], value) for tensor, value in tensors.items())


def test_networks_that_are_much_alike_are_not_confused(tmp_path: Path) -> None:
    """A file of one network is refused by every other one of the same program."""
    file = tmp_path / "a.pth"
    spec = scaled(nets.build("resnet18"), width=1 / 16)
    write_weights(file, "torch", spec, drawn(spec))
    for other in ("resnet34", "resnet50", "vgg11", "googlenet-bn", "squeezenet-1.1"):
        with pytest.raises(ValueError, match=r"a\.pth"):
            fit(read_weights(file), scaled(nets.build(other), width=1 / 16))
