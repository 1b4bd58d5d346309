"""The layer class of each kind of spec, and the pairs of layers that are fused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cconvnet.layers.base import Layer, Place, Tensor
from cconvnet.layers.contrast_norm import ContrastNormLayer
from cconvnet.layers.conv import ConvLayer
from cconvnet.layers.dropout import DropoutLayer
from cconvnet.layers.elementwise import ElementwiseLayer, SumLayer
from cconvnet.layers.eltmax import MaxLayer
from cconvnet.layers.fc import FcLayer
from cconvnet.layers.local import LocalLayer
from cconvnet.layers.lrn import LrnLayer
from cconvnet.layers.lrn_maxpool import LrnPoolLayer
from cconvnet.layers.neuron import NeuronLayer
from cconvnet.layers.pool import PoolLayer
from cconvnet.layers.rearrange import BlurLayer, ConcatLayer, SelectLayer
from cconvnet.layers.softmax import SoftmaxCostLayer
from cconvnet.layers.weighted import WeightedLayer
from cconvnet.nets import (
    BlurSpec,
    ConcatSpec,
    ContrastNormSpec,
    ConvSpec,
    DropoutSpec,
    FcSpec,
    LayerSpec,
    LocalSpec,
    LrnSpec,
    MaxSpec,
    NeuronSpec,
    PoolSpec,
    SelectSpec,
    SoftmaxCostSpec,
    SumSpec,
)

_LAYERS: dict[type[LayerSpec], Any] = {
    ConvSpec: ConvLayer,
    LocalSpec: LocalLayer,
    FcSpec: FcLayer,
    NeuronSpec: NeuronLayer,
    PoolSpec: PoolLayer,
    LrnSpec: LrnLayer,
    ContrastNormSpec: ContrastNormLayer,
    DropoutSpec: DropoutLayer,
    SumSpec: SumLayer,
    MaxSpec: MaxLayer,
    ConcatSpec: ConcatLayer,
    SelectSpec: SelectLayer,
    BlurSpec: BlurLayer,
    SoftmaxCostSpec: SoftmaxCostLayer,
}
_SEVERAL_INPUTS = (WeightedLayer, ElementwiseLayer, ConcatLayer)


def layer_type(spec: LayerSpec) -> Any:
    """The class of the layer a spec describes, to be called with (spec, the tensors of each input, place).

    Raises ValueError if it has too many inputs.
    """
    kind = _LAYERS[type(spec)]
    if len(spec.inputs) != 1 and not issubclass(kind, _SEVERAL_INPUTS):
        raise ValueError(f"inputs must be one layer, not {len(spec.inputs)}")
    return kind


def can_join(first: LayerSpec, second: LayerSpec) -> bool:
    """Whether one layer can do the work of two, the second of which is the only one to read the first."""
    if isinstance(first, LrnSpec) and isinstance(second, PoolSpec):
        return first.region == "across_channels" and second.pool == "max"
    if isinstance(first, ConvSpec | FcSpec) and isinstance(second, DropoutSpec):
        return first.neuron is None or first.neuron.kind == "relu"
    return False


def join(first: LayerSpec, second: LayerSpec, inputs: Sequence[Sequence[Tensor]], place: Place) -> Layer:
    """The layer that does the work of both."""
    if isinstance(first, LrnSpec) and isinstance(second, PoolSpec):
        return LrnPoolLayer(first, second, inputs, place)
    assert isinstance(second, DropoutSpec)
    return (ConvLayer if isinstance(first, ConvSpec) else FcLayer)(first, inputs, place, second)
