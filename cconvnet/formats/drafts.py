"""Networks under construction, as files of other programs describe them, with their weights.

Other programs describe inference: an activation function, a factor or an offset of each channel is a layer of
its own. Here it becomes part of the layer before it where it alone reads that layer.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cconvnet.nets import (
    DATA,
    NEURONS,
    BatchNormSpec,
    ConvSpec,
    DeconvSpec,
    FcSpec,
    FilterSpec,
    InputSpec,
    LayerSpec,
    NetSpec,
    Neuron,
    NeuronSpec,
    SelectSpec,
    SoftmaxCostSpec,
    WeightedSpec,
)
from cconvnet.nets.ends import DEFAULT_RECIPE
from cconvnet.nets.shapes import Shape, check_layer, output_shape, text_of

Array = np.ndarray[Any, Any]

MEAN_IMAGE = "data.mean"  # the tensor that is subtracted from every image, of the input's size
MAX_CHANNELS = 1 << 20
MAX_SELECTED = 1 << 16  # channels of all selections
_ALWAYS = 16 << 20  # bytes of weights that any file may need
_UNFIT = re.compile(r"[^\w-]+")


class Imported(NamedTuple):
    """A network of another program.

    Attributes:
        spec: the network, with a recipe of this library's own.
        tensors: its weights by the names of Network.state, float32, and perhaps MEAN_IMAGE. They may be
            views of the file.
        notes: what is not as in the file, or must be known to use the network.
    """

    spec: NetSpec
    tensors: dict[str, Array]
    notes: list[str]


@dataclass(frozen=True)
class Signal:
    """The output of a layer.

    Attributes:
        layer: its name.
        shape: (H, W, C).
        flat: whether it is a row of values, in the order channel, height, width.
    """

    layer: str
    shape: Shape
    flat: bool = False

    @property
    def is_row(self) -> bool:
        """True if there is one value for each channel, so that the order does not matter."""
        return self.shape[:2] == (1, 1)


class Draft:
    """A network under construction.

    Attributes:
        images: how the first layer reads the images.
        layers: by name, in order.
        tensors: the weights of the layers.
        notes: as of Imported.
    """

    def __init__(self, images: InputSpec, file_bytes: int) -> None:
        """Begin a network.

        Args:
            images: how the first layer reads the images.
            file_bytes: the size of the file. All weights together may need three times as much memory, since
                a small file can ask for any amount of it: by constants, or by weights that many layers share.
        """
        self._selected = 0
        self._room = 3 * file_bytes + _ALWAYS
        self.images = images
        self.layers: dict[str, LayerSpec] = {}
        self.tensors: dict[str, Array] = {}
        self.notes: list[str] = []

    @property
    def data(self) -> Signal:
        """The images."""
        return Signal(DATA, (self.images.height, self.images.width, self.images.channels))

    def add(self, kind: type[LayerSpec], name: str, inputs: Sequence[Signal], **fields: Any) -> Signal:
        """Add a layer.

        Args:
            kind: its spec.
            name: as in the file; it may be changed to one that is free and has no special characters.
            inputs: what it reads.
            **fields: of the spec.

        Raises:
            ValueError: it does not fit what it reads.
        """
        name = self._free(name or kind.type)
        spec = kind(name=name, inputs=tuple(signal.layer for signal in inputs), **fields)
        shapes = [signal.shape for signal in inputs]
        check_layer(spec, shapes)
        shape = output_shape(spec, shapes)
        if shape[2] > MAX_CHANNELS:
            raise ValueError(f"has {shape[2]:,} channels, more than {MAX_CHANNELS:,}")
        self.layers[name] = spec
        flat = all(signal.flat for signal in inputs) and not isinstance(spec, FilterSpec)
        return Signal(name, shape, flat or isinstance(spec, FcSpec))

    def _free(self, wish: str) -> str:
        base = _UNFIT.sub("_", wish).strip("_") or "layer"
        name, number = base, 1
        while name in self.layers or name == DATA:
            number += 1
            name = f"{base}_{number}"
        return name

    # ---- products ----

    def conv(
        self, name: str, x: Signal, weight: Array, bias: Array | None, groups: int = 1, **fields: Any
    ) -> Signal:
        """Add a convolution with a weight [K, C/groups, R, S].

        Raises:
            ValueError: the weight or the bias does not fit.
        """
        _check_filters(x, weight, "K, C/groups", "a convolution")
        k, c, r, s = weight.shape
        if c * groups != x.shape[2]:
            raise ValueError(
                f"the weight {list(weight.shape)} in {groups} groups reads {c * groups} channels, but there "
                f"are {x.shape[2]}"
            )
        fields |= {"filters": k, "window": (r, s), "groups": groups}
        y = self._product(ConvSpec, name, x, bias, fields)
        self._set(y, weight.transpose(0, 2, 3, 1), (k, r, s, c), bias)
        return y

    def deconv(
        self, name: str, x: Signal, weight: Array, bias: Array | None, groups: int = 1, **fields: Any
    ) -> Signal:
        """Add a transposed convolution with a weight [C, K/groups, R, S].

        Raises:
            ValueError: the weight or the bias does not fit.
        """
        _check_filters(x, weight, "C, K/groups", "a transposed convolution")
        c, k, r, s = weight.shape
        if c != x.shape[2]:
            raise ValueError(
                f"the weight {list(weight.shape)} reads {c} channels, but there are {x.shape[2]}"
            )
        fields |= {"filters": k * groups, "window": (r, s), "groups": groups}
        y = self._product(DeconvSpec, name, x, bias, fields)
        self._set(y, weight.transpose(0, 2, 3, 1), (c, r, s, k), bias)
        return y

    def fc(
        self,
        name: str,
        x: Signal,
        weight: Array,
        bias: Array | None,
        outputs_first: bool = True,
        **fields: Any,
    ) -> Signal:
        """Add a fully connected layer, whose weight has the order (C, H, W) of what it reads.

        Args:
            name: of the layer.
            x: what it reads.
            weight: [K, C * H * W], or with the outputs last.
            bias: [K], or None.
            outputs_first: whether the weight is [K, C * H * W].
            **fields: of the spec.

        Raises:
            ValueError: the weight or the bias does not fit.
        """
        if weight.ndim != 2:
            raise ValueError(f"the weight must be a matrix, not {list(weight.shape)}")
        k, count = weight.shape if outputs_first else weight.shape[::-1]
        h, w, c = x.shape
        if count != h * w * c:
            raise ValueError(
                f"the weight {list(weight.shape)} reads {count:,} values, but there are {h * w * c:,}, "
                f"{text_of([x.shape])}"
            )
        y = self._product(FcSpec, name, x, bias, fields | {"outputs": k})
        if outputs_first:
            planes = weight.reshape(k, c, h, w).transpose(0, 2, 3, 1)
        else:
            planes = weight.reshape(c, h, w, k).transpose(3, 1, 2, 0)
        self._set(y, planes, (k, count), bias)
        return y

    def _product(
        self, kind: type[LayerSpec], name: str, x: Signal, bias: Array | None, fields: dict[str, Any]
    ) -> Signal:
        first = fields.pop("first_bias", 0.0)
        return self.add(kind, name, [x], bias=None if bias is None else first, **fields)

    def _set(self, y: Signal, weight: Array, shape: tuple[int, ...], bias: Array | None) -> None:
        self._keep(f"{y.layer}.weight", weight, shape)
        if bias is not None:
            self._keep(f"{y.layer}.bias", _vector("the bias", bias, y.shape[2]))

    def _keep(self, name: str, array: Array, shape: tuple[int, ...] | None = None) -> None:
        """Keep an array as float32 of a shape, row by row; a single value that fills it is not repeated.

        Raises:
            ValueError: the network would need much more memory than the file has.
        """
        shape = array.shape if shape is None else shape
        if _is_uniform(array):
            first = np.array(array.reshape(-1)[0], np.float32)
            self.tensors[name] = np.broadcast_to(first, shape)
            return
        self._reserve(name, array.size)
        with np.errstate(over="ignore"):  # infinities are found at the end
            self.tensors[name] = np.require(array, np.float32, ["C", "A"]).reshape(shape)

    def _reserve(self, name: str, count: int) -> None:
        """Take memory for the values of a tensor, instead of what it had before."""
        old = self.tensors.get(name)
        self._room -= 4 * (count - (0 if old is None or _is_uniform(old) else old.size))
        if self._room < 0:
            raise ValueError("the weights need several times the memory of the file that describes them")

    def select(self, name: str, x: Signal, channels: Sequence[int | None]) -> Signal:
        """Add a selection of channels; None is one of zeros.

        Raises:
            ValueError: all selections together have more than MAX_SELECTED.
        """
        self._selected += len(channels)
        if self._selected > MAX_SELECTED:
            raise ValueError(f"more than {MAX_SELECTED:,} channels are chosen")
        return self.add(SelectSpec, name, [x], channels=tuple(channels))

    # ---- normalisation, activation functions, factors ----

    def norm(self, name: str, x: Signal, vectors: Mapping[str, Array], **fields: Any) -> Signal:
        """Add a batch normalisation with its weight (gamma), bias (beta), mean and variance."""
        if x.flat and not x.is_row:
            raise ValueError("a batch normalisation cannot read a row of values")
        y = self.add(BatchNormSpec, name, [x], **fields)
        for of, vector in vectors.items():
            self._keep(f"{y.layer}.{of}", _vector(of, vector, x.shape[2]))
        if self.tensors[f"{y.layer}.variance"].min() < 0:
            raise ValueError("the variance is negative")
        return y

    def activate(self, name: str, x: Signal, neuron: Neuron, alone: bool) -> Signal:
        """Add an activation function; if it alone reads a product, as part of that."""
        product = self.layers.get(x.layer)
        if alone and isinstance(product, WeightedSpec) and product.neuron is None:
            self.layers[x.layer] = dataclasses.replace(product, neuron=neuron)
            return x
        if re.fullmatch(rf"({'|'.join(NEURONS)})?\d*", name):
            name = f"{x.layer}_{neuron.kind}"
        return self.add(NeuronSpec, name, [x], neuron=neuron)

    def scale(self, name: str, x: Signal, factor: Array, offset: Array, alone: bool) -> Signal:
        """Multiply each channel by a factor, and add an offset.

        Both are single numbers or [C]. Where it alone reads the images, a batch normalisation or a product,
        it becomes part of that.

        Raises:
            ValueError: they do not fit.
        """
        c = x.shape[2]
        if x.flat and not x.is_row and max(factor.size, offset.size) > 1:
            raise ValueError("a factor or an offset for each channel cannot be applied to a row of values")
        f, o = (np.broadcast_to(v.astype(np.float64).reshape(-1), c) for v in (factor, offset))
        spec = self.layers.get(x.layer)
        if alone and x.layer == DATA and self._scale_images(f, o):
            return x
        if alone and isinstance(spec, BatchNormSpec):
            self._scale_tensors(x.layer, f, o)
            return x
        if alone and isinstance(spec, ConvSpec | FcSpec) and spec.neuron is None and spec.shared_bias:
            self._scale_tensors(x.layer, f, o)
            self.layers[x.layer] = dataclasses.replace(spec, bias=spec.bias or 0.0)
            return x
        if factor.size == offset.size == 1:
            return self.add(NeuronSpec, name, [x], neuron=Neuron("linear", float(f[0]), float(o[0])))
        return self.conv(name, x, f.reshape(c, 1, 1, 1), o, groups=c)

    def _scale_tensors(self, layer: str, factor: Array, offset: Array) -> None:
        weight, bias = (self.tensors.get(f"{layer}.{of}") for of in ("weight", "bias"))
        assert weight is not None
        with np.errstate(over="ignore", invalid="ignore"):  # found at the end
            if (factor != 1).any():
                self._reserve(f"{layer}.weight", weight.size)
                across = factor.astype(np.float32).reshape(-1, *[1] * (weight.ndim - 1))
                self.tensors[f"{layer}.weight"] = weight * across
            self._keep(f"{layer}.bias", offset if bias is None else bias * factor + offset)

    def _scale_images(self, factor: Array, offset: Array) -> bool:
        """Make a factor and an offset part of how the images are read; False if they cannot be."""
        images, count = self.images, self.images.channels
        if MEAN_IMAGE in self.tensors and offset.any():
            return False
        if not (factor > 0).all():
            return False
        deviation = np.array(images.deviation or (1.0,) * count)
        mean = np.array(images.mean or (0.0,) * count) - offset * deviation / (images.scale * factor)
        if (factor == factor[0]).all():
            scale = images.scale * float(factor[0])
            self.images = dataclasses.replace(images, scale=scale, mean=self._mean(mean))
        else:
            divided = tuple(map(float, deviation / factor))
            self.images = dataclasses.replace(images, deviation=divided, mean=self._mean(mean))
        return True

    def _mean(self, mean: Array) -> tuple[float, ...] | None:
        return None if MEAN_IMAGE in self.tensors else tuple(map(float, mean))

    def subtract_image(self, mean: Array) -> bool:
        """Subtract [C, H, W] from the images; False if they were changed before."""
        images = self.images
        if images.scale != 1 or images.deviation is not None or any(images.mean or ()):
            return False
        self.images = dataclasses.replace(images, mean=None)
        planes = mean.transpose(1, 2, 0)
        self._keep(MEAN_IMAGE, planes)
        return True

    # ---- the end ----

    def finish(self, name: str, end: Signal, softmax: str | None) -> Imported:
        """Return the network that ends in a layer, without the layers that do not lead to it.

        Args:
            name: of the network.
            end: its answer, or the logits of it.
            softmax: the name of the softmax whose logits `end` is; None: it is the answer itself.

        Raises:
            ValueError: there is no layer, or the network makes no sense.
        """
        needed, layers = {end.layer}, []
        for layer in reversed(self.layers.values()):
            if layer.name in needed:
                needed.update(layer.inputs)
                layers.append(layer)
        if not layers:
            raise ValueError("there is no layer")
        layers.reverse()
        if softmax is not None:
            cost = SoftmaxCostSpec(
                name=self._free("cost"), inputs=(end.layer,), softmax=softmax, per_pixel=not end.is_row
            )
            layers.append(cost)
        images = self.images
        spec = NetSpec(
            _UNFIT.sub("_", name).strip("_") or "net",
            tuple(layers),
            images,
            (images.height, images.width),
            end.shape[2],
            DEFAULT_RECIPE,
        )
        spec.table()
        tensors = {}
        for key, tensor in self.tensors.items():
            if key == MEAN_IMAGE or key.rpartition(".")[0] in needed:
                if not np.isfinite(tensor.reshape(-1)[0] if _is_uniform(tensor) else tensor).all():
                    raise ValueError(f"the weights {key} contain values that are not finite")
                tensors[key] = tensor
        return Imported(spec, tensors, self.notes)


def _check_filters(x: Signal, weight: Array, axes: str, what: str) -> None:
    """Raise ValueError unless a weight has the axes of filters, and a layer with them can read `x`."""
    if weight.ndim != 4 or min(weight.shape) < 1:
        raise ValueError(f"the weight must be [{axes}, R, S], not {list(weight.shape)}")
    if x.flat and not x.is_row:
        raise ValueError(f"{what} cannot read a row of values")


def _is_uniform(array: Array) -> bool:
    """True if all values are one value in memory."""
    return array.size > 0 and array.ndim > 0 and not any(array.strides)


def _vector(what: str, values: Array, count: int) -> Array:
    """Return one value for each channel.

    Raises:
        ValueError: there are others than `count`.
    """
    if values.size != count:
        raise ValueError(f"{what} must have a value for each of the {count:,} channels, not {values.size:,}")
    return values.reshape(count)
