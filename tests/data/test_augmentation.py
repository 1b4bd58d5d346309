"""Augmentation of training images, compared with the paper's formulas in NumPy, up to the network's input.

Krizhevsky, Sutskever, Hinton 2012, section 4.1: random crops, mirror images, and colour noise. The tests that
train take nothing from the trainer but the input the network got: crop, mirror image and colour factors are
found from it and must be distributed as the paper says.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cconvnet import data, nets
from cconvnet.console import Reporter
from cconvnet.data.color_noise import color_components, color_shifts
from cconvnet.data.statistics import gather
from cconvnet.nets import FcSpec, InputSpec, NetSpec, SoftmaxCostSpec, TrainRecipe, chain, gaussian
from cconvnet.network import Network
from cconvnet.network.outputs import output
from cconvnet.network.step import Runner
from cconvnet.plots import augmentation
from cconvnet.runs import Run
from cconvnet.training.options import Options
from cconvnet.training.settings import Settings
from cconvnet.training.start import begin
from cconvnet.training.trainer import Trainer

COUNT, STORED, SEEN = 60, (11, 9), (8, 7)
ROOM = (STORED[0] - SEEN[0] + 1, STORED[1] - SEEN[1] + 1)  # places of a crop: 4 by 3
SIGMA = 0.1


def spec(recipe: TrainRecipe, scale: float = 1.0) -> NetSpec:
    layers = chain(FcSpec(name="fc1", outputs=3, init=gaussian(0.001)), SoftmaxCostSpec(name="cost"))
    return NetSpec("small", layers, InputSpec(*SEEN, 3, scale), STORED, 3, recipe)


def source() -> data.Source:
    """Noise, so that no crop is like another; red and green go together, blue varies little."""
    chance = np.random.default_rng(11)
    images = chance.integers(0, 256, (COUNT, *STORED, 3))
    images[..., 1] = (images[..., 1] + 3 * images[..., 0]) // 4
    images[..., 2] = 100 + images[..., 2] // 8
    split = data.MemorySplit("train", images.astype(np.uint8), (np.arange(COUNT) % 3).astype(np.int32))
    return data.Source("noise", ["a", "b", "c"], split, split)


def trainer(
    path: Path, noise: data.Source, recipe: TrainRecipe, scale: float = 1.0, seed: int = 3
) -> Trainer:
    net = spec(recipe, scale)
    settings = Settings.chosen(Options(seed=seed), net, noise)
    network = Network(net, batch=recipe.batch, devices="cpu:0", seed=seed)
    return Trainer(Run.create(path, {"settings": {}}), settings, network, noise, Reporter(io.StringIO()))


class Seen:
    """The images and the network's inputs of all training steps, in order; and those of tests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images: list[npt.NDArray[np.uint8]] = []
        self.inputs: list[npt.NDArray[np.float32]] = []
        self.tests: list[npt.NDArray[np.float32]] = []
        load, forward = Network.load, Runner.forward
        loaded: list[npt.NDArray[np.uint8]] = []

        def loading(network: Network, images: Any, *rest: Any, **more: Any) -> None:
            loaded[:] = [images.copy()]
            load(network, images, *rest, **more)

        def running(runner: Runner, train: bool) -> None:
            forward(runner, train)
            rows = output(runner.graph, "data")[: len(loaded[0])]
            if train:
                self.images.append(loaded[0])
                self.inputs.append(rows)
            else:
                self.tests.append(rows)

        monkeypatch.setattr(Network, "load", loading)
        monkeypatch.setattr(Runner, "forward", running)


def all_crops(
    images: npt.NDArray[np.uint8], mean: npt.NDArray[np.float32]
) -> tuple[list[tuple[int, int, bool]], npt.NDArray[np.float64]]:
    """Every (top, left, mirror), and the pixels less their means: float64[places, n, h, w, 3]."""
    ways, crops = [], []
    less = images.astype(np.float64) - mean
    for top in range(ROOM[0]):
        for left in range(ROOM[1]):
            cut = less[:, top : top + SEEN[0], left : left + SEEN[1]]
            ways += [(top, left, False), (top, left, True)]
            crops += [cut, cut[:, :, ::-1]]
    return ways, np.stack(crops)


def explain(
    shown: list[npt.NDArray[np.uint8]],
    inputs: list[npt.NDArray[np.float32]],
    mean: npt.NDArray[np.float32],
    scale: float = 1.0,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """(top, left, mirror) int[n,3] and colour shift float[n,3] of all training images, found from the input.

    Of all ways to cut and mirror an image exactly one must differ from what was seen by one colour.
    """
    found, shifts = [], []
    for images, rows in zip(shown, inputs, strict=True):
        ways, crops = all_crops(images, mean)
        rest = rows.astype(np.float64) / scale - crops
        spread = np.ptp(rest, axis=(2, 3)).max(axis=2)  # [places, n]: how far from one colour
        assert ((spread < 1e-3).sum(axis=0) == 1).all()
        chosen = spread.argmin(axis=0)
        found += [ways[way] for way in chosen]
        shifts.append(rest[chosen, np.arange(len(images))].mean(axis=(1, 2)))
    return np.array(found, np.int64), np.concatenate(shifts)


def chi_squared(counts: npt.NDArray[np.int64]) -> float:
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


# ---- through to the network's input ----------------------------------------------------------------------


def test_crops_mirror_images_and_colours_are_the_papers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = TrainRecipe(batch=20, epochs=40, lr=1e-6, crop=True, mirror=True, color_noise=SIGMA)
    noise, seen = source(), Seen(monkeypatch)
    part = trainer(tmp_path / "run", noise, recipe)
    with part.run:
        begin(part, Options())
        part.train(Options())
    images, _ = noise.train.read(np.arange(COUNT))
    mean = images.astype(np.float64).mean(axis=0)  # of the stored images: subtracted before the crop
    ways, shifts = explain(seen.images, seen.inputs, mean.astype(np.float32))
    assert len(ways) == 40 * COUNT

    # Crops: all places equally often, both ends among them. 12 places: 11 degrees of freedom.
    places = ways[:, 0] * ROOM[1] + ways[:, 1]
    counts = np.bincount(places, minlength=ROOM[0] * ROOM[1])
    assert len(counts) == ROOM[0] * ROOM[1]
    assert chi_squared(counts) < 31.3  # exceeded by chance once in a thousand
    # Mirror images: one half, whatever the place.
    assert abs(ways[:, 2].mean() - 0.5) < 3.3 * 0.5 / np.sqrt(len(ways))
    assert chi_squared(np.bincount(2 * places + ways[:, 2], minlength=24)) < 49.8  # 23 degrees of freedom

    # Colours: the shift is sum over i of alpha_i lambda_i p_i with p_i and lambda_i^2 from the covariance of
    # the pixels' colours, three alphas for each image, normal with standard deviation 0.1.
    variances, directions = np.linalg.eigh(np.cov(images.reshape(-1, 3).T.astype(np.float64), bias=True))
    alphas = shifts @ directions / np.sqrt(variances)
    n = len(alphas)
    np.testing.assert_allclose(alphas.mean(axis=0), 0, atol=3.5 * SIGMA / np.sqrt(n))
    np.testing.assert_allclose(alphas.std(axis=0), SIGMA, rtol=3.5 / np.sqrt(2 * n))
    correlations = np.corrcoef(alphas.T)[np.triu_indices(3, 1)]
    assert np.abs(correlations).max() < 3.5 / np.sqrt(n)
    # Normal: the shares within one and two standard deviations.
    for within, share in ((1, 0.6827), (2, 0.9545)):
        spread = 3.5 * np.sqrt(share * (1 - share) / alphas.size)
        assert abs((np.abs(alphas) < within * SIGMA).mean() - share) < spread
    # Drawn anew for each image and each epoch.
    assert len(np.unique(np.round(alphas, 6), axis=0)) == n
    # Nothing of it depends on anything else of it.
    draws = np.column_stack([ways, alphas])
    assert np.abs(np.corrcoef(draws.T)[np.triu_indices(6, 1)]).max() < 4 / np.sqrt(n)

    # Tests see the centre, less its mean, and nothing else.
    centre = images.astype(np.float64)[:, 1:9, 1:8] - mean[1:9, 1:8]
    for start in range(0, len(seen.tests), 3):
        found = np.concatenate(seen.tests[start : start + 3])
        np.testing.assert_allclose(found, centre, atol=1e-3)


def test_without_augmentation_the_network_sees_the_centre(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise, seen = source(), Seen(monkeypatch)
    part = trainer(tmp_path / "run", noise, TrainRecipe(batch=20, epochs=1, lr=1e-6), scale=0.5)
    with part.run:
        begin(part, Options())
        part.train(Options())
    mean = data.mean_image(noise.train)
    ways, shifts = explain(seen.images, seen.inputs, mean, scale=0.5)
    assert (ways == [1, 1, 0]).all()
    np.testing.assert_allclose(shifts, 0, atol=1e-3)


@pytest.mark.parametrize("shrinks", [False, True])
def test_colour_noise_ends_and_may_shrink_what_it_is_added_to(
    shrinks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an epoch and two thirds; while it lasts the whole input may be divided by 1 + sigma."""
    recipe = TrainRecipe(
        batch=20, epochs=3, lr=1e-6, color_noise=0.25, color_noise_epochs=5 / 3, color_noise_shrinks=shrinks
    )
    noise, seen = source(), Seen(monkeypatch)
    part = trainer(tmp_path / "run", noise, recipe)
    with part.run:
        begin(part, Options())
        part.train(Options())
    mean = data.mean_image(noise.train)
    _, shifts = explain(seen.images[:5], seen.inputs[:5], mean, scale=1 / 1.25 if shrinks else 1.0)
    assert (np.abs(shifts).max(axis=1) > 0.01).all()
    expected = [color_shifts(color_components(noise.train), 0.25, COUNT, 3, epoch, 0) for epoch in (0, 1)]
    np.testing.assert_allclose(shifts, np.concatenate(expected)[:100], atol=1e-2)
    assert len(seen.inputs) == 9
    _, shifts = explain(seen.images[5:], seen.inputs[5:], mean)
    np.testing.assert_allclose(shifts, 0, atol=1e-3)


# ---- padded crops ----------------------------------------------------------------------------------------


def test_padded_crops_are_those_of_the_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """He et al. 2015, section 4.2: random crops of the padded image or its mirror image, in training only.

    Every crop of the padded image less its mean must come about as often as the others.
    """
    pad = 2
    recipe = TrainRecipe(batch=20, epochs=40, lr=1e-6, crop=True, mirror=True, pad=pad)
    noise, seen = source(), Seen(monkeypatch)
    part = trainer(tmp_path / "run", noise, recipe, scale=0.5)
    with part.run:
        begin(part, Options())
        part.train(Options())
    mean = data.mean_image(noise.train)
    border = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    counts = np.zeros((ROOM[0] + 2 * pad, ROOM[1] + 2 * pad, 2), np.int64)
    for images, rows in zip(seen.images, seen.inputs, strict=True):
        padded = np.pad(0.5 * (images - mean), border)
        windows = np.lib.stride_tricks.sliding_window_view(padded, SEEN, axis=(1, 2))
        crops = windows.transpose(0, 1, 2, 4, 5, 3)
        for n, row in enumerate(rows):
            for mirrored in (0, 1):
                wanted = row[:, ::-1] if mirrored else row
                counts[..., mirrored] += (crops[n] == wanted).all(axis=(2, 3, 4))
    assert counts.sum() == 40 * COUNT
    assert chi_squared(counts.ravel()) < 170  # 111 degrees of freedom: once in 3,000 seeds
    # A test's crop is the centre of the image itself.
    top, left = ((room - 1) // 2 for room in ROOM)
    images, _ = noise.test.read(np.arange(COUNT))
    wanted = (0.5 * (images - mean))[:, top : top + SEEN[0], left : left + SEEN[1]]
    np.testing.assert_array_equal(np.concatenate(seen.tests[-3:]), wanted)


def test_images_in_blocks_may_be_padded() -> None:
    """The first layer's blocks of pixels have the same margin."""
    layers = chain(
        nets.ConvSpec(name="conv1", filters=4, window=(4, 4), stride=(2, 2), padding=(1, 1)),
        FcSpec(name="fc1", outputs=3),
        SoftmaxCostSpec(name="cost"),
    )
    recipe = TrainRecipe(batch=6, epochs=1, lr=0.1, pad=3)
    net = NetSpec("blocks", layers, InputSpec(8, 6, 3), STORED, 3, recipe)
    images = source().train.read(np.arange(6))[0]
    labels = np.arange(6, dtype=np.int32) % 3
    top, left = np.array([-3, 6, 0, 1, -1, 5], np.int32), np.array([6, -3, 1, 2, -2, 4], np.int32)
    mirror = np.array([0, 1, 0, 1, 1, 0], np.uint8)
    found = []
    for device in ("cpu:0", "emulator:0"):
        network = Network(net, batch=6, devices=device)
        network.load(images, labels, top, left, mirror)
        network.forward(train=True)
        problem = network.graph.inputs[device].problem
        found.append((problem, network.outputs("data"), network.outputs("conv1")))
    (plain, x, y), (blocks, x_of_blocks, y_of_blocks) = found
    assert (plain.block, blocks.block, plain.margin, blocks.margin) == (1, 2, 3, 3)
    np.testing.assert_array_equal(x, x_of_blocks)
    np.testing.assert_allclose(y, y_of_blocks, rtol=1e-4, atol=1e-2)
    assert (x[0, :3] == 0).all() and (x[0, 3:, :3] != 0).any() and (x[0, :, 3:] == 0).all()
    top[0] = -4
    with pytest.raises(ValueError, match="top must be from -3 to 6, not from -4 to 6"):
        network.load(images, labels, top, left, mirror)


def test_padding_widens_the_range_of_random_crops() -> None:
    split = source().train
    for pad in (0, 2):
        with data.Loader(split, 20, seed=5, crop=SEEN, random_crop=True, pad=pad) as loader:
            batches = [batch for epoch in range(4) for batch in loader.epoch(epoch)]
            again = [*loader.epoch(0)]
        tops, lefts = (np.concatenate([getattr(one, name) for one in batches]) for name in ("top", "left"))
        assert (tops.min(), tops.max()) == (-pad, ROOM[0] - 1 + pad)
        assert (lefts.min(), lefts.max()) == (-pad, ROOM[1] - 1 + pad)
        assert all((a.top == b.top).all() for a, b in zip(batches, again, strict=False))
    with data.Loader(split, 20, crop=SEEN, pad=2) as loader:  # not at random
        assert {int(top) for batch in loader.epoch(0) for top in batch.top} == {(ROOM[0] - 1) // 2}
    with pytest.raises(ValueError, match="pad must be at most 6, not 7"):
        data.Loader(split, 20, crop=SEEN, random_crop=True, pad=7)


# ---- the colours' own numbers ----------------------------------------------------------------------------


def test_colour_noise_does_not_depend_on_batches() -> None:
    components = np.eye(3, dtype=np.float32)
    whole = color_shifts(components, 0.1, 128, seed=3, epoch=2, first=0)
    parts = [color_shifts(components, 0.1, 32, seed=3, epoch=2, first=first) for first in (0, 32, 64, 96)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    assert (color_shifts(components, 0.1, 128, seed=3, epoch=3, first=0) != whole).any()


def test_colour_noise_has_the_components_deviations() -> None:
    components = np.diag([1.0, 10.0, 100.0]).astype(np.float32)
    shifts = color_shifts(components, 0.1, 20_000, seed=0, epoch=0, first=0)
    np.testing.assert_allclose(shifts.std(axis=0), [0.1, 1.0, 10.0], rtol=0.03)
    np.testing.assert_allclose(shifts.mean(axis=0), 0.0, atol=0.3)


def test_colour_components_are_those_of_the_pixels() -> None:
    chance = np.random.default_rng(2)
    images = chance.integers(0, 256, (300, 4, 4, 3)).astype(np.uint8)
    images[..., 1] = images[..., 0] // 2
    split = data.MemorySplit("train", images, np.zeros(300, np.int32))
    components = color_components(split).astype(np.float64)
    covariance = np.cov(images.reshape(-1, 3).T.astype(np.float64), bias=True)
    np.testing.assert_allclose(components.T @ components, covariance, rtol=1e-4, atol=1e-2)


# ---- the contact sheet -----------------------------------------------------------------------------------


def test_the_sheet_shows_what_training_would(tmp_path: Path) -> None:
    """Each picture of a row is a crop or the mirror image of one, shifted by one colour."""
    from PIL import Image

    recipe = TrainRecipe(batch=20, epochs=1, lr=0.1, crop=True, mirror=True, color_noise=SIGMA)
    noise = source()
    said: list[str] = []
    augmentation.write_sheet(tmp_path / "a.png", noise, spec(recipe), images=3, epochs=5, say=said.append)
    assert said == [
        "3 images, 5 epochs: random crops of 8x7 of 11x9, mirror images, colour noise 0.1, distortion: none",
    ]
    padded = TrainRecipe(batch=20, epochs=1, lr=0.1, pad=2)
    augmentation.write_sheet(tmp_path / "b.png", noise, spec(padded), images=1, epochs=1, say=said.append)
    assert said.pop() == (
        "1 images, 1 epochs: random crops of 8x7 of 11x9 padded by 2, no mirror images, no colour noise, "
        "distortion: none"
    )
    sheet = np.asarray(Image.open(tmp_path / "a.png"))
    factor = 96 // 9
    cell = (11 * factor + 4, 9 * factor + 4)
    assert sheet.shape == (3 * cell[0] + 4, 6 * cell[1] + 4, 3)
    images, _ = noise.train.read([0, 20, 40])
    colors = gather(noise, mean=False, colors=True).colors
    shown = augmentation.augmented(noise.train, np.array([0, 20, 40]), spec(recipe), 5, 0, colors)
    different = set()
    for row in range(3):
        for column in range(6):
            top, left = 4 + row * cell[0], 4 + column * cell[1]
            place = sheet[top : top + 11 * factor, left : left + 9 * factor]
            expected = images[row] if column == 0 else shown[column - 1][row]
            size = (factor * expected.shape[0], factor * expected.shape[1])
            top, left = (place.shape[0] - size[0]) // 2, (place.shape[1] - size[1]) // 2
            drawn = place[top : top + size[0], left : left + size[1]]
            assert (drawn[::factor, ::factor] == expected).all()
            assert (drawn == expected.repeat(factor, 0).repeat(factor, 1)).all()
            if column:
                ways, crops = all_crops(images[row : row + 1], np.zeros((*STORED, 3), np.float32))
                rest = expected - crops[:, 0]
                rest[:, (expected == 0) | (expected == 255)] = np.nan  # cut off there
                spread = (np.nanmax(rest, axis=(1, 2)) - np.nanmin(rest, axis=(1, 2))).max(axis=1)
                assert np.count_nonzero(spread < 1.5) == 1
                different.add((row, ways[int(spread.argmin())], expected.tobytes()))
    assert len(different) == 15


def test_sheets_of_one_channel_and_without_augmentation(tmp_path: Path) -> None:
    from PIL import Image

    digits, said = data.open_source(), []
    augmentation.write_sheet(
        tmp_path / "a.png", digits, nets.build("lenet"), images=2, epochs=1, say=said.append
    )
    sheet = np.asarray(Image.open(tmp_path / "a.png"))
    assert sheet.ndim == 2
    half = 4 + 96 + 4
    assert (sheet[4:-4, 4:100] == sheet[4:-4, half : half + 96]).all()
    assert "centre crops of 8x8 of 8x8, no mirror images, no colour noise" in said[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": 0}, "--images must be at least 1, not 0"),
        ({"epochs": -1}, "--epochs must be at least 1, not -1"),
        ({"images": 2000}, "--images must be at most 1,442, the training images of digits, not 2000"),
        ({"out": Path("sheet.jpg")}, "--out must end with .png, not 'sheet.jpg'"),
    ],
)
def test_sheets_that_cannot_be(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    arguments = {"out": tmp_path / "sheet.png", **change}
    with pytest.raises(ValueError, match=words):
        augmentation.write_sheet(source=data.open_source(), spec=nets.build("lenet"), **arguments)
