"""ReLU and the other neurons of cuda-convnet, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest

from cconvnet._problem import NeuronProblem
from cconvnet.devices import Device
from cconvnet.testing import compare
from cconvnet.testing.check import check, repro, run

COUNTS = [1, 3, 4, 31, 256, 1027]
# For integers these need no rounding but that of their result.
EXACT = {
    "linear": (2.0, -3.0),
    "relu": (1.0, 0.0),
    "abs": (1.0, 0.0),
    "square": (1.0, 0.0),
    "sqrt": (1.0, 0.0),
    "brelu": (3.0, 0.0),
}
REAL = {**EXACT, "tanh": (1.7159, 0.6666), "logistic": (1.0, 0.0), "softrelu": (1.0, 0.0), "silu": (1.0, 0.0)}
OPERATIONS = ["neuron_forward", "neuron_backward"]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("operation", ["relu_forward", "relu_backward"])
def test_relu(device: Device, element: str, operation: str, count: int) -> None:
    problem = NeuronProblem(count)
    check(operation, problem, device, element=element)
    check(operation, problem, device, element=element, data="real", offset=4)
    check(operation, problem, device, element=element, in_place="x" if operation == "relu_forward" else "dy")


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("neuron", EXACT)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_exact(device: Device, element: str, operation: str, neuron: str, count: int) -> None:
    # Of the integers from -4 to 4 only 1 and 2 lie between brelu's kinks.
    nonzero = 0.1 if neuron == "brelu" else 0.25
    check(operation, NeuronProblem(count, neuron, *EXACT[neuron]), device, element=element, nonzero=nonzero)


@pytest.mark.parametrize("neuron", REAL)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_real(device: Device, element: str, operation: str, neuron: str) -> None:
    problem = NeuronProblem(3001, neuron, *REAL[neuron])
    check(operation, problem, device, element=element, data="real", nonzero=0)


@pytest.mark.parametrize("neuron", REAL)
def test_in_place_and_any_alignment(device: Device, element: str, neuron: str) -> None:
    problem = NeuronProblem(131, neuron, *REAL[neuron])
    for offset in (0, 4):
        check("neuron_forward", problem, device, element=element, data="real", in_place="x", offset=offset)
        check("neuron_backward", problem, device, element=element, data="real", in_place="dy", offset=offset)


@pytest.mark.parametrize("neuron", REAL)
def test_nan_is_handed_on(device: Device, element: str, neuron: str) -> None:
    problem = NeuronProblem(4, neuron, *REAL[neuron])
    x = np.array([1, np.nan, 2, 3], np.float32)
    y = compare.values(run("neuron_forward", problem, device, {"x": x}, element=element)["y"])
    assert np.isnan(y).tolist() == [False, True, False, False], repro("neuron_forward", problem, device)


def test_relu_hands_nan_on(device: Device, element: str) -> None:
    x = np.array([1, np.nan, -2, 3], np.float32)
    y = compare.values(run("relu_forward", NeuronProblem(4), device, {"x": x}, element=element)["y"])
    np.testing.assert_array_equal(y, [1, np.nan, 0, 3])


@pytest.mark.parametrize("neuron", ["tanh", "logistic", "softrelu"])
def test_saturated_neurons_stay_finite(device: Device, neuron: str) -> None:
    problem = NeuronProblem(6, neuron, 1.0, 1.0)
    x = np.array([-1e30, -200, -50, 50, 200, 1e30], np.float32)
    y = run("neuron_forward", problem, device, {"x": x})["y"]
    dx = run("neuron_backward", problem, device, {"x": x, "y": y, "dy": np.ones(6, np.float32)})["dx"]
    assert np.isfinite(y).all() and np.isfinite(dx).all() and (dx >= 0).all()


def test_silu_of_large_numbers_is_0_or_the_identity(device: Device, element: str) -> None:
    problem = NeuronProblem(4, "silu")
    x = compare.values(np.array([-1e30, -200, 200, 1e30], np.float32))
    y = compare.values(run("neuron_forward", problem, device, {"x": x}, element=element)["y"])
    inputs = {"x": x, "y": y, "dy": np.ones(4, np.float32)}
    dx = compare.values(run("neuron_backward", problem, device, inputs, element=element)["dx"])
    np.testing.assert_allclose(y, [0, 0, *x[2:]], rtol=2.0**-8)
    assert dx.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(("neuron", "kinks"), [("relu", [0.0]), ("abs", [0.0]), ("brelu", [0.0, 2.0])])
def test_the_derivative_at_a_kink_is_0(device: Device, neuron: str, kinks: list[float]) -> None:
    x = np.array(kinks, np.float32)
    problem = NeuronProblem(x.size, neuron, 2.0)
    y = run("neuron_forward", problem, device, {"x": x})["y"]
    inputs = {"x": x, "y": y, "dy": np.ones_like(x)}
    assert not run("neuron_backward", problem, device, inputs)["dx"].any()
