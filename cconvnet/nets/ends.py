"""The ends of networks under construction: auxiliary heads, and the network of all that leads to its ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from cconvnet.nets.plan import Node, Plan
from cconvnet.nets.recipe import NetSpec, TrainRecipe
from cconvnet.nets.shapes import text_of

# A recipe for networks that come without one: the batch and the rate of lenet, with which it learns quickly.
DEFAULT_RECIPE = TrainRecipe(batch=64, epochs=10, lr=0.02)


@dataclass(frozen=True, eq=False, repr=False)
class Head:
    """A cost that is present in training only, with all that nothing but the head needs.

    Nothing can read it. It is part of the network whose last method gets it as one of ``heads``.
    """

    _node: Node

    def __repr__(self) -> str:
        return f"<head {self.name}: {text_of([self._node.shape])}>"

    @property
    def name(self) -> str:
        """The name of its layer, as it is without other heads."""
        return Plan([self._node]).names[self._node]


def closed(end: Node, name: str, recipe: TrainRecipe | None, heads: Sequence[Head] = ()) -> NetSpec:
    """Return the network that ends in a layer and in some heads.

    Args:
        end: the layer that answers; its channels are the classes.
        name: of the network.
        recipe: the default training settings; None: those of :meth:`~cconvnet.nets.Value.softmax`.
        heads: further costs, in training only.

    Raises:
        TypeError: one of the heads is something else.
        ValueError: there is no layer, a head is given twice or has other classes, or two layers have one
            name.
    """
    if end.spec is None:
        raise ValueError("a network needs a layer; this value is the images themselves")
    nodes: list[Node] = []
    for head in heads:
        if not isinstance(head, Head):
            raise TypeError(f"heads must be what .head() returns, not {head!r}")
        if head._node in nodes:
            raise ValueError(f"{head!r} is given twice")
        if head._node.shape[2] != end.shape[2]:
            raise ValueError(
                f"{head!r} must have the classes of the network, which ends in {text_of([end.shape])}"
            )
        nodes.append(head._node)
    plan = Plan([end, *nodes])
    images, stored = plan.images
    if recipe is None:
        recipe = dataclasses.replace(DEFAULT_RECIPE, crop=stored != (images.height, images.width))
    return NetSpec(name, plan.layers(), images, stored, end.shape[2], recipe)
