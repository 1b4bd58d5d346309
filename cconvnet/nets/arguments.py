"""The arguments that all methods of the builder take, or all that add weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from cconvnet.nets.values import Init, Neuron, Padding, Pair, RateCurve

if TYPE_CHECKING:
    from cconvnet.nets.builder import Value

Size = int | Pair  # (vertical, horizontal); one number is both
Pad = int | Padding  # likewise; either may be (before, after)


class Place(TypedDict, total=False):
    """The arguments that all layers take.

    Attributes:
        name: unique in the network; if not given, it comes from the type and the order.
        device: an index into the network's list of devices, or a device's name; if not given, that of the
            first input.
        split: whether the layer is shared out over all devices, each with an equal part of its channels. If
            not given, a layer without weights does as its first input does.
    """

    name: str
    device: int | str
    split: bool


class Weights(Place, total=False):
    """The arguments that layers with weights take; see :class:`~cconvnet.nets.WeightedSpec` for defaults.

    Attributes:
        also: further inputs; each has weights of its own, and the products are summed.
        neuron: the activation function, instead of a method such as ``.relu()``: a Neuron or its kind.
        init: the distribution of the first weights: an Init, its kind, or a Gaussian's standard deviation.
        bias: the first value of every bias; None: no bias.
        lr_scale: multiplies the rate of the weights; 0 freezes them.
        bias_lr_scale: likewise of the bias.
        lr_curve: the fall of the weights' rate over the run.
        bias_lr_curve: likewise of the bias.
        weight_decay: this times the weights is added to their gradient.
        bias_weight_decay: likewise of the bias.
        momentum: of the weights; None: that of the run.
        bias_momentum: likewise of the bias.
        norm_limit: the largest Euclidean norm of an output's weights; 0: no limit.
        contrast_limits: of a convolution, (least, largest) norm of an output's weights minus their mean.
        per_input: for each input, `also` included, the fields that differ.
    """

    also: Value | Sequence[Value]
    neuron: Neuron | str | None
    init: Init | str | float
    bias: float | None
    lr_scale: float
    bias_lr_scale: float
    lr_curve: RateCurve | None
    bias_lr_curve: RateCurve | None
    weight_decay: float
    bias_weight_decay: float
    momentum: float | None
    bias_momentum: float | None
    norm_limit: float
    contrast_limits: tuple[float, float] | None
    per_input: Sequence[Mapping[str, Any]]
