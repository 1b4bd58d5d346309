"""Fully connected layers: their three passes and every row of every selection table."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.adjoint import assert_adjoint

from cconvnet._problem import FcProblem, NeuronProblem
from cconvnet.devices import Device
from cconvnet.testing.check import check, check_fused, impls, make_inputs, own_impls, run
from cconvnet.testing.inputs import round_to
from cconvnet.testing.networks import NETWORKS, layers
from cconvnet.testing.problems import FC, with_precision

PASSES = ["fc_fprop", "fc_dgrad", "fc_wgrad"]


@pytest.mark.parametrize("name", FC)
@pytest.mark.parametrize("operation", PASSES)
def test_exact(device: Device, precision: str, operation: str, name: str) -> None:
    problem = with_precision(FC[name], precision)
    for impl in own_impls(operation, problem, device):
        check(operation, problem, device, impl=impl)


@pytest.mark.parametrize("problem", [FC["tail"], FC["long_sum"], FcProblem(3, 2304, 7)], ids=repr)
@pytest.mark.parametrize("operation", PASSES)
def test_real(device: Device, precision: str, operation: str, problem: FcProblem) -> None:
    problem = with_precision(problem, precision)
    for impl in own_impls(operation, problem, device):
        check(operation, problem, device, impl=impl, data="real")


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_bias_and_relu(device: Device, precision: str, bias: bool, relu: bool) -> None:
    problem = with_precision(FC["tail"], precision)
    for impl in own_impls("fc_fprop", problem, device):
        check("fc_fprop", problem, device, impl=impl, bias=bias, relu=relu)


@pytest.mark.parametrize("dropout", ["whole", "rows", "part", "odd_part"])
@pytest.mark.parametrize("name", ["plain", "tail", "long_sum"])
def test_dropout_on_the_way(device: Device, precision: str, name: str, dropout: str) -> None:
    problem = with_precision(FC[name], precision)
    for impl in own_impls("fc_fprop", problem, device):
        check("fc_fprop", problem, device, impl=impl, relu=True, dropout=dropout, nonzero=0.05)
        check_fused("fc_fprop", problem, device, impl=impl, relu=True, dropout=dropout)
    check("fc_fprop", problem, device, offset=4, relu=True, dropout=dropout, nonzero=0.05)


@pytest.mark.parametrize("update", ["plain", "full", "halted"])
@pytest.mark.parametrize("name", ["plain", "tail", "long_sum"])
def test_update_behind_the_gradient(device: Device, precision: str, name: str, update: str) -> None:
    problem = with_precision(FC[name], precision)
    for impl in own_impls("fc_wgrad", problem, device):
        check("fc_wgrad", problem, device, impl=impl, update=update)
        check_fused("fc_wgrad", problem, device, impl=impl, update=update)
    check("fc_wgrad", problem, device, offset=4, update=update)
    check_fused("fc_wgrad", problem, device, update=update, nesterov=True)


@pytest.mark.parametrize("name", ["plain", "tail", "long_sum"])
def test_relu_on_the_way(device: Device, precision: str, name: str) -> None:
    problem = with_precision(FC[name], precision)
    for impl in own_impls("fc_fprop", problem, device):
        check_fused("fc_fprop", problem, device, impl=impl, relu=True)


@pytest.mark.parametrize("name", ["plain", "tail", "long_sum"])
@pytest.mark.parametrize("operation", PASSES)
def test_unrounded(device: Device, operation: str, name: str) -> None:
    """Floats of 24 bits, each of which tf32 rounds to 11."""
    if not device.serves("tf32"):
        pytest.skip(f"{device.name} has no tf32")
    problem = with_precision(FC[name], "tf32")
    for impl in own_impls(operation, problem, device):
        check(operation, problem, device, impl=impl, data="unrounded")


@pytest.mark.parametrize("operation", ["fc_fprop", "fc_dgrad"])
def test_tf32_rounds_to_nearest_and_ties_away_from_0(device: Device, operation: str) -> None:
    """With the identity as weights the result is the input, rounded, or by fp32's rows unrounded."""
    if not device.serves("tf32"):
        pytest.skip(f"{device.name} has no tf32")
    problem = FcProblem(64, 64, 64, precision="tf32")
    name = "x" if operation == "fc_fprop" else "dy"
    x = make_inputs("relu_forward", NeuronProblem(64 * 64), "real")["x"]
    # Ties: 10 bits of fraction and a half, of either sign, and even and odd before the half.
    x[:64] = (1 + (2 * np.arange(64) + 1) * 2.0**-11) * np.where(np.arange(64) % 2, 1, -1)
    inputs = {name: x.reshape(64, 64), "w": np.eye(64, dtype=np.float32)}
    if operation == "fc_fprop":
        inputs |= {"bias": None, "relu": False}
    rounding = 0
    for impl in impls(operation, problem, device):
        (y,) = run(operation, problem, device, inputs, impl=impl).values()
        rounds = impl in own_impls(operation, problem, device)
        wanted = round_to(x, "tf32") if rounds else x
        rounding += rounds
        np.testing.assert_array_equal(y.ravel(), wanted)
    assert rounding and (round_to(x, "tf32") != x).all()
    # A NaN whose bits would overflow if it were rounded.
    x[-1] = np.array(0x7FFFFFFF, np.uint32).view(np.float32)
    for impl in impls(operation, problem, device):
        (y,) = run(operation, problem, device, {**inputs, name: x.reshape(64, 64)}, impl=impl).values()
        assert np.isnan(y[-1, -1])


def test_fp32x3_of_the_largest_and_the_smallest(device: Device) -> None:
    """With the identity as weights the result is the input to 22 bits, and infinities are fp32's."""
    if not device.serves("fp32x3"):
        pytest.skip(f"{device.name} has no fp32x3")
    problem = FcProblem(64, 64, 64, precision="fp32x3")
    x = make_inputs("relu_forward", NeuronProblem(64 * 64), "real")["x"].reshape(64, 64)
    largest, rounds_up = np.finfo(np.float32).max, np.float32(float.fromhex("0x1.ffep127"))
    edges = [largest, rounds_up, np.nextafter(rounds_up, np.float32(0)), np.float32(1e-33)]
    plain = x.copy()
    x[0, :8] = [*edges, *np.negative(edges)]
    inputs = {"x": x, "w": np.eye(64, dtype=np.float32), "bias": None, "relu": False}
    rows = own_impls("fc_fprop", problem, device)
    for impl in rows:
        (y,) = run("fc_fprop", problem, device, inputs, impl=impl).values()
        cut = np.abs(x) >= rounds_up
        np.testing.assert_allclose(y[~cut], x[~cut], rtol=2.0**-22)
        np.testing.assert_allclose(y[cut], x[cut], rtol=2.0**-10)
    for special in (np.inf, -np.inf, np.nan):
        for weight in (np.eye(64, dtype=np.float32), np.full((64, 64), 0.5, np.float32)):
            given = inputs | {"x": np.where(np.arange(64) == 5, np.float32(special), plain), "w": weight}
            with np.errstate(invalid="ignore"):
                wanted = given["x"] @ weight.T
            for impl in rows:
                (y,) = run("fc_fprop", problem, device, given, impl=impl).values()
                np.testing.assert_array_equal(np.isnan(y), np.isnan(wanted))
                np.testing.assert_array_equal(np.isinf(y), np.isinf(wanted))
                np.testing.assert_array_equal(y[np.isinf(y)], wanted[np.isinf(y)])


@pytest.mark.parametrize("offset", [4, 8])
@pytest.mark.parametrize("name", ["plain", "tail", "one_image"])
@pytest.mark.parametrize("operation", PASSES)
def test_any_alignment(device: Device, precision: str, operation: str, name: str, offset: int) -> None:
    problem = with_precision(FC[name], precision)
    check(operation, problem, device, offset=offset // 2 if precision == "bf16" else offset)


@pytest.mark.parametrize("name", FC)
def test_gradients_are_adjoint(device: Device, name: str) -> None:
    assert_adjoint("fc", FC[name], device)


REAL_LAYERS = {
    f"{network}/{layer.name}": layer
    for network in NETWORKS
    for layer in layers(network).values()
    if layer.kind == "fc"
}


@pytest.mark.parametrize("name", REAL_LAYERS)
@pytest.mark.parametrize("operation", PASSES)
def test_real_layers(device: Device, precision: str, operation: str, name: str) -> None:
    """The largest weights, hundreds of megabytes, are left to the long run."""
    work = 1_000_000 if device.kind == "emulator" else 20_000_000
    problem = REAL_LAYERS[name].small(work if precision == "fp32" else work // 4, n=2)
    check(operation, with_precision(problem, precision), device)


@pytest.mark.long
@pytest.mark.parametrize("name", REAL_LAYERS)
@pytest.mark.parametrize("operation", PASSES)
def test_real_layers_whole(device: Device, precision: str, operation: str, name: str) -> None:
    problem = with_precision(REAL_LAYERS[name].problem(n=3), precision)
    for impl in own_impls(operation, problem, device):
        check(operation, problem, device, impl=impl)


@pytest.mark.parametrize("operation", PASSES)
def test_unknown_impl(device: Device, operation: str) -> None:
    with pytest.raises(ValueError, match="no_such_row"):
        check(operation, FC["plain"], device, impl="no_such_row")
