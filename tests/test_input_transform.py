"""From stored images to a batch: crop, mirror, mean, colour shift, scale."""

from __future__ import annotations

import numpy as np
import pytest

from cconvnet._problem import InputProblem
from cconvnet.backends import Device
from cconvnet.testing.check import check, repro, run

PROBLEMS = [
    InputProblem(1, 1, 1, 1, 1, 1),
    InputProblem(3, 5, 7, 3, 5, 7),
    InputProblem(4, 8, 9, 3, 5, 6),
    InputProblem(2, 9, 6, 1, 4, 5),
    InputProblem(3, 6, 10, 4, 6, 3),
    InputProblem(2, 12, 12, 5, 7, 11),
    InputProblem(2, 40, 36, 3, 32, 32),
    InputProblem(4, 8, 9, 3, 5, 6, center_mean=True),
    InputProblem(3, 12, 11, 2, 7, 4, center_mean=True),
    InputProblem(2, 6, 5, 1, 6, 5, center_mean=True),
]


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_exact(device: Device, problem: InputProblem, mean: bool, shift: bool) -> None:
    check("input_transform", problem, device, mean=mean, shift=shift)
    check("input_transform", problem, device, mean=mean, shift=shift, offset=4, seed=1)


def test_any_scale(device: Device) -> None:
    """A scale that rounds, such as 1/255: two roundings at most."""
    scale = float(np.float32(1 / 255))
    check("input_transform", PROBLEMS[2], device, data="real", scale=scale)


def test_images_of_alexnet(device: Device) -> None:
    check("input_transform", InputProblem(2, 256, 256, 3, 224, 224), device)


@pytest.mark.parametrize("far", [2**31 - 1, -(2**31), 100])
def test_a_crop_outside_the_image_is_moved_inside(device: Device, far: int) -> None:
    problem = InputProblem(1, 4, 5, 2, 2, 3)
    images = np.arange(40, dtype=np.uint8).reshape(1, 4, 5, 2)
    corner = np.array([far], np.int32)
    for mirror in (0, 1):
        inputs = {
            "images": images,
            "top": corner,
            "left": corner,
            "mirror": np.array([mirror], np.uint8),
            "mean": None,
            "shift": None,
            "scale": 1.0,
        }
        y = run("input_transform", problem, device, inputs)["y"][0]
        crop = images[0, 2:, 2:] if far > 0 else images[0, :2, :3]
        wanted = crop[:, ::-1] if mirror else crop
        assert (y == wanted).all(), repro("input_transform", problem, device)
