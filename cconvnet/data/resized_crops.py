"""Random-resized crops of training pictures: a part of any area and proportions, at the size of the input.

A crop is drawn as torchvision's RandomResizedCrop draws it. Its part of the picture's area is uniform within
the limits, and the logarithm of its width by its height is uniform from that of 3/4 to that of 4/3. It is at
any place where it fits. After ten draws that fit nowhere, the crop is the largest at the centre whose
proportions are within the limits. Resizing is that of :mod:`cconvnet.data.images`.

Source: Szegedy et al. 2015, "Going Deeper with Convolutions", section 6.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from cconvnet.data.images import Box, Pixels, resize_part

_PURPOSE = 4  # the loader, the colour noise and the distortion use 0 to 3
_TRIES = 10  # each takes a block of four words: area, proportions, row and column
_RATIOS = 3 / 4, 4 / 3  # width by height


@dataclasses.dataclass(frozen=True)
class ResizedCrops:
    """The crops of the pictures of a batch.

    A crop depends on the seed, the epoch, the picture's place in it and the picture's size alone.

    Attributes:
        area: The least and the largest part of a picture's area.
        sides: The height and width that crops are resized to.
        seed: Of the run.
        epoch: The number of the epoch.
        first: The place of the first picture in the epoch.
    """

    area: Sequence[float]
    sides: Sequence[int]
    seed: int
    epoch: int
    first: int

    def after(self, count: int) -> ResizedCrops:
        """Return the crops of the pictures behind the first `count`."""
        return dataclasses.replace(self, first=self.first + count)

    def box(self, place: int, height: int, width: int) -> Box:
        """Return the crop of the picture at a place in the batch, in whole pixels."""
        counter = np.array([_TRIES * (self.first + place), 0, 0, _PURPOSE], np.uint64)
        bits = np.random.Philox(key=np.array([self.seed, self.epoch], np.uint64), counter=counter)
        for area, ratio, row, column in bits.random_raw(4 * _TRIES).reshape(_TRIES, 4).tolist():
            wanted = height * width * _between(self.area, area)
            proportion = math.exp(_between([math.log(end) for end in _RATIOS], ratio))
            w, h = round(math.sqrt(wanted * proportion)), round(math.sqrt(wanted / proportion))
            if 1 <= w <= width and 1 <= h <= height:
                return _box(row % (height - h + 1), column % (width - w + 1), h, w)
        least, largest = _RATIOS
        w, h = min(width, round(height * largest)), min(height, round(width / least))
        return _box((height - h) // 2, (width - w) // 2, h, w)

    def window(self, image: Pixels) -> Pixels:
        """Return the centre of images[...,H,W,C], where crops are written, as a view."""
        (h, w), (height, width) = self.sides, image.shape[-3:-1]
        top, left = (height - h) // 2, (width - w) // 2
        return image[..., top : top + h, left : left + w, :]

    def cut(self, pixels: Pixels, place: int, image: Pixels) -> None:
        """Write the crop of a picture uint8[h,w,C] to the centre of image[H,W,C], among zeros."""
        image[...] = 0
        resize_part(pixels, self.box(place, *pixels.shape[:2]), self.window(image))


def _between(ends: Sequence[float], word: int) -> float:
    """Return a number from one end to below the other by a random word of 64 bits."""
    low, high = ends
    return low + (high - low) * ((word >> 11) * 2.0**-53)


def _box(top: int, left: int, height: int, width: int) -> Box:
    return left, top, left + width, top + height
