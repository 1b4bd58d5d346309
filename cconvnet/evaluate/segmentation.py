"""Label images of pictures of any size, by networks that answer for each pixel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cconvnet import data
from cconvnet.data.label_images import CANVAS, centre, palette, paste
from cconvnet.evaluate.predictions import read_whole
from cconvnet.evaluate.trained import Trained
from cconvnet.evaluate.views import Array, center_view
from cconvnet.nets.dense import sides_taken
from cconvnet.network import Network


class Segmenter:
    """Network that answers for each pixel of images of any size.

    An image is placed on the smallest canvas that the network takes, whose border is then cut off. A network
    that is made for one size, such as one with an FC layer, takes no larger images.

    Args:
        trained: The network, of a batch of 1.

    Raises:
        ValueError: It answers for images.
    """

    def __init__(self, trained: Trained) -> None:
        if not trained.of_pixels:
            raise ValueError(f"{trained.path}: the network answers for images, and not for each pixel")
        self.trained = trained
        self._network = trained.network

    def labels(self, image: Array) -> Array:
        """Return the most probable class of each pixel, uint8[H,W], for an image uint8[H,W,C].

        Raises:
            DataError: The image is larger than the network takes.
        """
        own = (image.shape[0], image.shape[1])
        network = self._for(own)
        canvas = np.empty((*network.spec.stored, image.shape[2]), np.uint8)
        top, left = centre(own, network.spec.stored)
        paste(image, canvas, (top, left), CANVAS if image.shape[2] == 3 else CANVAS[1])
        view = center_view(network.spec)
        view.show(network, canvas[None])
        found = predicted(network)[0]
        first, begin = -top - view.top, -left - view.left
        inside: Array = found[first : first + own[0], begin : begin + own[1]]
        return inside

    def _for(self, own: tuple[int, int]) -> Network:
        """Return the network for images of these sides; the last one stays in memory."""
        base = self.trained.network
        seen = base.spec.input.height, base.spec.input.width
        try:
            sides = sides_taken(base.spec, own)
        except ValueError as error:
            if own[0] > seen[0] or own[1] > seen[1]:
                size = f"{own[0]}x{own[1]} pixels (height x width)"
                raise data.DataError(f"it has {size}, and {error}") from None
            return base
        if sides == seen == base.spec.stored:
            return base
        if sides != self._network.spec.stored or self._network is base:
            self._network = base  # frees the one before
            self._network = base.dense(sides)
        return self._network


def predicted(network: Network) -> Array:
    """Return the most probable class of each pixel of the last batch, uint8[batch,H,W]."""
    found: Array = network.outputs(network.spec.answer.name).argmax(3).astype(np.uint8)
    return found


def segment_each(trained: Trained, pictures: Sequence[Path]) -> Iterator[Array | data.DataError]:
    """Yield the label image uint8[H,W] of each picture in turn, or the error if it cannot be read.

    Raises:
        ValueError: The network answers for images.
    """
    segmenter = Segmenter(trained)
    for path in pictures:
        try:
            yield segmenter.labels(read_whole(path, trained.image_shape[2], trained.preprocessing))
        except data.DataError as error:
            named = str(path) in str(error)
            yield error if named else data.DataError(f"{path}: {error}")


def shares(labels: Array, classes: Sequence[str]) -> list[tuple[str, float]]:
    """Return the classes of a label image with their shares of its pixels, the largest first."""
    counts = np.bincount(labels.ravel(), minlength=len(classes))
    order = (-counts).argsort(kind="stable").tolist()
    return [(classes[label], float(counts[label] / labels.size)) for label in order if counts[label]]


def picture_of(labels: Array) -> Any:
    """Return labels uint8[H,W] as a picture of Pillow with Pascal VOC's palette, whose indices they are."""
    image = Image.fromarray(np.ascontiguousarray(labels), "P")
    image.putpalette(palette().ravel().tolist())
    return image
