"""Fully connected layers, their three passes, every row of every selection table."""

from __future__ import annotations

import numpy as np
import pytest

from cconvnet._problem import FcProblem
from cconvnet.backends import Device
from cconvnet.testing.check import check, impls, make_inputs, repro, run
from cconvnet.testing.problems import FC, NETWORKS, layers

PASSES = ["fc_fprop", "fc_dgrad", "fc_wgrad"]


@pytest.mark.parametrize("name", FC)
@pytest.mark.parametrize("operation", PASSES)
def test_exact(device: Device, operation: str, name: str) -> None:
    for impl in impls(operation, FC[name], device):
        check(operation, FC[name], device, impl=impl)


@pytest.mark.parametrize("problem", [FC["tail"], FC["long_sum"], FcProblem(3, 9216, 7)], ids=repr)
@pytest.mark.parametrize("operation", PASSES)
def test_real(device: Device, operation: str, problem: FcProblem) -> None:
    for impl in impls(operation, problem, device):
        check(operation, problem, device, impl=impl, data="real")


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_bias_and_relu(device: Device, bias: bool, relu: bool) -> None:
    for impl in impls("fc_fprop", FC["tail"], device):
        check("fc_fprop", FC["tail"], device, impl=impl, bias=bias, relu=relu)


@pytest.mark.parametrize("offset", [4, 8])
@pytest.mark.parametrize("name", ["plain", "tail", "one_image"])
@pytest.mark.parametrize("operation", PASSES)
def test_any_alignment(device: Device, operation: str, name: str, offset: int) -> None:
    check(operation, FC[name], device, offset=offset)


@pytest.mark.parametrize("name", FC)
def test_gradients_are_adjoint(device: Device, name: str) -> None:
    problem = FC[name]
    inputs = make_inputs("fc_fprop", problem, bias=False) | make_inputs("fc_dgrad", problem)
    x, w, dy = inputs["x"], inputs["w"], inputs["dy"]
    y = run("fc_fprop", problem, device, {"x": x, "w": w, "bias": None, "relu": False})["y"]
    dx = run("fc_dgrad", problem, device, {"dy": dy, "w": w})["dx"]
    dw = run("fc_wgrad", problem, device, {"x": x, "dy": dy})["dw"]
    products = [int(np.sum(a.astype(np.int64) * b.astype(np.int64))) for a, b in ((dy, y), (dx, x), (dw, w))]
    assert products[0] == products[1] == products[2], repro("fc_fprop", problem, device)


REAL_LAYERS = {
    f"{network}/{layer.name}": layer
    for network in NETWORKS
    for layer in layers(network).values()
    if layer.kind == "fc"
}


@pytest.mark.parametrize("name", REAL_LAYERS)
@pytest.mark.parametrize("operation", PASSES)
def test_real_layers(device: Device, operation: str, name: str) -> None:
    """The largest weights, hundreds of megabytes, are left to the long run."""
    problem = REAL_LAYERS[name].small(20_000_000, n=2)
    check(operation, problem, device)


@pytest.mark.long
@pytest.mark.parametrize("name", REAL_LAYERS)
@pytest.mark.parametrize("operation", PASSES)
def test_real_layers_whole(device: Device, operation: str, name: str) -> None:
    problem = REAL_LAYERS[name].problem(n=3)
    for impl in impls(operation, problem, device):
        check(operation, problem, device, impl=impl)


@pytest.mark.parametrize("operation", PASSES)
def test_unknown_impl(device: Device, operation: str) -> None:
    with pytest.raises(ValueError, match="no_such_row"):
        check(operation, FC["plain"], device, impl="no_such_row")
