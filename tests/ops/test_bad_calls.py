"""Refused calls: every error names the argument that is wrong.

A bad call is a good one of helpers/good_calls.py with one thing wrong.
"""

from __future__ import annotations

import copy
import inspect
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from helpers.good_calls import (
    GOOD,
    PLACE_OF_OUT,
    Arguments,
    Array,
    Exporter,
    X,
    arrays_of,
    call,
    floats,
    poison,
    wider,
)

from cconvnet import bfloat16, ops
from cconvnet.devices import DeviceUnavailable
from cconvnet.operations import ANY, OPERATIONS


@dataclass(frozen=True)
class Bad:
    """A good call of `function` with one thing wrong, in the argument `names`."""

    function: str
    what: str
    names: str
    change: Callable[[Arguments], Arguments]
    errors: tuple[type[Exception], ...] = (ValueError, TypeError)

    def __str__(self) -> str:
        return f"{self.function}: {self.names} {self.what}"


def gone_wrong(name: str, make: Callable[[Array], Any]) -> Callable[[Arguments], Arguments]:
    """Replace one array by `make` of it."""
    return lambda arguments: {**arguments, name: make(arguments[name])}


def given(name: str, value: Any) -> Callable[[Arguments], Arguments]:
    return lambda arguments: {**arguments, name: value}


def of_the_other_element(array: Array) -> Array:
    """Return bfloat16's bits for floats, floats for bits, and floats or bits for other types."""
    with np.errstate(invalid="ignore"):
        return array.astype(np.float32 if array.dtype == bfloat16.BITS else np.uint16)


def byte_swapped(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder())


def huge(array: Array) -> Array:
    """Return 2^31 elements of the same rank and type, contiguous, in memory that is never touched."""
    shape = [1] * array.ndim
    for i in range(31):
        shape[i % array.ndim] *= 2
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    try:
        memory = mmap.mmap(-1, 2**31 * array.dtype.itemsize, flags=flags)
    except OSError as error:
        pytest.skip(f"the system gives no address space: {error}")
    return np.frombuffer(memory, array.dtype).reshape(shape)


CORRUPTIONS: dict[str, Callable[[Array], Any]] = {
    "of a wider type": wider,
    "of half precision": lambda a: a.astype(np.float16),
    "of the other byte order": byte_swapped,
    "backwards": lambda a: a[::-1],
    "in Fortran's order": lambda a: np.asfortranarray(a) if a.ndim > 1 else a.repeat(2)[::2],
    "empty": lambda a: a[:0],
    "a list": lambda a: a.tolist(),
    "a number": lambda a: 1.0,
    "missing": lambda a: None,
    "of objects": lambda a: a.astype(object),
    "on a device of an unknown kind": lambda a: Exporter(a, (10, 0)),
}

# A one-dimensional array in the other byte order needs two bytes an element, a list of one is a list.
HARMLESS = {("of the other byte order", "mirror"), ("of the other byte order", "images")}

# Axes of arrays that other arguments determine, so that one element more is wrong.
DETERMINED = {
    "conv_fprop": {"w": 3, "bias": 0},
    "conv_dgrad": {"dy": 1, "w": 3},
    "conv_wgrad": {"dy": 2},
    "local_fprop": {"w": 5, "bias": 1},
    "local_dgrad": {"dy": 1, "w": 0},
    "local_wgrad": {"dy": 2},
    "fc_fprop": {"w": 1, "bias": 0},
    "fc_dgrad": {"dy": 1},
    "fc_wgrad": {"dy": 0},
    "batch_norm_forward": {"mean": 0, "variance": 0, "gamma": 0, "beta": 0, "shortcut": 3},
    "batch_norm_backward": {"dy": 3, "mean": 0, "variance": 0, "gamma": 0, "y": 3},
    "bias_add": {"bias": 0},
    "relu_bias_backward": {"dy": 3},
    "relu_backward": {"dy": 0},
    "neuron_backward": {"y": 1, "dy": 2},
    "lrn_backward": {"dy": 3},
    "lrn_maxpool_backward": {"y": 1, "dy": 2},
    "contrast_norm_backward": {"dy": 3},
    "maxpool_backward": {"y": 0, "dy": 1},
    "avgpool_backward": {"dy": 2},
    "eltmax_forward": {"b": 3},
    "eltmax_backward": {"y": 0, "dy": 1},
    "softmax_cross_entropy_forward": {"labels": 0},
    "softmax_cross_entropy_backward": {"labels": 0},
    "softmax_cross_entropy": {"labels": 0},
    "sgd_update": {"v": 3, "w": 1},
    "lars_rate": {"g": 3, "rates": 0},
    "tree_sum": {"x": 0},
    "input_transform": {"top": 0, "left": 0, "mirror": 0, "mean": 1, "shift": 1},
    "filters_from_blocks": {"dblocks": 3},
    "add": {"b": 3},
}


def determined(function: str) -> dict[str, int]:
    """Return the entry of DETERMINED; all arrays of elements have the shape of the first."""
    described = OPERATIONS[function]
    if function in DETERMINED or described.has_problem:
        return DETERMINED.get(function, {})
    return {given.name: 3 for given in described.inputs[1:]}


def bad_arrays() -> list[Bad]:
    cases = []
    for function, good in GOOD.items():
        for position, name in enumerate(arrays_of(good())):
            for what, make in CORRUPTIONS.items():
                optional = OPERATIONS[function].arrays[name].optional
                harmless = (what, name) in HARMLESS or (what == "missing" and optional)
                if not harmless:
                    cases.append(Bad(function, what, name, gone_wrong(name, make)))
            if OPERATIONS[function].arrays[name].axes != ANY or position > 0:
                more = gone_wrong(name, lambda a: a[None])
                cases.append(Bad(function, "with an axis too many", name, more))
            if position == 0:
                cases.append(Bad(function, "of 2^31 elements", name, gone_wrong(name, huge)))
            axis = determined(function).get(name)
            if axis is not None:
                one_more = gone_wrong(name, lambda a, axis=axis: np.concatenate([a, a.take([0], axis)], axis))
                cases.append(Bad(function, "with an element too many", name, one_more))
    return cases


BAD_OUTPUTS: dict[str, Callable[[Array], Any]] = {
    "of a wider type": wider,
    "of another shape": lambda a: np.concatenate([a, a]),
    "flattened": lambda a: a[None],
    "backwards": lambda a: np.concatenate([a, a])[::-2],
    "read-only": lambda a: np.lib.stride_tricks.as_strided(a, a.shape, a.strides, writeable=False),
    "a list": lambda a: a.tolist(),
    "on a device of an unknown kind": lambda a: Exporter(a, (10, 0)),
}


def output_of(function: str) -> Array:
    """Return an array like the function's result, filled with NaN."""
    result = call(function, {**GOOD[function](), "device": "reference:0"})
    result = result[PLACE_OF_OUT[function]] if function in PLACE_OF_OUT else result
    return poison(result.shape, bfloat16.BITS if result.dtype == bfloat16.BITS else np.float32)


def bad_outputs() -> list[Bad]:
    cases = []
    for function, good in GOOD.items():
        if "out" not in inspect.signature(getattr(ops, function)).parameters:
            continue
        for what, make in BAD_OUTPUTS.items():
            cases.append(
                Bad(
                    function, what, "out",
                    lambda a, function=function, make=make: {**a, "out": make(output_of(function))},
                )
            )  # fmt: skip
        for name in arrays_of(good()):
            cases.append(Bad(function, f"over {name}", "out", overlapping(function, name)))
    same: dict[str, list[str]] = {
        "relu_backward": ["y"],
        "neuron_backward": ["x", "y"],
        "lrn_forward": ["x"],
        "lrn_backward": ["x", "dy"],
        "contrast_norm_forward": ["x"],
        "contrast_norm_backward": ["x", "dy"],
        "lrn_maxpool_backward": ["x"],
        "maxpool_backward": ["x"],
        "eltmax_backward": ["x", "y"],
        "relu_bias_backward": ["y"],
        "softmax_cross_entropy": ["logits"],
    }
    for function, names in same.items():
        for name in names:
            cases.append(
                Bad(function, f"the same as {name}", "out", lambda a, name=name: {**a, "out": a[name]})
            )
    for name, other in (("v", "g"), ("w", "g"), ("w", "v")):
        cases.append(
            Bad(
                "sgd_update", f"the same as {other}", name,
                lambda a, name=name, other=other: {**a, name: a[other]},
            )
        )  # fmt: skip
    return cases


def overlapping(function: str, name: str) -> Callable[[Arguments], Arguments]:
    """Begin `out` one float behind the input `name`, in the same memory."""

    def change(arguments: Arguments) -> Arguments:
        out, array = output_of(function), arguments[name]
        memory = np.zeros(out.nbytes + array.nbytes + 4, np.uint8)
        source = memory[: array.nbytes].view(array.dtype).reshape(array.shape)
        source[...] = array
        target = memory[4 : 4 + out.nbytes].view(out.dtype).reshape(out.shape)
        # Images of a byte a pixel may end before the float begins.
        assert array.nbytes > 4 or function == "input_transform"
        if array.nbytes <= 4:
            target = memory[: out.nbytes].view(out.dtype).reshape(out.shape)
        return {**arguments, name: source, "out": target}

    return change


NOT_POSITIVE = [0, -1]

PASSES = [f"{family}_{p}" for family in ("conv", "local") for p in ("fprop", "dgrad", "wgrad")]

CONV_PASSES = [name for name in PASSES if name.startswith("conv")]

FC_PASSES = ["fc_fprop", "fc_dgrad", "fc_wgrad"]

LRN = ["lrn_forward", "lrn_backward"]

LRN_POOL = ["lrn_maxpool_forward", "lrn_maxpool_backward"]

NORM = [*LRN, *LRN_POOL, "contrast_norm_forward", "contrast_norm_backward"]

POOL = ["maxpool_forward", "maxpool_backward", "avgpool_forward", "avgpool_backward"]

NAN = float("nan")

BAD_PARAMETERS: list[tuple[list[str], str, list[Any]]] = [
    (PASSES, "stride", [0, -2, (1, 0), 1.5, (1, 2, 3), "2", None, 2**31]),
    (
        PASSES,
        "padding",
        [-1, (0, -1), 0.5, (1,), "same", 2**31, ((0, -1), 1), (0, (1, 2, 3)), ((1, 2), None)],
    ),
    (PASSES, "outputs", [0, -1, (1, 0), 2.5, (1,), "2", 2**30]),
    (CONV_PASSES, "dilation", [0, -1, (2, 0), 1.5, (1, 2, 3), "2", None, 2**30]),
    (PASSES, "groups", [0, -2, 3, 1.0, "2", 2**40]),
    (PASSES + POOL, "rounding", ["round", "", None, 1]),
    (PASSES + FC_PASSES, "impl", ["no_such_row", "", 3]),
    (PASSES + FC_PASSES, "precision", ["fp16", "", "bf16", 3]),
    (
        ["conv_dgrad", "local_dgrad", "avgpool_backward"],
        "x_shape",
        [(2, 5, 6), (), 3, "NHWC", (2, 5, 6, 0.5)],
    ),
    (["filters_from_blocks"], "w_shape", [(6, 3, 3), (), 3, "KRSC", (6, 3, 3, 0.5)]),
    (["filters_to_blocks", "filters_from_blocks", "input_transform"], "block", [0, -1, 2.0, "2", None]),
    (["input_transform"], "pad", [-1, 1, 0.5, "1"]),
    (["conv_wgrad", "local_wgrad"], "filter_size", [0, -3, (3,), (3, 3, 3), 2.5]),
    (["neuron_forward", "neuron_backward"], "neuron", ["gelu", "", None, 3]),
    (["neuron_forward"], "a", [0.0, -1.0, "1", NAN]),
    (NORM, "size", [0, -5, 40_000, 2.5]),
    (NORM, "alpha", [-1e-4, NAN, "1"]),
    (NORM, "k", [0.0, -2.0, NAN]),
    (LRN + LRN_POOL, "groups", [0, 3, 1.5]),
    (LRN, "region", ["everywhere", None]),
    (POOL + LRN_POOL, "window", [0, -3, 99, 2.5]),
    (POOL + LRN_POOL, "stride", [0, -1, (2, 0)]),
    (POOL + LRN_POOL, "padding", [1.5, (0, -1.5), "1", -(2**31), (0, (1, 2, 0))]),
    (POOL + LRN_POOL, "pad_right", [(0, (0, 3))]),
    (POOL + LRN_POOL, "pad_bottom", [((0, 4), 0)]),
    (POOL + LRN_POOL, "pad_w", [(0, 3), (0, 7), (0, -6), (0, 1 - 2**31)]),
    (POOL + LRN_POOL, "outputs", [0, -1, (1, 0), (4, 1), (1, 4), 2.5, (1,), "2"]),
    (["dropout"], "keep", [0.0, -0.5, 1.5, NAN, "0.5", None]),
    (["dropout"], "seed", [-1, 2**64, 0.5, None]),
    (["dropout"], "subsequence", [-1, 2**64, "0"]),
    (["dropout"], "columns", [-1, 7, 2.0]),
    (["dropout"], "row_stride", [-1, 3.0, 2**31]),
    (["dropout"], "first", [-1, "0", 2**31]),
    (["dropout"], "first_row", [-1, 1, "0", 2**31]),
    (["add"], "alpha", ["1", None]),
    (["add"], "beta", ["1", None]),
    (
        ["softmax_cross_entropy_backward", "softmax_cross_entropy", "relu_bias_backward", "input_transform"],
        "scale",
        ["1", None],
    ),
    (["sgd_update"], "lr", ["0.1", None]),
    (["sgd_update"], "momentum", ["0.9"]),
    (["tree_sum"], "scale", ["1", None]),
    (["tree_sum"], "merges", [None, 1, "011", [], [0, 1], [0, 1, 1, 1], [0, 1, 0], [1, 0, 1], [0, -1, 3]]),
    (["tree_sum"], "merges", [[0, 1, 1.0], [0, 1, None], [0, 1, "1"]]),
    (["lars_rate"], "eta", [0.0, -1.0, NAN, "1", None]),
    (["lars_rate"], "weight_decay", [-1.0, NAN, "1", None]),
    (["lars_rate"], "eps", [-1.0, NAN, "1", None]),
    (["limit_norm"], "limit", [0.0, -1.0, NAN, "1", None]),
    (["limit_norm"], "low", [-1.0, 1e9, NAN, "1", None]),
    (["limit_norm"], "w", [np.ones(3, np.float32), np.ones((2, 0), np.float32)]),
    (["input_transform"], "size", [0, (0, 3), (6, 3), (4, 7), (4,), 2.0]),
]


def bad_elements() -> list[Bad]:
    """Mix arrays of bfloat16s and of floats, and pass bfloat16s where none are allowed."""
    cases = []
    for function, good in GOOD.items():
        spec, element = OPERATIONS[function], "fp32"
        typed = [
            name for name, array in arrays_of(good()).items()
            if array.dtype == np.float32 and spec.dtype(name, "bf16") != spec.dtype(name, element)
        ]  # fmt: skip
        for position, (name, array) in enumerate(arrays_of(good()).items()):
            # The first array determines the type of the others.
            if position > 0 or name not in typed or array.dtype != np.float32:
                change = gone_wrong(name, of_the_other_element)
                cases.append(Bad(function, "of another element type", name, change))
        if typed and "out" in inspect.signature(getattr(ops, function)).parameters:
            other = gone_wrong("out", of_the_other_element)
            cases.append(
                Bad(function, "of another element type", "out",
                    lambda a, function=function, other=other: other({**a, "out": output_of(function)}))
            )  # fmt: skip
        for name, value in arrays_of(good()).items():
            if name in typed and len(typed) > 1 and value is not None:
                rest = [other for other in typed if other != name]
                named = "|".join(rest if name == typed[0] else [name])
                cases.append(
                    Bad(function, f"since {name} alone is of bfloat16s", named,
                        gone_wrong(name, bfloat16.pack))
                )  # fmt: skip
    for what, array in {
        "of floats": floats(*X),
        "of another shape": np.zeros((2, 5, 6, 5), np.uint16),
        "backwards": np.zeros(X, np.uint16)[::-1],
    }.items():
        cases.append(Bad("sgd_update", what, "w_bf16", given("w_bf16", array)))
    cases.append(
        Bad("sgd_update", "over w", "w_bf16",
            lambda a: {**a, "w_bf16": a["w"].view(np.uint16).reshape(-1)[: a["w"].size].reshape(X)})
    )  # fmt: skip
    return cases


def bad_parameters() -> list[Bad]:
    cases = []
    for functions, name, values in BAD_PARAMETERS:
        # A padding as large as its window is refused by the problem, which names heights and widths.
        argument = "padding" if name.startswith("pad_") else name
        for function in functions:
            for value in values:
                cases.append(Bad(function, repr(value), name, given(argument, value)))
    for function in GOOD:
        for device in ("tpu:0", "cpu:-1", "cuda:x", 7):
            cases.append(Bad(function, repr(device), "device", given("device", device)))
        cases.append(
            Bad(function, "of more than there are", "cuda", given("device", "cuda:99"),
                (DeviceUnavailable, ValueError))
        )  # fmt: skip
        first = next(iter(arrays_of(GOOD[function]())))
        elsewhere = gone_wrong(first, lambda a: Exporter(a, (2, 0)))
        cases.append(
            Bad(
                function,
                "on a GPU",
                first + "|GPU|CuPy",
                elsewhere,
                (DeviceUnavailable, ValueError, TypeError),
            )
        )
    return cases


BAD = bad_arrays() + bad_outputs() + bad_elements() + bad_parameters()


def test_there_are_enough_bad_calls() -> None:
    assert len(BAD) >= 150 and len({str(case) for case in BAD}) == len(BAD)


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_call(case: Bad, request: pytest.FixtureRequest) -> None:
    if "alone is of bfloat16s" in str(case):
        request.getfixturevalue("cpu_with_bf16")
    arguments = case.change(GOOD[case.function]())
    before = copy.deepcopy({n: v for n, v in arrays_of(arguments).items() if v.nbytes < 2**20})
    with pytest.raises(case.errors, match=rf"(?<![a-z])({case.names})") as caught:
        call(case.function, arguments)
    # The message is plain, not Python's or pybind11's about signatures.
    assert "incompatible" not in str(caught.value)
    for name, array in before.items():
        np.testing.assert_array_equal(arguments[name], array)
