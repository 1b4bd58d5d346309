"""The layer class for each type of spec, and the pairs of layers that one kernel computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cconvnet.layers.base import Layer, Site, Tensor
from cconvnet.layers.batch_norm import BatchNormLayer
from cconvnet.layers.contrast_norm import ContrastNormLayer
from cconvnet.layers.conv import ConvLayer
from cconvnet.layers.deconv import DeconvLayer
from cconvnet.layers.dropout import DropoutLayer
from cconvnet.layers.elementwise import SumLayer
from cconvnet.layers.eltmax import MaxLayer
from cconvnet.layers.fc import FcLayer
from cconvnet.layers.l2_cost import L2CostLayer
from cconvnet.layers.local import LocalLayer
from cconvnet.layers.lrn import LrnLayer
from cconvnet.layers.lrn_maxpool import LrnMaxpoolLayer
from cconvnet.layers.neuron import NeuronLayer
from cconvnet.layers.pool import PoolLayer
from cconvnet.layers.rbf import RbfLayer
from cconvnet.layers.rearrange import BlurLayer, ConcatLayer, SelectLayer
from cconvnet.layers.softmax import SoftmaxCostLayer
from cconvnet.layers.unpool import UnpoolLayer
from cconvnet.nets import (
    BatchNormSpec,
    BlurSpec,
    ConcatSpec,
    ContrastNormSpec,
    ConvSpec,
    DeconvSpec,
    DropoutSpec,
    FcSpec,
    L2CostSpec,
    LayerSpec,
    LocalSpec,
    LrnSpec,
    MaxSpec,
    NeuronSpec,
    PoolSpec,
    RbfSpec,
    SelectSpec,
    SoftmaxCostSpec,
    SumSpec,
    UnpoolSpec,
)

_LAYERS: dict[type[LayerSpec], type[Layer]] = {
    ConvSpec: ConvLayer,
    LocalSpec: LocalLayer,
    DeconvSpec: DeconvLayer,
    FcSpec: FcLayer,
    NeuronSpec: NeuronLayer,
    PoolSpec: PoolLayer,
    UnpoolSpec: UnpoolLayer,
    LrnSpec: LrnLayer,
    ContrastNormSpec: ContrastNormLayer,
    BatchNormSpec: BatchNormLayer,
    DropoutSpec: DropoutLayer,
    SumSpec: SumLayer,
    MaxSpec: MaxLayer,
    ConcatSpec: ConcatLayer,
    SelectSpec: SelectLayer,
    BlurSpec: BlurLayer,
    RbfSpec: RbfLayer,
    SoftmaxCostSpec: SoftmaxCostLayer,
    L2CostSpec: L2CostLayer,
}
# The class that may compute a chain of layers, by their types.
_FUSED: dict[tuple[type[LayerSpec], ...], type[Layer]] = {
    (LrnSpec, PoolSpec): LrnMaxpoolLayer,
    (ConvSpec, DropoutSpec): ConvLayer,
    (FcSpec, DropoutSpec): FcLayer,
    (SumSpec, NeuronSpec): SumLayer,
    (BatchNormSpec, NeuronSpec): BatchNormLayer,
    (BatchNormSpec, SumSpec): BatchNormLayer,
    (BatchNormSpec, SumSpec, NeuronSpec): BatchNormLayer,
}


def layer_type(spec: LayerSpec) -> type[Layer]:
    """The class of the layer that a spec describes.

    Raises:
        ValueError: the spec has several inputs and the class takes one.
    """
    kind = _LAYERS[type(spec)]
    if len(spec.inputs) != 1 and not kind.several_inputs:
        raise ValueError(f"inputs must be one layer, not {len(spec.inputs)}")
    return kind


def joins_channels(spec: LayerSpec) -> bool:
    """True if the layer's output is the channels of its inputs, one after the other."""
    return _LAYERS[type(spec)].joins_channels


def can_fuse(chain: Sequence[LayerSpec]) -> bool:
    """True if one layer can do the work of a chain, where each layer alone reads the one before it."""
    kind = _FUSED.get(tuple(map(type, chain)))
    return kind is not None and kind.fuses(chain)


def fuse_layers(chain: Sequence[LayerSpec], inputs: Sequence[Sequence[Tensor]], site: Site) -> Layer:
    """Make the layer that does the work of a chain; see :func:`can_fuse`."""
    return _FUSED[tuple(map(type, chain))].fuse(chain, inputs, site)


def make_layer(spec: LayerSpec, inputs: Sequence[Sequence[Tensor]], site: Site) -> Layer:
    """Make the layer that a spec describes.

    Args:
        spec: the layer.
        inputs: the tensors of each of its inputs: one, or the parts of an activation that is split.
        site: where the layer is built.
    """
    kind: Callable[..., Layer] = layer_type(spec)
    return kind(spec, inputs, site)
