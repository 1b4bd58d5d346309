"""The embedded default dataset: 1,797 handwritten digits of 8x8 pixels (source: digits.md).

`digits.npz` in this folder contains them, so that training works right after installation. The command
`python -m cconvnet.data.datasets.digits` made it from scikit-learn's copy, and a test compares the two.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from cconvnet.data.dataset import Dataset, every_fifth, of_arrays

FILE = Path(__file__).with_name("digits.npz")


def open_dataset() -> Dataset:
    """Split the digits into training and test images."""
    train, test = every_fifth(of_arrays("digits", *load()))
    return Dataset("digits", "digits", [str(digit) for digit in range(10)], train, test)


def load() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Return the images, uint8[1797,8,8,1] on the 0-255 scale, and their labels, int32[1797].

    The file contains the number of dark pixels of each 4x4 block, 0 to 16. These are scaled so that 16
    becomes 255, and rounded to nearest.
    """
    with np.load(FILE, allow_pickle=False) as arrays:
        counts, labels = arrays["counts"], arrays["labels"]
    return np.rint(counts * (255 / 16)).astype(np.uint8)[..., np.newaxis], labels.astype(np.int32)


def make(file: Path = FILE) -> None:
    """Write the embedded file from scikit-learn's copy of the data."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    np.savez_compressed(file, counts=digits.images.astype(np.uint8), labels=digits.target.astype(np.uint8))


if __name__ == "__main__":
    make()
