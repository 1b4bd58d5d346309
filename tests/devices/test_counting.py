"""Tests of the counts of memory accesses in the emulator."""

from __future__ import annotations

import numpy as np
import pytest

from cconvnet import nets, ops
from cconvnet.devices import get_device
from cconvnet.devices.counting import counting, counting_module
from cconvnet.network import Network
from cconvnet.network.synthetic import Training

pytestmark = pytest.mark.usefixtures("counting_build")


def test_a_copy_of_whole_vectors_touches_whole_sectors() -> None:
    """1,024 floats are read and written by 8 warps, 512 bytes each, in 16 sectors."""
    x = np.arange(1024, dtype=np.float32)
    with counting() as record:
        y = ops.add(x, x, device="emulator:0")
    assert np.array_equal(y, 2 * x)
    (launch,) = record.launches
    assert launch.kernel.startswith("void cconvnet::elementwise<4, ")
    assert (launch.grid, launch.block, launch.blocks, launch.blocks_run) == ((1, 1, 1), (256, 1, 1), 1, 1)
    assert (launch.site.file, launch.cut_blocks, launch.barriers) == ("kernels/core/vector.cuh", 0, 0)
    found = {(a.instruction.kind, a.instruction.space, a.instruction.bytes) for a in launch.accesses}
    assert found == {("load", "global", 16), ("store", "global", 16)}
    for access in launch.accesses:
        assert access.line.file == "kernels/elementwise.cu"
        assert (access.requests, access.lanes, access.bytes) == (8, 256, 4096)
        assert (access.sectors, access.least_sectors) == (128, 128)
        assert (access.wavefronts, access.least_wavefronts) == (0, 0)
    assert record.races == []


def test_a_sample_of_blocks_is_spread_over_the_grid() -> None:
    """Blocks 0, 2 and 4 of 5 run; what the others would write keeps its contents."""
    device = get_device("emulator:0")
    x, y = np.ones(5 * 1024, np.float32), np.zeros(5 * 1024, np.float32)
    with counting(blocks=3) as record:
        device.module.add(x, x, y)
    assert list(y[::1024]) == [2, 0, 2, 0, 2]
    (launch,) = record.launches
    assert (launch.blocks, launch.blocks_run) == (5, 3)


def test_the_usual_emulator_is_back_at_the_end() -> None:
    device = get_device("emulator:0")
    usual = device.module
    with counting():
        assert device.module is counting_module()
        with pytest.raises(ValueError, match="being counted already"), counting():
            pass
    assert device.module is usual


def test_a_network_that_was_made_before_is_counted() -> None:
    training = Training(Network(nets.build("lenet"), batch=2, devices=["emulator:0"]))
    with counting(blocks=1, races=False) as record:
        training.step()
    kernels = " ".join(launch.kernel for launch in record.launches)
    for name in ("input_transform", "conv_fprop", "conv_dgrad", "conv_wgrad", "softmax", "SgdUpdate"):
        assert name in kernels
