"""A builder of networks: values that know their shape, whose methods add layers.

    >>> x = image(32, 32, 3).conv(32, 5, pad=2).relu().maxpool(3, 2)
    >>> x = (x + x.conv(32, 3, pad=1)).relu()
    >>> net = x.mean().dropout(0.5).fc(10).softmax(name="mine")
    >>> print(net.table())

A value is immutable: two layers that read the same value are two branches. Nothing is computed here. The
result of :meth:`Value.softmax` is plain data, a :class:`~cconvnet.nets.NetSpec`, made of the layers that lead
to it and to its heads.

Sizes are (height, width) or one number for both. The call that adds a layer refuses one that does not fit.

Layers are named by type and order: conv1, pool1, conv2. ``name=`` gives another name. An activation function
without a name of its own becomes part of the product before it, unless something else reads the product.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from cconvnet.checks import real
from cconvnet.nets.arguments import (
    Pad,
    Place,
    Size,
    Weights,
    as_neuron,
    filter_fields,
    weighted_fields,
    window_fields,
)
from cconvnet.nets.ends import End
from cconvnet.nets.layer_spec import LayerSpec, WeightedSpec
from cconvnet.nets.plan import Node, new_node
from cconvnet.nets.recipe import InputSpec
from cconvnet.nets.shapes import text_of
from cconvnet.nets.specs import (
    BatchNormSpec,
    BlurSpec,
    ConcatSpec,
    ContrastNormSpec,
    ConvSpec,
    DeconvSpec,
    DropoutSpec,
    FcSpec,
    LocalSpec,
    LrnSpec,
    MaxSpec,
    NeuronSpec,
    PoolSpec,
    RbfSpec,
    SelectSpec,
    SumSpec,
    UnpoolSpec,
)
from cconvnet.nets.values import Neuron, as_pair, require


@dataclass(frozen=True, eq=False, repr=False)
class Value(End):
    """The output of a layer, or the images, of which further layers are made.

    Each method returns a new value. ``x + y`` is the elementwise sum; see also :func:`concat` and
    :func:`maximum`. :func:`image` makes the first value.
    """

    def __repr__(self) -> str:
        return f"<{self.name}: {text_of([self.shape])}>"

    @property
    def height(self) -> int:
        """The height of its activation."""
        return self.shape[0]

    @property
    def width(self) -> int:
        """The width of its activation."""
        return self.shape[1]

    @property
    def channels(self) -> int:
        """The number of its channels."""
        return self.shape[2]

    # ---- layers with weights ----

    def conv(
        self,
        filters: int,
        window: Size,
        stride: Size = 1,
        pad: Pad = 0,
        *,
        groups: int = 1,
        rounding: str = "floor",
        shared_bias: bool = True,
        dilation: Size = 1,
        **more: Unpack[Weights],
    ) -> Value:
        """Add a convolution: ``x.conv(64, 3, pad=1)`` has 64 filters of 3x3 pixels and keeps the size.

        Args:
            filters: how many there are, in all groups together.
            window: the size of a filter in pixels.
            stride: the distance of windows.
            pad: zeros on either side of the image; each direction may have a pair: ``pad=((0, 1), 1)`` adds
                nothing above.
            groups: each group of filters reads its own share of the channels.
            rounding: "floor", or "ceil" for a last window that reads zeros beyond the padding.
            shared_bias: whether all output positions have the same biases.
            dilation: the distance of the pixels that a filter reads.
            **more: see :class:`Weights`.

        Raises:
            ValueError: it does not fit what it reads; the text has its name and the shapes.
        """
        given = filter_fields(filters, window, stride, pad, groups, rounding)
        own = {"shared_bias": shared_bias, "dilation": dilation}
        return self._weighted(ConvSpec, {**given, **own}, more)

    def deconv(
        self,
        filters: int,
        window: Size,
        stride: Size = 1,
        pad: Pad = 0,
        *,
        size: Size | None = None,
        groups: int = 1,
        **more: Unpack[Weights],
    ) -> Value:
        """Add a transposed convolution: ``x.deconv(64, 4, 2, pad=1)`` doubles height and width.

        Each pixel adds its product with the filters to a window of the output. ``init="bilinear"`` makes it
        an interpolation at first, for as many filters as there are channels.

        Args:
            filters: how many channels the output has.
            window: the size of a window of the output.
            stride: the distance of windows.
            pad: what is cut off the output on each side; each direction may have a pair.
            size: of the output; None: (input - 1) * stride + window - pad on both sides. It may be larger by
                less than the stride.
            groups: each group of filters reads its own share of the channels.
            **more: see :class:`Weights`.

        Raises:
            ValueError: it does not fit what it reads; the text has its name and the shapes.
        """
        sizes = {"window": window, "stride": stride, "padding": pad, "outputs": size}
        return self._weighted(DeconvSpec, {"filters": filters, **sizes, "groups": groups}, more)

    def local(
        self,
        filters: int,
        window: Size,
        stride: Size = 1,
        pad: Pad = 0,
        *,
        groups: int = 1,
        rounding: str = "floor",
        **more: Unpack[Weights],
    ) -> Value:
        """Add a convolution whose output positions have filters and biases of their own.

        The arguments are those of :meth:`conv`.
        """
        given = filter_fields(filters, window, stride, pad, groups, rounding)
        return self._weighted(LocalSpec, given, more)

    def fc(self, outputs: int, **more: Unpack[Weights]) -> Value:
        """Add a fully connected layer, which reads its input flattened in the order (H, W, C).

        Args:
            outputs: how many there are.
            **more: see :class:`Weights`.
        """
        return self._weighted(FcSpec, {"outputs": outputs}, more)

    # ---- activation functions ----

    def relu(self, **place: Unpack[Place]) -> Value:
        """Add max(0, x)."""
        return self.neuron("relu", **place)

    def tanh(self, a: float = 1.0, b: float = 1.0, **place: Unpack[Place]) -> Value:
        """Add the hyperbolic tangent: a times tanh of b times x."""
        return self.neuron("tanh", a, b, **place)

    def logistic(self, **place: Unpack[Place]) -> Value:
        """Add 1 / (1 + exp(-x))."""
        return self.neuron("logistic", **place)

    def softrelu(self, **place: Unpack[Place]) -> Value:
        """Add log(1 + exp(x))."""
        return self.neuron("softrelu", **place)

    def brelu(self, a: float, **place: Unpack[Place]) -> Value:
        """Add min(a, max(0, x))."""
        return self.neuron("brelu", a, **place)

    def relu6(self, **place: Unpack[Place]) -> Value:
        """Add min(6, max(0, x)), which is ``brelu(6)``."""
        return self.brelu(6, **place)

    def silu(self, **place: Unpack[Place]) -> Value:
        """Add x / (1 + exp(-x)), also called swish."""
        return self.neuron("silu", **place)

    def neuron(
        self, kind: Neuron | str, a: float = 1.0, b: float | None = None, **place: Unpack[Place]
    ) -> Value:
        """Add any activation function.

        Args:
            kind: one of :data:`cconvnet.nets.NEURONS`, or a Neuron.
            a: the function's first parameter, if it has one.
            b: the second; None: 1 of tanh, 0 of linear.
            **place: see :class:`Place`.
        """
        function = kind if isinstance(kind, Neuron) else as_neuron(kind, a, b)
        return _layer(NeuronSpec, {"neuron": function}, [self], place, function.kind)

    # ---- normalisation ----

    def lrn(
        self,
        size: int = 5,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float = 1.0,
        *,
        groups: int = 1,
        region: str = "across_channels",
        **place: Unpack[Place],
    ) -> Value:
        """Add local response normalisation: x * (k + alpha * sum of x^2)^-beta.

        Args:
            size: how many channels, or how many pixels in either direction, are summed.
            alpha: multiplies the plain sum; :func:`cconvnet.nets.lrn_alpha` converts cuda-convnet's scale.
            beta: the exponent.
            k: added to the sum.
            groups: the groups of channels that are normalised by themselves.
            region: "across_channels" or "same_map".
            **place: see :class:`Place`.
        """
        given = {"size": size, "alpha": alpha, "beta": beta, "k": k, "groups": groups, "region": region}
        return _layer(LrnSpec, given, [self], place)

    def contrast_norm(
        self,
        size: int = 5,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float = 1.0,
        **place: Unpack[Place],
    ) -> Value:
        """Add contrast normalisation in the same map: x * (k + alpha * sum of (x - local mean)^2)^-beta.

        The arguments are those of :meth:`lrn`.
        """
        given = {"size": size, "alpha": alpha, "beta": beta, "k": k}
        return _layer(ContrastNormSpec, given, [self], place, "cnorm")

    def bn(
        self,
        eps: float = 1e-5,
        momentum: float = 0.1,
        gamma: float = 1.0,
        *,
        lr_scale: float = 1.0,
        bias_lr_scale: float = 1.0,
        weight_decay: float = 0.0,
        bias_weight_decay: float = 0.0,
        **place: Unpack[Place],
    ) -> Value:
        """Add batch normalisation: gamma * (x - mean) / sqrt(variance + eps) + beta for each channel.

        Args:
            eps: added to the variance.
            momentum: the share of the batch's statistics in the new running ones, as in PyTorch.
            gamma: its first value; 0 makes a residual block begin as its shortcut.
            lr_scale: multiplies the rate of gamma.
            bias_lr_scale: likewise of beta.
            weight_decay: of gamma; none by default, unlike PyTorch.
            bias_weight_decay: of beta, likewise.
            **place: see :class:`Place`.
        """
        given = {
            "eps": eps,
            "momentum": momentum,
            "gamma": gamma,
            "lr_scale": lr_scale,
            "bias_lr_scale": bias_lr_scale,
            "weight_decay": weight_decay,
            "bias_weight_decay": bias_weight_decay,
        }
        return _layer(BatchNormSpec, given, [self], place, "bn")

    # ---- pooling ----

    def maxpool(
        self,
        window: Size,
        stride: Size | None = None,
        pad: Pad = 0,
        *,
        rounding: str = "floor",
        outputs: Size | None = None,
        **place: Unpack[Place],
    ) -> Value:
        """Add the maximum of each window: ``x.maxpool(2)`` halves the size.

        Args:
            window: the size of a window, which is clipped to the image.
            stride: the distance of windows; None: the window.
            pad: the distance of the first window from the image's edge; if negative, it begins inside.
            rounding: "floor", or "ceil" for a last window that is clipped.
            outputs: how many windows there are in either direction; None: as many as fit.
            **place: see :class:`Place`.
        """
        return _layer(PoolSpec, window_fields("max", window, stride, pad, rounding, outputs), [self], place)

    def avgpool(
        self,
        window: Size,
        stride: Size | None = None,
        pad: Pad = 0,
        *,
        rounding: str = "floor",
        outputs: Size | None = None,
        count_padding: bool = False,
        **place: Unpack[Place],
    ) -> Value:
        """Add the mean of each window.

        Args:
            window: the size of a window, which is clipped to the image.
            stride: the distance of windows; None: the window.
            pad: the distance of the first window from the image's edge; if negative, it begins inside.
            rounding: "floor", or "ceil" for a last window that is clipped.
            outputs: how many windows there are in either direction; None: as many as fit.
            count_padding: whether the padding counts as pixels of 0, as in PyTorch; otherwise the mean is
                that of the window's pixels within the image.
            **place: see :class:`Place`.
        """
        given = window_fields("avg", window, stride, pad, rounding, outputs)
        return _layer(PoolSpec, {**given, "count_padding": count_padding}, [self], place)

    def mean(self, **place: Unpack[Place]) -> Value:
        """Add the mean of each channel over the whole image: global average pooling."""
        return _layer(PoolSpec, window_fields("avg", self.shape[:2]), [self], place, "mean")

    def unpool(self, pool: Value, **place: Unpack[Place]) -> Value:
        """Add max unpooling: each value goes to the place of a max pooling's maximum, and the rest is 0.

        ``x.unpool(pool)`` has the size of what `pool` reads. Values of windows that overlap, and share a
        maximum, are added. Of equal maxima the first, row by row, is the place.

        Args:
            pool: the output of :meth:`maxpool`, whose shape x has.
            **place: see :class:`Place`.

        Raises:
            ValueError: `pool` is of another layer, or x has another shape.
        """
        spec = pool._node.spec if isinstance(pool, Value) else None
        if not isinstance(spec, PoolSpec) or spec.pool != "max":
            raise ValueError(f"unpool needs the output of a max pooling, not {pool!r}")
        return _layer(UnpoolSpec, spec.windows, [self, Value(pool._node.inputs[0])], place)

    # ---- other layers ----

    def dropout(
        self,
        rate: float = 0.5,
        *,
        keep: float | None = None,
        inverted: bool = False,
        enabled: bool = True,
        **place: Unpack[Place],
    ) -> Value:
        """Add dropout: each element is 0 with probability `rate` in training.

        Args:
            rate: the probability, as in PyTorch and Keras; the spec's `keep` is 1 - rate.
            keep: the probability that an element is kept, instead of `rate`.
            inverted: whether kept elements are divided by `keep` in training, as in PyTorch and Keras.
                Otherwise all elements are multiplied by `keep` at test time, as in the 2012 paper.
            enabled: whether elements are dropped; if not, training is like testing.
            **place: see :class:`Place`.
        """
        if keep is None:
            require(real("rate", rate, low=0) < 1, f"rate must be below 1, not {rate}")
            keep = 1 - rate
        real("keep", keep, above=0, high=1)
        return _layer(DropoutSpec, {"keep": keep, "inverted": inverted, "enabled": enabled}, [self], place)

    def select(self, channels: Iterable[int | None], **place: Unpack[Place]) -> Value:
        """Add a selection of channels, in any order and any number of times; None is a channel of zeros."""
        return _layer(SelectSpec, {"channels": tuple(channels)}, [self], place)

    def blur(self, size: int, stdev: float, **place: Unpack[Place]) -> Value:
        """Add a Gaussian blur of each channel over windows of `size`, with this standard deviation."""
        return _layer(BlurSpec, {"size": size, "stdev": stdev}, [self], place)

    def rbf(self, codes: Iterable[str], **place: Unpack[Place]) -> Value:
        """Add -sum (x - code)^2 for each code, a text of "+" and "-" for 1 and -1: LeNet-5's output."""
        return _layer(RbfSpec, {"codes": tuple(codes)}, [self], place)

    def __add__(self, other: Value) -> Value:
        return add(self, other) if isinstance(other, Value) else NotImplemented

    # ---- steps that methods share ----

    def _weighted(self, kind: type[WeightedSpec], given: Mapping[str, Any], more: Weights) -> Value:
        values, place, also = weighted_fields(kind.type, given, more)
        return _layer(kind, values, [self, also] if isinstance(also, Value) else [self, *also], place)


def _layer(
    kind: type[LayerSpec],
    given: Mapping[str, Any],
    inputs: Sequence[Value],
    place: Mapping[str, Any],
    base: str = "",
) -> Value:
    """Return the output of a new layer; see :func:`cconvnet.nets.plan.new_node`."""
    for value in inputs:
        if not isinstance(value, Value):
            raise TypeError(f"a {kind.type} layer reads values that image() began, not {value!r}")
    return Value(new_node(kind, given, tuple(value._node for value in inputs), place, base or kind.type))


def image(
    height: int,
    width: int,
    channels: int = 3,
    *,
    stored: Size | None = None,
    scale: float = 1 / 255,
    center_mean: bool = False,
    mean: Sequence[float] | None = None,
    deviation: Sequence[float] | None = None,
) -> Value:
    """Begin a network with its images: scale * (pixel - mean) / deviation, pixels from 0 to 255.

    Args:
        height: of the images as the first layer reads them.
        width: likewise.
        channels: 3 for colours, 1 for grey.
        stored: the size of the images that height x width are cropped from; None: nothing is cropped.
        scale: multiplies the pixels after the mean is subtracted.
        center_mean: whether the mean of the images' centre is subtracted from every crop, as in the original
            AlexNet. Otherwise it is the mean of the crop's own pixels.
        mean: of each channel, in pixels from 0 to 255; None: that of the training images, for each pixel.
        deviation: of each channel, likewise; None: 1. ``mean=(123.7, 116.3, 103.5), deviation=(58.4, 57.1,
            57.4), scale=1`` are torchvision's, of ImageNet.

    Returns:
        The value that the first layers read.

    Raises:
        ValueError: naming the argument.
    """
    own = {
        name: None if given is None else tuple(given)
        for name, given in (("mean", mean), ("deviation", deviation))
    }
    spec = InputSpec(height, width, channels, scale, center_mean, **own)
    size = (height, width) if stored is None else as_pair("stored", stored)
    if size[0] < height or size[1] < width:
        raise ValueError(
            f"stored ({size[0]}x{size[1]}) must not be smaller than the image ({height}x{width})"
        )
    return Value(Node((height, width, channels), images=(spec, size)))


def concat(*values: Value, **place: Unpack[Place]) -> Value:
    """Join the channels of two or more values of one height and width, in their order."""
    return _layer(ConcatSpec, {}, _several("concat", values), place)


def maximum(*values: Value, **place: Unpack[Place]) -> Value:
    """Add the elementwise maximum of two or more values of one shape; every tied input gets the gradient."""
    return _layer(MaxSpec, {}, _several("maximum", values), place)


def add(*values: Value, coeffs: Sequence[float] = (), **place: Unpack[Place]) -> Value:
    """Add the elementwise sum of two or more values of one shape; ``x + y`` is ``add(x, y)``.

    Args:
        *values: the inputs.
        coeffs: multiply them; empty: all are 1.
        **place: see :class:`Place`.
    """
    inputs = _several("add", values)
    if coeffs and len(coeffs) != len(inputs):
        raise ValueError(f"coeffs must be one for each of the {len(inputs)} values, not {len(coeffs)}")
    return _layer(SumSpec, {"coeffs": tuple(coeffs)}, inputs, place)


def _several(function: str, values: tuple[Value, ...]) -> tuple[Value, ...]:
    if len(values) < 2:
        raise ValueError(f"{function} needs two or more values, not {len(values)}")
    return values
