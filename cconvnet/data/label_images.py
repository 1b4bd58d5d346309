"""Label images: a label for each pixel of an image, cropped and mirrored with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cconvnet.errors import DataError

IGNORED = 255  # the label of pixels that count for nothing, as in Pascal VOC


def has_pixels(labels: npt.NDArray[Any]) -> bool:
    """Return True if labels [n,H,W] are those of pixels, False if labels [n] are those of images."""
    return labels.ndim == 3


def cropped(
    labels: npt.NDArray[Any],
    crop: tuple[int, int],
    top: npt.NDArray[np.int32],
    left: npt.NDArray[np.int32],
    mirror: npt.NDArray[np.uint8],
) -> npt.NDArray[np.int32]:
    """Return the labels int32[n, *crop] of crops as the input kernel makes them.

    Args:
        labels: label images [n,H,W].
        crop: the height and width of the crops.
        top: int32[n], their first rows, below 0 where they begin above the image; there labels are ignored.
        left: int32[n], their first columns, likewise.
        mirror: uint8[n], whether each crop is mirrored.
    """
    found = np.full((len(labels), *crop), IGNORED, np.int32)
    for target, own, y, x, turned in zip(found, labels, top, left, mirror, strict=True):
        rows, columns = own.shape
        inside = own[max(y, 0) : min(y + crop[0], rows), max(x, 0) : min(x + crop[1], columns)]
        first, begin = max(-y, 0), max(-x, 0)
        target[first : first + inside.shape[0], begin : begin + inside.shape[1]] = inside
        if turned:
            target[:] = target[:, ::-1].copy()
    return found


def refuse_pixels(labels: npt.NDArray[Any], what: str) -> None:
    """Refuse labels of pixels where only labels of images have a meaning.

    Raises:
        DataError: They are labels of pixels; the text begins with `what`.
    """
    if has_pixels(labels):
        raise DataError(f"{what} needs one label for each image, and the data has one for each pixel")
