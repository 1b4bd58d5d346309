"""Local response normalisation, across channels and in the same map."""

from __future__ import annotations

import pytest

from cconvnet._problem import LrnProblem
from cconvnet.devices import Device
from cconvnet.testing.check import check
from cconvnet.testing.networks import NETWORKS, layers
from cconvnet.testing.problems import LRN

OPERATIONS = ["lrn_forward", "lrn_backward"]


@pytest.mark.parametrize("name", LRN)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_real(device: Device, element: str, operation: str, name: str) -> None:
    check(operation, LRN[name], device, element=element, data="real")


@pytest.mark.parametrize("name", LRN)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_integers(device: Device, element: str, operation: str, name: str) -> None:
    """Large values in small windows, where a wrong neighbour has the largest effect."""
    problem = LRN[name]
    # A gradient is a difference of two terms. Where they cancel, the error is judged against a larger element
    # beside; in a handful of elements there may be none.
    few = problem.n * problem.h * problem.w * problem.c < 64
    check(operation, problem, device, element=element, data="integers", floor=8.0 if few else 2.0)


@pytest.mark.parametrize("name", ["paper", "tail", "same_map"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_any_alignment(device: Device, element: str, operation: str, name: str) -> None:
    check(operation, LRN[name], device, element=element, data="real", offset=4)


REAL_LAYERS = {
    f"{network}/{layer.name}": layer
    for network in NETWORKS
    for layer in layers(network).values()
    if layer.kind == "lrn"
}


@pytest.mark.parametrize("name", REAL_LAYERS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_real_layers(device: Device, element: str, operation: str, name: str) -> None:
    layer = REAL_LAYERS[name]
    problem = layer.small(100_000) if device.kind == "emulator" else layer.problem()
    check(operation, problem, device, element=element, data="real")


def test_no_normalisation_is_the_identity(device: Device, element: str) -> None:
    """With alpha = 0 and k = 1 every factor is 1, for any power."""
    problem = LrnProblem(1, 3, 3, 8, alpha=0.0, k=1.0)
    check("lrn_forward", problem, device, element=element)
    check("lrn_backward", problem, device, element=element)
