"""Outputs that are placed in a concatenation: they have the bits of dense ones and leave the others alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cconvnet import bfloat16
from cconvnet._problem import BiasProblem, ConvProblem, DropoutProblem, LocalProblem
from cconvnet.devices import Device
from cconvnet.operations import workspace_size
from cconvnet.testing.check import make_inputs, own_impls
from cconvnet.testing.problems import with_precision

# 1x1, 3x3 and 5x5 filters, a tail of channels, groups, few channels, a split along k, pixels left over,
# a filter for each channel.
CONVOLUTIONS = [
    ConvProblem(2, 7, 7, 32, 48, 1, 1),
    ConvProblem(2, 9, 8, 16, 32, 3, 3, padding=(1, 1)),
    ConvProblem(1, 6, 6, 16, 10, 5, 5, padding=(2, 2)),
    ConvProblem(2, 6, 6, 24, 24, 3, 3, padding=(1, 1), groups=3),
    ConvProblem(2, 11, 11, 3, 16, 3, 3, (2, 2)),
    ConvProblem(1, 3, 3, 128, 16, 3, 3, padding=(1, 1)),
    ConvProblem(1, 11, 11, 8, 8, 3, 3, (3, 3), outputs=(2, 2)),
    ConvProblem(2, 7, 6, 16, 16, 3, 3, padding=(1, 1), groups=16),
]
# (channels before, channels behind): on boundaries of vectors, and off them.
SIDES = [(16, 8), (4, 12), (3, 2)]


def stored(values: Any, bf16: bool) -> Any:
    return bfloat16.pack(values) if bf16 else values


def schedules(device: Device) -> Iterator[None]:
    for schedule in ("forward", "reverse", "random") if device.kind == "emulator" else ("",):
        if schedule:
            device.module.set_schedule(schedule, 5)
        try:
            yield
        finally:
            if schedule:
                device.module.set_schedule("forward")


def wide(shape: tuple[int, ...], pitch: int, bf16: bool) -> Any:
    """An array of pixels of `pitch` channels that have bits of their own."""
    return stored(np.random.default_rng(1).standard_normal((*shape[:-1], pitch), np.float32), bf16)


@pytest.mark.parametrize("sides", SIDES, ids=str)
@pytest.mark.parametrize("problem", CONVOLUTIONS, ids=repr)
def test_a_placed_product_has_the_bits_of_a_dense_one(
    device: Device, precision: str, problem: ConvProblem, sides: tuple[int, int]
) -> None:
    problem, bf16 = with_precision(problem, precision), precision == "bf16"
    inputs = make_inputs("conv_fprop", problem, data="real", bias=True)
    arrays = [device.array(stored(inputs[name], bf16)) for name in ("x", "w")]
    arrays.append(device.array(inputs["bias"]))
    own = slice(sides[0], sides[0] + problem.k)
    before = wide(problem.y_shape, sum(sides) + problem.k, bf16)
    placed = problem.placed(before.shape[-1], own.start)

    for impl in own_impls("conv_fprop", problem, device):
        size = workspace_size(device.module, "conv_fprop", problem, impl)
        workspace = device.array(np.zeros(size, np.uint8)) if size else None
        for relu in (True, False):
            dense = device.array(np.zeros(problem.y_shape, before.dtype))
            device.module.conv_fprop(problem, *arrays, relu, dense, workspace, device.stream, impl=impl)
            expected = before.copy()
            expected[..., own] = device.host(dense)
            assert np.count_nonzero(expected[..., own]) > dense.size / 4
            for _ in schedules(device):
                whole = device.array(before)
                device.module.conv_fprop(placed, *arrays, relu, whole, workspace, device.stream, impl=impl)
                np.testing.assert_array_equal(device.host(whole), expected, err_msg=str(impl))


@pytest.mark.parametrize("sides", SIDES, ids=str)
@pytest.mark.parametrize("problem", [BiasProblem(1, 1), BiasProblem(70, 24), BiasProblem(1500, 13)], ids=repr)
def test_the_gradient_of_a_placed_relu_has_the_bits_of_a_dense_one(
    device: Device, element: str, problem: BiasProblem, sides: tuple[int, int]
) -> None:
    bf16, shape = element == "bf16", (problem.rows, problem.k)
    before, pitch = sides[0], sum(sides) + problem.k
    whole = [wide(shape, pitch, bf16) for _ in ("y", "dy")]
    whole[1] = whole[1][::-1].copy()
    parts = [np.ascontiguousarray(matrix[:, before : before + problem.k]) for matrix in whole]
    size = workspace_size(device.module, "relu_bias_backward", problem)
    workspace = device.array(np.zeros(size, np.uint8)) if size else None

    def run(problem: BiasProblem, y: Any, dy: Any) -> tuple[Any, Any]:
        dx, db = device.empty(shape, y.dtype), device.empty((problem.k,))
        y, dy = device.array(y), device.array(dy)
        device.module.relu_bias_backward(problem, y, dy, 1.5, dx, db, workspace, device.stream)
        return device.host(dx), device.host(db)

    expected = run(problem, *parts)
    for _ in schedules(device):
        for found, value in zip(run(problem.placed(pitch, before), *whole), expected, strict=True):
            np.testing.assert_array_equal(found, value)


def test_only_what_can_be_placed_is(device: Device) -> None:
    conv = ConvProblem(1, 3, 3, 8, 8, 1, 1)
    placed, module = conv.placed(16, 8), device.module
    x, w = device.array(np.ones(conv.x_shape, np.float32)), device.array(np.ones(conv.w_shape, np.float32))
    whole, step = device.array(np.zeros((1, 3, 3, 16), np.float32)), device.array(np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="y must have 144 elements, not 72"):
        module.conv_fprop(placed, x, w, None, False, x, None, device.stream)
    drop = DropoutProblem(144, 0.5)
    with pytest.raises(ValueError, match="a y that is placed cannot be dropped"):
        module.conv_fprop(placed, x, w, None, False, whole, None, device.stream, dropout=drop, step=step)
    statistics = {name: device.array(np.ones(8, np.float32)) for name in ("mean", "variance", "unbiased")}
    room = device.array(np.zeros(1024, np.uint8))
    with pytest.raises(ValueError, match="a y that is placed cannot be dropped or measured"):
        module.conv_fprop(placed, x, w, None, False, whole, room, device.stream, **statistics)
    with pytest.raises(ValueError, match="dy cannot be placed"):
        module.conv_dgrad(placed, whole, w, x, None, device.stream)
    with pytest.raises(ValueError, match="dy cannot be placed"):
        module.conv_wgrad(placed, x, whole, w, None, device.stream)
    bias = BiasProblem(9, 8).placed(16, 8)
    with pytest.raises(ValueError, match="only relu_bias_backward takes placed arrays"):
        module.bias_add(bias, x, device.array(np.ones(8, np.float32)), False, x, device.stream)


def test_a_place_outside_of_the_concatenation_is_refused() -> None:
    conv = ConvProblem(1, 3, 3, 8, 8, 1, 1)
    with pytest.raises(ValueError, match="pitch must be at least first \\+ k, 17, not 16"):
        conv.placed(16, 9)
    with pytest.raises(ValueError, match="first must be at least 0, not -1"):
        conv.placed(16, -1)
    with pytest.raises(ValueError, match="y would have more than 2\\^31 - 1 elements"):
        ConvProblem(64, 64, 64, 8, 8, 1, 1).placed(10240, 0)


def test_a_problem_says_where_it_is_placed() -> None:
    for problem in (ConvProblem(1, 3, 3, 8, 8, 1, 1), BiasProblem(9, 8)):
        placed = problem.placed(24, 8)
        assert eval(repr(placed)) == placed != problem  # noqa: S307
        assert repr(placed) == f"{problem!r}.placed(24, 8)"
    assert not hasattr(LocalProblem(1, 3, 3, 8, 8, 1, 1), "placed")
