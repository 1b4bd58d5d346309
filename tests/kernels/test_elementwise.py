"""Sums of tensors and conversions between floats and bfloat16."""

from __future__ import annotations

import numpy as np
import pytest

from cconvnet import bfloat16
from cconvnet._problem import NeuronProblem
from cconvnet.devices import Device
from cconvnet.testing.check import check, make_inputs, run


@pytest.mark.parametrize("count", [1, 3, 4, 31, 256, 1027])
def test_add(device: Device, element: str, count: int) -> None:
    problem = NeuronProblem(count)
    check("add", problem, device, element=element)
    check("add", problem, device, element=element, data="real", offset=4)
    for operand in ("a", "b"):
        check("add", problem, device, element=element, in_place=operand)


@pytest.mark.parametrize("scales", [(2, 1), (1, -1), (0.5, 3), (0, 1), (-1, 0)], ids=str)
@pytest.mark.parametrize("count", [1, 31, 1028])
def test_add_of_multiples(device: Device, element: str, count: int, scales: tuple[float, float]) -> None:
    problem, options = NeuronProblem(count), dict(zip(("alpha", "beta"), scales, strict=True))
    check("add", problem, device, element=element, **options)
    check("add", problem, device, element=element, data="real", offset=4, **options)
    for operand in ("a", "b"):
        check("add", problem, device, element=element, in_place=operand, **options)


@pytest.mark.parametrize("count", [1, 31, 1028])
def test_a_sum_before_a_relu(device: Device, element: str, count: int) -> None:
    problem = NeuronProblem(count)
    for options in ({}, {"alpha": 0.5, "beta": -3.0}):
        check("add", problem, device, element=element, relu=True, nonzero=0, **options)
        check(
            "add", problem, device, element=element, relu=True, nonzero=0, in_place="b", offset=4, **options
        )


def test_add_rounds_once(device: Device) -> None:
    """With the factors left out, or both 1, the sum is bit-identical to plain addition."""
    a, b = (make_inputs("relu_forward", NeuronProblem(4099), "real", seed)["x"] for seed in (1, 2))
    a[:4], b[:4] = [np.inf, -0.0, 0.0, 1e38], [1, -0.0, -0.0, 3e38]
    for factors in ({}, {"alpha": 1.0, "beta": 1.0}):
        with np.errstate(over="ignore"):
            wanted = a + b
        assert run("add", NeuronProblem(4099), device, {"a": a, "b": b, **factors})["y"].tobytes() == (
            wanted.tobytes()
        )


@pytest.mark.parametrize("offset", [0, 2, 4])
@pytest.mark.parametrize("count", [1, 3, 8, 31, 256, 1027])
def test_conversions(device: Device, count: int, offset: int) -> None:
    for data in ("exact", "real"):
        check("to_bf16", NeuronProblem(count), device, data=data, offset=offset)
        check("from_bf16", NeuronProblem(count), device, data=data, offset=offset)


def test_conversions_of_all_kinds_of_numbers(device: Device) -> None:
    """Every bfloat16 survives; ties go to even, overflow to infinity, and a NaN stays one."""
    bits = np.arange(2**16, dtype=np.uint16)
    wide = run("from_bf16", NeuronProblem(bits.size), device, {"x": bits})["y"]
    assert wide.tobytes() == bfloat16.unpack(bits).tobytes()
    between = np.concatenate([wide.view(np.uint32) + np.uint32(step) for step in (0, 0x7FFF, 0x8000, 0x8001)])
    floats = between.view(np.float32)
    packed = run("to_bf16", NeuronProblem(floats.size), device, {"x": floats})["y"]
    assert packed.tobytes() == bfloat16.pack(floats).tobytes()
