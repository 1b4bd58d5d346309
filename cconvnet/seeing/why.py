"""The reasons for a class: Grad-CAM, guided backpropagation and occlusion, of one picture.

Sources: Selvaraju et al. 2017, "Grad-CAM"; Springenberg et al. 2015, "Striving for simplicity"; Zeiler and
Fergus 2014, "Visualizing and understanding convolutional networks", section 4.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cconvnet.nets import PoolSpec
from cconvnet.seeing.probe import Floats, Probe

OCCLUDED = 12  # positions of the square in either direction
SQUARE = 0.2  # its side, as a part of the image's
_GREY = 127


@dataclass(frozen=True)
class Why:
    """The reasons for a class of one picture.

    Attributes:
        image: uint8[H,W,C], the part that the network sees.
        probabilities: float64[classes].
        wanted: The class.
        layer: The layer of `cam`.
        cam: float32[h,w], how much each place of the layer speaks for the class, at least 0.
        guided: float32[H,W,C], the guided gradient of the class's score by the pixels.
        occluded: float64[n,n], the probability of the class with a grey square at each place.
        square: The side of the square in pixels (vertical, horizontal).
    """

    image: NDArray[np.uint8]
    probabilities: NDArray[np.float64]
    wanted: int
    layer: str
    cam: Floats
    guided: Floats
    occluded: NDArray[np.float64]
    square: tuple[int, int]


def why(
    probe: Probe,
    picture: NDArray[np.uint8],
    wanted: int | None = None,
    layer: str | None = None,
    stepped: Callable[[int, int], None] = lambda done, all_: None,
) -> Why:
    """Find the reasons for a class.

    Args:
        probe: A network that ends in the classes' scores.
        picture: uint8[H,W,C] of the stored size.
        wanted: The class; None: the most probable.
        layer: The layer of Grad-CAM; None: the last one with maps of more than a pixel, poolings apart.
        stepped: Called with the number of occluded images done, and of all.
    """
    layer = last_maps(probe) if layer is None else layer
    score = probe.forward(picture[None])[0]
    probabilities = _softmax(score.reshape(1, -1))[0]
    wanted = int(np.argmax(probabilities)) if wanted is None else wanted
    maps = probe.activation(layer)[0]
    start = np.zeros((1, *score.shape), np.float32)
    start.reshape(-1)[wanted] = 1
    slope = probe.gradients([layer], start)[layer][0]
    cam = np.maximum((maps * slope.mean((0, 1))).sum(-1), 0)
    guided = probe.gradients(["data"], start, "guided")["data"][0]
    occluded, square = _occlusion(probe, picture, wanted, stepped)
    return Why(probe.seen(picture), probabilities, wanted, layer, cam, guided, occluded, square)


def last_maps(probe: Probe) -> str:
    """Return the last layer with maps of more than a pixel that is no pooling.

    Raises:
        ValueError: There is none.
    """
    shapes = probe.shapes
    poolings = {layer.name for layer in probe.network.spec.layers if isinstance(layer, PoolSpec)}
    maps = [name for name, (h, w, _) in shapes.items() if h * w > 1 and name not in poolings]
    if not maps:
        raise ValueError("the network has no layer with maps of more than a pixel")
    return maps[-1]


def _occlusion(
    probe: Probe, picture: NDArray[np.uint8], wanted: int, stepped: Callable[[int, int], None]
) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """Return the probability of the class with a square at each place, and the square's sides."""
    image = probe.network.spec.input
    sides = [max(1, round(SQUARE * side)) for side in (image.height, image.width)]
    rows, columns = (
        np.linspace(0, whole - side, OCCLUDED).round().astype(int)
        for whole, side in zip((image.height, image.width), sides, strict=True)
    )
    places = [(row, column) for row in rows for column in columns]
    found = []
    for first in range(0, len(places), probe.network.batch):
        here = places[first : first + probe.network.batch]
        images = np.repeat(picture[None], len(here), 0)
        for seen, (row, column) in zip(probe.seen(images), here, strict=True):  # views of the images
            seen[row : row + sides[0], column : column + sides[1]] = _GREY
        scores = probe.forward(images)
        found += list(_softmax(scores.reshape(len(here), -1))[:, wanted])
        stepped(len(found), len(places))
    return np.array(found).reshape(OCCLUDED, OCCLUDED), (sides[0], sides[1])


def _softmax(scores: Floats) -> NDArray[np.float64]:
    powers = np.exp(scores.astype(np.float64) - scores.max(-1, keepdims=True))
    found: NDArray[np.float64] = powers / powers.sum(-1, keepdims=True)
    return found
