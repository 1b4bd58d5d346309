"""The patches of images to which a layer's channels respond most, and what of them the channels respond to.

Source: Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks", section 2.1 and figure
2: an activation alone goes back to the pixels through the transposed network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cconvnet.data import Split
from cconvnet.nets.receptive import Field, fields
from cconvnet.seeing.probe import Floats, Probe

PATCHES = 9  # of a channel


@dataclass(frozen=True)
class Strong:
    """The strongest responses of one channel.

    Attributes:
        channel: The channel.
        values: float32[n], the responses, the strongest first.
        patches: uint8[n,H,W,C], the pixels that each depends on.
        projections: float32[n,H,W,C], what of these pixels it responds to.
    """

    channel: int
    values: Floats
    patches: NDArray[np.uint8]
    projections: Floats


def strongest(
    probe: Probe,
    split: Split,
    numbers: NDArray[np.int64],
    channels: int,
    stepped: Callable[[int, int], None] = lambda done, all_: None,
) -> list[Strong]:
    """Find the strongest responses of the probe's last layer.

    Args:
        probe: A network that ends in the layer.
        split: The images.
        numbers: Those that are searched. Each gives one patch of a channel at most.
        channels: How many channels are shown: those with the strongest responses, in their order.
        stepped: Called with the number of images done, and of all.
    """
    batch = probe.network.batch
    values, places = [], []
    for first in range(0, len(numbers), batch):
        images, _ = split.read(numbers[first : first + batch])
        if len(images):
            maps = probe.forward(images)
            flat = maps.reshape(len(images), -1, maps.shape[-1])
            places.append(flat.argmax(1))
            values.append(flat.max(1))
        stepped(min(first + batch, len(numbers)), len(numbers))
    value, place = np.concatenate(values), np.concatenate(places)
    readable = split.readable(numbers)
    directions = fields(probe.network.spec, probe.network.spec.answer.name)
    order = np.argsort(-value, axis=0, kind="stable")[:PATCHES]
    strength = np.take_along_axis(value, order, 0).mean(0)
    chosen = np.sort(np.argsort(-strength, kind="stable")[:channels])
    return [
        _strong(probe, directions, split, int(one), readable[order[:, one]], place[order[:, one], one])
        for one in chosen
        if strength[one] > 0
    ]


def _strong(
    probe: Probe,
    directions: tuple[Field, Field],
    split: Split,
    channel: int,
    numbers: NDArray[np.int64],
    places: NDArray[np.int64],
) -> Strong:
    """Return the patches of a channel at places of images, and their projections."""
    values, patches, projections = [], [], []
    for first in range(0, len(numbers), probe.network.batch):
        images, _ = split.read(numbers[first : first + probe.network.batch])
        maps = probe.forward(images)
        flat, rows = maps.reshape(len(maps), -1, maps.shape[-1]), np.arange(len(maps))
        here = places[first : first + len(maps)]
        start = np.zeros_like(flat)
        start[rows, here, channel] = flat[rows, here, channel]
        back = probe.gradients(["data"], start.reshape(maps.shape), "deconvnet")["data"]
        values += flat[rows, here, channel].tolist()
        columns = maps.shape[2] if maps.ndim == 4 else 1
        for image, projection, place in zip(probe.seen(images), back, here.tolist(), strict=True):
            pixels = [
                field.pixels(position, side)
                for field, position, side in zip(
                    directions, divmod(place, columns), image.shape, strict=False
                )
            ]
            patches.append(_patch(image, pixels, 127))
            projections.append(_patch(projection, pixels, 0))
    return Strong(channel, np.array(values, np.float32), np.stack(patches), np.stack(projections))


def _patch(image: NDArray[Any], pixels: list[NDArray[np.int64]], value: int) -> NDArray[Any]:
    """Return rows and columns of an image; those beyond it have this value."""
    patch = np.full((*map(len, pixels), image.shape[2]), value, image.dtype)
    inside = [(own >= 0) & (own < side) for own, side in zip(pixels, image.shape, strict=False)]
    patch[np.ix_(*inside)] = image[np.ix_(*(own[here] for own, here in zip(pixels, inside, strict=True)))]
    return patch
