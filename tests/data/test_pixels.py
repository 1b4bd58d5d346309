"""Resizing of pictures: bit-identical to Pillow's filter, rows first, for any shapes and boxes."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from helpers.commands import COMPILER, SANITIZERS, sanitized
from PIL import Image

from cconvnet import _pixels

Box = tuple[float, float, float, float]


def by_pillow(pixels: npt.NDArray[np.uint8], box: Box, height: int, width: int) -> npt.NDArray[np.uint8]:
    """In two steps, since which direction Pillow takes first depends on its version and the shape."""
    left, top, right, bottom = box
    image, filter_ = Image.fromarray(pixels), Image.Resampling.BILINEAR
    across = image.resize((width, image.height), filter_, box=(left, 0, right, image.height))
    return np.asarray(across.resize((width, height), filter_, box=(0, top, width, bottom)))


def resized(pixels: npt.NDArray[np.uint8], box: Box, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Into the middle of a larger array, whose edges must stay what they were."""
    guarded = np.full(height * width * 3 + 128, 201, np.uint8)
    out = guarded[64:-64].reshape(height, width, 3)
    _pixels.resize_into(pixels, box, out)
    assert (guarded[:64] == 201).all() and (guarded[-64:] == 201).all()
    return out


def pixels_of(height: int, width: int, seed: int) -> npt.NDArray[np.uint8]:
    """Noise, or for every third seed only black and white, where rounded weights would show."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return noise if seed % 3 else ((noise > 127) * 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(8))
def test_resizing_is_pillows(seed: int) -> None:
    chance = random.Random(seed)
    for number in range(40):
        height, width = (chance.randint(1, 3 if chance.random() < 0.1 else 300) for _ in range(2))
        x = pixels_of(height, width, 40 * seed + number)
        if number % 2:
            left, right = sorted(chance.uniform(0, width) for _ in range(2))
            top, bottom = sorted(chance.uniform(0, height) for _ in range(2))
            if min(right - left, bottom - top) < 0.01:
                continue
        else:
            side = min(height, width)
            left, top = (width - side) / 2, (height - side) / 2
            right, bottom = left + side, top + side
        box, shape = (left, top, right, bottom), (chance.randint(1, 120), chance.randint(1, 120))
        assert np.array_equal(resized(x, box, *shape), by_pillow(x, box, *shape)), (x.shape, box, shape)


def test_a_whole_box_of_the_same_size_is_a_copy() -> None:
    x = pixels_of(37, 53, 1)
    assert np.array_equal(resized(x, (0, 0, 53, 37), 37, 53), x)


@pytest.mark.parametrize("side", [1, 2, 3, 256])
def test_white_stays_white_and_black_black(side: int) -> None:
    for value in (0, 255):
        x = np.full((301, 777, 3), value, np.uint8)
        assert (resized(x, (0, 0, 777, 301), side, side) == value).all()


def test_what_is_refused() -> None:
    x, out = np.zeros((4, 5, 3), np.uint8), np.zeros((2, 2, 3), np.uint8)
    box = (0.0, 0.0, 4.0, 4.0)
    wrong = {
        "grey": np.zeros((4, 5), np.uint8),
        "4 channels": np.zeros((4, 5, 4), np.uint8),
        "floats": np.zeros((4, 5, 3), np.float32),
        "signed": np.zeros((4, 5, 3), np.int8),
        "transposed": x.transpose(1, 0, 2),
        "strided": np.zeros((4, 10, 3), np.uint8)[:, ::2],
        "empty": np.zeros((0, 5, 3), np.uint8),
    }
    for array in wrong.values():
        with pytest.raises(ValueError, match="pixels must be a contiguous uint8"):
            _pixels.resize_into(array, box, out)
        with pytest.raises(ValueError, match="out must be a contiguous uint8"):
            _pixels.resize_into(x, box, array)
    for bad in (
        (-1, 0, 4, 4),
        (0, 0, 5.5, 4),
        (0, 0, 4, 4.1),
        (2, 0, 2, 4),
        (0, 3, 4, 1),
        (0, 0, float("nan"), 4),
    ):
        with pytest.raises(ValueError, match="box must lie within the picture"):
            _pixels.resize_into(x, bad, out)
    out.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        _pixels.resize_into(x, box, out)


@pytest.mark.long
@pytest.mark.skipif(
    shutil.which(COMPILER.split()[0]) is None or shutil.which("make") is None,
    reason=f"needs make and a host compiler ({COMPILER})",
)
def test_no_byte_outside_is_touched(tmp_path: Path) -> None:
    """These tests again, and those of damaged pictures, in a module built with the sanitizers."""
    tests = Path(__file__).parent
    root = tests.parents[1]
    settings = [f"SANITIZE={SANITIZERS}", "MODULES=_pixels", f"PYTHON={sys.executable}", f"OUT={tmp_path}"]
    subprocess.run(
        [
            "make",
            "--no-print-directory",
            "-C",
            root,
            "modules",
            f"BUILD={tmp_path}/objects",
            *settings,
        ],
        check=True,
        timeout=200,
    )
    command = [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", "-p", "no:xdist"]
    run = subprocess.run(
        [*command, __file__, tests / "test_damaged_pictures.py", "-k", "not no_byte_outside"],
        cwd=root,
        env=sanitized(tmp_path),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
