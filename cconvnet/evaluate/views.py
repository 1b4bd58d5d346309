"""Views: parts of a stored image whose probabilities are averaged."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from cconvnet.errors import nearest
from cconvnet.nets import NetSpec
from cconvnet.nets.costs import labels_of
from cconvnet.network import Network, StepResult

VIEWS = ("center", "ten")

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True)
class View:
    """Position of the network's input within a stored image.

    Attributes:
        top: The first row.
        left: The first column.
        mirror: Whether it is mirrored.
    """

    top: int
    left: int
    mirror: bool = False

    def of(self, spec: NetSpec, images: Array) -> Array:
        """Return the part of stored images [...,H,W,C] that the network sees, not mirrored."""
        rows = slice(self.top, self.top + spec.input.height)
        return images[..., rows, self.left : self.left + spec.input.width, :]

    def show(self, network: Network, images: Array) -> None:
        """Run a network's forward pass outside of training on this part of images of unknown labels.

        Args:
            network: The network.
            images: uint8[n,H,W,C] of the stored size, at most a batch.
        """
        count = len(images)
        top, left, mirror = (np.full(count, own) for own in (self.top, self.left, self.mirror))
        network.load(images, unknown_labels(network.spec, count), top, left, mirror)
        network.forward(train=False)


def check_views(views: str) -> None:
    """Refuse a name that is not in VIEWS.

    Raises:
        ValueError: There are no such views.
    """
    if views not in VIEWS:
        raise ValueError(nearest("--views", views, VIEWS))


def views_of(spec: NetSpec, views: str) -> list[View]:
    """Return the views of a stored image with which a network is tested.

    Views that are equal count once: without a crop, the ten are the image and its mirror image.

    Args:
        spec: The network.
        views: "center" for the centre alone. "ten" for the four corners, the centre, and the mirror image of
            each (Krizhevsky et al. 2012, section 4.1).

    Raises:
        ValueError: `views` is neither.
    """
    check_views(views)
    bottom, right = spec.stored[0] - spec.input.height, spec.stored[1] - spec.input.width
    center = (bottom // 2, right // 2)
    if views == "center":
        return [View(*center)]
    places = dict.fromkeys([(0, 0), (0, right), center, (bottom, 0), (bottom, right)])
    return [View(top, left, mirror) for mirror in (False, True) for top, left in places]


def unknown_labels(spec: NetSpec, count: int) -> Array:
    """Return labels to load with images whose labels are not known; probabilities do not depend on them."""
    needed = labels_of(spec)
    return np.zeros((count, *(() if needed is None else needed.shape)), np.int32)


def center_view(spec: NetSpec) -> View:
    """Return the view of the middle."""
    (view,) = views_of(spec, "center")
    return view


def mean_probabilities(network: Network, images: Array, views: list[View]) -> Array:
    """Return the class probabilities of stored images, averaged over views.

    Those of a dense network are averaged over its places, too.

    Args:
        network: The network.
        images: uint8[n,H,W,C], at most a batch.
        views: The views.

    Returns:
        float64[n, classes].
    """
    count = len(images)
    total = np.zeros((count, network.spec.classes))
    for view in views:
        view.show(network, images)
        answers = network.outputs(network.spec.answer.name)[:count]
        total += answers.reshape(count, -1, network.spec.classes).mean(1)
    return total / len(views)


def judge(probabilities: Array, labels: Array) -> StepResult:
    """Return the losses and ranks that averaged probabilities give.

    Equal probabilities rank by class number. A probability below float32's smallest normal number counts as
    that number, so that no loss is infinite.

    Args:
        probabilities: float64[n, classes].
        labels: int32[n], the right classes.
    """
    label = np.take_along_axis(probabilities, labels[:, None], axis=1)
    before = (probabilities == label) & (np.arange(probabilities.shape[1]) < labels[:, None])
    rank = np.count_nonzero((probabilities > label) | before, axis=1)
    least = float(np.finfo(np.float32).tiny)
    return StepResult(-np.log(np.maximum(label[:, 0], least)), rank.astype(np.int32))
