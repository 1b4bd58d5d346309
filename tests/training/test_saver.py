"""Snapshots of a network, and the thread that writes them. Their cost is measured elsewhere, never tested."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cconvnet import nets
from cconvnet.bench import checkpoint as bench
from cconvnet.devices import Device, get_device
from cconvnet.nets import alexnet_2012
from cconvnet.network import Network
from cconvnet.runs.checkpoint import Checkpoint, Folder, load
from cconvnet.training.saver import Saver, Snapshot

LENET = nets.build("lenet")


def step(network: Network, number: int) -> None:
    draws = np.random.default_rng(number)
    images = draws.integers(0, 256, (network.batch, *network.spec.stored_shape), np.uint8)
    network.load(images, draws.integers(0, network.spec.classes, network.batch))
    network.train_step(number, 0.01, 0.9)


def assert_equal(found: Any, right: dict[str, np.ndarray[Any, Any]]) -> None:
    assert found.keys() == right.keys()
    for name, tensor in right.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        assert found[name].tobytes() == tensor.tobytes(), name


@pytest.mark.parametrize("towers", [1, 2])
def test_a_snapshot_is_the_state_as_it_was(device: Device, towers: int) -> None:
    spec = alexnet_2012.build((67, 67, 3), 10, width=1 / 24)
    devices = [device, get_device(f"{device.kind}:{device.index + 1}")][:towers]
    network = Network(spec, batch=2, devices=devices, towers=2)
    snapshot = Snapshot(network)
    for number in range(2):  # into the same memory
        step(network, 2 * number)
        wait_for_copies = snapshot.take()
        before = network.state()
        step(network, 2 * number + 1)  # may change what is still being copied
        wait_for_copies()
        assert_equal(snapshot, before)
        assert any(network.state()[name].tobytes() != before[name].tobytes() for name in before)


def test_snapshots_of_one_network_take_no_more_memory() -> None:
    network = Network(LENET, batch=4, devices="cpu:0")
    snapshot = Snapshot(network)
    snapshot.take()()
    first = {name: tensor.ctypes.data for name, tensor in snapshot.items()}
    step(network, 0)
    snapshot.take()()
    assert {name: tensor.ctypes.data for name, tensor in snapshot.items()} == first


def test_large_arrays_are_copied_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cconvnet.devices.device._BYTES_PER_COPY", 4 * 1000)
    device = get_device("cpu:0")
    sources = [np.random.default_rng(0).normal(size=shape).astype(np.float32) for shape in [(77, 130), (3,)]]
    targets = [device.host_memory(source.shape, source.dtype) for source in sources]
    device.copy_out(zip(sources, targets, strict=True))()
    for source, target in zip(sources, targets, strict=True):
        assert source.tobytes() == target.tobytes()


def test_what_is_written_is_the_snapshot(tmp_path: Path) -> None:
    """Training goes on before the snapshot is written."""
    network = Network(LENET, batch=4, devices="cpu:0")
    with Saver(network, Folder(tmp_path)) as saver:
        assert saver.collect() is None
        for number in range(5):
            step(network, number)
            before = network.state()
            beside = Checkpoint({"data.mean": np.ones(3, np.float32)}, {}, {}, {"step": number})
            saver.begin(beside, None)
            step(network, 100)
            saved = saver.collect()
            assert saved is not None and (saved.step, saved.path) == (number, Folder(tmp_path).file(number))
            assert saved.bytes == saved.path.stat().st_size and saved.seconds > 0
            assert_equal(load(saved.path).tensors, before | dict(beside.tensors))


def test_leaving_waits_for_what_is_written(tmp_path: Path) -> None:
    network = Network(LENET, batch=4, devices="cpu:0")
    with Saver(network, Folder(tmp_path)) as saver:
        saver.begin(Checkpoint({}, {}, {}, {"step": 3}), None)
    assert load(Folder(tmp_path).file(3)).step == 3
    assert [file.name for file in tmp_path.iterdir()] == ["step-00000003.safetensors"]


def test_the_measurement_says_what_a_checkpoint_costs(tmp_path: Path) -> None:
    parts: list[int] = []
    result = bench.checkpoint(
        "lenet", devices=["cpu:0"], batch=4, folder=tmp_path, steps=2, saves=3, stepped=parts.append
    )
    assert parts == [1, 2, 3, 4, 5]
    assert not list(tmp_path.iterdir())
    assert result["parameters"] == 131_080
    assert 8 * 131_080 < result["bytes"] < 8 * 131_080 + 100_000
    assert len(result["stall_seconds"]) == len(result["write_seconds"]) == 3
    assert all(seconds > 0 for seconds in result["stall_seconds"] + result["write_seconds"])
    assert result["step"]["calls"] == 2
    assert json.loads(json.dumps(result)) == result
    assert "training pauses" in " ".join(bench.lines(result))
    with pytest.raises(ValueError, match="--saves must be at least 1, not 0"):
        bench.checkpoint("lenet", folder=tmp_path, saves=0)
