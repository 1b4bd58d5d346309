"""Tests of the counts of memory accesses in the emulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cconvnet import nets, ops
from cconvnet.devices import get_device
from cconvnet.devices.counting import Launch, counting, counting_module
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


def convolve(value: int = 0) -> Any:
    """Return a convolution of 288 pixels by tiles of 128 x 128, of 9 steps of 64 channels of a tap each."""
    x, w = np.full((2, 12, 12, 64), value, np.uint16), np.full((128, 3, 3, 64), value, np.uint16)
    row = "conv_fprop_wgmma_bf16_128x128x64"
    return ops.conv_fprop(x, w, padding=1, impl=row, device="emulator:0", precision="bf16")


def warp_groups(**values: Any) -> Launch:
    with counting(races=False, **values) as record:
        convolve()
    (launch,) = record.launches
    return launch


def test_boxes_and_factors_of_warp_groups_are_counted() -> None:
    launch = warp_groups(multiprocessors=132)
    assert (launch.grid, launch.blocks_run, launch.threads) == ((3, 1, 1), 3, 384)
    loads = [one for one in launch.accesses if one.instruction.kind == "box_load"]
    images, filters = (
        next(one for one in loads if one.instruction.space == "global" and one.array == name)
        for name in ("x", "w")
    )
    assert filters.line.file == "kernels/conv_wgmma.cu"
    # Each step has a box of 128 filters, and one of 128 pixels: 4 sectors for 64 channels of each.
    assert filters.requests == images.requests == 3 * 9
    assert filters.sectors == filters.least_sectors == 3 * 9 * 128 * 4
    assert filters.bytes == 32 * filters.sectors
    # Of the 9 taps of 288 pixels those outside the images are not read: one row or column in 12 at an edge.
    assert images.sectors == images.least_sectors == 2 * (12 + 2 * 11) ** 2 * 4
    # Shared memory receives the zeros too, a line of 128 bytes in a wavefront.
    written = sum(one.wavefronts for one in loads if one.instruction.space == "shared")
    assert written == 3 * 9 * 256
    # For each of 4 products a step each of 8 warps reads 16 rows of A, of 32 bytes, and a quarter of B.
    (factors,) = (one for one in launch.accesses if one.instruction.kind == "factor")
    assert factors.requests == 3 * 9 * 4 * 8
    assert factors.wavefronts == factors.requests * (16 + 32) * 32 // 128


def test_products_and_waits_of_warp_groups_are_counted() -> None:
    warps: dict[str, int] = {}
    for operation in warp_groups(multiprocessors=132).operations:
        warps[operation.name] = warps.get(operation.name, 0) + operation.warps
    assert warps["wgmma.mma_async.m64n128k16"] == 3 * 9 * 4 * 8
    # Each of the warps that multiply, and the one that copies, waits in each step.
    assert warps["mbarrier.try_wait"] == 3 * 9 * (8 + 1)


def test_persistent_blocks_are_those_of_the_gpu() -> None:
    two = warp_groups(multiprocessors=2)
    # Two tiles and one, of the same work each.
    assert two.grid == (2, 1, 1) and two.busiest == pytest.approx(2 / 1.5, rel=0.05)
    assert warp_groups(multiprocessors=1).grid == (1, 1, 1)
    with pytest.raises(ValueError, match="count must be at least 0"):
        counting_module().set_multiprocessors(-1)


def test_products_of_a_sample_are_not_computed() -> None:
    one = 0x3F80  # as a bfloat16
    with counting(races=False):
        assert convolve(one).all()
    with counting(3, races=False):
        assert not convolve(one).any()
