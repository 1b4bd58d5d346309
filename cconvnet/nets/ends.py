"""The ends of networks under construction: costs, auxiliary heads, and features without a cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from cconvnet.nets.arguments import Place
from cconvnet.nets.plan import Node, Plan, images_of, new_node
from cconvnet.nets.recipe import NetSpec, TrainRecipe
from cconvnet.nets.shapes import Shape, text_of
from cconvnet.nets.specs import L2CostSpec, SoftmaxCostSpec

# A recipe for networks that come without one: the batch and the rate of lenet, with which it learns quickly.
DEFAULT_RECIPE = TrainRecipe(batch=64, epochs=10, lr=0.02)


@dataclass(frozen=True, eq=False, repr=False)
class Head:
    """A cost that is present in training only, with all that nothing but the head needs.

    Nothing can read it. It is part of the network whose last method gets it as one of ``heads``. As long as
    it is kept in a variable and none has got it, no other network of the same images can be made.
    """

    _node: Node

    def __post_init__(self) -> None:
        images_of(self._node).heads.add(self._node)

    def __repr__(self) -> str:
        return f"<head {self.name} of {text_of([node.shape for node in self._node.inputs])}>"

    @property
    def name(self) -> str:
        """The name of its layer, as it is without other heads."""
        return Plan([self._node]).names[self._node]


@dataclass(frozen=True, eq=False, repr=False)
class End:
    """A value with which a network may end."""

    _node: Node

    @property
    def name(self) -> str:
        """The name of its layer, as it is if the network ends here."""
        return Plan([self._node]).names[self._node]

    @property
    def shape(self) -> Shape:
        """The shape (H, W, C) of one image's activation; (1, 1, C) behind a fully connected layer."""
        return self._node.shape

    def softmax(
        self,
        name: str = "net",
        recipe: TrainRecipe | None = None,
        *,
        cost: str = "cost",
        coeff: float = 1.0,
        probs: str = "probs",
        per_pixel: bool = False,
        ignore: int | None = None,
        smoothing: float = 0.0,
        device: int | str | None = None,
        heads: Sequence[Head] = (),
    ) -> NetSpec:
        """End the network with softmax and cross-entropy against the labels, and return it.

        Args:
            name: of the network; runs are named after it.
            recipe: the default training settings; None: 10 epochs of batches of 64 at a rate of 0.02, with
                random crops if the images are larger than the input.
            cost: the name of this layer.
            coeff: multiplies the gradient, not the loss that is shown.
            probs: the name of the softmax in files that name it apart from the cost.
            per_pixel: whether each pixel of this value has a label, instead of each image.
            ignore: the label that counts neither for the loss nor for the gradient, which are means over the
                others; None: all count.
            smoothing: the part of the target that all classes share alike in training, such as 0.1; the
                label's class gets the rest. The loss of tests is without it.
            device: where it is computed; None: where its input is.
            heads: further costs, in training only; :meth:`head` and :meth:`l2_head` make them.

        Returns:
            The network, with a class for each channel of this value.

        Raises:
            ValueError: there is more than one value for a class, a head has other classes or other labels, a
                head of the same images is given to no network, or two layers have one name.
        """
        nodes = self._take(heads)
        given: dict[str, Any] = {"coeff": coeff, "softmax": probs, "smoothing": smoothing}
        given |= {"per_pixel": per_pixel, "ignore": ignore}
        return _closed(self._softmax(given, {"name": cost, "device": device}), name, recipe, nodes)

    def l2(
        self,
        name: str = "net",
        recipe: TrainRecipe | None = None,
        *,
        cost: str = "cost",
        coeff: float = 1.0,
        device: int | str | None = None,
        heads: Sequence[Head] = (),
    ) -> NetSpec:
        """End the network with half the squared distance of this value from a target, and return it.

        The loss of an image is 0.5 * the sum of (value - target)^2. ``Network.load`` takes the targets.

        Args:
            name: of the network.
            recipe: as of :meth:`softmax`.
            cost: the name of this layer.
            coeff: multiplies the gradient, not the loss that is shown.
            device: where it is computed; None: where its input is.
            heads: as of :meth:`softmax`.

        Raises:
            ValueError: as of :meth:`softmax`.
        """
        nodes = self._take(heads)
        place = {"name": cost, "device": device}
        end = new_node(L2CostSpec, {"coeff": coeff}, (self._node,), place, "")
        return _closed(end, name, recipe, nodes)

    def features(self, name: str = "net", recipe: TrainRecipe | None = None) -> NetSpec:
        """End the network with this value, without a cost, and return it.

        ``Network.forward(train=False)`` computes the value, and ``Network.outputs`` returns it. Such a
        network cannot be trained.

        Args:
            name: of the network.
            recipe: as of :meth:`softmax`; its `pad` allows crops beyond the image.

        Raises:
            ValueError: this value is the images themselves, or a head of its images is given to no
                network.
        """
        if self._node.spec is None:
            raise ValueError("a network needs a layer; this value is the images themselves")
        return _closed(self._node, name, recipe, self._take(()))

    def head(
        self,
        coeff: float = 1.0,
        *,
        per_pixel: bool = False,
        ignore: int | None = None,
        smoothing: float = 0.0,
        **place: Unpack[Place],
    ) -> Head:
        """Return a softmax cost that is present in training only: an auxiliary head.

            >>> first = x.mean().fc(10).head(0.3)
            >>> net = x.conv(64, 3).relu().mean().fc(10).softmax(heads=[first])

        Args:
            coeff: multiplies its gradient, which is added to those of the network's other costs.
            per_pixel: as of :meth:`softmax`.
            ignore: as of :meth:`softmax`.
            smoothing: as of :meth:`softmax`.
            **place: see :class:`Place`.

        Returns:
            The head. It becomes part of the network whose last method gets it as one of ``heads``.

        Raises:
            ValueError: there is more than one value for a class.
        """
        given: dict[str, Any] = {"coeff": coeff, "train_only": True, "smoothing": smoothing}
        given |= {"per_pixel": per_pixel, "ignore": ignore}
        return Head(self._softmax(given, place))

    def l2_head(self, coeff: float = 1.0, **place: Unpack[Place]) -> Head:
        """Return an L2 cost that is present in training only; see :meth:`l2` and :meth:`head`.

        Args:
            coeff: multiplies its gradient, which is added to those of the network's other costs.
            **place: see :class:`Place`.
        """
        return Head(
            new_node(L2CostSpec, {"coeff": coeff, "train_only": True}, (self._node,), place, "l2_cost")
        )

    def _take(self, heads: Sequence[Head]) -> list[Node]:
        """Return the costs of a network's heads; no other head of its images may be left.

        Raises:
            TypeError: one of the heads is something else.
            ValueError: a head is given twice, or one of these images is given to no network.
        """
        nodes: list[Node] = []
        left = images_of(self._node).heads
        for head in heads:
            if not isinstance(head, Head):
                raise TypeError(f"heads must be what .head() or .l2_head() returns, not {head!r}")
            left.discard(head._node)
            if head._node in nodes:
                raise ValueError(f"{head!r} is given twice")
            nodes.append(head._node)
        if left:
            other = min(left, key=lambda node: node.number)
            raise ValueError(
                f"head {Plan([other]).names[other]}: is in no network's heads=; give it to this one, or "
                "begin again with image() and without it"
            )
        return nodes

    def _softmax(self, given: Mapping[str, Any], place: Mapping[str, Any]) -> Node:
        if self.shape[:2] != (1, 1) and not given["per_pixel"]:
            raise ValueError(
                f"layer {place.get('name', 'cost')}: needs one value for each class, not "
                f"{text_of([self.shape])} of {self.name}; add .fc(classes) or .mean() before it, or give "
                "per_pixel=True for labels of pixels"
            )
        return new_node(SoftmaxCostSpec, given, (self._node,), place, "cost")


def _closed(end: Node, name: str, recipe: TrainRecipe | None, heads: Sequence[Node]) -> NetSpec:
    """Return the network that ends in a layer and in some heads.

    Args:
        end: the layer that answers.
        name: of the network.
        recipe: the default training settings; None: those of :meth:`~cconvnet.nets.Value.softmax`.
        heads: further costs, in training only.

    Raises:
        ValueError: a head has other classes or labels, or two layers have one name.
    """
    plan = Plan([end, *heads])
    softmaxes = [node for node in (end, *heads) if isinstance(node.spec, SoftmaxCostSpec)]
    for node in softmaxes[1:]:
        _check_alike(softmaxes[0], node, plan.names)
    images, stored = plan.images
    if recipe is None:
        recipe = dataclasses.replace(DEFAULT_RECIPE, crop=stored != (images.height, images.width))
    classes = softmaxes[0].shape[2] if softmaxes else end.shape[2]
    return NetSpec(name, plan.layers(), images, stored, classes, recipe)


def _check_alike(one: Node, other: Node, names: Mapping[Node, str]) -> None:
    """Check that two softmax costs have the same classes and take the same labels."""
    (mine,), (theirs,) = one.inputs, other.inputs
    if mine.shape != theirs.shape:
        raise ValueError(
            f"layer {names[other]}: reads {text_of([theirs.shape])}, but {names[one]} reads "
            f"{text_of([mine.shape])}: all softmax costs must have the same labels"
        )
    for field in ("per_pixel", "ignore"):
        here, there = (getattr(node.spec, field) for node in (one, other))
        if here != there:
            raise ValueError(
                f"layer {names[other]}: has {field}={there}, but {names[one]} has {field}={here}: all "
                "softmax costs must have the same labels"
            )
