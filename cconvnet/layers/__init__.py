"""Layers: each joins a spec to the functions of one device's module.

A layer is made once for a fixed batch. Its constructor makes the problem (which does all shape arithmetic)
and takes its memory; forward() and backward() then only call functions of the module with arrays that never
change. A layer knows nothing of training: it reads its inputs' arrays, writes its output's array, and in
the backward pass turns the output's gradient into its parameters' and inputs' gradients.

Modules, in reading order:
    base: Tensor, the base class Layer, and what a layer is given when it is made.
    weighted: the passes of all layers with weights.
    conv, local, fc: layers with weights.
    neuron, pool, lrn, lrn_maxpool, contrast_norm, dropout, elementwise, eltmax, rearrange: layers without.
    softmax: the cost.
    input_transform, copy: layers that the network adds by itself.
    registry: the class for each kind of spec, and the pairs of layers that are fused.
"""

from cconvnet.layers.base import Layer, Place, Tensor
from cconvnet.layers.conv import ConvLayer
from cconvnet.layers.copy import CopyLayer
from cconvnet.layers.dropout import Dropout
from cconvnet.layers.input_transform import InputLayer
from cconvnet.layers.lrn_maxpool import LrnPoolLayer
from cconvnet.layers.registry import can_join, join, layer_type
from cconvnet.layers.softmax import SoftmaxCostLayer
from cconvnet.layers.weighted import initial_weights

__all__ = [
    "ConvLayer",
    "CopyLayer",
    "Dropout",
    "InputLayer",
    "Layer",
    "LrnPoolLayer",
    "Place",
    "SoftmaxCostLayer",
    "Tensor",
    "can_join",
    "initial_weights",
    "join",
    "layer_type",
]
