"""The tensors of a network in the layouts that PyTorch, Caffe and ONNX share.

=========== ========================== ==============================
of          here                       there
=========== ========================== ==============================
convolution [K,R,S,C/groups]           [K,C/groups,R,S]
transposed  [C,R,S,K/groups]           [C,K/groups,R,S]
FC layer    [K, H * W * C]             [K, C * H * W]
bias        [K]                        [K]
=========== ========================== ==============================

A normalisation's vectors are weight, bias, running_mean and running_var there. Local layers, and biases of
single pixels, exist only here and keep their layout.

Dropout that multiplies by `keep` at test time, as in 2012, exists only here too. Products that read it have
their weights times `keep` there, which is exact for 0.5.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cconvnet.nets import (
    DATA,
    BatchNormSpec,
    ConvSpec,
    DropoutSpec,
    FcSpec,
    FilterSpec,
    LayerSpec,
    LocalSpec,
    NetSpec,
    PoolSpec,
)
from cconvnet.nets.shapes import Shape, shapes, weight_shape

Array = np.ndarray[Any, Any]
Sizes = tuple[int, ...]

_NORM = {"weight": "weight", "bias": "bias", "mean": "running_mean", "variance": "running_var"}


@dataclass(frozen=True)
class Part:
    """A tensor of a network, here and there.

    Attributes:
        name: here, such as "conv1.weight".
        layer: the layer.
        of: its name within the layer there, such as "running_mean".
        shape: here.
        image: (H, W, C) of what an FC layer's weights read; None: of another tensor.
        scale: multiplies it on the way there.
        reads_images: whether it multiplies the network's images.
        is_filters: whether it is the filters of a convolution without groups.
    """

    name: str
    layer: str
    of: str
    shape: Sizes
    image: Shape | None = None
    scale: float = 1.0
    reads_images: bool = False
    is_filters: bool = False

    @property
    def there(self) -> Sizes:
        """The shape there."""
        if self.image is None and len(self.shape) == 4:
            k, r, s, c = self.shape
            return k, c, r, s
        return self.shape

    def to_there(self, value: Array) -> Array:
        """Return the tensor in the layout there."""
        if self.image is not None:
            value = value.reshape(-1, *self.image).transpose(0, 3, 1, 2)
        elif len(self.shape) == 4:
            value = value.transpose(0, 3, 1, 2)
        found = np.ascontiguousarray(value.reshape(self.there), np.float32)
        return found if self.scale == 1 else found * np.float32(self.scale)

    def to_here(self, value: Array, flip: bool = False) -> Array:
        """Return the tensor in the layout here; with `flip` the channels that it reads are reversed."""
        if self.image is not None:
            h, w, c = self.image
            value = value.reshape(-1, c, h, w).transpose(0, 2, 3, 1)
        elif len(self.shape) == 4:
            value = value.transpose(0, 2, 3, 1)
        if flip:
            value = value[..., ::-1]
        found = np.ascontiguousarray(value, np.float32).reshape(self.shape)
        return found if self.scale == 1 else found / np.float32(self.scale)


def parts(spec: NetSpec) -> list[Part]:
    """Return the tensors that training changes, but for momentum, layer by layer."""
    found = shapes(spec)
    layers = {layer.name: layer for layer in spec.layers}
    return [part for layer in spec.layers for part in _parts(layer, found, layers)]


def _parts(layer: LayerSpec, found: dict[str, Shape], layers: dict[str, LayerSpec]) -> Iterator[Part]:
    if isinstance(layer, BatchNormSpec):
        for own, there in _NORM.items():
            yield Part(f"{layer.name}.{own}", layer.name, there, (found[layer.name][2],))
    if not isinstance(layer, FilterSpec | FcSpec):
        return
    p, q, k = found[layer.name]
    for index, read in enumerate(layer.inputs):
        suffix = f".{index}" if len(layer.inputs) > 1 else ""
        name, of = f"{layer.name}.weight{suffix}", f"weight{suffix}"
        factor, image = _kept(read, layers), found[read]
        if isinstance(layer, FilterSpec):
            shape = weight_shape(layer, index, image)
            shape = (p, q, *shape) if isinstance(layer, LocalSpec) else shape
            # Filters of groups do not read all channels, so that these cannot be exchanged.
            first = read == DATA and layer.for_input(index).groups == 1
            whole = isinstance(layer, ConvSpec) and layer.for_input(index).groups == 1
            yield Part(name, layer.name, of, shape, None, factor, first, whole)
        else:
            shape = weight_shape(layer, index, image)
            yield Part(name, layer.name, of, shape, image, factor, read == DATA)
    if layer.bias is not None:
        shared = not isinstance(layer, ConvSpec | LocalSpec) or layer.shared_bias
        yield Part(f"{layer.name}.bias", layer.name, "bias", (k,) if shared else (p, q, k))


def _kept(name: str, layers: dict[str, LayerSpec]) -> float:
    """Return the factor of test time of the dropout that a product reads, perhaps through maximum pooling."""
    layer = layers.get(name)
    if isinstance(layer, DropoutSpec):
        own = 1.0 if layer.inverted else layer.keep
        return own * _kept(layer.inputs[0], layers)
    if isinstance(layer, PoolSpec):
        return _kept(layer.inputs[0], layers)
    return 1.0


def check_dropout(spec: NetSpec) -> None:
    """Refuse a network with dropout of 2012 before a layer whose weights cannot take up its factor.

    Raises:
        ValueError: The text names the layer.
    """
    layers = {layer.name: layer for layer in spec.layers}
    for layer in spec.layers:
        takes = isinstance(layer, FilterSpec | FcSpec | DropoutSpec | PoolSpec)
        for name in layer.inputs:
            if not takes and _kept(name, layers) != 1:
                raise ValueError(
                    f"layer {layer.name} reads dropout that multiplies at test time ({name}), which other "
                    "programs lack; make it inverted=True"
                )
