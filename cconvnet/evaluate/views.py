"""Views of stored images, and the probabilities that a network averages over them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from cconvnet.errors import nearest
from cconvnet.nets import NetSpec
from cconvnet.network import Network, StepResult

VIEWS = ("center", "ten")

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True)
class View:
    """One way to cut the network's input out of a stored image: where it begins, and whether mirrored."""

    top: int
    left: int
    mirror: bool = False


def check_views(views: str) -> None:
    """Refuses what views_of() does not know."""
    if views not in VIEWS:
        raise ValueError(nearest("--views", views, VIEWS))


def views_of(spec: NetSpec, views: str) -> list[View]:
    """The views of a stored image by which a network is tested.

    "center" is the centre alone; "ten" is the four corners and the centre, and the mirror image of each
    (Krizhevsky et al. 2012, section 4.1). Views that are equal count once: where nothing is cropped, the ten
    are the image and its mirror image.

    Raises
        ValueError: `views` is neither.
    """
    check_views(views)
    bottom, right = spec.stored[0] - spec.input.height, spec.stored[1] - spec.input.width
    center = (bottom // 2, right // 2)
    if views == "center":
        return [View(*center)]
    places = dict.fromkeys([(0, 0), (0, right), center, (bottom, 0), (bottom, right)])
    return [View(top, left, mirror) for mirror in (False, True) for top, left in places]


def mean_probabilities(network: Network, images: Array, views: list[View]) -> Array:
    """The probabilities float64[n, classes] of stored images uint8[n,H,W,C], averaged over views."""
    count = len(images)
    total = np.zeros((count, network.spec.classes))
    for view in views:
        network.load(
            images,
            np.zeros(count, np.int32),
            np.full(count, view.top, np.int32),
            np.full(count, view.left, np.int32),
            np.full(count, view.mirror, np.uint8),
        )
        network.forward(train=False)
        total += network.outputs(network.spec.layers[-1].name)[:count]
    return total / len(views)


def judge(probabilities: Array, labels: Array) -> StepResult:
    """Losses and ranks of averaged probabilities[n, classes]; of equal classes the lower one stands first.

    A probability below float32's smallest counts as that, so that no loss is infinite.
    """
    label = np.take_along_axis(probabilities, labels[:, None], axis=1)
    before = (probabilities == label) & (np.arange(probabilities.shape[1]) < labels[:, None])
    rank = np.count_nonzero((probabilities > label) | before, axis=1)
    least = float(np.finfo(np.float32).tiny)
    return StepResult(-np.log(np.maximum(label[:, 0], least)), rank.astype(np.int32))
