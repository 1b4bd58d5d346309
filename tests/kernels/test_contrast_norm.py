"""Contrast normalisation in the same map, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest

from cconvnet._problem import ContrastNormProblem, LrnProblem
from cconvnet.devices import Device
from cconvnet.testing.check import check, make_inputs, run
from cconvnet.testing.problems import CONTRAST_NORM

OPERATIONS = ["contrast_norm_forward", "contrast_norm_backward"]


@pytest.mark.parametrize("name", CONTRAST_NORM)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_real(device: Device, element: str, operation: str, name: str) -> None:
    check(operation, CONTRAST_NORM[name], device, element=element, data="real")


@pytest.mark.parametrize("name", CONTRAST_NORM)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_integers(device: Device, element: str, operation: str, name: str) -> None:
    """Large values in small windows, where a wrong neighbour has the largest effect."""
    check(operation, CONTRAST_NORM[name], device, element=element, data="integers")


@pytest.mark.parametrize("name", ["plain", "strong"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_any_alignment(device: Device, element: str, operation: str, name: str) -> None:
    check(operation, CONTRAST_NORM[name], device, element=element, data="real", offset=4)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_real_layer(device: Device, operation: str) -> None:
    """The layer after the first pooling of a CIFAR-10 network, smaller on the emulator."""
    n, hw = (1, 8) if device.kind == "emulator" else (8, 16)
    check(operation, ContrastNormProblem(n, hw, hw, 32, size=9, alpha=0.001), device, data="real")


def test_of_one_pixel_is_the_identity(device: Device, element: str) -> None:
    """A window of one pixel is its own mean, so its contrast is 0."""
    problem = ContrastNormProblem(2, 3, 4, 5, size=1, alpha=3.0)
    for operation in OPERATIONS:
        check(operation, problem, device, element=element)


def test_no_normalisation_is_the_identity(device: Device, element: str) -> None:
    """With alpha = 0 and k = 1 every factor is 1, for any power."""
    problem = ContrastNormProblem(1, 3, 3, 8, alpha=0.0, k=1.0)
    for operation in OPERATIONS:
        check(operation, problem, device, element=element)


def test_a_flat_image_keeps_its_values(device: Device) -> None:
    """An image of equal pixels has no contrast, up to the edges: windows are clipped, not padded."""
    problem = ContrastNormProblem(1, 6, 7, 4, size=5, alpha=10.0)
    x = np.full(problem.x_shape, 3, np.float32)
    y = run("contrast_norm_forward", problem, device, {"x": x})["y"]
    np.testing.assert_array_equal(y, x)


def test_the_mean_is_taken_off(device: Device) -> None:
    """Around a mean of 0 the result is that of LRN; a constant added to all pixels changes nothing."""
    sizes = (1, 2, 2, 4)
    # Every window of a 2x2 image with size 4 is the whole image, its mean 0.
    x = np.broadcast_to(np.array([2, -2, -2, 2], np.float32).reshape(1, 2, 2, 1), sizes).copy()
    problem = ContrastNormProblem(*sizes, size=4, alpha=0.125, beta=1.0, k=2.0)
    lrn = LrnProblem(*sizes, size=4, alpha=0.125, beta=1.0, k=2.0, region="same_map")
    y = run("contrast_norm_forward", problem, device, {"x": x})["y"]
    np.testing.assert_allclose(y, x / 4, rtol=1e-6)
    np.testing.assert_allclose(y, run("lrn_forward", lrn, device, {"x": x})["y"], rtol=1e-6)
    shifted = run("contrast_norm_forward", problem, device, {"x": x + 4})["y"]
    np.testing.assert_allclose(shifted, (x + 4) / 4, rtol=1e-6)


def test_nan_reaches_the_windows_around_it_and_their_windows(device: Device) -> None:
    problem = ContrastNormProblem(1, 9, 9, 2, size=3, alpha=0.5)
    x = make_inputs("contrast_norm_forward", problem, data="real")["x"]
    x[0, 4, 4, 1] = np.nan
    y = run("contrast_norm_forward", problem, device, {"x": x})["y"]
    assert np.isnan(y[0, 2:7, 2:7, 1]).all() and np.isnan(y).sum() == 25
