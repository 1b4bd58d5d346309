"""Large JPEGs resized to small ones: within 2 levels of a float64 computation."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from helpers.made_pictures import encoded
from PIL import Image

from cconvnet.data import decode_image
from cconvnet.data.images import DECODERS, simplejpeg
from cconvnet.data.preprocessing import UNRECORDED

INSTALLED = [name for name in DECODERS if name == "pillow" or simplejpeg is not None]
SIZES = [64, 96, 150, 224, 256]
BOUND = 2  # of 255 levels: one for rounding after each direction, and one for another JPEG library


def weights(length: int, first: float, last: float, count: int) -> npt.NDArray[np.float64]:
    """Return the weights of `length` pixels in each of `count` results: float64[count,length].

    The results cover the range from `first` to `last`. The weights form a triangle as wide as the reduction,
    cut off at the edges: bilinear, antialiased.
    """
    scale = (last - first) / count
    centers = first + (np.arange(count) + 0.5) * scale
    distance = np.abs(np.arange(length) + 0.5 - centers[:, None]) / max(scale, 1.0)
    triangle = np.maximum(1 - distance, 0)
    return triangle / triangle.sum(axis=1, keepdims=True)


def resized(pixels: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.float64]:
    """The centre square in float64, by the definition."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    rows = weights(height, (height - side) / 2, (height + side) / 2, size)
    columns = weights(width, (width - side) / 2, (width + side) / 2, size)
    across = np.tensordot(columns, pixels.astype(np.float64), (1, 1))  # [size,H,3]
    return np.tensordot(rows, across, (1, 1))  # [size,size,3]


def worst(content: bytes, size: int, decoder: str) -> float:
    with Image.open(io.BytesIO(content)) as image:
        expected = resized(np.asarray(image.convert("RGB")), size)
    return float(np.abs(decode_image(content, size, decoder) - expected).max())


def scene(height: int, width: int, seed: int) -> Image.Image:
    """Like a photograph: soft light, hard edges at all scales, fine lines, grain."""
    chance = np.random.default_rng(seed)
    coarse = Image.fromarray(chance.integers(30, 226, (5, 7, 3), np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16).copy()
    for _ in range(60):
        top, left = chance.integers(0, height), chance.integers(0, width)
        rows, columns = chance.integers(1, height // 3), chance.integers(1, width // 3)
        pixels[top : top + rows, left : left + columns] = chance.integers(0, 256, 3)
    y, x = np.mgrid[:height, :width]
    lines = (np.sin(x / 1.7 + y / 5) > 0) & (x > width // 2) & (y > height // 2)
    pixels[lines] = 255 - pixels[lines]
    pixels += chance.integers(-12, 13, pixels.shape, np.int16)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("decoder", INSTALLED)
@pytest.mark.parametrize("height, width, subsampling", [(512, 683, "4:4:4"), (1100, 807, "4:2:0")])
def test_made_scenes(height: int, width: int, subsampling: str, decoder: str) -> None:
    file = io.BytesIO()
    scene(height, width, seed=height).save(file, "JPEG", quality=92, subsampling=subsampling)
    for size in SIZES:
        assert worst(file.getvalue(), size, decoder) <= BOUND, size
    # What is checked can fail: decoded at a reduced scale, these differ by far more.
    reduced = decode_image(file.getvalue(), 64, decoder, preprocessing=UNRECORDED).astype(int)
    assert np.abs(reduced - decode_image(file.getvalue(), 64, decoder)).max() > 3 * BOUND


def test_a_photograph_of_twelve_million_pixels() -> None:
    content = encoded(scene(1000, 1500, seed=5).resize((4000, 3000)))
    assert worst(content, 128, INSTALLED[-1]) <= BOUND


def photographs(folder: Path) -> Iterator[bytes]:
    """Some of ImageNet's, of every size there is."""
    with tarfile.open(folder / "imagenet-100-photos.tar") as tar:
        files = [member for member in tar if member.name.lower().endswith((".jpg", ".jpeg"))]
        for member in sorted(files, key=lambda member: -member.size)[::4]:
            file = tar.extractfile(member)
            assert file is not None
            yield file.read()


@pytest.mark.parametrize("decoder", INSTALLED)
def test_real_photographs(real: Path, decoder: str) -> None:
    for number, content in enumerate(photographs(real)):
        assert worst(content, SIZES[number % len(SIZES)], decoder) <= BOUND
