"""The arguments of the builder's methods: those that many take, and the fields of layers made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from cconvnet.nets.values import Init, Neuron, Padding, Pair, RateCurve, gaussian

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


def as_neuron(kind: str, a: float = 1.0, b: float | None = None) -> Neuron:
    """Return an activation function with parameters that make it the usual one."""
    return Neuron(kind, a, (1.0 if kind == "tanh" else 0.0) if b is None else b)


def as_init(init: Init | str | float) -> Init:
    """Return a distribution of first weights: itself, that of a kind, or a Gaussian of a deviation."""
    if isinstance(init, int | float):
        return gaussian(init)
    if init == "gaussian":
        raise ValueError("init needs the standard deviation of a Gaussian, a number, instead of 'gaussian'")
    if isinstance(init, str):
        return Init(init)
    if not isinstance(init, Init):
        raise TypeError(f"init must be a standard deviation, a kind or a cc.nets.Init, not {init!r}")
    return init


def filter_fields(
    filters: int, window: Size, stride: Size, pad: Pad, groups: int, rounding: str
) -> dict[str, Any]:
    """Return the fields of a layer with filters."""
    sizes = {"window": window, "stride": stride, "padding": pad}
    return {"filters": filters, **sizes, "groups": groups, "rounding": rounding}


def weighted_fields(
    kind: str, given: Mapping[str, Any], more: Weights
) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Return the fields of a layer with weights, those of :class:`Place`, and its further inputs.

    Args:
        kind: the layer's type, for errors.
        given: the fields that its own arguments are.
        more: all other arguments.

    Raises:
        TypeError: there is no such argument, or it is of a wrong type.
    """
    values: dict[str, Any] = {**given, **more}
    place = {key: values.pop(key) for key in Place.__annotations__ if key in values}
    also = values.pop("also", ())
    for key in values:
        if key not in given and key not in Weights.__annotations__:
            raise TypeError(f"{kind}() has no argument {key!r}")
    if "init" in values:
        values["init"] = as_init(values["init"])
    if "per_input" in values:
        values["per_input"] = [
            {**each, "init": as_init(each["init"])} if "init" in each else each
            for each in values["per_input"]
        ]
    if isinstance(neuron := values.get("neuron"), str):
        values["neuron"] = as_neuron(neuron)
    return values, place, also


def window_fields(
    pool: str,
    window: Size,
    stride: Size | None = None,
    pad: Pad = 0,
    rounding: str = "floor",
    outputs: Size | None = None,
) -> dict[str, Any]:
    """Return the fields of a pooling layer."""
    sizes = {"window": window, "stride": window if stride is None else stride, "padding": pad}
    return {"pool": pool, **sizes, "rounding": rounding, "outputs": outputs}
