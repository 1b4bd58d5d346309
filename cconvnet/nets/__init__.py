"""Networks as plain data: what a network is, without anything that runs.

Modules, in reading order:
    values: activation functions, first weights and falling rates, as fields of layers.
    layer_spec: the fields that all layers have, and those of layers with weights.
    specs: one dataclass per layer type.
    recipe: a whole network, its images and its training settings; placing layers on devices.
    costs: the labels and targets that a network's costs need.
    shapes: shapes of activations, numbers of weights and multiply-adds, and checks of layers.
    table: these figures as a table.
    builder: networks of one's own, from values that know their shape.
    arguments, plan, ends: of the builder: arguments that many layers take; the names and order of layers;
        heads and the end.
    blocks: parts that several of the networks below share.
    bitmaps: ten digits as bitmaps, the codes of LeNet-5's classes.
    lenet, cifar_quick, ..., alexnet_2012: the networks that are known by name, one file each.
    catalog: these networks by their names.
    transform: a network at another size, or with its towers written out.
    ablation: a network without one of its parts, as the AlexNet paper compares them.
    dense, fine: a network at every place of a larger image, and at closer places.
    fold: batch normalisation as part of the weights before it.
    cuts: a network that ends earlier, and activation functions apart from products.
    receptive: the pixels that an output depends on.
    serialize: to and from JSON values.
    difference: what differs between two networks.
"""

from cconvnet.nets.builder import Value, add, concat, image, maximum
from cconvnet.nets.catalog import NAMES, build, stored_size
from cconvnet.nets.difference import compare, spec_values, value_text
from cconvnet.nets.layer_spec import DATA, LayerSpec, WeightedSpec
from cconvnet.nets.recipe import InputSpec, LrStep, NetSpec, TrainRecipe, place
from cconvnet.nets.serialize import recipe_from_dict, spec_from_dict, spec_to_dict
from cconvnet.nets.specs import (
    LAYER_TYPES,
    BatchNormSpec,
    BlurSpec,
    ConcatSpec,
    ContrastNormSpec,
    ConvSpec,
    CostSpec,
    DeconvSpec,
    DropoutSpec,
    FcSpec,
    FilterSpec,
    L2CostSpec,
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
    WindowsSpec,
    chain,
    lrn_alpha,
)
from cconvnet.nets.table import NetTable
from cconvnet.nets.values import (
    AREA,
    CONSTANT,
    CURVES,
    NEURONS,
    NO_DISTORTION,
    RELU,
    Distortion,
    Init,
    Neuron,
    Pair,
    RateCurve,
    as_area,
    gaussian,
)

__all__ = [
    "AREA",
    "CONSTANT",
    "CURVES",
    "DATA",
    "LAYER_TYPES",
    "NAMES",
    "NEURONS",
    "NO_DISTORTION",
    "RELU",
    "BatchNormSpec",
    "BlurSpec",
    "ConcatSpec",
    "ContrastNormSpec",
    "ConvSpec",
    "CostSpec",
    "DeconvSpec",
    "Distortion",
    "DropoutSpec",
    "FcSpec",
    "FilterSpec",
    "Init",
    "InputSpec",
    "L2CostSpec",
    "LayerSpec",
    "LocalSpec",
    "LrStep",
    "LrnSpec",
    "MaxSpec",
    "NetSpec",
    "NetTable",
    "Neuron",
    "NeuronSpec",
    "Pair",
    "PoolSpec",
    "RateCurve",
    "RbfSpec",
    "SelectSpec",
    "SoftmaxCostSpec",
    "SumSpec",
    "TrainRecipe",
    "UnpoolSpec",
    "Value",
    "WeightedSpec",
    "WindowsSpec",
    "add",
    "as_area",
    "build",
    "chain",
    "compare",
    "concat",
    "gaussian",
    "image",
    "lrn_alpha",
    "maximum",
    "place",
    "recipe_from_dict",
    "spec_from_dict",
    "spec_to_dict",
    "spec_values",
    "stored_size",
    "value_text",
]
