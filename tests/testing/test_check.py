"""Tests of the checks: each must fail for a fault of its kind."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cconvnet import _problem, bfloat16, nets
from cconvnet._problem import (
    BiasProblem,
    ConvProblem,
    FcProblem,
    LocalProblem,
    NeuronProblem,
    SgdProblem,
)
from cconvnet.devices import get_device
from cconvnet.operations import OPERATIONS
from cconvnet.testing import buffers, compare, reference
from cconvnet.testing.buffers import Buffer
from cconvnet.testing.check import check, check_fused, make_inputs, repro, run
from cconvnet.testing.inputs import round_to
from cconvnet.testing.networks import NETWORKS, layers, layers_of, multiply_adds
from cconvnet.testing.problems import CONV, LOCAL, with_precision
from cconvnet.testing.random_problems import random_case

Array = np.ndarray[Any, Any]

ONES = np.ones(20, np.float32)


def changed(array: Array, index: int, value: float) -> Array:
    result = array.copy()
    result[index] = value
    return result


# ---- compare -------------------------------------------------------------------------------------


def test_exact_accepts_rounding_once_and_nan_for_nan() -> None:
    third = np.full(20, 1 / 3)
    compare.assert_exact("y", third.astype(np.float32), third)
    compare.assert_exact("y", changed(ONES, 3, np.nan), changed(np.ones(20), 3, np.nan))
    compare.assert_exact("y", changed(ONES, 3, -0.0), changed(np.ones(20), 3, 0.0))


@pytest.mark.parametrize(
    ("actual", "expected", "message"),
    [
        (changed(ONES, 7, np.nextafter(np.float32(1), np.float32(2))), np.ones(20), r"worst at y\[7\]"),
        (changed(ONES, 5, np.nan), np.ones(20), r"worst at y\[5\]: nan"),
        (ONES, changed(np.ones(20), 5, np.nan), "1 of 20"),
        (ONES[:19], np.ones(20), "shape"),
        (np.ones(20), np.ones(20), "float64"),
        (changed(0 * ONES, 0, 1), changed(np.zeros(20), 0, 1), "poor test"),
    ],
)
def test_exact_refuses(actual: Array, expected: Array, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        compare.assert_exact("y", actual, expected)


def test_close_bounds_the_error_by_twice_the_baselines() -> None:
    expected = np.linspace(1, 2, 1000)
    ulp = float(np.spacing(np.float32(2)))
    baseline = expected + 10 * ulp

    def within(error: float, **arguments: Any) -> None:
        compare.assert_close("y", (expected + error).astype(np.float32), expected, baseline, **arguments)

    within(19 * ulp)
    within(-19 * ulp)
    with pytest.raises(AssertionError, match="largest error"):
        within(24 * ulp)
    # A few elements may have a larger error than all of them have together.
    spread = expected.copy()
    spread[::2] += 16 * ulp
    compare.assert_close("y", spread.astype(np.float32), expected, baseline)
    one = changed(expected, 500, 1.5 + 24 * ulp)
    with pytest.raises(AssertionError, match=r"worst at y\[500\]"):
        compare.assert_close("y", one.astype(np.float32), expected, baseline)


def test_close_by_element_does_not_let_large_ones_hide_small_ones() -> None:
    expected = np.array([1.0, 1e-6])
    actual = (expected * [1, 1 + 1e-5]).astype(np.float32)
    compare.assert_close("y", actual, expected, expected)
    with pytest.raises(AssertionError, match=r"worst at y\[1\]"):
        compare.assert_close("y", actual, expected, expected, elementwise=True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_close_refuses_nan(value: float) -> None:
    with pytest.raises(AssertionError, match=r"worst at y\[4\]"):
        compare.assert_close("y", changed(ONES, 4, value), np.ones(20), np.ones(20))
    with pytest.raises(AssertionError, match="poor test"):
        compare.assert_close("y", ONES, changed(np.ones(20), 4, value), np.ones(20))


def test_exact_bfloat16s_are_rounded_once() -> None:
    third = np.full(20, 1 / 3)
    bits = bfloat16.pack(third)
    compare.assert_exact("y", bits, third, dtype=bfloat16.BITS)
    # One third is 0.333984375 to the nearest; truncated it is less.
    with pytest.raises(AssertionError, match=r"1 of 20 .* worst at y\[3\]: 0.33203125"):
        compare.assert_exact("y", changed(bits, 3, bits[3] - 1), third, dtype=bfloat16.BITS)
    with pytest.raises(AssertionError, match="y is float32"):
        compare.assert_exact("y", third.astype(np.float32), third, dtype=bfloat16.BITS)


@pytest.mark.parametrize("elementwise", [False, True])
def test_close_bfloat16s_may_be_off_by_their_rounding_alone(elementwise: bool) -> None:
    expected = np.random.default_rng(0).standard_normal(1000)
    options: dict[str, Any] = {"elementwise": elementwise, "dtype": bfloat16.BITS}
    compare.assert_close("y", bfloat16.pack(expected), expected, expected, **options)
    truncated = (expected.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    with pytest.raises(AssertionError, match="error of y"):
        compare.assert_close("y", truncated, expected, expected, **options)
    twice = bfloat16.pack(expected + 2.0**-9 * np.abs(expected))
    with pytest.raises(AssertionError, match="error of y"):
        compare.assert_close("y", twice, expected, expected, **options)
    with pytest.raises(AssertionError, match=r"worst at y\[4\]"):
        compare.assert_close("y", changed(bfloat16.pack(expected), 4, 0x7FFF), expected, expected, **options)


def test_slack_is_each_elements_own() -> None:
    expected, slack = np.ones(100), np.zeros(100)
    slack[7] = 0.5
    compare.assert_close("y", changed(np.ones(100, np.float32), 7, 1.4), expected, expected, slack=slack)
    for place, value in ((7, 1.6), (8, 1.4)):
        with pytest.raises(AssertionError, match=rf"worst at y\[{place}\]"):
            compare.assert_close(
                "y", changed(np.ones(100, np.float32), place, value), expected, expected, slack=slack
            )


def test_same_bits_tells_zeros_apart() -> None:
    compare.assert_same_bits("y", changed(ONES, 1, np.nan), changed(ONES, 1, np.nan))
    with pytest.raises(AssertionError, match=r"1 of 20 .* worst at y\[2\]"):
        compare.assert_same_bits("y", changed(ONES, 2, 0.0), changed(ONES, 2, -0.0))


# ---- buffers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [-1, 0, 24, 30])
def test_a_write_outside_is_seen(place: int) -> None:
    buffer = Buffer(get_device("cpu:0"), (2, 3))
    inside = buffer._inside.start
    if place in (-1, 24, 30):
        buffer._memory[inside + place] = 0
        with pytest.raises(AssertionError, match=rf"outside y .* byte {place} of"):
            buffer.assert_guarded("y")
    else:
        buffer.array[...] = 0
        buffer.assert_guarded("y")


@pytest.mark.parametrize("offset", [0, 4, 8, 12])
def test_buffers_lie_where_they_are_asked_to(offset: int) -> None:
    buffer = Buffer(get_device("cpu:0"), (5,), offset=offset)
    assert buffer.array.ctypes.data % 16 == offset
    assert np.isnan(buffer.array).all() and buffers.GUARD >= 64
    bits = Buffer(get_device("cpu:0"), (5,), bfloat16.BITS, offset=offset // 2)
    assert bits.array.ctypes.data % 16 == offset // 2 and np.isnan(bfloat16.unpack(bits.array)).all()


# ---- check ---------------------------------------------------------------------------------------


def device_with(operation: str, function: Callable[..., None]) -> Any:
    """Return a CPU device with one operation replaced."""
    cpu = get_device("cpu:0")
    device = type(cpu)("cpu", 0)
    device.module = SimpleNamespace(**{operation: function, f"{operation}_workspace": lambda o: 0})
    return device


def add(a: Array, b: Array, y: Array, stream: int) -> None:
    y[...] = a + b


def leaves_one(a: Array, b: Array, y: Array, stream: int) -> None:
    y[:-1] = (a + b)[:-1]


def accumulates(a: Array, b: Array, y: Array, stream: int) -> None:
    y += a + b


def spoils_input(a: Array, b: Array, y: Array, stream: int) -> None:
    y[...] = a + b
    a[0] += 1


def writes_behind(a: Array, b: Array, y: Array, stream: int) -> None:
    y[...] = a + b
    np.lib.stride_tricks.as_strided(y, (y.size + 1,), (4,))[-1] = 0


def reads_behind(a: Array, b: Array, y: Array, stream: int) -> None:
    y[...] = a + np.lib.stride_tricks.as_strided(b, (b.size + 1,), (4,))[1:]


def off_by_one_bit(a: Array, b: Array, y: Array, stream: int) -> None:
    y[...] = a + b
    y[3] = np.nextafter(y[3], np.float32(100))


class NeverTheSame:
    """A module that is right within rounding, but gives other bits at every call."""

    calls = 0

    def __call__(self, a: Array, b: Array, y: Array, stream: int) -> None:
        self.calls += 1
        y[...] = a + b
        y[0] = np.nextafter(y[0], np.float32(100 * (-1) ** self.calls))


@pytest.mark.parametrize(
    ("fault", "data", "message"),
    [
        (leaves_one, "exact", r"worst at y\[99\]: nan"),
        (accumulates, "exact", "100 of 100"),
        (spoils_input, "exact", "a differ"),
        (writes_behind, "exact", "4 bytes outside y"),
        (reads_behind, "exact", "elements of y differ"),
        (reads_behind, "real", "error of y"),
        (off_by_one_bit, "exact", r"1 of 100 .* y\[3\]"),
        (NeverTheSame(), "real", "between two runs"),
    ],
)
def test_check_sees(fault: Callable[..., None], data: str, message: str) -> None:
    check("add", NeuronProblem(100), device_with("add", add), data=data)
    with pytest.raises(AssertionError, match=message) as caught:
        check("add", NeuronProblem(100), device_with("add", fault), data=data)
    assert "repeat with: python -c" in str(caught.value)


def truncates(a: Array, b: Array, y: Array, stream: int) -> None:
    """Add bfloat16s and truncate the sum instead of rounding it."""
    y[...] = (bfloat16.unpack(a) + bfloat16.unpack(b)).view(np.uint32) >> 16


def adds_rounded(a: Array, b: Array, y: Array, stream: int) -> None:
    y[...] = bfloat16.pack(bfloat16.unpack(a) + bfloat16.unpack(b))


def test_check_sees_bfloat16s_that_are_not_rounded() -> None:
    check("add", NeuronProblem(100), device_with("add", adds_rounded), data="real", element="bf16")
    with pytest.raises(AssertionError, match="error of y") as caught:
        check("add", NeuronProblem(100), device_with("add", truncates), data="real", element="bf16")
    assert "element='bf16'" in str(caught.value)


def test_check_sees_factors_of_too_few_bits() -> None:
    """They have bfloat16's eight bits instead of tf32's eleven."""

    def product(precision: str) -> Callable[..., None]:
        def fc_dgrad(problem: Any, dy: Array, w: Array, dx: Array, *_: Any) -> None:
            dx[...] = reference.fc_dgrad(problem, round_to(dy, precision), round_to(w, precision))

        return fc_dgrad

    problem = FcProblem(20, 30, 40, precision="tf32")
    for data in ("real", "unrounded"):
        check("fc_dgrad", problem, gemm_device(product("tf32")), data=data)
        with pytest.raises(AssertionError, match="error of dx"):
            check("fc_dgrad", problem, gemm_device(product("bf16")), data=data)
    with pytest.raises(ValueError, match="unrounded for a tf32 product alone"):
        check("fc_dgrad", FcProblem(2, 3, 4), "cpu:0", data="unrounded")


def gemm_device(function: Callable[..., None]) -> Any:
    device = device_with("fc_dgrad", function)
    device.module.fc_dgrad_workspace = lambda problem, impl: 0
    return device


def test_check_fused_sees_a_bit() -> None:
    """A product that drops out before it rounds is as good, but gives other bits."""
    problem = FcProblem(3, 5, 7)
    cpu = get_device("cpu:0")
    check_fused("fc_fprop", problem, cpu, relu=True, dropout="whole")

    def fc_fprop(*arguments: Any, **options: Any) -> None:
        cpu.module.fc_fprop(*arguments, **options)
        if "dropout" in options:
            y = arguments[5]
            y[y != 0] = np.nextafter(y[y != 0], np.float32(100))

    device = type(cpu)("cpu", 0)
    others = {name: getattr(cpu.module, name) for name in ("fc_fprop_workspace", "dropout", "relu_forward")}
    device.module = SimpleNamespace(fc_fprop=fc_fprop, **others)
    with pytest.raises(AssertionError, match="elements of y differ") as caught:
        check_fused("fc_fprop", problem, device, relu=True, dropout="whole")
    assert "check_fused('fc_fprop'" in str(caught.value)
    with pytest.raises(ValueError, match="relu_forward is not fused of others"):
        check_fused("relu_forward", NeuronProblem(3), cpu)


def test_the_line_repeats_the_check() -> None:
    line = repro("sgd_update", SgdProblem(40, 0.1, 0.9, 0.01), "cpu:0", seed=3, floor=-1e9, data="real")
    result = subprocess.run(
        [sys.executable, *shlex.split(line)[1:]], capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 1 and "error of v" in result.stderr
    line = repro("sgd_update", SgdProblem(40, 0.5, 0.5, 0.25), "cpu:0", seed=3)
    result = subprocess.run(
        [sys.executable, *shlex.split(line)[1:]], capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 0, result.stderr


def test_inputs_are_a_function_of_the_seed() -> None:
    problem = FcProblem(3, 4, 5)
    first, same, other = (make_inputs("fc_fprop", problem, "real", seed)["x"] for seed in (1, 1, 2))
    assert (first == same).all() and (first != other).all()
    integers = make_inputs("fc_fprop", FcProblem(30, 40, 5))["x"]
    assert set(np.unique(integers)) == set(range(-4, 5))


def test_run_names_what_the_module_refuses() -> None:
    with pytest.raises(ValueError, match="dy must have 6 elements"):
        run("bias_grad", BiasProblem(2, 3), "emulator:0", {"dy": np.ones((2, 2), np.float32)})


# ---- problems ------------------------------------------------------------------------------------


def test_the_text_of_a_problem_makes_an_equal_one() -> None:
    kinds = set()
    for seed in range(400):
        drawn = random_case(seed, OPERATIONS)[1]
        for problem in drawn if isinstance(drawn, tuple) else (drawn,):
            rebuilt = eval(repr(problem), vars(_problem))  # noqa: S307
            assert rebuilt == problem and hash(rebuilt) == hash(problem)
            # Problems are equal if their texts are, so all of the text is compared.
            said = [name for name, value in vars(type(problem)).items() if isinstance(value, property)]
            assert said
            assert [getattr(rebuilt, name) for name in said] == [getattr(problem, name) for name in said]
            kinds.add(type(problem))
    assert kinds == {value for name, value in vars(_problem).items() if name.endswith("Problem")}


def test_a_precision_changes_nothing_else() -> None:
    for problem in [*CONV.values(), *LOCAL.values(), FcProblem(3, 4, 5)]:
        for precision in ("fp32x3", "tf32", "bf16"):
            other = with_precision(problem, precision)
            assert other.precision == precision and other != problem
            assert with_precision(other, "fp32") == problem


@pytest.mark.parametrize("value", [0.1, 1e-30, 16777217 / 3, 1.7159, 0.69999993, 2.0**127])
def test_the_text_of_a_float_gives_the_float_back(value: float) -> None:
    lr = SgdProblem(1, value).lr
    assert lr == np.float32(value) and SgdProblem(1, lr) == SgdProblem(1, value)
    assert np.float32(float(repr(SgdProblem(1, value)).split("lr=")[1].split(",")[0])) == lr


@pytest.mark.parametrize(("family", "kind"), [("conv", ConvProblem), ("local", LocalProblem)])
def test_selection_tables_name_problems_as_python_does(family: str, kind: Any) -> None:
    module = get_device("emulator:0").module
    served, problem = (kind(2, 5, 6, c, 8, 3, 3, (2, 1), (1, 1), rounding="ceil") for c in (8, 3))
    impls = getattr(module, f"{family}_fprop_impls")
    impl = next(impl for impl in impls(served) if impl not in impls(problem))
    with pytest.raises(ValueError, match=re.escape(f"'{impl}' does not support {problem!r}")):
        getattr(module, f"{family}_fprop_workspace")(problem, impl)


def test_the_networks_are_the_published_ones() -> None:
    """Multiply-adds of convolutions and FC per image, in millions, and parameters without biases."""

    def total(network: str) -> tuple[int, int]:
        every = layers_of(nets.build(network)).values()
        gemms = [one.problem() for one in every if one.kind in ("conv", "fc")]
        weights = sum(int(np.prod(o.w_shape)) for o in gemms)
        return round(sum(multiply_adds(o) for o in gemms) / 1e6), weights

    # With biases 60,965,224, 138,357,544 and, with both heads, 13,378,280.
    assert total("alexnet") == (724, 60_954_656)
    assert total("vgg16") == (15_470, 138_344_128)
    assert total("googlenet") == (1_591, 13_365_696)
    with pytest.raises(ValueError, match="net must be one of"):
        layers("resnet51")


@pytest.mark.parametrize("network", NETWORKS)
def test_small_layers_keep_what_makes_them(network: str) -> None:
    for layer in layers(network).values():
        whole, small = layer.problem(), layer.small(1_000_000)
        assert multiply_adds(small) <= max(multiply_adds(whole), 1_000_000)
        for name in ("r", "s", "stride_h", "pad_w", "groups", "window_h", "size", "region"):
            assert getattr(whole, name, None) == getattr(small, name, None)
