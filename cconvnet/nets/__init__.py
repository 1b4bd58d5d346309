"""Networks as plain data: what a network is, without anything that runs.

Modules, in reading order:
    values: activation functions, first weights and falling rates, as fields of layers.
    specs: one dataclass per layer type.
    recipe: a whole network, its images and its training settings; placing layers on devices.
    lenet, cifar_quick, ..., alexnet_2012: the networks that are known by name, one file each.
    catalog: these networks by their names.
    shapes: shapes of activations and numbers of weights.
    transform: a network at another size, or with its towers written out.
    serialize: to and from JSON values.
    difference: what differs between two networks.
"""

from cconvnet.nets.catalog import NAMES, build, stored_size
from cconvnet.nets.difference import compare, spec_values
from cconvnet.nets.recipe import InputSpec, LrStep, NetSpec, TrainRecipe, place
from cconvnet.nets.serialize import spec_from_dict, spec_to_dict
from cconvnet.nets.specs import (
    DATA,
    LAYER_TYPES,
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
    chain,
    lrn_alpha,
)
from cconvnet.nets.values import CURVES, NEURONS, RELU, Init, Neuron, Pair, RateCurve, gaussian

__all__ = [
    "CURVES",
    "DATA",
    "LAYER_TYPES",
    "NAMES",
    "NEURONS",
    "RELU",
    "BlurSpec",
    "ConcatSpec",
    "ContrastNormSpec",
    "ConvSpec",
    "DropoutSpec",
    "FcSpec",
    "FilterSpec",
    "Init",
    "InputSpec",
    "LayerSpec",
    "LocalSpec",
    "LrStep",
    "LrnSpec",
    "MaxSpec",
    "NetSpec",
    "Neuron",
    "NeuronSpec",
    "Pair",
    "PoolSpec",
    "RateCurve",
    "SelectSpec",
    "SoftmaxCostSpec",
    "SumSpec",
    "TrainRecipe",
    "WeightedSpec",
    "build",
    "chain",
    "compare",
    "gaussian",
    "lrn_alpha",
    "place",
    "spec_from_dict",
    "spec_to_dict",
    "spec_values",
    "stored_size",
]
