"""Shapes of a network's activations and weights, from its spec alone.

A network that runs takes its shapes from the problem structs of its layers, on a device. This module has the
same rules in a few lines, to inspect or rewrite a network without running it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cconvnet._problem import (
    ContrastNormProblem,
    ConvProblem,
    DropoutProblem,
    FcProblem,
    LocalProblem,
    LrnProblem,
    NeuronProblem,
    PoolProblem,
)
from cconvnet.checks import whole
from cconvnet.nets.layer_spec import DATA, LayerSpec
from cconvnet.nets.specs import (
    BatchNormSpec,
    BlurSpec,
    ConcatSpec,
    ContrastNormSpec,
    ConvSpec,
    DeconvSpec,
    DropoutSpec,
    FcSpec,
    FilterSpec,
    LocalSpec,
    LrnSpec,
    PoolSpec,
    RbfSpec,
    SelectSpec,
    UnpoolSpec,
    WindowsSpec,
)
from cconvnet.nets.values import Init, Pair, both_sides, gaussian, require

if TYPE_CHECKING:
    from cconvnet.nets.recipe import NetSpec

Shape = tuple[int, int, int]  # (H, W, C) of one image's activation; (1, 1, C) after an FC layer


def windows(
    size: int, window: int, stride: int, padding: int | Pair, rounding: str, dilation: int = 1
) -> int:
    """Return how many windows fit along one axis; below 1 if none does."""
    room = size + sum(both_sides(padding)) - ((window - 1) * dilation + 1)
    return 1 + (-(-room // stride) if rounding == "ceil" else room // stride)


def pool_problem(spec: WindowsSpec, image: tuple[int, int, int, int]) -> PoolProblem:
    """Return the problem of a pooling, or of its unpooling, of images (N, H, W, C)."""
    return PoolProblem(
        *image, **spec.windows, count_padding=isinstance(spec, PoolSpec) and spec.count_padding
    )


def pool_outputs(spec: WindowsSpec, shape: Shape) -> Pair:
    """Return how many windows a pooling layer, or an unpooling, has in either direction."""
    if spec.outputs is not None:
        return spec.outputs
    counts = []
    for size, window, stride, padding in zip(shape, spec.window, spec.stride, spec.padding, strict=False):
        # Windows that begin behind the last pixel would be empty.
        most = (size - 1 + both_sides(padding)[0]) // stride + 1
        counts.append(min(most, windows(size, window, stride, padding, spec.rounding)))
    return counts[0], counts[1]


def transposed(spec: DeconvSpec, image: tuple[int, int, int, int], precision: str = "fp32") -> ConvProblem:
    """Return the convolution whose input's gradient a transposed convolution is.

    Args:
        spec: the layer, with the values that hold for one input.
        image: (N, H, W, C) of that input.
        precision: of the products.

    Raises:
        ValueError: they do not fit.
    """
    n, h, w, c = image

    def outputs(axis: int) -> int:
        stride = spec.stride[axis]
        least = (image[1 + axis] - 1) * stride + spec.window[axis] - sum(both_sides(spec.padding[axis]))
        given = least if spec.outputs is None else spec.outputs[axis]
        low, high = max(1, least), least + stride - 1
        require(low <= given <= high, f"outputs must be from {low} to {high} along {'HW'[axis]}, not {given}")
        return whole("outputs", given, 1)

    return ConvProblem(
        n,
        outputs(0),
        outputs(1),
        spec.filters,
        c,
        *spec.window,
        spec.stride,
        spec.padding,
        spec.groups,
        precision=precision,
        outputs=(h, w),
    )


def check_deconv(spec: DeconvSpec, channels: int) -> None:
    """Check the filters and the groups of a transposed convolution that reads so many channels.

    Raises:
        ValueError: they do not fit.
    """
    filters, groups = whole("filters", spec.filters, 1), whole("groups", spec.groups, 1)
    for name, count in (("c", channels), ("filters", filters)):
        require(count % groups == 0, f"groups ({groups}) must divide {name} ({count})")
    require(
        spec.init.kind != "bilinear" or filters == channels,
        f"filters must be {channels}, as many as the channels that init=bilinear interpolates, not {filters}",
    )


def output_channels(spec: LayerSpec, inputs: Sequence[int]) -> int:
    """Return how many channels a layer's output has, by those of its inputs."""
    match spec:
        case FilterSpec():
            return spec.filters
        case FcSpec():
            return spec.outputs
        case RbfSpec():
            return len(spec.codes)
        case SelectSpec():
            return len(spec.channels)
        case ConcatSpec():
            return sum(inputs)
    return inputs[0]


def output_shape(spec: LayerSpec, inputs: Sequence[Shape]) -> Shape:
    """Return the shape of a layer's output.

    Raises:
        ValueError: naming the layer, if no window fits or its inputs give several shapes.
    """
    channels = output_channels(spec, [c for *_, c in inputs])
    if isinstance(spec, FcSpec | RbfSpec):
        return 1, 1, channels
    if isinstance(spec, PoolSpec):
        found = {(*pool_outputs(spec, shape), shape[2]) for shape in inputs}
    elif isinstance(spec, ConvSpec | LocalSpec):
        found = set()
        for index, shape in enumerate(inputs):
            own = spec.for_input(index)
            p, q = (
                windows(
                    shape[axis],
                    own.window[axis],
                    own.stride[axis],
                    own.padding[axis],
                    own.rounding,
                    own.dilation[axis],
                )
                for axis in range(2)
            )
            found.add((p, q, channels))
    elif isinstance(spec, DeconvSpec):
        try:
            problems = [transposed(spec.for_input(index), (1, *shape)) for index, shape in enumerate(inputs)]
        except ValueError as error:
            raise ValueError(f"layer {spec.name}: {error}; it reads {text_of(inputs)}") from None
        found = {(problem.h, problem.w, channels) for problem in problems}
    elif isinstance(spec, UnpoolSpec):
        try:
            found = {unpooled(spec, inputs)}
        except ValueError as error:
            raise ValueError(f"layer {spec.name}: {error}") from None
    elif isinstance(spec, ConcatSpec):
        if len({shape[:2] for shape in inputs}) != 1:
            raise ValueError(
                f"layer {spec.name}: its inputs must have one height and width, not {text_of(inputs)}"
            )
        found = {(*inputs[0][:2], channels)}
    elif isinstance(spec, SelectSpec):
        found = {(*shape[:2], channels) for shape in inputs}
    else:
        found = set(inputs)
    if len(found) != 1:
        raise ValueError(f"layer {spec.name}: its inputs must give one shape, not {text_of(sorted(found))}")
    shape = found.pop()
    if min(shape) < 1:
        raise ValueError(
            f"layer {spec.name}: its window is larger than the padded image; it reads {text_of(inputs)}"
        )
    return shape


def unpooled(spec: UnpoolSpec, inputs: Sequence[Shape]) -> Shape:
    """Return the shape of an unpooling's output, that of what the pooling reads.

    Raises:
        ValueError: the inputs do not fit.
    """
    if len(inputs) != 2:
        raise ValueError(f"inputs must be two, values and what the pooling reads, not {len(inputs)}")
    values, image = inputs
    pooled = (*pool_outputs(spec, image), image[2])
    if values != pooled:
        raise ValueError(
            f"its values must have the shape of the pooling's output, {text_of([pooled])}, "
            f"not {text_of([values])}"
        )
    return image


def text_of(shapes: Sequence[Shape]) -> str:
    """Return shapes as texts such as "16x16x32"."""
    return ", ".join("x".join(map(str, shape)) for shape in shapes)


def check_layer(spec: LayerSpec, inputs: Sequence[Shape]) -> None:
    """Check a layer as the network will that runs it, without making it.

    Raises:
        ValueError: naming the layer, what does not fit, and the shapes that it reads.
    """
    try:
        for index, shape in enumerate(inputs):
            _check_input(spec, index, shape)
    except ValueError as error:
        raise ValueError(f"layer {spec.name}: {error}; it reads {text_of(inputs)}") from None


def _check_input(spec: LayerSpec, index: int, shape: Shape) -> None:
    """Check a layer with one of its inputs; the problem structs hold the rules."""
    h, w, c = shape
    image = (1, h, w, c)
    match spec:
        case ConvSpec() | LocalSpec():
            own = spec.for_input(index)
            k, groups = whole("filters", spec.filters, 1), whole("groups", own.groups, 1)
            problem = LocalProblem if isinstance(spec, LocalSpec) else ConvProblem
            r, s = own.window
            problem(*image, k, r, s, own.stride, own.padding, groups, own.rounding, dilation=own.dilation)
        case DeconvSpec():
            check_deconv(spec.for_input(index), c)
            transposed(spec.for_input(index), image)
        case FcSpec():
            FcProblem(1, h * w * c, whole("outputs", spec.outputs, 1))
        case PoolSpec():
            pool_problem(spec, image)
        case UnpoolSpec() if index == 1:
            pool_problem(spec, image)
        case LrnSpec():
            size, groups = whole("size", spec.size, 1), whole("groups", spec.groups, 1)
            LrnProblem(*image, size, spec.alpha, spec.beta, spec.k, groups, spec.region)
        case ContrastNormSpec():
            ContrastNormProblem(*image, whole("size", spec.size, 1), spec.alpha, spec.beta, spec.k)
        case DropoutSpec():
            DropoutProblem(h * w * c, spec.keep)
        case SelectSpec():
            require(max(spec.copied) < c, f"channels must be below {c}, not {max(spec.copied)}")
        case RbfSpec():
            length = len(spec.codes[0])
            require(length == h * w * c, f"codes must have {h * w * c} signs, not {length}")
        case BlurSpec():
            require(spec.size <= min(h, w), f"size must be at most the image's side, not {spec.size}")
    neuron = getattr(spec, "neuron", None)
    if neuron is not None:
        NeuronProblem(h * w * c, neuron.kind, neuron.a, neuron.b)


def shapes(spec: NetSpec) -> dict[str, Shape]:
    """Return the output's shape of every layer by its name, and of "data".

    Raises:
        ValueError: as :func:`output_shape`, or a layer reads one that does not come before it.
    """
    found: dict[str, Shape] = {DATA: (spec.input.height, spec.input.width, spec.input.channels)}
    for layer in spec.layers:
        for name in layer.inputs:
            if name not in found:
                raise ValueError(f"layer {layer.name}: no layer before it is called {name!r}")
        found[layer.name] = output_shape(layer, [found[name] for name in layer.inputs])
    return found


def fan_in(spec: FilterSpec | FcSpec, index: int, shape: Shape) -> int:
    """Return how many weights each output has for the input of this index."""
    if isinstance(spec, FcSpec):
        return math.prod(shape)
    own = spec.for_input(index)
    # Windows of a transposed convolution overlap: this many of them add to an output at most.
    overlap = own.stride if isinstance(own, DeconvSpec) else (1, 1)
    r, s = (-(-size // step) for size, step in zip(own.window, overlap, strict=True))
    return r * s * (shape[2] // own.groups)


def weight_shape(spec: FilterSpec | FcSpec, index: int, shape: Shape) -> tuple[int, ...]:
    """Return the shape of the weights for the input of this index, without a local layer's positions."""
    if isinstance(spec, FcSpec):
        return spec.outputs, math.prod(shape)
    own = spec.for_input(index)
    if isinstance(own, DeconvSpec):
        return shape[2], *own.window, own.filters // own.groups
    return own.filters, *own.window, shape[2] // own.groups


def plain_init(init: Init, weights: int) -> Init:
    """Return the same distribution, for outputs of so many weights, as a plain Gaussian."""
    return gaussian(math.sqrt(2 / weights)) if init.kind == "he" else init


def parameters(spec: NetSpec, found: Mapping[str, Shape] | None = None) -> dict[str, int]:
    """Return how many weights and biases, or gammas and betas, each layer that has some learns."""
    found = found or shapes(spec)
    counts = {}
    for layer in spec.layers:
        if isinstance(layer, BatchNormSpec):
            counts[layer.name] = 2 * found[layer.name][2]
        if not isinstance(layer, FilterSpec | FcSpec):
            continue
        p, q, k = found[layer.name]
        weights = sum(_products(layer, index, found[name]) for index, name in enumerate(layer.inputs))
        biases = 0 if layer.bias is None else k
        if isinstance(layer, LocalSpec):
            weights, biases = p * q * weights, p * q * biases
        elif isinstance(layer, ConvSpec) and not layer.shared_bias:
            biases *= p * q
        counts[layer.name] = weights + biases
    return counts


def multiply_adds(spec: NetSpec, found: Mapping[str, Shape] | None = None) -> dict[str, int]:
    """Return how many products each layer with weights adds up for one image."""
    found = found or shapes(spec)
    counts = {}
    for layer in spec.layers:
        if isinstance(layer, FilterSpec | FcSpec):
            read = [found[name] for name in layer.inputs]
            # Each place multiplies by all weights: of the output, or of what a transposed convolution reads.
            places = read if isinstance(layer, DeconvSpec) else [found[layer.name]] * len(read)
            counts[layer.name] = sum(
                places[index][0] * places[index][1] * _products(layer, index, shape)
                for index, shape in enumerate(read)
            )
    return counts


def _products(layer: FilterSpec | FcSpec, index: int, shape: Shape) -> int:
    return math.prod(weight_shape(layer, index, shape))
