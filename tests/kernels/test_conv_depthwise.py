"""Depthwise convolution: channels that have one filter each, on every row of every selection table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.adjoint import assert_adjoint

from cconvnet._problem import ConvProblem
from cconvnet.devices import Device, get_device
from cconvnet.testing import compare, reference
from cconvnet.testing.check import (
    check,
    check_fused,
    exact_impls,
    impls,
    make_inputs,
    own_impls,
    repro,
    run,
)
from cconvnet.testing.problems import DEPTHWISE, with_precision

PASSES = ["conv_fprop", "conv_dgrad", "conv_wgrad"]
SPARSE = {"2x3_dilated_down", "dilated_strided", "padded_beyond_filter", "scalar_dilated"}


def depthwise_rows(operation: str, problem: Any, device: Device) -> list[str]:
    """Return the rows that are for such a problem alone, and at least the first choice."""
    rows = exact_impls(operation, problem, device)
    return [str(row) for row in rows if "depthwise" in str(row)] or rows[:1]


@pytest.mark.parametrize("name", DEPTHWISE)
@pytest.mark.parametrize("operation", PASSES)
def test_exact(device: Device, precision: str, operation: str, name: str) -> None:
    problem = with_precision(DEPTHWISE[name], precision)
    for impl in depthwise_rows(operation, problem, device):
        check(operation, problem, device, impl=impl, nonzero=0.1 if name in SPARSE else 0.25)


@pytest.mark.parametrize("name", DEPTHWISE)
@pytest.mark.parametrize("operation", PASSES)
def test_real(device: Device, precision: str, operation: str, name: str) -> None:
    problem = with_precision(DEPTHWISE[name], precision)
    for impl in depthwise_rows(operation, problem, device):
        check(operation, problem, device, impl=impl, data="real")


@pytest.mark.parametrize("operation", PASSES)
def test_blocks_that_have_several_pieces_of_work(device: Device, operation: str) -> None:
    """So many channels that each share of them has one block."""
    check(operation, ConvProblem(18, 1, 1, 67600, 67600, 1, 1, groups=67600), device)


@pytest.mark.parametrize("name", ["3x3", "5x5_strided", "7x7", "scalar"])
@pytest.mark.parametrize("operation", PASSES)
def test_any_alignment(device: Device, precision: str, operation: str, name: str) -> None:
    problem = with_precision(DEPTHWISE[name], precision)
    for offset in (2, 8) if precision == "bf16" else (4, 8):
        check(operation, problem, device, offset=offset)


@pytest.mark.parametrize("dropout", [None, "whole", "rows", "part", "odd_part"])
@pytest.mark.parametrize("name", ["3x3_strided", "5x5", "scalar"])
def test_epilogue(device: Device, precision: str, name: str, dropout: str | None) -> None:
    problem = with_precision(DEPTHWISE[name], precision)
    options: dict[str, Any] = {"bias": True, "relu": True, **({"dropout": dropout} if dropout else {})}
    for impl in depthwise_rows("conv_fprop", problem, device):
        check("conv_fprop", problem, device, impl=impl, nonzero=0.05, **options)
        check_fused("conv_fprop", problem, device, impl=impl, **options)
    check("conv_fprop", problem, device, offset=4, nonzero=0.05, **options)


@pytest.mark.parametrize("update", ["plain", "full", "halted"])
@pytest.mark.parametrize("name", ["3x3_strided", "many_rows", "scalar"])
def test_update(device: Device, precision: str, name: str, update: str) -> None:
    problem = with_precision(DEPTHWISE[name], precision)
    for impl in depthwise_rows("conv_wgrad", problem, device):
        check("conv_wgrad", problem, device, impl=impl, update=update)
        check_fused("conv_wgrad", problem, device, impl=impl, update=update)


@pytest.mark.parametrize("name", DEPTHWISE)
def test_gradients_are_adjoint(device: Device, name: str) -> None:
    assert_adjoint("conv", DEPTHWISE[name], device)


@pytest.mark.parametrize("name", ["3x3_strided", "5x5", "dilated", "scalar"])
@pytest.mark.parametrize("operation", ["conv_fprop", "conv_dgrad"])
def test_a_nan_reaches_its_channel_and_windows_alone(
    device: Device, precision: str, operation: str, name: str
) -> None:
    problem = with_precision(DEPTHWISE[name], precision)
    inputs = make_inputs(operation, problem)
    moving = "x" if operation == "conv_fprop" else "dy"
    if operation == "conv_fprop":
        inputs |= {"bias": None, "relu": False}
    inputs[moving][0, 2, 3, 1] = np.nan
    expected = getattr(reference, operation)(problem, *inputs.values())
    assert 0 < np.isnan(expected).sum() < expected.size / 4
    for impl in depthwise_rows(operation, problem, device):
        (result,) = run(operation, problem, device, inputs, impl=impl).values()
        assert (np.isnan(compare.values(result)) == np.isnan(expected)).all()


@pytest.mark.parametrize("operation", ["conv_fprop", "conv_wgrad"])
@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (5, 1), (7, 1)])
def test_what_no_window_reads_has_no_influence(
    device: Device, precision: str, operation: str, size: int, stride: int
) -> None:
    problem = ConvProblem(
        2, 12, 16, 8, 8, size, size, stride=(stride, stride), groups=8, outputs=(3, 2), precision=precision
    )
    inputs = make_inputs(operation, problem)
    inputs["x"][:, 2 * stride + size :] = inputs["x"][:, :, stride + size :] = np.nan
    if operation == "conv_fprop":
        inputs |= {"bias": None, "relu": False}
    expected = getattr(reference, operation)(problem, *inputs.values())
    assert np.isfinite(expected).all()
    for impl in depthwise_rows(operation, problem, device):
        (result,) = run(operation, problem, device, inputs, impl=impl).values()
        assert np.array_equal(compare.values(result), expected), repro(operation, problem, device)


@pytest.mark.parametrize("operation", ["conv_fprop", "conv_dgrad"])
def test_rows_of_the_same_arithmetic_give_the_same_bits(device: Device, operation: str) -> None:
    """The sums run in the order of the matrix products."""
    problem = DEPTHWISE["3x3_strided"]
    inputs = make_inputs(operation, problem, "real")
    results = [
        run(operation, problem, device, inputs, impl=impl).popitem()[1]
        for impl in own_impls(operation, problem, device)
    ]
    if device.kind != "cpu":
        for result in results[1:]:
            compare.assert_same_bits(operation, result, results[0])


@pytest.mark.parametrize("operation", PASSES)
def test_other_products_with_as_many_groups(device: Device, precision: str, operation: str) -> None:
    """Several filters for each channel, and filters of more taps than a block has room for."""
    for problem in (
        ConvProblem(2, 6, 5, 8, 16, 3, 3, padding=(1, 1), groups=8, precision=precision),
        ConvProblem(1, 10, 9, 8, 8, 9, 8, padding=(4, 4), groups=8, precision=precision),
    ):
        if device.kind != "cpu":
            assert not any("depthwise" in str(row) for row in exact_impls(operation, problem, device))
        check(operation, problem, device, nonzero=0.1)


@pytest.mark.parametrize(
    ("operation", "name", "precision", "own"),
    [
        ("conv_fprop", "5x5_strided", "bf16", False),
        ("conv_dgrad", "5x5_strided", "bf16", True),
        ("conv_dgrad", "5x5_strided", "fp32", False),
        ("conv_dgrad", "3x3", "bf16", False),
        ("conv_dgrad", "3x3_strided", "bf16", False),  # 24 channels
        ("conv_dgrad", "dilated", "fp32", True),
        ("conv_wgrad", "5x5_strided", "fp32", True),
        ("conv_wgrad", "dilated", "bf16", True),
        ("conv_wgrad", "3x3", "fp32", False),
    ],
)
def test_the_cpu_has_own_loops_where_they_are_faster(
    operation: str, name: str, precision: str, own: bool
) -> None:
    device = get_device("cpu:0")
    if device.module.build_kind() == "numpy" or not device.serves(precision):
        pytest.skip(f"{device.name} has no choice")
    first = impls(operation, with_precision(DEPTHWISE[name], precision), device)[0]
    assert (first == "depthwise") == own
