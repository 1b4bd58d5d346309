"""Layers: each joins a spec to the functions of one device's module.

A layer is made once for a fixed batch. Its constructor makes the problem, which does all shape arithmetic,
and allocates its memory. forward() and backward() then only call functions of the module with arrays that
never change.

A layer knows nothing of training. It reads its inputs' arrays and writes its output's array. In the backward
pass it computes its parameters' and inputs' gradients from the output's.

Modules, in reading order:
    base: activations, the base class Layer, and the site where a layer is built.
    blocks: first layers over blocks of pixels.
    weighted: the passes of all layers with weights.
    conv, local, deconv, fc: layers with weights.
    factors: the weights' gradients of FC layers as products over all shards of a batch.
    columns: FC layers of which each rank computes some of the outputs.
    neuron, pool, lrn, lrn_maxpool, contrast_norm, dropout: layers without weights.
    elementwise, eltmax, rearrange: sums, maxima and other arrangements of inputs.
    rbf: distances from codes.
    cost, softmax, l2_cost: costs.
    input_transform, copy: layers that the network adds by itself.
    registry: the class for each type of spec, and the pairs of layers that are fused.
"""

from cconvnet.layers.base import Layer, Loaded, Place, Site, Tensor
from cconvnet.layers.blocks import over_blocks
from cconvnet.layers.conv import ConvLayer
from cconvnet.layers.copy import CopyLayer
from cconvnet.layers.cost import CostLayer
from cconvnet.layers.dropout import Dropout
from cconvnet.layers.input_transform import ImageBatch, InputLayer
from cconvnet.layers.registry import can_fuse, fuse_layers, joins_channels, layer_type, make_layer
from cconvnet.layers.softmax import SoftmaxCostLayer
from cconvnet.layers.weighted import initial_weights

__all__ = [
    "ConvLayer",
    "CopyLayer",
    "CostLayer",
    "Dropout",
    "ImageBatch",
    "InputLayer",
    "Layer",
    "Loaded",
    "Place",
    "Site",
    "SoftmaxCostLayer",
    "Tensor",
    "can_fuse",
    "fuse_layers",
    "initial_weights",
    "joins_channels",
    "layer_type",
    "make_layer",
    "over_blocks",
]
