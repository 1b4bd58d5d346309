"""The labels and targets that the costs of a network need."""

from __future__ import annotations

from dataclasses import dataclass

from cconvnet.nets.recipe import NetSpec
from cconvnet.nets.shapes import shapes
from cconvnet.nets.specs import L2CostSpec, SoftmaxCostSpec


@dataclass(frozen=True)
class Labels:
    """The labels of a batch.

    Attributes:
        shape: of an image's labels: empty for one label, else (H, W).
        ignore: the label that counts for nothing; None: there is none.
    """

    shape: tuple[int, ...]
    ignore: int | None

    def __str__(self) -> str:
        whose = f"of {self.shape[0]}x{self.shape[1]} pixels" if self.shape else "of images"
        return f"labels {whose}" + ("" if self.ignore is None else f" with {self.ignore} ignored")


def labels_of(spec: NetSpec) -> Labels | None:
    """Return the labels that the softmax costs of a network need; None without such costs.

    Raises:
        ValueError: a cost has other classes than the network, or two costs need different labels.
    """
    found, needed, before = shapes(spec), None, ""
    for cost in spec.costs:
        if not isinstance(cost, SoftmaxCostSpec):
            continue
        h, w, c = found[cost.inputs[0]]
        if (classes := c if cost.per_pixel else h * w * c) != spec.classes:
            raise ValueError(
                f"layer {cost.name}: its input must have one value for each of the {spec.classes} classes, "
                f"not {classes}"
            )
        own = Labels((h, w) if cost.per_pixel else (), cost.ignore)
        if needed is not None and own != needed:
            raise ValueError(f"layer {cost.name}: it needs {own}, but {before} needs {needed}")
        needed, before = own, cost.name
    return needed


def answers_for_pixels(spec: NetSpec) -> bool:
    """Return True if a network answers for each pixel, and not for images."""
    return any(isinstance(cost, SoftmaxCostSpec) and cost.per_pixel for cost in spec.costs)


def targets_of(spec: NetSpec) -> dict[str, tuple[int, ...]]:
    """Return the shape of an image's target of each L2 cost: that of the cost's input."""
    found = shapes(spec)
    shape_of = {cost.name: found[cost.inputs[0]] for cost in spec.costs if isinstance(cost, L2CostSpec)}
    return {name: shape if shape[:2] != (1, 1) else shape[2:] for name, shape in shape_of.items()}


def check_data(spec: NetSpec, name: str) -> None:
    """Check that data with labels, and nothing else, are all that a network needs.

    Args:
        spec: the network.
        name: its name in errors.

    Raises:
        ValueError: it has no cost, or one that needs more; the text names it.
    """
    if not spec.costs:
        raise ValueError(f"{name} has no cost, so there is nothing to train or to evaluate on data")
    for cost in spec.costs:
        if isinstance(cost, L2CostSpec):
            raise ValueError(
                f"{name}: layer {cost.name} needs targets, which data have not; cc.Network.load takes them"
            )


def check_labels(spec: NetSpec, name: str, of_pixels: bool) -> None:
    """Check that data with labels of images, or with those of their pixels, are what a network needs.

    Args:
        spec: the network.
        name: its name in errors.
        of_pixels: whether the data have a label for each pixel.

    Raises:
        ValueError: they are not; the text names the layer.
    """
    needed, image = labels_of(spec), (spec.input.height, spec.input.width)
    if needed is None:
        return
    costs = [cost for cost in spec.costs if isinstance(cost, SoftmaxCostSpec)]
    where = f"{name}: layer {costs[0].name}"
    if of_pixels and not needed.shape:
        raise ValueError(f"{where} needs one label for each image, and the data has one for each pixel")
    if needed.shape and not of_pixels:
        raise ValueError(f"{where} needs a label for each pixel, and the data has one for each image")
    if needed.shape and needed.shape != image:
        (h, w), (rows, columns) = needed.shape, image
        raise ValueError(f"{where} answers for {h}x{w} pixels of images of {rows}x{columns}")
