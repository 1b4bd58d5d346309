"""Max and average pooling, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest

from cconvnet._problem import PoolProblem
from cconvnet.devices import Device
from cconvnet.testing import compare
from cconvnet.testing.check import check, repro, run
from cconvnet.testing.networks import NETWORKS, layers
from cconvnet.testing.problems import POOL

MAX = ["maxpool_forward", "maxpool_backward"]
AVERAGE = ["avgpool_forward", "avgpool_backward"]

# Windows of 1, 2 or 4 pixels in each axis, unclipped: their means of integers are exact.
POWERS_OF_TWO = {
    "2x2": PoolProblem(2, 6, 8, 5, window=(2, 2), stride=(2, 2)),
    "2x2_overlapping": PoolProblem(2, 7, 5, 12, window=(2, 2), stride=(1, 1)),
    "4x2": PoolProblem(1, 9, 6, 33, window=(4, 2), stride=(1, 2)),
    "1x1": PoolProblem(2, 3, 4, 5, window=(1, 1), stride=(1, 1)),
    "gaps": PoolProblem(2, 11, 9, 4, window=(2, 2), stride=(3, 3)),
    "begins_inside": PoolProblem(2, 11, 9, 4, window=(2, 4), stride=(2, 1), padding=(-2, -1)),
    "begins_inside_overlapping": PoolProblem(1, 9, 8, 7, (4, 4), (2, 2), (-1, -2), outputs=(3, 2)),
    "fewer_windows": PoolProblem(2, 9, 11, 12, window=(2, 4), stride=(2, 3), outputs=(3, 2)),
}


@pytest.mark.parametrize("name", POOL)
@pytest.mark.parametrize("operation", MAX)
def test_max_exact(device: Device, element: str, operation: str, name: str) -> None:
    # Few pixels are the largest of their window.
    check(
        operation,
        POOL[name],
        device,
        element=element,
        nonzero=0.05 if operation == "maxpool_backward" else 0.25,
    )


@pytest.mark.parametrize("name", POOL)
@pytest.mark.parametrize("operation", MAX)
def test_max_real(device: Device, element: str, operation: str, name: str) -> None:
    """Data without ties, with sums of gradients that round."""
    check(operation, POOL[name], device, element=element, data="real")


@pytest.mark.parametrize("name", POWERS_OF_TWO)
@pytest.mark.parametrize("operation", AVERAGE)
def test_average_exact(device: Device, element: str, operation: str, name: str) -> None:
    check(operation, POWERS_OF_TWO[name], device, element=element)


@pytest.mark.parametrize("name", POOL)
@pytest.mark.parametrize("operation", AVERAGE)
def test_average_real(device: Device, element: str, operation: str, name: str) -> None:
    check(operation, POOL[name], device, element=element, data="real")


@pytest.mark.parametrize("name", ["plain", "tail", "padded"])
@pytest.mark.parametrize("operation", MAX + AVERAGE)
def test_any_alignment(device: Device, element: str, operation: str, name: str) -> None:
    check(operation, POOL[name], device, element=element, data="real", offset=4)


IMAGES = [
    PoolProblem(3, 7, 7, 136, (7, 7), (1, 1)),
    PoolProblem(2, 8, 8, 10, (8, 8), (8, 8)),
    PoolProblem(1, 4, 4, 300, (9, 6), (1, 2), ((3, 4), (1, 1)), outputs=(1, 1)),
    PoolProblem(2, 4, 5, 33, (6, 8), (1, 1), ((1, 1), (2, 1)), count_padding=True),
    PoolProblem(2, 3, 3, 8, (3, 3), (1, 1)),  # too few pixels to share
]


@pytest.mark.parametrize("problem", IMAGES, ids=repr)
def test_averages_of_whole_images(device: Device, element: str, problem: PoolProblem) -> None:
    for operation in AVERAGE:
        check(operation, problem, device, element=element, data="integers")
        check(operation, problem, device, element=element, data="real", offset=4)


REAL_LAYERS = {
    f"{network}/{layer.name}": layer
    for network in NETWORKS
    for layer in layers(network).values()
    if layer.kind in ("maxpool", "avgpool")
}


@pytest.mark.parametrize("name", REAL_LAYERS)
def test_real_layers(device: Device, name: str) -> None:
    layer = REAL_LAYERS[name]
    problem = layer.small(200_000) if device.kind == "emulator" else layer.problem()
    for direction in ("forward", "backward"):
        check(f"{layer.kind}_{direction}", problem, device, data="real")


def test_ties_share_nothing(device: Device) -> None:
    """Every tied maximum receives the whole gradient, as in cuda-convnet."""
    problem = PoolProblem(1, 3, 3, 1, window=(2, 2), stride=(1, 1))
    inputs = {
        "x": np.full(problem.x_shape, 7, np.float32),
        "y": np.full(problem.y_shape, 7, np.float32),
        "dy": np.array([1, 2, 4, 8], np.float32),
    }
    dx = run("maxpool_backward", problem, device, inputs)["dx"]
    assert dx.ravel().tolist() == [1, 3, 2, 5, 15, 10, 4, 12, 8]


def test_nan_wins_and_infinity_is_a_value(device: Device, element: str) -> None:
    problem = PoolProblem(1, 1, 6, 1, window=(1, 2), stride=(1, 2))
    x = np.array([1, np.nan, np.nan, 9, -np.inf, -np.inf], np.float32)
    y = compare.values(run("maxpool_forward", problem, device, {"x": x}, element=element)["y"]).ravel()
    np.testing.assert_array_equal(y, [np.nan, np.nan, -np.inf])


@pytest.mark.parametrize("channels", [1, 16])
def test_zeros_of_both_signs_are_equal(device: Device, element: str, channels: int) -> None:
    """Each is a largest value and receives the gradient; a GPU's maximum is the positive one."""
    problem = PoolProblem(1, 2, 3, channels, (1, 2), (1, 1))
    row = np.array([[-0.0, 0.0, -0.0], [-0.0, -0.0, -1.0]], np.float32)
    x = np.repeat(row[None, :, :, None], channels, axis=-1)
    y = compare.values(run("maxpool_forward", problem, device, {"x": x}, element=element)["y"])
    np.testing.assert_array_equal(y, np.zeros_like(y))
    if device.kind in ("cuda", "emulator"):
        assert not np.signbit(y[:, 0]).any() and np.signbit(y[:, 1]).all()
    dy = np.ones_like(y)
    inputs = {"x": x, "y": y, "dy": dy}
    dx = compare.values(run("maxpool_backward", problem, device, inputs, element=element)["dx"])
    np.testing.assert_array_equal(dx[0, :, :, 0], [[1, 2, 1], [1, 2, 0]])


def test_negative_images_stay_negative(device: Device) -> None:
    """Padding is not a pixel: it is neither the maximum nor counted in a mean."""
    problem = PoolProblem(1, 2, 2, 3, window=(3, 3), stride=(2, 2), padding=(1, 1))
    x = np.full(problem.x_shape, -5, np.float32)
    for operation in ("maxpool_forward", "avgpool_forward"):
        y = run(operation, problem, device, {"x": x})["y"]
        assert (y == -5).all(), repro(operation, problem, device)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"padding": (3, 0)}, "pad_h must be smaller than window_h"),
        ({"padding": (0, -6)}, "pad_w must be above -6, .*not -6"),
        ({"padding": (-2, 0)}, "window_h is 3, larger than the padded image, 1"),
        ({"outputs": (0, 1)}, "outputs must be at least 1, not 0"),
        ({"outputs": (4, 1)}, "outputs must be at most 3 along h, not 4"),
        ({"outputs": (1, 4), "padding": (0, -1)}, "outputs must be at most 3 along w, not 4"),
        ({"outputs": (1, 1), "stride": (1, 2**31 - 1)}, "too large along w"),
        ({"outputs": (1, 1), "window": (2**30, 1)}, "too large along h"),
    ],
)
def test_every_window_holds_a_pixel(arguments: dict[str, tuple[int, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PoolProblem(1, 5, 6, 1, **arguments)  # type: ignore[arg-type]


def test_an_image_too_high_for_its_padding_is_refused() -> None:
    """Kernels add a pixel's row and the padding in 31 bits."""
    with pytest.raises(ValueError, match="too large along h"):
        PoolProblem(1, 2**31 - 50, 1, 1, (100, 1), (100, 1), padding=(99, 0), outputs=(1, 1))
