"""Locally connected layers: filters of their own for every output position."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.adjoint import assert_adjoint

from cconvnet._problem import BiasProblem, ConvProblem, LocalProblem
from cconvnet.devices import Device
from cconvnet.testing import compare, reference
from cconvnet.testing.check import check, check_fused, make_inputs, own_impls, repro, run
from cconvnet.testing.problems import LOCAL, with_precision

PASSES = ["local_fprop", "local_dgrad", "local_wgrad"]

# Where strides leave pixels out and taps see nothing but padding, gradients are rightly 0.
SPARSE = {"stride_beyond_filter", "padded_beyond_filter", "filter_beyond_image", "whole_image"}


@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize("operation", PASSES)
def test_exact(device: Device, precision: str, operation: str, name: str) -> None:
    problem = with_precision(LOCAL[name], precision)
    for impl in own_impls(operation, problem, device):
        check(operation, problem, device, impl=impl, nonzero=0.05 if name in SPARSE else 0.25)


@pytest.mark.parametrize("name", ["plain", "tail", "strided", "groups_tail", "ceil_hangs_over", "long_sum"])
@pytest.mark.parametrize("operation", PASSES)
def test_real(device: Device, precision: str, operation: str, name: str) -> None:
    problem = with_precision(LOCAL[name], precision)
    for impl in own_impls(operation, problem, device):
        check(operation, problem, device, impl=impl, data="real")


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", ["tail", "groups", "1x1", "long_sum", "padded_beyond_filter"])
def test_bias_and_relu(device: Device, precision: str, name: str, bias: bool, relu: bool) -> None:
    problem = with_precision(LOCAL[name], precision)
    for impl in own_impls("local_fprop", problem, device):
        # A window that lies in the padding gives its bias, or 0.
        check("local_fprop", problem, device, impl=impl, bias=bias, relu=relu, nonzero=0.02)


@pytest.mark.parametrize("dropout", ["whole", "rows", "part", "odd_part"])
@pytest.mark.parametrize("name", ["plain", "tail", "long_sum"])
def test_dropout_on_the_way(device: Device, precision: str, name: str, dropout: str) -> None:
    problem = with_precision(LOCAL[name], precision)
    for impl in own_impls("local_fprop", problem, device):
        check("local_fprop", problem, device, impl=impl, relu=True, dropout=dropout, nonzero=0.05)
        check_fused("local_fprop", problem, device, impl=impl, relu=True, dropout=dropout)
    check("local_fprop", problem, device, offset=4, relu=True, dropout=dropout, nonzero=0.05)


@pytest.mark.parametrize("update", ["plain", "full", "halted"])
@pytest.mark.parametrize("name", ["plain", "tail", "long_sum"])
def test_update_behind_the_gradient(device: Device, precision: str, name: str, update: str) -> None:
    problem = with_precision(LOCAL[name], precision)
    for impl in own_impls("local_wgrad", problem, device):
        check("local_wgrad", problem, device, impl=impl, update=update)
        check_fused("local_wgrad", problem, device, impl=impl, update=update)
    check("local_wgrad", problem, device, offset=4, update=update)
    check_fused("local_wgrad", problem, device, update=update, nesterov=True)


@pytest.mark.parametrize("name", ["plain", "tail", "long_sum"])
def test_relu_on_the_way(device: Device, precision: str, name: str) -> None:
    problem = with_precision(LOCAL[name], precision)
    for impl in own_impls("local_fprop", problem, device):
        check_fused("local_fprop", problem, device, impl=impl, relu=True)


@pytest.mark.parametrize("name", ["plain", "tail", "long_sum"])
@pytest.mark.parametrize("operation", PASSES)
def test_unrounded(device: Device, operation: str, name: str) -> None:
    """Floats of 24 bits, each of which tf32 rounds to 11."""
    if not device.serves("tf32"):
        pytest.skip(f"{device.name} has no tf32")
    problem = with_precision(LOCAL[name], "tf32")
    for impl in own_impls(operation, problem, device):
        check(operation, problem, device, impl=impl, data="unrounded")


@pytest.mark.parametrize("offset", [4, 8])
@pytest.mark.parametrize("name", ["plain", "tail", "groups"])
@pytest.mark.parametrize("operation", PASSES)
def test_any_alignment(device: Device, precision: str, operation: str, name: str, offset: int) -> None:
    problem = with_precision(LOCAL[name], precision)
    if precision == "bf16":
        offset //= 2
    check(operation, problem, device, offset=offset)
    for impl in own_impls(operation, problem, device):
        try:
            check(operation, problem, device, offset=offset, impl=impl)
        except ValueError as error:
            # A row that was asked for by name says what it wants.
            assert "16-byte" in str(error) and str(impl) in str(error)


@pytest.mark.parametrize("name", LOCAL)
def test_gradients_are_adjoint(device: Device, name: str) -> None:
    assert_adjoint("local", LOCAL[name], device)


@pytest.mark.parametrize("name", ["plain", "groups_tail", "ceil_hangs_over"])
def test_equal_filters_are_a_convolution(device: Device, name: str) -> None:
    """With one filter bank for all positions, outputs are conv's, and its gradient is the sum of theirs."""
    local = LOCAL[name]
    conv = ConvProblem(
        *(local.n, local.h, local.w, local.c, local.k, local.r, local.s),
        stride=(local.stride_h, local.stride_w), padding=(local.pad_h, local.pad_w), groups=local.groups,
        rounding="ceil" if "ceil" in name else "floor",
    )  # fmt: skip
    inputs = make_inputs("conv_fprop", conv) | make_inputs("conv_dgrad", conv)
    x, dy, bias = inputs["x"], inputs["dy"], inputs["bias"]
    w = np.broadcast_to(inputs["w"], local.w_shape).copy()
    biases = np.broadcast_to(bias, local.bias_shape).copy()
    y = run("local_fprop", local, device, {"x": x, "w": w, "bias": biases, "relu": True})["y"]
    np.testing.assert_array_equal(y, reference.conv_fprop(conv, x, inputs["w"], bias, relu=True))
    dx = run("local_dgrad", local, device, {"dy": dy, "w": w})["dx"]
    np.testing.assert_array_equal(dx, reference.conv_dgrad(conv, dy, inputs["w"]))
    dw = run("local_wgrad", local, device, {"x": x, "dy": dy})["dw"]
    np.testing.assert_array_equal(dw.sum(axis=(0, 1)), reference.conv_wgrad(conv, x, dy))


def test_bias_gradient(device: Device) -> None:
    """bias_grad sums dy[N, P*Q*K] over the images."""
    problem = LOCAL["tail"]
    dy = make_inputs("local_dgrad", problem)["dy"]
    columns = problem.p * problem.q * problem.k
    db = run("bias_grad", BiasProblem(problem.n, columns), device, {"dy": dy.reshape(problem.n, columns)})
    np.testing.assert_array_equal(db["db"].reshape(problem.bias_shape), dy.sum(axis=0))


@pytest.mark.parametrize("name", ["tail", "groups_tail", "strided"])
@pytest.mark.parametrize("operation", ["local_fprop", "local_dgrad"])
def test_nan_reaches_only_the_windows_that_hold_it(
    device: Device, precision: str, operation: str, name: str
) -> None:
    """A kernel that reads beyond a sum's end and multiplies by zero would spread it: NaN * 0 is NaN."""
    problem = with_precision(LOCAL[name], precision)
    inputs = make_inputs(operation, problem)
    if operation == "local_fprop":
        inputs |= {"bias": None, "relu": True}
    moving = "x" if operation == "local_fprop" else "dy"
    pixels = inputs[moving].size // inputs[moving].shape[-1]
    for pixel in (0, pixels // 2, pixels - 1):
        poisoned = inputs[moving].copy()
        poisoned.reshape(pixels, -1)[pixel] = np.nan
        given = inputs | {moving: poisoned}
        expected = getattr(reference, operation)(problem, *given.values())
        assert 0 < np.isnan(expected).sum() < expected.size
        for impl in own_impls(operation, problem, device):
            (result,) = run(operation, problem, device, given, impl=impl).values()
            result = compare.values(result)
            # oneDNN multiplies bfloat16s in pairs: the last of an odd number of channels together with the
            # first of the next pixel, by a weight of 0.
            pairs = device.kind == "cpu" and precision == "bf16"
            where = np.isnan(expected) if pairs else np.full(expected.shape, True)
            assert (np.isnan(result) == np.isnan(expected))[where].all(), repro(operation, problem, device)


# cuda-convnet's CIFAR-10 network with two locally connected layers, and a larger map.
REAL_LAYERS = {
    "local3": {"h": 6, "w": 6, "c": 64, "k": 64, "r": 3, "s": 3, "padding": (1, 1)},
    "local4": {"h": 6, "w": 6, "c": 64, "k": 32, "r": 3, "s": 3, "padding": (1, 1)},
    "large_map": {"h": 16, "w": 16, "c": 32, "k": 32, "r": 5, "s": 5, "padding": (2, 2)},
}


@pytest.mark.parametrize("name", REAL_LAYERS)
@pytest.mark.parametrize("operation", PASSES)
def test_real_layers(device: Device, operation: str, name: str) -> None:
    if device.kind == "emulator":
        check(operation, LocalProblem(n=4, **{**REAL_LAYERS[name], "h": 4, "w": 3}), device)
    else:
        check(operation, LocalProblem(n=128, **REAL_LAYERS[name]), device)


@pytest.mark.parametrize("operation", PASSES)
def test_unknown_impl(device: Device, operation: str) -> None:
    with pytest.raises(ValueError, match="no_such_row"):
        check(operation, LOCAL["plain"], device, impl="no_such_row")


def test_weights_of_all_positions_must_fit() -> None:
    with pytest.raises(ValueError, match="w would have more than"):
        LocalProblem(1, 256, 256, 64, 64, 3, 3, padding=(1, 1))


def test_problems_of_two_kinds_differ() -> None:
    """Equal shapes do not make a locally connected layer a convolution."""
    sizes = (1, 3, 3, 2, 2, 2, 2)
    assert LocalProblem(*sizes) == LocalProblem(*sizes) and LocalProblem(*sizes) != ConvProblem(*sizes)
    assert repr(LocalProblem(*sizes)).startswith("LocalProblem(n=1, h=3,")
