"""Distortion of training images: an affine map and an elastic field of displacements, drawn anew each epoch.

Each pixel of the result reads the image at a place of its own, by bilinear interpolation. The place is the
pixel's under the inverse of a rotation, scaling and translation, plus a displacement. Displacements are
uniform noise from -1 to 1, smoothed by a Gaussian and multiplied by alpha. Places beyond the image read its
edge, which is the background of a digit.

Sources: Simard, Steinkraus and Platt 2003, "Best Practices for Convolutional Neural Networks Applied to
Visual Document Analysis", section 2, for elastic fields; Ciresan, Meier and Schmidhuber 2012, "Multi-column
Deep Neural Networks for Image Classification", for both in every epoch.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from cconvnet.data.images import Pixels
from cconvnet.nets import Distortion

Floats = npt.NDArray[np.float32]

_PURPOSE = 3  # the loader and the colour noise use 0 to 2
_WORDS = 8  # of the affine map: the angle, two scales, two translations, and three that are not used
_ONE = 2.0**20  # the weight 1 of the smoothing
_AT_ONCE = 64  # images, so that intermediate results stay in the caches


def distort(images: Pixels, distortion: Distortion, seed: int, epoch: int, first: int) -> None:
    """Distort images[n,H,W,C] in place.

    The result of an image depends on the seed, the epoch, its place in the epoch and itself alone.

    Args:
        images: The images.
        distortion: The limits of what is drawn.
        seed: Of the run.
        epoch: The number of the epoch.
        first: The place of the first image in the epoch.
    """
    for start in range(0, len(images), _AT_ONCE):
        part = images[start : start + _AT_ONCE]
        part[...] = _sampled(part, *_places(part.shape, distortion, seed, epoch, first + start))


def _places(
    shape: tuple[int, ...], distortion: Distortion, seed: int, epoch: int, first: int
) -> tuple[Floats, Floats]:
    """Return the rows and columns, float32[n,H,W], that the pixels of images of a shape read."""
    count, height, width, _ = shape
    # Every counter gives four words.
    noise = -(-2 * height * width // 16) * 4 if distortion.alpha else 0
    blocks = (_WORDS + noise) // 4
    counter = np.array([blocks * first, 0, 0, _PURPOSE], np.uint64)
    bits = np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=counter)
    words = bits.random_raw(4 * blocks * count).reshape(count, -1)
    drawn = (words[:, :5] >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1  # from -1 to 1
    angle = np.deg2rad(distortion.rotation) * drawn[:, 0]
    scales = 1 + distortion.scaling / 100 * drawn[:, 1:3]
    shift = distortion.translation / 100 * drawn[:, 3:5] * (height, width)
    cosine, sine = np.cos(angle), np.sin(angle)
    # Rows of the inverse: first back by the shift, then by the angle, then by the scales.
    inverse = np.stack([cosine, sine, -sine, cosine], axis=-1).reshape(count, 2, 2) / scales[:, :, None]
    center = np.array([height - 1, width - 1]) / 2
    offset = (center - np.einsum("nij,nj->ni", inverse, center + shift)).astype(np.float32)
    matrix = inverse.astype(np.float32)[..., None, None]
    down, across = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    rows, columns = (
        matrix[:, axis, 0] * down + matrix[:, axis, 1] * across + offset[:, axis, None, None]
        for axis in range(2)
    )
    if noise:
        levels = words[:, _WORDS:].view(np.int16)[:, : 2 * height * width]
        field = _smoothed(
            levels.reshape(count, 2, height, width), distortion.sigma, np.float32(distortion.alpha)
        )
        rows += field[:, 0]
        columns += field[:, 1]
    return rows, columns


def _smoothed(drawn: npt.NDArray[np.int16], sigma: float, alpha: np.float32) -> Floats:
    """Return alpha times numbers drawn[n,2,H,W], from -1 to 1 as sixteen bits, smoothed along H and W.

    All sums are exact, since they are of whole numbers below 2^53: of 16 or 24 bits, times weights that sum
    to less than 2^21. So neither the library of matrix products nor its number of threads changes a bit.
    """
    height, width = drawn.shape[2:]
    once = drawn.astype(np.float64) @ _smoother(width, sigma)
    once = np.rint(once * (2.0**8 / _ONE))
    field = ((_smoother(height, sigma) @ once) * (2.0**-8 / (_ONE * 2.0**15))).astype(np.float32)
    field *= alpha
    return field


@functools.lru_cache(maxsize=8)
def _smoother(size: int, sigma: float) -> npt.NDArray[np.float64]:
    """Return the symmetric matrix, in whole numbers, that smooths `size` numbers; beyond them are zeros."""
    distance = np.arange(size)[:, None] - np.arange(size)
    # The weights of all distances, those beyond the image included, sum to 1.
    reach = np.arange(-np.ceil(8 * sigma) - size, np.ceil(8 * sigma) + size + 1)
    weights = np.exp(-(distance**2) / (2 * sigma**2)) / np.exp(-(reach**2) / (2 * sigma**2)).sum()
    return np.asarray(np.rint(weights * _ONE))


def _sampled(images: Pixels, rows: Floats, columns: Floats) -> Pixels:
    """Return images[n,H,W,C] read at rows and columns[n,H,W], rounded to whole levels."""
    count, height, width, channels = images.shape
    top, row_share = _cell(rows, height)
    left, column_share = _cell(columns, width)
    first = top * np.int32(width) + left
    first += np.arange(count, dtype=np.int32)[:, None, None] * np.int32(height * width)
    right, below = np.int32(width > 1), np.int32(width if height > 1 else 0)
    flat = images.reshape(-1, channels)

    def read(places: npt.NDArray[np.int32]) -> Floats:
        return flat.take(places, axis=0, mode="clip").astype(np.float32)

    column_share, row_share = column_share[..., None], row_share[..., None]
    upper, lower = read(first), read(first + below)
    upper += column_share * (read(first + right) - upper)
    lower += column_share * (read(first + (below + right)) - lower)
    upper += row_share * (lower - upper)
    upper += np.float32(0.5)
    return upper.astype(np.uint8)  # cut off, so that halves go up


def _cell(places: Floats, size: int) -> tuple[npt.NDArray[np.int32], Floats]:
    """Return the pixel before each place along an axis of `size` pixels, and the share of the one behind it.

    The places are changed: those beyond the image become its edge.
    """
    np.clip(places, 0, size - 1, out=places)
    before = np.minimum(places.astype(np.int32), max(size - 2, 0))
    places -= before
    return before, places
