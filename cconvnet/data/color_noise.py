"""Colour noise, a shift of each training image along the principal components of the colours.

Source: Krizhevsky, Sutskever, Hinton 2012, section 4.1. The shift is the sum over i of alpha_i * lambda_i *
p_i. Each alpha_i is normal with standard deviation 0.1. It is drawn anew for each image and each time the
image is used. Here lambda_i is the standard deviation along component p_i, in pixel values, as in the
original program. The paper calls it the eigenvalue, which would be its square.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cconvnet.data.splits import Progress, Split

_PURPOSE = 2  # the loader uses 0 and 1
_MAX_IMAGES = 10_000  # more change the components by less than the noise has digits
_CHUNK = 256


def color_components(split: Split, progress: Progress | None = None) -> npt.NDArray[np.float32]:
    """Return float32[C,C]: row i is lambda_i * p_i of the pixels of `split`.

    A large split is sampled: 10,000 images, spread evenly over it, are used.

    All sums are sums of integers. So they are exact, and the order of adding changes nothing.

    Raises:
        DataError: Too many images are broken.
    """
    chosen = np.arange(0, len(split), -(-len(split) // _MAX_IMAGES))
    channels = split.image_shape[2]
    count, total, products = 0, np.zeros(channels), np.zeros((channels, channels))
    for start in range(0, len(chosen), _CHUNK):
        images, _ = split.read(chosen[start : start + _CHUNK])
        pixels = images.reshape(-1, channels).astype(np.float64)
        count += len(pixels)
        total += pixels.sum(axis=0)
        products += pixels.T @ pixels
        if progress is not None:
            progress(min(start + _CHUNK, len(chosen)), len(chosen))
    mean = total / count
    variances, directions = np.linalg.eigh(products / count - np.outer(mean, mean))
    return np.asarray(np.sqrt(np.maximum(variances, 0.0))[:, None] * directions.T, np.float32)


def color_shifts(
    components: npt.NDArray[np.float32], sigma: float, count: int, seed: int, epoch: int, first: int
) -> npt.NDArray[np.float32]:
    """Return the shifts float32[count,C] of an epoch's images from number `first` on.

    `sigma` is the standard deviation of the alphas. Each image has three of its own, one per component.
    """
    words = np.random.Philox(
        key=np.array([seed, epoch], np.uint64),
        counter=np.array([2 * first, 0, 0, _PURPOSE], np.uint64),
    ).random_raw(8 * count)
    uniform = ((words >> np.uint64(11)) + np.uint64(1)).astype(np.float64) * 2.0**-53  # in (0, 1]
    halves = uniform.reshape(count, 2, 4)
    # The Box-Muller method makes one normal number of two uniform ones.
    normal = np.sqrt(-2 * np.log(halves[:, 0])) * np.cos(2 * np.pi * halves[:, 1])
    return np.asarray(sigma * normal[:, : len(components)] @ components, np.float32)
