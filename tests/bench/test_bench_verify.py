"""Verification of results: right ones pass, and every kind of planted error is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cconvnet._problem import (
    BiasProblem,
    ConvProblem,
    DropoutProblem,
    FcProblem,
    LrnProblem,
    NeuronProblem,
    PoolProblem,
    SgdProblem,
    SoftmaxProblem,
)
from cconvnet.bench import verify
from cconvnet.bench.cases import Case
from cconvnet.bfloat16 import BITS, pack
from cconvnet.devices import PRECISIONS
from cconvnet.operations import OPERATIONS
from cconvnet.testing import compare, reference
from cconvnet.testing.problems import with_precision

Array = np.ndarray[Any, Any]

_CONV = {
    "padded": ConvProblem(5, 7, 9, 6, 8, 3, 3, padding=(1, 1), groups=2),
    "strided": ConvProblem(3, 11, 10, 3, 4, 5, 4, stride=(3, 2), padding=(2, 1), rounding="ceil"),
    "dilated": ConvProblem(4, 11, 9, 4, 6, 3, 3, padding=((1, 2), (0, 3)), groups=2, dilation=(2, 1)),
}
_POOL = PoolProblem(9, 24, 25, 16, (3, 3), (2, 2), (1, 0), "ceil")
# More elements than are compared in full.
_MANY = 300_000
_PROBLEMS = {
    **{f"conv_{p}-{n}": o for n, o in _CONV.items() for p in ("fprop", "dgrad", "wgrad")},
    **{f"fc_{p}": FcProblem(7, 40, 30) for p in ("fprop", "dgrad", "wgrad")},
    **{f"lrn_{p}": LrnProblem(60, 8, 9, 64, alpha=0.1, groups=2) for p in ("forward", "backward")},
    **{f"{kind}pool_{p}": _POOL for kind in ("max", "avg") for p in ("forward", "backward")},
    "relu_backward": NeuronProblem(_MANY),
    "dropout": DropoutProblem(_MANY, 0.5, 2.0, seed=3),
    "softmax_cross_entropy_forward": SoftmaxProblem(700, 600),
    "softmax_cross_entropy_backward": SoftmaxProblem(700, 600),
    "softmax_cross_entropy": SoftmaxProblem(500, 400),
    "relu_bias_backward": BiasProblem(3000, 100),
    **{f"lrn_maxpool_{p}": (LrnProblem(9, 24, 25, 16), _POOL) for p in ("forward", "backward")},
    "sgd_update": SgdProblem(_MANY, 0.01, 0.9, 0.0005),
}
CASES = list(_PROBLEMS)


def made(label: str, precision: str = "fp32") -> tuple[Case, dict[str, Any], dict[str, Array]]:
    """A case, its inputs and its right results, rounded once."""
    problem = _PROBLEMS[label]
    if hasattr(problem, "precision"):
        problem = with_precision(problem, precision)
    case = Case("", 1, "layer", label.partition("-")[0], problem, precision)
    inputs = verify.checked_inputs(case)
    return case, inputs, computed(case, inputs)


def computed(case: Case, inputs: dict[str, Any]) -> dict[str, Array]:
    given = dict(inputs)
    problems = OPERATIONS[case.operation].problems(case.problem)
    if case.operation.endswith("maxpool_backward"):
        forward = getattr(reference, case.operation.replace("backward", "forward"))
        given = {"x": given["x"], "y": forward(*problems, given["x"]), **given}
    results = getattr(reference, case.operation)(*problems, *given.values())
    results = results if isinstance(results, tuple) else (results,)
    if "w_bf16" in case.outputs:
        results = (*results, results[1].astype(np.float32))

    def kept(name: str, result: Array) -> Array:
        if name == "rank":
            return result.astype(np.int32)
        return pack(result) if case.dtype(name) == BITS else result.astype(np.float32)

    return {
        name: kept(name, result.reshape(shape))
        for (name, shape), result in zip(case.outputs.items(), results, strict=True)
    }


def wrong(label: str, damage: Callable[[Array], None], **arguments: Any) -> None:
    """Every output on its own, damaged, must be found."""
    case, inputs, results = made(label)
    for name in results:
        damaged = {key: value.copy() for key, value in results.items()}
        damage(damaged[name])
        with pytest.raises(AssertionError, match=name):
            verify.check(case, inputs, damaged, **arguments)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("label", CASES)
def test_right_results_pass(label: str, strict: bool, precision: str) -> None:
    case, inputs, results = made(label, precision)
    verify.check(case, inputs, results, strict=strict)


@pytest.mark.parametrize("label", [label for label in CASES if label.startswith(("conv", "fc"))])
def test_a_single_wrong_element_of_bfloat16_is_found(label: str) -> None:
    for place in np.random.default_rng(0).random(5):
        case, inputs, results = made(label, "bf16")
        ((name, result),) = results.items()
        index = int(place * result.size)
        value = compare.values(result).flat[index]
        assert abs(value) < 256  # which bfloat16 holds, and its neighbours
        result.flat[index] = pack(value - 1) if result.dtype == BITS else value - 1
        with pytest.raises(AssertionError, match=f"{name} is wrong"):
            verify.check(case, inputs, results)


@pytest.mark.parametrize(
    "label", [label for label in CASES if not label.startswith(("conv", "fc", "maxpool"))]
)
def test_bfloat16_off_by_two_units_is_found(label: str) -> None:
    """A unit of the largest element is a 128th of it at most."""
    case, inputs, results = made(label, "bf16")
    for name, result in results.items():
        if result.dtype == BITS:
            damaged = {key: value.copy() for key, value in results.items()}
            values = compare.values(result)
            index = int(np.abs(values.ravel()[:1000]).argmax())
            damaged[name].flat[index] = pack(values.flat[index] * (1 + 2.0**-6))
            with pytest.raises(AssertionError, match=name):
                verify.check(case, inputs, damaged)


def test_sums_over_many_channels_stay_exact_in_bfloat16() -> None:
    for problem in (FcProblem(16, 25088, 64, "bf16"), ConvProblem(2, 7, 7, 512, 64, 3, 3, precision="bf16")):
        operation = "fc_fprop" if isinstance(problem, FcProblem) else "conv_fprop"
        case = Case("", 1, "layer", operation, problem, "bf16")
        inputs = verify.checked_inputs(case)
        (y,) = (getattr(reference, operation)(problem, *inputs.values()),)
        assert 16 < y.std() < 48 and np.abs(y).max() < 256


@pytest.mark.parametrize("label", CASES)
def test_the_last_element_off_by_one(label: str) -> None:
    def damage(result: Array) -> None:
        result.flat[-1] += 1

    wrong(label, damage)


# Of some operations neighbours can be as good as equal.
@pytest.mark.parametrize(
    "label", [c for c in CASES if not c.startswith(("softmax_cross_entropy", "lrn_maxpool_backward"))]
)
def test_two_elements_that_changed_places(label: str) -> None:
    def damage(result: Array) -> None:
        other = np.flatnonzero(result.flat != result.flat[-1])[-1]
        result.flat[[other, -1]] = result.flat[[-1, other]]

    wrong(label, damage)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("label", [label for label in CASES if label != "sgd_update"])
def test_a_last_row_that_was_not_written(label: str, strict: bool) -> None:
    case, inputs, results = made(label)
    for name in results.keys() - {"rank"}:  # integers
        damaged = results | {name: results[name].copy()}
        damaged[name][-1] = np.nan
        with pytest.raises(AssertionError, match=name):
            verify.check(case, inputs, damaged, strict=strict)


def test_an_update_that_was_not_made() -> None:
    case, inputs, results = made("sgd_update")
    for name in ("v", "w"):
        damaged = results | {name: results[name].copy()}
        damaged[name][-1] = inputs[name][-1]
        with pytest.raises(AssertionError, match=name):
            verify.check(case, inputs, damaged)


@pytest.mark.parametrize("label", [label for label in CASES if label.startswith(("conv", "fc"))])
@pytest.mark.parametrize("strict", [True, False])
def test_one_missing_product_in_one_element(label: str, strict: bool) -> None:
    """The smallest possible error is 1, of two ones."""
    for place in np.random.default_rng(0).random(5):

        def damage(result: Array, place: float = place) -> None:
            result.flat[int(place * result.size)] -= 1

        wrong(label, damage, strict=strict)


@pytest.mark.parametrize(
    "label", ["conv_fprop-padded", "conv_dgrad-strided", "conv_wgrad-padded", "fc_wgrad"]
)
def test_a_missing_tap(label: str) -> None:
    """A kernel that omits the filter's last tap, or the batch's last image, is found."""
    case, inputs, _ = made(label)
    damaged = dict(inputs)
    name = "w" if "w" in inputs else "x"
    damaged[name] = inputs[name].copy()
    damaged[name][(slice(None), -1, -1) if inputs[name].ndim == 4 else -1] = 0
    with pytest.raises(AssertionError, match="is wrong"):
        verify.check(case, inputs, computed(case, damaged))


def test_where_the_error_is() -> None:
    case, inputs, results = made("conv_fprop-padded")
    results["y"][3, 2, 5, 6] += 1
    with pytest.raises(AssertionError, match=r"at n=3, p=2, q=5, g=1; 1 of \d+ such sums are off"):
        verify.check(case, inputs, results)


def test_where_the_error_is_in_a_later_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_HELD", 1)
    for label, place in (
        ("conv_fprop-padded", "n=4, p=0, q=0, g=0"),
        ("conv_dgrad-padded", "n=4, h=0, w=0, g=0"),
        ("conv_wgrad-padded", "g=1, r=0, s=0, c=0"),
    ):
        case, inputs, results = made(label)
        verify.check(case, inputs, results)
        (result,) = results.values()
        result[4, 0, 0, 0] += 1
        with pytest.raises(AssertionError, match=place):
            verify.check(case, inputs, results)


def _tf32(values: Array) -> Array:
    """float32 with 10 bits behind the point, rounded to nearest."""
    bits = values.view(np.uint32).astype(np.uint64)
    return ((bits + 0x1000) & 0xFFFFE000).astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("label", [label for label in CASES if label.startswith(("conv", "fc"))])
def test_tf32_loses_nothing_of_the_inputs(label: str) -> None:
    case, inputs, results = made(label)
    for name, value in inputs.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(_tf32(value), value, err_msg=name)
    verify.check(case, inputs, results)


@pytest.mark.parametrize("label", [label for label in CASES if label.startswith(("conv", "fc"))])
def test_an_algorithm_that_transforms_is_right_within_its_rounding(label: str) -> None:
    case, inputs, results = made(label)
    noise = np.random.default_rng(1)
    for name, value in results.items():
        size = np.sqrt(np.mean(value.astype(np.float64) ** 2))
        results[name] = (value + 2.0**-14 * size * noise.standard_normal(value.shape)).astype(np.float32)
    verify.check(case, inputs, results, strict=False)


def test_a_peer_draws_its_own_mask() -> None:
    case, inputs, _ = made("dropout")
    x = inputs["x"]
    own = np.where(np.random.default_rng(5).random(x.size) < 0.5, 2 * x, 0).astype(np.float32)
    verify.check(case, inputs, {"y": own}, strict=False)
    with pytest.raises(AssertionError):
        verify.check(case, inputs, {"y": own}, strict=True)
    with pytest.raises(AssertionError, match="kept"):
        verify.check(case, inputs, {"y": 2 * x}, strict=False)
    own[7:9] = 0.5
    with pytest.raises(AssertionError, match="scale"):
        verify.check(case, inputs, {"y": own}, strict=False)


def test_forms_are_compared_too() -> None:
    case, inputs, results = made("fc_fprop")
    with pytest.raises(AssertionError, match="shape"):
        verify.check(case, inputs, {"y": results["y"].T})
    with pytest.raises(AssertionError, match="no output z"):
        verify.check(case, inputs, {"z": results["y"]})
    with pytest.raises(AssertionError, match="no result"):
        verify.check(case, inputs, {})


def test_no_window_of_max_pooling_holds_a_value_twice() -> None:
    x = made("maxpool_forward")[1]["x"]
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2)).reshape(-1, 9)
    assert (np.diff(np.sort(windows, axis=1), axis=1) > 0).all()
    assert np.abs(x).max() <= 0.5


def test_every_precision_has_a_tolerance() -> None:
    assert set(verify.ROUNDING) == set(PRECISIONS)
