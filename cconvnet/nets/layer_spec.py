"""The fields that all layers have, and those of layers with weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar, cast

from cconvnet.checks import finite_fields, real
from cconvnet.nets.values import Init, Neuron, RateCurve, as_pair, one_of, require

DATA = "data"  # the name by which layers read the images


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """The fields that all layers have.

    Attributes:
        name: unique in the network.
        inputs: names of the layers it reads; ``"data"`` is the images. :func:`chain` fills in empty ones.
        device: where the layer lives: an index into the network's list of devices, the name of a device, or
            None for where its first input lives. A network on a single device has everything there.
        split: whether the layer is shared out over all devices of the network, each with an equal part of its
            output's channels: a tower. On one device the layer is whole.
    """

    type: ClassVar[str] = ""

    name: str
    inputs: tuple[str, ...] = ()
    device: int | str | None = None
    split: bool = False

    def __post_init__(self) -> None:
        require(bool(self.name) and self.name != DATA, f"a layer cannot be named {self.name!r}")
        finite_fields(self, f"layer {self.name}: ")
        self._set("inputs", (self.inputs,) if isinstance(self.inputs, str) else tuple(self.inputs))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # frozen, but values are still converted to one form

    def _pairs(self, *names: str) -> None:
        for name in names:
            self._set(name, as_pair(f"layer {self.name}: {name}", getattr(self, name)))


@dataclass(frozen=True, kw_only=True)
class WeightedSpec(LayerSpec):
    """The fields of layers with weights: the activation function, first values and updates.

    A layer with several inputs has weights for each and sums the products.

    Attributes:
        neuron: the activation function; None: no function.
        init: the distribution of the first weights.
        bias: the first value of every bias; None: no bias.
        lr_scale: multiplies the rate of the weights; 0 freezes them.
        bias_lr_scale: likewise of the bias.
        lr_curve: the fall of the weights' rate over the run, on top of the recipe's steps; None: it stays.
        bias_lr_curve: likewise of the bias.
        weight_decay: this times the weights is added to their gradient.
        bias_weight_decay: likewise of the bias.
        momentum: of the weights; None: that of the run.
        bias_momentum: likewise of the bias.
        norm_limit: after each update the weights of an output are scaled down to this Euclidean norm if
            theirs is larger; 0: no limit.
        contrast_limits: (least, largest) Euclidean norm of an output's weights minus their mean. After each
            update, before norm_limit, weights outside are scaled until their norm is the nearer limit, unless
            it is 0. Only of a convolution; None: no limits.
        per_input: for each input the fields that differ from this spec, such as
            ``({}, {"init": gaussian(0.03), "window": (5, 5)})``; empty: none.
    """

    # The fields that per_input may set.
    _EACH_INPUT: ClassVar[tuple[str, ...]] = (
        *("init", "lr_scale", "lr_curve", "weight_decay", "momentum", "norm_limit", "contrast_limits"),
    )

    neuron: Neuron | None = None
    init: Init = field(default_factory=Init)
    bias: float | None = 0.0
    lr_scale: float = 1.0
    bias_lr_scale: float = 2.0
    lr_curve: RateCurve | None = None
    bias_lr_curve: RateCurve | None = None
    weight_decay: float = 0.0
    bias_weight_decay: float = 0.0
    momentum: float | None = None
    bias_momentum: float | None = None
    norm_limit: float = 0.0
    contrast_limits: tuple[float, float] | None = None
    per_input: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        where = f"layer {self.name}: per_input"
        require(
            not self.per_input or len(self.per_input) == len(self.inputs),
            f"{where} must have one entry per input, {len(self.inputs)}, not {len(self.per_input)}",
        )
        for values in self.per_input:
            for name in values:
                one_of(f"{where}: a key", name, self._EACH_INPUT)
        self._set("per_input", tuple(dict(values) for values in self.per_input))
        inits = (self.init, *(values["init"] for values in self.per_input if "init" in values))
        require(
            self.type == "deconv" or all(init.kind != "bilinear" for init in inits),
            f"layer {self.name}: init=bilinear is for transposed convolutions, not for a {self.type} layer",
        )
        self._set("contrast_limits", self._contrast(self.contrast_limits))
        for values in self.per_input:
            if "contrast_limits" in values:
                cast(dict[str, Any], values)["contrast_limits"] = self._contrast(values["contrast_limits"])

    def _contrast(self, limits: Iterable[float] | None) -> tuple[float, float] | None:
        """Return contrast limits as a pair; ValueError if they are wrong or the layer cannot have any."""
        if limits is None:
            return None
        where = f"layer {self.name}: contrast_limits"
        require(self.type == "conv", f"{where} are for convolutions, not for a {self.type} layer")
        pair = tuple(limits) if isinstance(limits, Iterable) else ()
        require(len(pair) == 2, f"{where} must be a pair of numbers (least, largest), not {limits!r}")
        low, high = (real(where, value) for value in pair)
        require(0 <= low <= high > 0, f"{where} must be 0 <= least <= largest > 0, not {limits!r}")
        return low, high

    @property
    def limits(self) -> list[str]:
        """The names of the limits that this layer has."""
        given = {"contrast_limits": self.contrast_limits is not None, "norm_limit": self.norm_limit > 0}
        return [name for name, kept in given.items() if kept]

    def for_input(self: W, index: int) -> W:
        """Return this spec with the values that hold for one of its inputs."""
        if not self.per_input:
            return self
        return dataclasses.replace(self, per_input=(), **self.per_input[index])


W = TypeVar("W", bound=WeightedSpec)
