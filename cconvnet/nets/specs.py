"""Layers as plain data: frozen dataclasses, one per layer type.

Nothing here computes. A spec describes a layer and :mod:`cconvnet.layers` runs it, with shapes computed by
the problem structs. :mod:`cconvnet.nets.shapes` computes them without running it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from cconvnet.checks import real, whole
from cconvnet.nets.layer_spec import DATA, LayerSpec, WeightedSpec
from cconvnet.nets.values import (
    RELU,
    Neuron,
    Padding,
    Pair,
    as_padding,
    one_of,
    require,
)


@dataclass(frozen=True, kw_only=True)
class FilterSpec(WeightedSpec):
    """The fields of layers with filters.

    Attributes:
        filters: how many there are, in all groups together.
        window: the size of a filter in pixels.
        stride: the distance of windows.
        padding: zeros on either side of the image; (vertical, horizontal), each a number or (before, after).
        groups: each group of filters reads its own share of the channels.
    """

    _EACH_INPUT: ClassVar[tuple[str, ...]] = (
        *WeightedSpec._EACH_INPUT,
        "window",
        "stride",
        "padding",
        "groups",
    )

    filters: int
    window: Pair
    stride: Pair = (1, 1)
    padding: Padding = (0, 0)
    groups: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._pairs("window", "stride")
        self._set("padding", as_padding(f"layer {self.name}: padding", self.padding))


@dataclass(frozen=True, kw_only=True)
class ConvSpec(FilterSpec):
    """A convolution.

    Attributes:
        rounding: "floor", or "ceil" for a last window that reads zeros beyond the padding.
        shared_bias: whether all output positions have the same biases.
        dilation: the distance of the pixels that a filter reads.
    """

    type: ClassVar[str] = "conv"
    _EACH_INPUT: ClassVar[tuple[str, ...]] = (*FilterSpec._EACH_INPUT, "rounding", "dilation")

    rounding: str = "floor"
    shared_bias: bool = True
    dilation: Pair = (1, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._pairs("dilation")


@dataclass(frozen=True, kw_only=True)
class LocalSpec(FilterSpec):
    """A convolution whose output positions have filters and biases of their own.

    Attributes:
        rounding: as that of a convolution.
    """

    type: ClassVar[str] = "local"
    _EACH_INPUT: ClassVar[tuple[str, ...]] = (*FilterSpec._EACH_INPUT, "rounding")
    shared_bias: ClassVar[bool] = False
    dilation: ClassVar[Pair] = (1, 1)

    rounding: str = "floor"


@dataclass(frozen=True, kw_only=True)
class DeconvSpec(FilterSpec):
    """A transposed convolution: the input's gradient of the convolution with the same windows.

    Each pixel of the input adds its product with the filters to a window of the output. The weights are
    [C, R, S, filters/groups] for an input of C channels.

    Attributes:
        outputs: the height and width of the output; None: (input - 1) * stride + window - padding, the
            smallest of the sizes whose convolution gives the input's. There are as many as the stride.
    """

    type: ClassVar[str] = "deconv"
    _EACH_INPUT: ClassVar[tuple[str, ...]] = tuple(
        name for name in FilterSpec._EACH_INPUT if name not in ("norm_limit", "contrast_limits")
    )
    shared_bias: ClassVar[bool] = True

    outputs: Pair | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.outputs is not None:
            self._pairs("outputs")
        where = f"layer {self.name}: a transposed convolution"
        require(not self.split, f"{where} cannot be split")
        # Its weights lie by inputs, and limits hold for those of an output.
        require(self.norm_limit == 0, f"{where} has no norm_limit")


@dataclass(frozen=True, kw_only=True)
class FcSpec(WeightedSpec):
    """A fully connected layer; its input is flattened in the order (H, W, C).

    Attributes:
        outputs: how many there are.
    """

    type: ClassVar[str] = "fc"
    shared_bias: ClassVar[bool] = True

    outputs: int


@dataclass(frozen=True, kw_only=True)
class NeuronSpec(LayerSpec):
    """An activation function as a layer of its own.

    Attributes:
        neuron: the function.
    """

    type: ClassVar[str] = "neuron"

    neuron: Neuron = RELU


@dataclass(frozen=True, kw_only=True)
class WindowsSpec(LayerSpec):
    """The fields of the windows of a pooling, which are clipped to the image.

    Attributes:
        window: the size of a window.
        stride: the distance of windows.
        padding: the distance of the first window from the image's edge; if negative, it begins inside. Each
            direction may have a pair (before, after).
        rounding: "floor", or "ceil" for a last window that is clipped.
        outputs: how many windows there are in either direction; None: as many as fit.
    """

    window: Pair = (3, 3)
    stride: Pair = (2, 2)
    padding: Padding = (0, 0)
    rounding: str = "floor"
    outputs: Pair | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._pairs("window", "stride")
        self._set("padding", as_padding(f"layer {self.name}: padding", self.padding))
        if self.outputs is not None:
            self._pairs("outputs")

    @property
    def windows(self) -> dict[str, Any]:
        """The fields of the windows by name."""
        names = WindowsSpec.__annotations__
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class PoolSpec(WindowsSpec):
    """The maximum or the mean of each window.

    Attributes:
        pool: "max" or "avg".
        count_padding: whether a mean counts the padding as pixels of 0. Otherwise it is that of the window's
            pixels within the image.
    """

    type: ClassVar[str] = "pool"

    pool: str = "max"
    count_padding: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(f"layer {self.name}: pool", self.pool, ("max", "avg"))
        require(
            self.pool == "avg" or not self.count_padding,
            f"layer {self.name}: count_padding is for means, not for pool={self.pool!r}",
        )


@dataclass(frozen=True, kw_only=True)
class UnpoolSpec(WindowsSpec):
    """Max unpooling: each value goes to the place of a max pooling's maximum, and the rest is 0.

    It has two inputs: a value for each window of the pooling, and what the pooling reads, in which the places
    of maxima are found. The fields are the pooling's. Source: Zeiler and Fergus 2014, "Visualizing and
    understanding convolutional networks", section 2.1.
    """

    type: ClassVar[str] = "unpool"


@dataclass(frozen=True, kw_only=True)
class LrnSpec(LayerSpec):
    """x * (k + alpha * sum of x^2)^-beta, over channels or in the same map; see ``LrnProblem``.

    Attributes:
        size: how many channels, or how many pixels in either direction, are summed.
        alpha: multiplies the plain sum, as in the 2012 paper; see :func:`lrn_alpha` for cuda-convnet's.
        beta: the exponent.
        k: added to the sum.
        groups: the groups of channels that are normalised by themselves.
        region: "across_channels" or "same_map".
    """

    type: ClassVar[str] = "lrn"

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0
    groups: int = 1
    region: str = "across_channels"


def lrn_alpha(scale: float, size: int, region: str = "across_channels") -> float:
    """Return the alpha of cuda-convnet's `scale`, which is divided by the number of values summed."""
    return scale / (size * size if region == "same_map" else size)


@dataclass(frozen=True, kw_only=True)
class ContrastNormSpec(LayerSpec):
    """x * (k + alpha * sum of (x - local mean)^2)^-beta in the same map; cuda-convnet's cnorm.

    Attributes:
        size: how many pixels in either direction are summed.
        alpha: multiplies the sum.
        beta: the exponent.
        k: added to the sum.
    """

    type: ClassVar[str] = "contrast_norm"

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0


@dataclass(frozen=True, kw_only=True)
class BatchNormSpec(LayerSpec):
    """Each channel minus its mean, over its standard deviation, times gamma, plus beta.

    In training mean and variance are those of the batch, of all its pixels. Otherwise they are running ones,
    which each step moves towards the batch's. Source: Ioffe and Szegedy 2015, "Batch Normalization".

    Attributes:
        eps: added to the variance.
        momentum: the share of the batch's statistics in the new running ones, as in PyTorch. The batch's
            variance in them is the unbiased one.
        gamma: the first value of every gamma.
        lr_scale: multiplies the rate of gamma; 0 freezes it.
        bias_lr_scale: likewise of beta.
        weight_decay: this times gamma is added to its gradient.
        bias_weight_decay: likewise of beta.
    """

    type: ClassVar[str] = "batch_norm"

    eps: float = 1e-5
    momentum: float = 0.1
    gamma: float = 1.0
    lr_scale: float = 1.0
    bias_lr_scale: float = 1.0
    weight_decay: float = 0.0
    bias_weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        real(f"layer {self.name}: eps", self.eps, above=0)
        real(f"layer {self.name}: momentum", self.momentum, low=0, high=1)


@dataclass(frozen=True, kw_only=True)
class DropoutSpec(LayerSpec):
    """Dropout: each element is kept with probability `keep` in training and is 0 otherwise.

    Attributes:
        keep: the probability.
        inverted: whether kept elements are divided by `keep` in training. Otherwise all elements are
            multiplied by `keep` at test time, as in the 2012 paper.
        enabled: whether elements are dropped; if not, training is like testing.
    """

    type: ClassVar[str] = "dropout"

    keep: float = 0.5
    inverted: bool = False
    enabled: bool = True


@dataclass(frozen=True, kw_only=True)
class SumSpec(LayerSpec):
    """The elementwise sum of two or more inputs of one shape.

    Attributes:
        coeffs: multiply the inputs; empty: all are 1.
    """

    type: ClassVar[str] = "sum"

    coeffs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("coeffs", tuple(self.coeffs))


@dataclass(frozen=True, kw_only=True)
class MaxSpec(LayerSpec):
    """The elementwise maximum of two or more inputs of one shape; every tied input gets the gradient."""

    type: ClassVar[str] = "max"


@dataclass(frozen=True, kw_only=True)
class ConcatSpec(LayerSpec):
    """The channels of two or more inputs of one height and width, in the order of the inputs."""

    type: ClassVar[str] = "concat"


@dataclass(frozen=True, kw_only=True)
class SelectSpec(LayerSpec):
    """Some of its input's channels, in any order and any number of times, and channels of zeros.

    Attributes:
        channels: for each channel of the output the input's channel that it copies; None for zeros.
    """

    type: ClassVar[str] = "select"

    channels: tuple[int | None, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("channels", tuple(self.channels))
        require(bool(self.channels), f"layer {self.name}: channels must not be empty")
        require(bool(self.copied), f"layer {self.name}: channels must copy at least one channel")
        for channel in self.copied:
            whole(f"layer {self.name}: channels", channel, 0)

    @property
    def copied(self) -> list[int]:
        """The input's channels that are copied, in order."""
        return [channel for channel in self.channels if channel is not None]


@dataclass(frozen=True, kw_only=True)
class BlurSpec(LayerSpec):
    """Each channel convolved with a Gaussian; outside the image are zeros.

    The weights exp(-d^2 / (2 stdev^2)) sum to 1 over the whole window, so edges become darker.

    Attributes:
        stdev: of the Gaussian, in pixels.
        size: of the window in either direction; odd.
    """

    type: ClassVar[str] = "blur"

    stdev: float
    size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        real(f"layer {self.name}: stdev", self.stdev, above=0)
        whole(f"layer {self.name}: size", self.size, 1)
        require(self.size % 2 == 1, f"layer {self.name}: size must be odd, not {self.size}")


@dataclass(frozen=True, kw_only=True)
class RbfSpec(LayerSpec):
    """For each code, minus the squared distance of the input from it: -sum (x - code)^2.

    Attributes:
        codes: texts of one length, "+" for 1 and "-" for -1; a class for each. They do not learn.
    """

    type: ClassVar[str] = "rbf"

    codes: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("codes", tuple(self.codes))
        good = set("".join(self.codes)) <= {"+", "-"} and len({*map(len, self.codes)} - {0}) == 1
        require(good and all(self.codes), f"layer {self.name}: codes must be texts of + and -, of one length")


@dataclass(frozen=True, kw_only=True)
class CostSpec(LayerSpec):
    """The fields of all costs. The gradients of a network's costs are summed.

    Attributes:
        coeff: multiplies the gradient, not the loss that is shown.
        train_only: whether the cost, and every layer that nothing else needs, runs in training only: an
            auxiliary head. Of the costs of a network, all but one are such heads.
    """

    coeff: float = 1.0
    train_only: bool = False


@dataclass(frozen=True, kw_only=True)
class SoftmaxCostSpec(CostSpec):
    """Softmax and cross-entropy against the labels.

    Attributes:
        softmax: the name of the softmax in files that name it apart from the cost.
        per_pixel: whether each pixel of the input has a label. Otherwise all values of the input are logits
            of the image's one label.
        ignore: the label whose rows count neither for the loss nor for the gradient, which are means over the
            others; None: all rows count.
        smoothing: the part of the target that all classes share alike in training, from 0 to 1; the
            label's class gets the rest. The loss of tests is without it.
    """

    type: ClassVar[str] = "softmax_cost"

    softmax: str = "probs"
    per_pixel: bool = False
    ignore: int | None = None
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ignore is not None:
            whole(f"layer {self.name}: ignore", self.ignore, -(2**31))
        real(f"layer {self.name}: smoothing", self.smoothing, low=0, high=1)


@dataclass(frozen=True, kw_only=True)
class L2CostSpec(CostSpec):
    """Half the squared distance of an image's values from its target, such as the coordinates of boxes."""

    type: ClassVar[str] = "l2_cost"


LAYER_TYPES: dict[str, type[LayerSpec]] = {
    spec.type: spec
    for spec in (
        *(ConvSpec, LocalSpec, DeconvSpec, FcSpec, NeuronSpec, PoolSpec, UnpoolSpec, LrnSpec),
        *(
            ContrastNormSpec,
            BatchNormSpec,
            DropoutSpec,
            SumSpec,
            MaxSpec,
            ConcatSpec,
            SelectSpec,
            BlurSpec,
            RbfSpec,
        ),
        *(SoftmaxCostSpec, L2CostSpec),
    )
}

# Each channel depends on itself alone, or on its group: split, a tower reads nothing of the others.
SPLIT_BY_CHANNEL = (
    *(NeuronSpec, PoolSpec, UnpoolSpec, LrnSpec, ContrastNormSpec, BatchNormSpec, DropoutSpec, SumSpec),
    *(MaxSpec, BlurSpec),
)


def chain(*layers: LayerSpec) -> tuple[LayerSpec, ...]:
    """Return the layers in a chain: one without inputs reads the layer before it, the first the images."""
    names = (DATA, *(layer.name for layer in layers))
    return tuple(
        layer if layer.inputs else dataclasses.replace(layer, inputs=(before,))
        for before, layer in zip(names, layers, strict=False)
    )
