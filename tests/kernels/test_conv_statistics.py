"""Statistics of a convolution's output, computed by the convolution for the batch normalisation behind it."""

from __future__ import annotations

from typing import Any

import pytest

from cconvnet._problem import ConvProblem
from cconvnet.devices import Device
from cconvnet.operations import workspace_size
from cconvnet.testing import compare
from cconvnet.testing.check import check_fused, make_inputs, own_impls, run
from cconvnet.testing.problems import CONV, with_precision

PROBLEMS = {
    **{name: CONV[name] for name in ("plain", "tail", "groups_tail", "1x1", "strided", "wide_k", "rgb")},
    "one_group": ConvProblem(2, 4, 4, 8, 16, 1, 1),
    "several_groups": ConvProblem(5, 9, 9, 16, 72, 3, 3, padding=(1, 1)),
    "long_columns": ConvProblem(9, 13, 13, 8, 8, 3, 3, padding=(1, 1)),
    "depthwise": ConvProblem(3, 9, 11, 16, 16, 3, 3, padding=(1, 1), groups=16),
    "split": ConvProblem(2, 5, 6, 264, 24, 3, 3, padding=(1, 1)),
}
OUTPUTS = ("mean", "variance", "unbiased")


def pixels(problem: Any) -> int:
    return int(problem.n * problem.p * problem.q)


@pytest.mark.parametrize("part", [1.0, 0.7, 0.0])
@pytest.mark.parametrize("name", PROBLEMS)
def test_they_are_those_of_the_separate_operation(
    device: Device, precision: str, name: str, part: float
) -> None:
    """Of all pixels, of some, and of one, after a bias and a ReLU."""
    problem = with_precision(PROBLEMS[name], precision)
    counted = max(1, int(part * pixels(problem)))
    for impl in own_impls("conv_fprop", problem, device):
        for bias, relu in ((False, False), (True, True)):
            options: dict[str, Any] = {"bias": bias, "relu": relu, "counted": counted}
            check_fused("conv_fprop", problem, device, impl=impl, **options)
    check_fused("conv_fprop", problem, device, offset=4, counted=counted)


def test_they_are_those_of_what_a_dropout_leaves(device: Device, precision: str) -> None:
    problem = with_precision(PROBLEMS["several_groups"], precision)
    for impl in own_impls("conv_fprop", problem, device):
        check_fused("conv_fprop", problem, device, impl=impl, dropout="whole", counted=0)


@pytest.mark.parametrize("counted", [0, 1])
def test_no_pixel_means_all_pixels(device: Device, counted: int) -> None:
    problem = PROBLEMS["several_groups"]
    results = [
        run("conv_fprop", problem, device, make_inputs("conv_fprop", problem, "real", counted=count))
        for count in (counted, pixels(problem))
    ]
    for name in OUTPUTS:
        same = results[0][name].tobytes() == results[1][name].tobytes()
        assert same == (counted == 0), name


def test_all_rows_of_the_same_arithmetic_agree(device: Device, precision: str) -> None:
    problem = with_precision(PROBLEMS["several_groups"], precision)
    inputs = make_inputs("conv_fprop", problem, "real", counted=300)
    first: dict[tuple[str, bool], Any] = {}
    for impl in own_impls("conv_fprop", problem, device):
        outputs = run("conv_fprop", problem, device, inputs, impl=impl)
        on_tensor_cores = precision != "fp32" and not str(impl).endswith("scalar")
        for name in OUTPUTS:
            known = first.setdefault((name, on_tensor_cores), outputs[name])
            compare.assert_same_bits(name, outputs[name], known)


def test_they_need_their_workspace(device: Device) -> None:
    problem = PROBLEMS["long_columns"]
    plain, measured = (
        workspace_size(device.module, "conv_fprop", problem, sums=sums) for sums in (False, True)
    )
    assert (measured > plain) == (device.kind in ("cuda", "emulator"))


@pytest.mark.parametrize("missing", OUTPUTS)
def test_one_without_the_others_is_refused(device: Device, missing: str) -> None:
    if device.kind == "reference":
        pytest.skip("NumPy takes what it is given")
    problem = PROBLEMS["one_group"]
    inputs = make_inputs("conv_fprop", problem, counted=0)
    del inputs[missing]
    with pytest.raises(ValueError, match="mean, variance and unbiased must be given together"):
        run("conv_fprop", problem, device, inputs)


@pytest.mark.parametrize("counted", [-1, 33])
def test_pixels_that_there_are_not_are_refused(device: Device, counted: int) -> None:
    problem = PROBLEMS["one_group"]
    with pytest.raises(ValueError, match="counted must be at"):
        run("conv_fprop", problem, device, make_inputs("conv_fprop", problem, counted=counted))
