"""The functional API: what it computes, what it accepts, and that what it refuses is named.

Every function of cconvnet.ops has one good call in GOOD. A bad call is a good one with one thing wrong.
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

from cconvnet import bfloat16, ops
from cconvnet._problem import LocalProblem
from cconvnet.devices import Device, DeviceUnavailable, get_device, present_devices
from cconvnet.testing.operations import COUNTS, OPERATIONS, element_of, make_inputs, workspace_size
from cconvnet.testing.problems import random_case

Array = np.ndarray[Any, Any]
Arguments = dict[str, Any]


def floats(*shape: int) -> Array:
    random = np.random.default_rng(len(shape))
    return random.integers(-4, 5, shape).astype(np.float32)


def integers(values: list[int], dtype: Any = np.int32) -> Array:
    return np.array(values, dtype)


X, DY_CONV, W = (2, 5, 6, 4), (2, 5, 6, 6), (6, 3, 3, 2)
CONV: Arguments = {"padding": 1, "groups": 2}
W_LOCAL = (5, 6, *W)
POOLED = (2, 2, 2, 4)
BLOCKS = (6, 2, 2, 8)  # of W, cut into squares of 2

GOOD: dict[str, Callable[[], Arguments]] = {
    "conv_fprop": lambda: {"x": floats(*X), "w": floats(*W), "bias": floats(6), **CONV},
    "conv_dgrad": lambda: {"dy": floats(*DY_CONV), "w": floats(*W), "x_shape": X, **CONV},
    "conv_wgrad": lambda: {"x": floats(*X), "dy": floats(*DY_CONV), "filter_size": 3, **CONV},
    "local_fprop": lambda: {"x": floats(*X), "w": floats(*W_LOCAL), "bias": floats(5, 6, 6), **CONV},
    "local_dgrad": lambda: {"dy": floats(*DY_CONV), "w": floats(*W_LOCAL), "x_shape": X, **CONV},
    "local_wgrad": lambda: {"x": floats(*X), "dy": floats(*DY_CONV), "filter_size": 3, **CONV},
    "fc_fprop": lambda: {"x": floats(3, 5), "w": floats(4, 5), "bias": floats(4)},
    "fc_dgrad": lambda: {"dy": floats(3, 4), "w": floats(4, 5)},
    "fc_wgrad": lambda: {"x": floats(3, 5), "dy": floats(3, 4)},
    "bias_add": lambda: {"x": floats(*X), "bias": floats(4), "relu": True},
    "bias_grad": lambda: {"dy": floats(*X)},
    "relu_bias_backward": lambda: {"y": floats(*X), "dy": floats(*X), "scale": 2.0},
    "relu_forward": lambda: {"x": floats(*X)},
    "relu_backward": lambda: {"y": floats(*X), "dy": floats(*X)},
    "neuron_forward": lambda: {"x": floats(*X), "neuron": "brelu", "a": 2.0},
    "neuron_backward": lambda: {
        "x": floats(*X), "y": floats(*X), "dy": floats(*X), "neuron": "abs", "a": 1.0,
    },
    "lrn_forward": lambda: {"x": floats(*X), "groups": 2},
    "lrn_backward": lambda: {"x": floats(*X), "dy": floats(*X), "groups": 2},
    "lrn_maxpool_forward": lambda: {"x": floats(*X), "groups": 2},
    # Nothing rounds, so that maxima are the same on all devices.
    "lrn_maxpool_backward": lambda: {
        "x": floats(*X), "y": ops.maxpool_forward(floats(*X)), "dy": floats(*POOLED), "alpha": 0.0, "k": 1.0,
        "relu": True,
    },
    "contrast_norm_forward": lambda: {"x": floats(*X), "size": 3},
    "contrast_norm_backward": lambda: {"x": floats(*X), "dy": floats(*X), "size": 3},
    "maxpool_forward": lambda: {"x": floats(*X)},
    "maxpool_backward": lambda: {"x": floats(*X), "y": floats(*POOLED), "dy": floats(*POOLED)},
    "avgpool_forward": lambda: {"x": floats(*X)},
    "avgpool_backward": lambda: {"dy": floats(*POOLED), "x_shape": X},
    "eltmax_forward": lambda: {"a": floats(*X), "b": -floats(*X)},
    "eltmax_backward": lambda: {"x": floats(*X), "y": abs(floats(*X)), "dy": floats(*X)},
    "dropout": lambda: {"x": floats(*X), "keep": 0.5, "seed": 3},
    "softmax_forward": lambda: {"logits": floats(3, 7)},
    "softmax_cross_entropy_forward": lambda: {
        "logits": floats(3, 7), "labels": integers([6, 0, 2]),
    },
    "softmax_cross_entropy_backward": lambda: {
        "probabilities": floats(3, 7), "labels": integers([6, 0, 2]), "scale": 0.5,
    },
    "softmax_cross_entropy": lambda: {
        "logits": floats(3, 7), "labels": integers([6, 0, 2]), "scale": 0.5,
    },
    "watch_losses": lambda: {"loss": floats(8)},
    "sgd_update": lambda: {"g": floats(*X), "v": floats(*X), "w": floats(*X), "lr": 0.5},
    "limit_norm": lambda: {"w": floats(*W), "limit": 10.5, "low": 10.25, "centered": True},
    "input_transform": lambda: {
        "images": np.arange(2 * 5 * 6 * 3, dtype=np.uint8).reshape(2, 5, 6, 3), "size": (4, 3),
        "top": integers([0, 1]), "left": integers([2, 3]), "mirror": integers([0, 1], np.uint8),
        "mean": floats(5, 6, 3), "shift": floats(2, 3), "scale": 0.5,
    },
    "filters_to_blocks": lambda: {"w": floats(*W), "block": 2},
    "filters_from_blocks": lambda: {"dblocks": floats(*BLOCKS), "w_shape": W, "block": 2},
    "add": lambda: {"a": floats(*X), "b": floats(*X)},
    "to_bf16": lambda: {"x": floats(*X)},
    "from_bf16": lambda: {"x": bfloat16.pack(floats(*X))},
}  # fmt: skip


# Where `out` stands among several results.
PLACE_OF_OUT = {"relu_bias_backward": 0, "softmax_cross_entropy": 3}

# What is updated by the functions that return nothing.
UPDATED = {"sgd_update": ("v", "w"), "limit_norm": ("w",)}


def poison(shape: tuple[int, ...], dtype: Any) -> Array:
    """An array of NaN."""
    return np.full(shape, 0x7FFF if dtype == bfloat16.BITS else np.nan, dtype)


def arrays_of(arguments: Arguments) -> dict[str, Array]:
    return {name: value for name, value in arguments.items() if isinstance(value, np.ndarray)}


def call(function: str, arguments: Arguments) -> Any:
    return getattr(ops, function)(**arguments)


def on(device: Device, arguments: Arguments) -> Arguments:
    """The arguments with their arrays on a device, and the device named."""
    moved = {name: device.array(value) for name, value in arrays_of(arguments).items()}
    return {**arguments, **moved, "device": device}


def results(device: Device, function: str, arguments: Arguments) -> list[Array]:
    """What a call returns or, if it returns nothing, what it updates."""
    returned = call(function, arguments)
    if returned is None:
        returned = tuple(arguments[name] for name in UPDATED[function])
    return [device.host(array) for array in (returned if isinstance(returned, tuple) else (returned,))]


# ---- good calls ----------------------------------------------------------------------------------


def test_the_table_is_complete() -> None:
    assert set(GOOD) == set(OPERATIONS)
    public = {name for name, _ in inspect.getmembers(ops, inspect.isfunction) if name[0] != "_"}
    assert public == {*GOOD, "top_k_error"} == {*ops.__all__} - {"Array", "Padding", "Pair"}


@pytest.mark.parametrize("function", GOOD)
def test_every_function_computes(device: Device, function: str) -> None:
    wanted_from = get_device("reference:0")
    wanted = results(wanted_from, function, on(wanted_from, GOOD[function]()))
    actual = results(device, function, on(device, GOOD[function]()))
    for a, b in zip(actual, wanted, strict=True):
        assert a.shape == b.shape and a.dtype == (np.float32 if b.dtype.kind == "f" else b.dtype)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def in_bf16(function: str) -> Arguments:
    """A good call's arguments with those arrays as bfloat16s that may be, and so an output that may be."""
    arguments, spec = GOOD[function](), OPERATIONS[function]
    for name, value in arrays_of(arguments).items():
        if value.dtype == np.float32 and spec.dtype(name, "bf16") == bfloat16.BITS:
            arguments[name] = bfloat16.pack(value)
    return arguments


# Of whose arrays of numbers the output alone may be of bfloat16s.
ROUNDED = {"softmax_cross_entropy_backward", "input_transform", "filters_to_blocks"}
# Of whose arrays the inputs alone may be.
ALL_FLOATS = {
    "conv_wgrad", "local_wgrad", "fc_wgrad", "bias_grad", "softmax_forward", "softmax_cross_entropy_forward",
}  # fmt: skip


@pytest.mark.parametrize("function", [name for name, o in OPERATIONS.items() if o.has_elements])
def test_every_function_computes_with_bfloat16(device: Device, function: str) -> None:
    if not device.serves("bf16"):
        pytest.skip(f"{device.name} has no bf16")
    wanted_from = get_device("reference:0")
    wanted = results(wanted_from, function, on(wanted_from, GOOD[function]()))
    arguments = on(device, in_bf16(function))
    if function in ROUNDED:
        arguments["out"] = device.zeros(wanted[0].shape, bfloat16.BITS)
    actual = results(device, function, arguments)
    rounded = 0
    for a, b in zip(actual, wanted, strict=True):
        rounded += a.dtype == bfloat16.BITS
        numbers = bfloat16.unpack(a) if a.dtype == bfloat16.BITS else a
        np.testing.assert_allclose(numbers, b, rtol=2.0**-8 + 1e-5, atol=1e-5)
    assert bool(rounded) == (function not in ALL_FLOATS)
    if function in ROUNDED:
        assert call(function, arguments) is arguments["out"]


@pytest.mark.parametrize("family", ["conv", "local", "fc"])
@pytest.mark.parametrize("direction", ["fprop", "dgrad", "wgrad"])
def test_the_precision_is_that_of_the_arrays(device: Device, family: str, direction: str) -> None:
    function, oracle = f"{family}_{direction}", get_device("reference:0")
    for precision, make in (("fp32", GOOD[function]), ("tf32", GOOD[function]), ("bf16", None)):
        arguments = on(device, make() if make else in_bf16(function))
        if not device.serves(precision):
            given: Arguments = {} if precision == "bf16" else {"precision": precision}
            able = [name for name in present_devices() if get_device(name).serves(precision)]
            with pytest.raises(
                ValueError, match=rf"precision {precision} is not for {device.name}"
            ) as caught:
                call(function, {**arguments, **given})
            assert all(name in str(caught.value) for name in able)
            continue
        # Small integers are exact in every precision.
        result = call(function, {**arguments, "precision": precision})
        (wanted,) = results(oracle, function, on(oracle, GOOD[function]()))
        host = device.host(result)
        if host.dtype == bfloat16.BITS:
            np.testing.assert_array_equal(host, bfloat16.pack(wanted))
        else:
            np.testing.assert_array_equal(host, wanted)


def test_weights_are_rounded_with_the_update(device: Device) -> None:
    arguments = on(device, GOOD["sgd_update"]())
    arguments["w_bf16"] = device.zeros(X, bfloat16.BITS)
    call("sgd_update", arguments)
    w = device.host(arguments["w"])
    np.testing.assert_array_equal(device.host(arguments["w_bf16"]), bfloat16.pack(w))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_loss_is_told(device: Device, bad: float) -> None:
    loss = np.ones((3, 5), np.float32)
    assert device.host(ops.watch_losses(device.array(loss), device=device)).tolist() == [0]
    loss[1, 4] = bad
    assert device.host(ops.watch_losses(device.array(loss), device=device)).tolist() == [1]


def test_images_in_blocks(device: Device) -> None:
    arguments = on(device, GOOD["input_transform"]())
    whole = device.host(call("input_transform", arguments))
    y = device.host(call("input_transform", {**arguments, "block": 3, "pad": 1}))
    # 4 x 3 pixels and a border of one are 6 x 5, and so two blocks by two.
    assert y.shape == (2, 2, 2, 27)
    pixels = y.reshape(2, 2, 2, 3, 3, 3).swapaxes(2, 3).reshape(2, 6, 6, 3)
    np.testing.assert_array_equal(pixels[:, 1:5, 1:4], whole)
    pixels[:, 1:5, 1:4] = 0
    assert not pixels.any()


@pytest.mark.parametrize(
    "function", [n for n in GOOD if "out" in inspect.signature(getattr(ops, n)).parameters]
)
def test_out_is_written_and_returned(device: Device, function: str) -> None:
    place = PLACE_OF_OUT.get(function)
    wanted = results(device, function, on(device, GOOD[function]()))[place or 0]
    arguments = on(device, GOOD[function]())
    arguments["out"] = device.array(poison(wanted.shape, wanted.dtype))
    returned = call(function, arguments)
    assert (returned if place is None else returned[place]) is arguments["out"]
    np.testing.assert_array_equal(device.host(arguments["out"]), wanted)


@pytest.mark.parametrize("function", [n for n, o in OPERATIONS.items() if o.in_place])
def test_in_place(device: Device, function: str) -> None:
    wanted = results(device, function, on(device, GOOD[function]()))[0]
    name = OPERATIONS[function].in_place[0]
    arguments = on(device, GOOD[function]())
    call(function, {**arguments, "out": arguments[name]})
    np.testing.assert_array_equal(device.host(arguments[name]), wanted)


def test_lrn_average_divides_alpha_by_the_window(device: Device) -> None:
    x = device.array(floats(*X))
    for region, window in (("across_channels", 5), ("same_map", 25)):
        a, b = (
            device.host(ops.lrn_forward(x, alpha=alpha, average=average, region=region, device=device))
            for alpha, average in ((0.5, True), (0.5 / window, False))
        )
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("padding", "outputs"),
    [
        (((1, 2), (0, 3)), None),
        (((2, 0), 1), None),
        ((1, (0, 2)), (3, 4)),
        (((0, 3), (2, 1)), (5, 2)),
        (1, 6),
    ],
)
def test_convolutions_are_padded_as_they_are_told(
    device: Device, padding: ops.Padding, outputs: ops.Pair | None
) -> None:
    """Each is the unpadded one of the image in its zeros; `outputs` says where those end."""
    x, w = floats(2, 7, 8, 4), floats(6, 3, 2, 4)
    where: Arguments = {"stride": (2, 1), "padding": padding, "outputs": outputs, "device": device}
    axes = padding if isinstance(padding, tuple) else (padding, padding)
    (top, bottom), (left, right) = (axis if isinstance(axis, tuple) else (axis, axis) for axis in axes)
    if outputs is not None:
        p, q = outputs if isinstance(outputs, tuple) else (outputs, outputs)
        bottom, right = 2 * (p - 1) + 3 - 7 - top, q - 1 + 2 - 8 - left
    framed = np.pad(x, [(0, 0), (top, max(bottom, 0)), (left, max(right, 0)), (0, 0)])
    framed = np.ascontiguousarray(framed[:, : 7 + top + bottom, : 8 + left + right])
    plain: Arguments = {"stride": (2, 1), "device": device}
    given, given_framed, w = (device.array(a) for a in (x, framed, w))
    y = ops.conv_fprop(given, w, **where)
    np.testing.assert_array_equal(device.host(y), device.host(ops.conv_fprop(given_framed, w, **plain)))
    dy = device.array(floats(*y.shape))
    dw, same = ops.conv_wgrad(given, dy, (3, 2), **where), ops.conv_wgrad(given_framed, dy, (3, 2), **plain)
    np.testing.assert_array_equal(device.host(dw), device.host(same))
    dx = device.host(ops.conv_dgrad(dy, w, x.shape, **where))
    whole = np.zeros((2, 7 + top + abs(bottom), 8 + left + abs(right), 4), np.float32)
    _, h, width, _ = framed.shape
    whole[:, :h, :width] = device.host(ops.conv_dgrad(dy, w, framed.shape, **plain))
    np.testing.assert_array_equal(dx, whole[:, top : top + 7, left : left + 8])


@pytest.mark.parametrize("stride", [1, (2, 3), (4, 1)])
def test_dilation_spreads_the_filter(device: Device, stride: ops.Pair) -> None:
    """A dilated convolution is the plain one by the filter with zeros between its taps."""
    x, w = floats(2, 10, 11, 3), floats(4, 3, 2, 3)
    spread = np.zeros((4, 7, 5, 3), np.float32)
    spread[:, ::3, ::4] = w
    plain: Arguments = {"stride": stride, "padding": (2, 1), "device": device}
    dilated: Arguments = {**plain, "dilation": (3, 4)}
    x, w, spread = (device.array(a) for a in (x, w, spread))
    y = ops.conv_fprop(x, w, **dilated)
    np.testing.assert_array_equal(device.host(y), device.host(ops.conv_fprop(x, spread, **plain)))
    dy = device.array(floats(*y.shape))
    dx, same = (ops.conv_dgrad(dy, f, x.shape, **a) for f, a in ((w, dilated), (spread, plain)))
    np.testing.assert_array_equal(device.host(dx), device.host(same))
    dw = device.host(ops.conv_wgrad(x, dy, (3, 2), **dilated))
    np.testing.assert_array_equal(dw, device.host(ops.conv_wgrad(x, dy, (7, 5), **plain))[:, ::3, ::4])


def test_counted_padding_is_pixels_of_zero(device: Device) -> None:
    """But what the last windows of ceil rounding read beyond the padding is none."""
    x = floats(2, 7, 8, 4)
    framed = np.pad(x, [(0, 0), (1, 2), (0, 1), (0, 0)])
    plain: Arguments = {"window": 4, "stride": (3, 2), "rounding": "ceil", "device": device}
    counted: Arguments = {**plain, "padding": ((1, 2), (0, 1)), "count_padding": True}
    y = ops.avgpool_forward(device.array(x), **counted)
    same = device.host(ops.avgpool_forward(device.array(framed), **plain))
    np.testing.assert_array_equal(device.host(y), same)
    dy = device.array(floats(*y.shape))
    dx = device.host(ops.avgpool_backward(dy, framed.shape, **plain))[:, 1:8, :8]
    np.testing.assert_array_equal(device.host(ops.avgpool_backward(dy, x.shape, **counted)), dx)
    refused = {**counted, "padding": ((-1, 0), 0)}
    with pytest.raises(ValueError, match="padding must not be negative with count_padding"):
        ops.avgpool_forward(device.array(x), **refused)


def test_local_layers_have_no_dilation() -> None:
    with pytest.raises(ValueError, match="dilation must be 1 for a locally connected layer"):
        LocalProblem(1, 9, 9, 1, 1, 3, 3, dilation=(1, 2))


def test_pools_begin_where_they_are_told(device: Device) -> None:
    """A pool inside the image is the pool of the part of the image that its windows hold."""
    x = floats(2, 9, 8, 4)
    part = np.ascontiguousarray(x[:, 1:8, 2:7])
    where: Arguments = {"window": 3, "stride": 2, "padding": (-1, -2), "outputs": (3, 2), "device": device}
    for pool in ("maxpool", "avgpool"):
        forward, backward = (getattr(ops, f"{pool}_{direction}") for direction in ("forward", "backward"))
        y = forward(device.array(x), **where)
        same = forward(device.array(part), window=3, stride=2, device=device)
        np.testing.assert_array_equal(device.host(y), device.host(same))
        dy = device.array(floats(*y.shape))
        given, given_part = ((device.array(a), y, dy) for a in (x, part))
        if pool == "avgpool":
            given, given_part = (dy, x.shape), (dy, part.shape)
        dx = device.host(backward(*given, **where))
        np.testing.assert_array_equal(
            dx[:, 1:8, 2:7], device.host(backward(*given_part, window=3, stride=2, device=device))
        )
        dx[:, 1:8, 2:7] = 0
        assert not dx.any()


def test_top_k_error() -> None:
    rank = np.array([0, 1, 4, 5], np.int32)
    assert [ops.top_k_error(rank, k) for k in (1, 2, 5, 6)] == [0.75, 0.5, 0.25, 0.0]
    with pytest.raises(ValueError, match="k must be"):
        ops.top_k_error(rank, 0)


class Exporter:
    """An array of somebody else's that offers nothing but DLPack."""

    def __init__(self, array: Array, device: tuple[int, int] | None = None) -> None:
        self.array, self.device = array, device

    def __dlpack__(self, **arguments: Any) -> Any:
        return self.array.__dlpack__(**arguments)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device or self.array.__dlpack_device__()


@pytest.mark.parametrize("function", GOOD)
def test_dlpack_is_taken(function: str) -> None:
    wanted = results(get_device("cpu:0"), function, GOOD[function]())
    arguments = GOOD[function]()
    originals = arrays_of(arguments)
    arguments.update({name: Exporter(array) for name, array in originals.items()})
    returned = call(function, arguments)
    if returned is None:
        # Updated through the exporter: no copy was made.
        returned = tuple(originals[name] for name in UPDATED[function])
    returned = returned if isinstance(returned, tuple) else (returned,)
    for a, b in zip(returned, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_torch_tensors_are_taken() -> None:
    torch = pytest.importorskip("torch")
    x, w = floats(*X), floats(*W)
    y = torch.full((2, 5, 6, 6), float("nan"))
    returned = ops.conv_fprop(torch.from_numpy(x), torch.from_numpy(w), out=y, **CONV)
    # No copy: torch sees what was written.
    wanted = torch.nn.functional.conv2d(
        torch.from_numpy(x).permute(0, 3, 1, 2),
        torch.from_numpy(w).permute(0, 3, 1, 2),
        **CONV,
    )
    assert torch.equal(y, wanted.permute(0, 2, 3, 1)) and np.array_equal(returned, y.numpy())


def test_torch_tensors_of_bfloat16_are_taken_by_their_bits() -> None:
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(floats(*X)).to(torch.bfloat16)
    with pytest.raises(TypeError, match=r"x is of bfloat16.*: x\.view\(torch\.uint16\)"):
        ops.relu_forward(x)
    y = torch.empty_like(x)
    ops.relu_forward(x.view(torch.uint16), out=y.view(torch.uint16))
    assert torch.equal(y, torch.relu(x))


# ---- bad calls -----------------------------------------------------------------------------------


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
    """Replaces one array by what `make` makes of it."""
    return lambda arguments: {**arguments, name: make(arguments[name])}


def given(name: str, value: Any) -> Callable[[Arguments], Arguments]:
    return lambda arguments: {**arguments, name: value}


def wider(array: Array) -> Array:
    return array.astype(np.float64 if array.dtype == np.float32 else np.int64)


def of_the_other_element(array: Array) -> Array:
    """bfloat16's bits for floats, floats for bits, and either for other types."""
    with np.errstate(invalid="ignore"):
        return array.astype(np.float32 if array.dtype == bfloat16.BITS else np.uint16)


def byte_swapped(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder())


def huge(array: Array) -> Array:
    """2^31 elements of the same rank and type, contiguous, in memory that is never touched."""
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

OPTIONAL = {"bias", "mean", "shift"}
# A one-dimensional array in the other byte order needs two bytes an element, a list of one is a list.
HARMLESS = {("of the other byte order", "mirror"), ("of the other byte order", "images")}

# Which axis of which array is told by other arguments, so that one element more is wrong.
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
    "input_transform": {"top": 0, "left": 0, "mirror": 0, "mean": 1, "shift": 1},
    "filters_from_blocks": {"dblocks": 3},
    "add": {"b": 3},
}
# The first array of these may have any rank.
ANY_RANK = {
    "bias_add", "bias_grad", "relu_forward", "relu_backward", "neuron_forward", "neuron_backward", "dropout",
    "sgd_update", "limit_norm", "eltmax_forward", "eltmax_backward", "add", "relu_bias_backward",
    "watch_losses", "to_bf16", "from_bf16",
}  # fmt: skip


def bad_arrays() -> list[Bad]:
    cases = []
    for function, good in GOOD.items():
        for position, name in enumerate(arrays_of(good())):
            for what, make in CORRUPTIONS.items():
                optional = name in OPTIONAL and function != "bias_add"
                harmless = (what, name) in HARMLESS or (what == "missing" and optional)
                if not harmless:
                    cases.append(Bad(function, what, name, gone_wrong(name, make)))
            if function not in ANY_RANK or position > 0:
                more = gone_wrong(name, lambda a: a[None])
                cases.append(Bad(function, "with an axis too many", name, more))
            if position == 0:
                cases.append(Bad(function, "of 2^31 elements", name, gone_wrong(name, huge)))
            axis = DETERMINED.get(function, {}).get(name)
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
    """An array like what the function returns, filled with NaN."""
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
    """`out` begins one float behind the input `name`, in the same memory."""

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
    (["add"], "alpha", ["1", None]),
    (["add"], "beta", ["1", None]),
    (
        ["softmax_cross_entropy_backward", "softmax_cross_entropy", "relu_bias_backward", "input_transform"],
        "scale",
        ["1", None],
    ),
    (["sgd_update"], "lr", ["0.1", None]),
    (["sgd_update"], "momentum", ["0.9"]),
    (["limit_norm"], "limit", [0.0, -1.0, NAN, "1", None]),
    (["limit_norm"], "low", [-1.0, 1e9, NAN, "1", None]),
    (["limit_norm"], "w", [np.ones(3, np.float32), np.ones((2, 0), np.float32)]),
    (["input_transform"], "size", [0, (0, 3), (6, 3), (4, 7), (4,), 2.0]),
]


def bad_elements() -> list[Bad]:
    """Arrays of bfloat16s beside such of floats, and where there can be none."""
    cases = []
    for function, good in GOOD.items():
        spec, element = OPERATIONS[function], "fp32"
        typed = [
            name for name, array in arrays_of(good()).items()
            if array.dtype == np.float32 and spec.dtype(name, "bf16") != spec.dtype(name, element)
        ]  # fmt: skip
        for position, (name, array) in enumerate(arrays_of(good()).items()):
            # The first says what the others must be.
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
        # A padding as large as its window is refused where heights and widths have names.
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
def test_bad_call(case: Bad) -> None:
    arguments = case.change(GOOD[case.function]())
    before = copy.deepcopy({n: v for n, v in arrays_of(arguments).items() if v.nbytes < 2**20})
    with pytest.raises(case.errors, match=rf"(?<![a-z])({case.names})") as caught:
        call(case.function, arguments)
    # A plain message, not Python's or pybind11's about signatures.
    assert "incompatible" not in str(caught.value)
    for name, array in before.items():
        np.testing.assert_array_equal(arguments[name], array)


# ---- the compiled modules ------------------------------------------------------------------------

BROKEN: dict[str, Callable[[Device, Any], Any]] = {
    "of a wider type": lambda d, a: d.xp.zeros(a.shape, wider(np.zeros(1, a.dtype)).dtype),
    "with an element too many": lambda d, a: d.xp.zeros(a.size + 1, a.dtype),
    "with an element too few": lambda d, a: d.xp.zeros(a.size - 1, a.dtype),
    "not contiguous": lambda d, a: d.xp.zeros(2 * a.size, a.dtype)[::2],
    "a list": lambda d, a: [0.0] * a.size,
    "a number": lambda d, a: 0.0,
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_module_never_leaves_its_buffers(device: Device, operation: str, what: str) -> None:
    """Even called directly, a compiled module checks type, contiguity and size of every array."""
    if device.module.build_kind() == "numpy":
        pytest.skip("NumPy has no pointers to check")
    spec = OPERATIONS[operation]
    for seed in range(10_000):
        drawn, problem, _ = random_case(seed, OPERATIONS)
        if drawn != operation or element_of(problem, "fp32") == "bf16":
            continue
        inputs = make_inputs(operation, problem)
        sizes = [value.size for value in inputs.values() if isinstance(value, np.ndarray)]
        sizes += [int(np.prod(shape)) for n, shape in spec.outputs(problem).items() if n != "halt"]
        if min(sizes) > 1:
            break
    arrays = {n: device.array(v) if isinstance(v, np.ndarray) else v for n, v in inputs.items()}
    if operation == "from_bf16":
        arrays["x"] = device.array(bfloat16.pack(inputs["x"]))
    for name, shape in spec.outputs(problem).items():
        dtype = np.int32 if name in COUNTS else spec.dtype(name, "fp32")
        arrays.setdefault(name, device.zeros(shape, dtype))
    tail: list[Any] = []
    if spec.has_workspace:
        tail.append(device.zeros(workspace_size(device.module, operation, problem) + 1, np.uint8))
    # The size of these is whatever their first array's is.
    free = {
        "relu_forward": "x", "relu_backward": "y", "eltmax_forward": "a", "eltmax_backward": "x", "add": "a",
        "watch_losses": "loss", "to_bf16": "x", "from_bf16": "x",
    }.get(operation)  # fmt: skip
    for name, array in arrays.items():
        if not hasattr(array, "shape"):
            continue
        # Any number of losses is right, and a single element always contiguous.
        if operation == "watch_losses" and name in {"with": ["loss"], "not ": ["halt"]}.get(what[:4], []):
            continue
        with device:
            broken = {**arrays, name: BROKEN[what](device, array)}
        named = r"\w+" if name == free else name
        with device, pytest.raises((ValueError, TypeError), match=rf"(?<![a-z]){named} (must|has)"):
            getattr(device.module, operation)(*spec.problems(problem), *broken.values(), *tail)


@pytest.mark.parametrize("operation", [n for n, o in OPERATIONS.items() if o.has_workspace])
def test_a_module_refuses_a_workspace_that_is_too_small(device: Device, operation: str) -> None:
    tried = 0
    for seed in range(3000):
        name, problem, _ = random_case(seed, OPERATIONS)
        if name != operation:
            continue
        if not device.serves(getattr(problem, "precision", "fp32")):
            continue
        needed = workspace_size(device.module, operation, problem)
        if needed == 0:
            continue
        spec, element = OPERATIONS[operation], element_of(problem, "fp32")
        arrays = [
            device.zeros(value.shape, spec.dtype(name, element)) if isinstance(value, np.ndarray) else value
            for name, value in make_inputs(operation, problem).items()
        ]
        arrays += [device.zeros(shape, spec.dtype(n, element)) for n, shape in spec.outputs(problem).items()]
        for space in (None, device.zeros(needed - 1, np.uint8)):
            with device, pytest.raises(ValueError, match="workspace must"):
                getattr(device.module, operation)(*spec.problems(problem), *arrays, space)
        tried += 1
        if tried == 3:
            return
    if not tried:
        pytest.skip("no problem needs a workspace here")
