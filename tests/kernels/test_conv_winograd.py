"""Winograd's algorithm on the CPU, whose products are fewer and round differently from a plain sum's."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.commands import succeed

from cconvnet import ops
from cconvnet._problem import ConvProblem
from cconvnet.devices import get_device
from cconvnet.testing import reference
from cconvnet.testing.check import check, check_fused, make_inputs, run
from cconvnet.testing.networks import layers
from cconvnet.testing.problems import with_precision

CPU = "cpu:0"
# Units of the last place of the largest result: errors of the transforms, which small sums do not hide.
FLOOR = 8.0
PASSES = ["conv_fprop", "conv_dgrad", "conv_wgrad"]

pytestmark = pytest.mark.skipif(
    get_device(CPU).module.build_kind() != "cpu", reason="the CPU module is not built with oneDNN"
)

PROBLEMS = {
    "plain": ConvProblem(2, 8, 8, 16, 32, 3, 3, padding=(1, 1)),
    "tiles_cut": ConvProblem(3, 7, 9, 32, 48, 3, 3, padding=(1, 1)),
    "five_taps": ConvProblem(2, 7, 9, 48, 32, 5, 5, padding=(2, 2)),
    "five_vectors": ConvProblem(1, 6, 5, 80, 112, 3, 3, padding=(1, 1)),
    "no_padding": ConvProblem(2, 9, 7, 16, 16, 3, 3),
    "padded_beyond_filter": ConvProblem(1, 3, 4, 16, 16, 3, 3, padding=(4, 3)),
    "unequal": ConvProblem(2, 9, 10, 16, 32, 5, 5, padding=((1, 3), (0, 2))),
    "fewer_outputs": ConvProblem(2, 9, 10, 16, 16, 3, 3, padding=(1, 1), outputs=(4, 6)),
    "filter_beyond_image": ConvProblem(1, 2, 3, 16, 16, 5, 5, padding=(2, 2)),
    "one_pixel": ConvProblem(1, 1, 1, 16, 16, 3, 3, padding=(1, 1)),
    "groups": ConvProblem(2, 6, 6, 64, 96, 3, 3, padding=(1, 1), groups=2),
    "groups_of_five_taps": ConvProblem(1, 9, 9, 96, 48, 5, 5, padding=(2, 2), groups=3),
    "many_tiles": ConvProblem(11, 13, 13, 16, 16, 3, 3, padding=(1, 1)),
}


def serves(operation: str, problem: ConvProblem) -> bool:
    return "winograd" in getattr(get_device(CPU).module, f"{operation}_impls")(problem)


# wgrad has a row for 3x3 filters alone.
CASES = [
    (operation, name)
    for operation in PASSES
    for name, problem in PROBLEMS.items()
    if operation != "conv_wgrad" or problem.r == 3
]


def rms_error(operation: str, problem: ConvProblem, impl: str) -> float:
    """Return the root mean square error of a row relative to that of the result, in float64."""
    inputs = make_inputs(operation, problem, "real", 0, "fp32")
    (actual,) = run(operation, problem, CPU, inputs, impl=impl).values()
    wanted = getattr(reference, operation)(problem, *list(inputs.values())[:2]).reshape(actual.shape)
    return float(np.sqrt(np.mean((actual - wanted) ** 2) / np.mean(wanted**2)))


@pytest.mark.parametrize(("operation", "name"), CASES)
def test_real(operation: str, name: str) -> None:
    check(operation, PROBLEMS[name], CPU, impl="winograd", data="real", floor=FLOOR)


@pytest.mark.parametrize("operation", PASSES)
@pytest.mark.parametrize(
    "problem",
    [
        ConvProblem(2, 13, 13, 48, 64, 3, 3, padding=(1, 1)),
        ConvProblem(1, 13, 13, 256, 64, 3, 3, padding=(1, 1)),
        ConvProblem(2, 14, 14, 48, 64, 5, 5, padding=(2, 2)),
    ],
    ids=["3x3_48", "3x3_256", "5x5_48"],
)
def test_error_beside_a_plain_sum(operation: str, problem: ConvProblem) -> None:
    if not serves(operation, problem):
        assert operation == "conv_wgrad" and problem.r == 5
        return
    assert rms_error(operation, problem, "winograd") <= 4 * rms_error(operation, problem, "onednn")


@pytest.mark.parametrize("layer", ["conv2", "conv3", "conv4", "conv5"])
@pytest.mark.parametrize("operation", PASSES)
def test_alexnet(operation: str, layer: str) -> None:
    problem = layers("alexnet")[layer].problem(n=2)
    if serves(operation, problem):
        check(operation, problem, CPU, impl="winograd", data="real", floor=FLOOR)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("name", ["tiles_cut", "groups"])
def test_bias_and_relu(name: str, relu: bool) -> None:
    check("conv_fprop", PROBLEMS[name], CPU, impl="winograd", data="real", floor=FLOOR, bias=True, relu=relu)
    check_fused("conv_fprop", PROBLEMS[name], CPU, impl="winograd", bias=True, relu=relu)


@pytest.mark.parametrize("name", ["plain", "groups"])
def test_update(name: str) -> None:
    check_fused("conv_wgrad", PROBLEMS[name], CPU, impl="winograd", update=True)


@pytest.mark.parametrize("operation", PASSES)
def test_unaligned_arrays(operation: str) -> None:
    check(operation, PROBLEMS["tiles_cut"], CPU, impl="winograd", data="real", floor=FLOOR, offset=4)


def test_an_image_has_the_same_results_in_any_batch() -> None:
    inputs = make_inputs("conv_fprop", PROBLEMS["many_tiles"], "real", 0, "fp32")
    x, w = inputs["x"], inputs["w"]
    together = ops.conv_fprop(x, w, padding=1, impl="winograd", device=CPU)
    alone = ops.conv_fprop(x[7:8], w, padding=1, impl="winograd", device=CPU)
    assert np.array_equal(together[7:8], alone)


def test_groups_are_convolutions_of_their_own() -> None:
    problem = PROBLEMS["groups"]
    inputs = make_inputs("conv_fprop", problem, "real", 0, "fp32")
    x, w = inputs["x"], inputs["w"]
    together = ops.conv_fprop(x, w, padding=1, groups=2, impl="winograd", device=CPU)
    alone = ops.conv_fprop(np.ascontiguousarray(x[..., 32:]), w[48:], padding=1, impl="winograd", device=CPU)
    assert np.array_equal(together[..., 48:], alone)


@pytest.mark.parametrize("operation", PASSES)
def test_a_nan_stays_in_its_tiles(operation: str) -> None:
    problem = ConvProblem(2, 8, 8, 16, 16, 3, 3, padding=(1, 1))
    inputs = make_inputs(operation, problem, "real", 0, "fp32")
    next(iter(inputs.values()))[1, 0, 0, 3] = np.nan
    (result,) = run(operation, problem, CPU, inputs, impl="winograd").values()
    nan = np.isnan(result)
    assert nan.any()
    if operation != "conv_wgrad":
        assert not nan[0].any()
        assert not nan[1, 5:].any()


def test_strict_is_an_option_of_all_commands() -> None:
    done = succeed("--strict", "doctor", "--json", "-")
    assert ", strict, " in done


def test_rows_that_do_not_serve() -> None:
    problem = PROBLEMS["plain"]
    assert all(serves(operation, problem) for operation in PASSES)
    others = [
        ConvProblem(2, 8, 8, 16, 32, 3, 3, stride=(2, 2), padding=(1, 1)),
        ConvProblem(2, 8, 8, 16, 32, 3, 3, dilation=(2, 2)),
        ConvProblem(2, 8, 8, 16, 32, 7, 7, padding=(3, 3)),
        ConvProblem(2, 8, 8, 16, 32, 3, 5),
        ConvProblem(2, 8, 8, 24, 32, 3, 3),
        ConvProblem(2, 8, 8, 16, 40, 3, 3),
        with_precision(problem, "bf16"),
    ]
    for other in others:
        assert not any(serves(operation, other) for operation in PASSES), other
    five = ConvProblem(2, 8, 8, 16, 32, 5, 5, padding=(2, 2))
    assert [serves(operation, five) for operation in PASSES] == [True, True, False]


@pytest.mark.parametrize("strict", [False, True])
def test_strict_computes_plain_sums(monkeypatch: pytest.MonkeyPatch, strict: bool) -> None:
    module = get_device(CPU).module
    if "AVX-512" not in module.build_info():
        pytest.skip("the row is preferred with AVX-512 alone")
    if strict:
        monkeypatch.setenv("CCONVNET_STRICT", "1")
    else:
        monkeypatch.delenv("CCONVNET_STRICT", raising=False)
    problem = ConvProblem(1, 13, 13, 256, 384, 3, 3, padding=(1, 1))
    for operation in PASSES:
        chosen = getattr(module, f"{operation}_impls")(problem)[0]
        assert chosen == ("onednn" if strict else "winograd")
    assert (", strict," in module.build_info()) == strict
