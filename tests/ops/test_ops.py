"""Results of the functions of cconvnet.ops on good calls, and the arrays that they accept."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from helpers.good_calls import (
    CONV,
    GOOD,
    PLACE_OF_OUT,
    UPDATED,
    Arguments,
    Exporter,
    W,
    X,
    arrays_of,
    call,
    floats,
    in_bf16,
    on,
    poison,
    results,
)

from cconvnet import bfloat16, ops
from cconvnet._problem import LocalProblem
from cconvnet.devices import Device, get_device, present_devices
from cconvnet.operations import OPERATIONS


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


# Functions whose output alone may be of bfloat16s.
ROUNDED = {"softmax_cross_entropy_backward", "input_transform", "filters_to_blocks"}

# Functions whose inputs alone may be.
ALL_FLOATS = {
    "conv_wgrad", "local_wgrad", "fc_wgrad", "bias_grad", "softmax_forward", "softmax_cross_entropy_forward",
    "l2_cost_forward", "batch_norm_statistics", "tree_sum",
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
    for precision, make in (*((name, GOOD[function]) for name in ("fp32", "fp32x3", "tf32")), ("bf16", None)):
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
    """Each is the unpadded convolution of the image with its zeros; `outputs` decides where those end."""
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
    """A dilated convolution is the plain one with zeros between the taps of the filter."""
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
    """Pixels beyond the padding, in the last windows of ceil rounding, do not count."""
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
    """A pool inside the image is the pool of the part of the image in its windows."""
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


@pytest.mark.parametrize("function", GOOD)
def test_dlpack_is_taken(function: str) -> None:
    wanted = results(get_device("cpu:0"), function, GOOD[function]())
    arguments = GOOD[function]()
    originals = arrays_of(arguments)
    arguments.update({name: Exporter(array) for name, array in originals.items()})
    returned = call(function, arguments)
    if returned is None:
        # The exporter's memory was updated: no copy was made.
        returned = tuple(originals[name] for name in UPDATED[function])
    returned = returned if isinstance(returned, tuple) else (returned,)
    for a, b in zip(returned, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_torch_tensors_are_taken() -> None:
    torch = pytest.importorskip("torch")
    x, w = torch.from_numpy(floats(*X)), torch.from_numpy(floats(*W))
    y = torch.full((2, 5, 6, 6), float("nan"))
    assert ops.conv_fprop(x, w, out=y, **CONV) is y
    wanted = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), w.permute(0, 3, 1, 2), **CONV)
    assert torch.equal(y, wanted.permute(0, 2, 3, 1))
    returned = ops.conv_fprop(x, w, **CONV)
    assert type(returned) is torch.Tensor and torch.equal(returned, y)


def test_torch_tensors_of_bfloat16_are_taken() -> None:
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(floats(*X)).to(torch.bfloat16)
    y = ops.relu_forward(x)
    assert y.dtype == torch.bfloat16 and torch.equal(y, torch.relu(x))
    bits = torch.empty_like(x)
    ops.relu_forward(x.view(torch.uint16), out=bits.view(torch.uint16))
    assert torch.equal(bits, y)
    assert ops.to_bf16(x.float()).dtype == torch.bfloat16
    parameter = torch.nn.Parameter(x)
    with pytest.raises(ValueError, match=r"^x requires gradients.*x\.detach\(\)"):
        ops.relu_forward(parameter)
    for strange in (x.to("meta"), x.to_sparse()):
        with pytest.raises(ValueError, match=r"^x cannot be read without a copy"):
            ops.relu_forward(strange)
