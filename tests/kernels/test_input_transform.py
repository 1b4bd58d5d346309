"""From stored images to a batch: crop, mirror, mean, colour shift, scale."""

from __future__ import annotations

import numpy as np
import pytest

from cconvnet._problem import ConvProblem, FilterBlocksProblem, InputProblem
from cconvnet.devices import Device
from cconvnet.testing import reference
from cconvnet.testing.check import check, make_inputs, repro, run

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
    InputProblem(2, 12, 12, 3, 8, 8, block=4),
    InputProblem(2, 12, 11, 3, 9, 7, block=4, pad=2),
    InputProblem(3, 9, 9, 2, 7, 9, block=2, pad=3),
    InputProblem(2, 7, 6, 5, 6, 5, center_mean=True, block=3, pad=1),
    InputProblem(1, 3, 4, 1, 2, 3, block=8),
    # Crops that reach into a margin, or are all in it.
    InputProblem(8, 5, 4, 3, 5, 4, margin=4),
    InputProblem(9, 6, 7, 2, 3, 4, margin=9),
    InputProblem(5, 32, 32, 3, 32, 32, margin=4),
    InputProblem(8, 9, 7, 1, 6, 5, center_mean=True, margin=3),
    InputProblem(6, 8, 9, 3, 8, 9, block=4, pad=2, margin=5),
    InputProblem(6, 7, 6, 2, 5, 6, center_mean=True, block=3, pad=1, margin=2),
    # Rows of words: bands of several rows, the last shorter; of blocks; more words than threads in a row.
    InputProblem(3, 12, 12, 2, 7, 8, center_mean=True),
    InputProblem(6, 20, 16, 3, 19, 16, margin=3),
    InputProblem(4, 9, 8, 2, 7, 7, center_mean=True, block=4, pad=2),
    InputProblem(8, 8, 8, 3, 8, 8, block=4, pad=2, margin=5),
    InputProblem(2, 3, 400, 4, 2, 390),
]


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_exact(device: Device, element: str, problem: InputProblem, mean: bool, shift: bool) -> None:
    check("input_transform", problem, device, element=element, mean=mean, shift=shift, nonzero=0.05)
    check(
        "input_transform",
        problem,
        device,
        element=element,
        mean=mean,
        shift=shift,
        offset=4,
        seed=1,
        nonzero=0.05,
    )


@pytest.mark.parametrize("problem", [each for each in PROBLEMS if each.n < 5], ids=repr)
def test_each_channel_has_a_factor(device: Device, element: str, problem: InputProblem) -> None:
    for offset in (0, 4):
        check("input_transform", problem, device, element=element, factors=True, offset=offset, nonzero=0.05)


def test_any_scale(device: Device, element: str) -> None:
    """A scale that rounds, such as 1/255: two roundings at most."""
    scale = float(np.float32(1 / 255))
    check("input_transform", PROBLEMS[2], device, element=element, data="real", scale=scale)


def test_images_of_alexnet(device: Device, element: str) -> None:
    check("input_transform", InputProblem(2, 256, 256, 3, 224, 224), device, element=element)


def test_alexnets_images_in_blocks(device: Device, element: str) -> None:
    """The blocks of a first layer of stride 4 and padding 2."""
    check("input_transform", InputProblem(1, 256, 256, 3, 224, 224, block=4, pad=2), device, element=element)


FILTERS = [
    FilterBlocksProblem(1, 1, 1, 1, 1),
    FilterBlocksProblem(96, 11, 11, 3, 4),
    FilterBlocksProblem(5, 7, 6, 2, 3),
    FilterBlocksProblem(3, 2, 5, 4, 8),
    FilterBlocksProblem(4, 4, 8, 3, 4),
]


@pytest.mark.parametrize("problem", FILTERS, ids=repr)
def test_filters(device: Device, element: str, problem: FilterBlocksProblem) -> None:
    # A filter smaller than its blocks leaves zeros.
    for data in ("exact", "real"):
        check("filters_to_blocks", problem, device, element=element, data=data, nonzero=0, offset=0)
        check("filters_to_blocks", problem, device, element=element, data=data, nonzero=0, offset=4)


@pytest.mark.parametrize("problem", FILTERS, ids=repr)
def test_gradients_of_filters(device: Device, problem: FilterBlocksProblem) -> None:
    for offset in (0, 4):
        check("filters_from_blocks", problem, device, offset=offset)


def test_a_convolution_of_blocks_is_that_of_the_image(device: Device) -> None:
    """Filters in blocks over images in blocks give the same sums and the same gradient by the filters."""
    block, pad = 3, 2
    images = InputProblem(2, 14, 13, 2, 12, 11, block=block, pad=pad)
    whole = ConvProblem(2, 12, 11, 2, 5, 7, 5, stride=(block, block), padding=(pad, pad))
    filters = FilterBlocksProblem(5, 7, 5, 2, block)
    blocks = ConvProblem(2, *images.y_shape[1:], 5, *filters.blocks_shape[1:3])
    given = make_inputs("input_transform", images, mean=False, shift=False, scale=1.0)
    x = run("input_transform", images, device, given)["y"]
    w = make_inputs("conv_fprop", whole)["w"]
    y = run("conv_fprop", blocks, device, {
        "x": x.reshape(images.y_shape), "w": run("filters_to_blocks", filters, device, {"w": w})["blocks"],
        "bias": None, "relu": False,
    })["y"]  # fmt: skip
    plain = reference.input_transform(InputProblem(2, 14, 13, 2, 12, 11), *given.values())
    wanted = reference.conv_fprop(whole, plain, w)
    seen = np.s_[:, : whole.p, : whole.q]
    np.testing.assert_array_equal(y[seen], wanted)
    dy = np.zeros(blocks.y_shape, np.float32)
    dy[seen] = make_inputs("conv_dgrad", whole)["dy"]
    dblocks = run("conv_wgrad", blocks, device, {"x": x.reshape(images.y_shape), "dy": dy})["dw"]
    dw = run("filters_from_blocks", filters, device, {"dblocks": dblocks})["dw"]
    np.testing.assert_array_equal(dw, reference.conv_wgrad(whole, plain, dy[seen]))


@pytest.mark.parametrize("mirror", [False, True])
def test_a_crop_may_reach_out_of_the_image(device: Device, mirror: bool) -> None:
    """He et al. 2015, section 4.2: a crop of the image padded with zeros after the mean was subtracted."""
    images = np.arange(2 * 4 * 5, dtype=np.uint8).reshape(2, 4, 5, 1)
    mean = np.full((4, 5, 1), 7, np.float32)
    padded = np.pad(images - mean + 0.5, ((0, 0), (3, 3), (3, 3), (0, 0)))
    padded[padded == 0] = 0
    border = np.pad(np.zeros_like(images), ((0, 0), (3, 3), (3, 3), (0, 0)), constant_values=1) == 1
    for top in range(-3, 5):
        for left in range(-3, 6):
            given = {
                "images": images,
                "top": np.array([top, 0], np.int32),
                "left": np.array([left, -1], np.int32),
                "mirror": np.full(2, mirror, np.uint8),
                "mean": mean,
                "shift": np.full((2, 1), 0.5, np.float32),
                "scale": 2.0,
                "factors": None,
            }
            y = run("input_transform", InputProblem(2, 4, 5, 1, 3, 4, margin=3), device, given)["y"]
            rows, columns = 3 + np.clip(top, -3, 4), 3 + np.clip(left, -3, 4)
            wanted = [
                np.where(border, 0, 2 * padded)[n, i : i + 3, j : j + 4]
                for n, (i, j) in enumerate([(rows, columns), (3, 2)])
            ]
            np.testing.assert_array_equal(y, [crop[:, ::-1] if mirror else crop for crop in wanted])


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
            "factors": None,
        }
        y = run("input_transform", problem, device, inputs)["y"][0]
        crop = images[0, 2:, 2:] if far > 0 else images[0, :2, :3]
        wanted = crop[:, ::-1] if mirror else crop
        assert (y == wanted).all(), repro("input_transform", problem, device)
