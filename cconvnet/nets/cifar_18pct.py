"""cuda-convnet's CIFAR-10 network "18% in 20 minutes" (its layers-18pct configuration)."""

from __future__ import annotations

from typing import Any

from cconvnet.nets.recipe import InputSpec, LrStep, NetSpec, TrainRecipe
from cconvnet.nets.specs import ConvSpec, FcSpec, LrnSpec, PoolSpec, SoftmaxCostSpec, chain, lrn_alpha
from cconvnet.nets.values import RELU, gaussian


def build(image_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10) -> NetSpec:
    """Return the network for images of `image_shape`, which are not cropped."""
    height, width, channels = image_shape
    conv: dict[str, Any] = {
        "window": (5, 5),
        "padding": (2, 2),
        "rounding": "ceil",
        "neuron": RELU,
        "weight_decay": 0.004,
    }
    pool: dict[str, Any] = {"window": (3, 3), "stride": (2, 2), "rounding": "ceil"}
    rnorm: dict[str, Any] = {
        "size": 3,
        "alpha": lrn_alpha(5e-5, 3, "same_map"),
        "beta": 0.75,
        "region": "same_map",
    }
    layers = chain(
        # The configuration declares this ReLU after the pooling; the two commute, and here it is fused.
        ConvSpec(name="conv1", filters=32, init=gaussian(0.0001), **conv),
        PoolSpec(name="pool1", pool="max", **pool),
        LrnSpec(name="rnorm1", **rnorm),
        ConvSpec(name="conv2", filters=32, init=gaussian(0.01), **conv),
        PoolSpec(name="pool2", pool="avg", **pool),
        LrnSpec(name="rnorm2", **rnorm),
        ConvSpec(name="conv3", filters=64, init=gaussian(0.01), **conv),
        PoolSpec(name="pool3", pool="avg", **pool),
        # A decay of 1 looks like a mistake but is the configuration's.
        FcSpec(name="fc10", outputs=classes, init=gaussian(0.01), weight_decay=1.0),
        SoftmaxCostSpec(name="cost"),
    )
    return NetSpec(
        name="cifar-18pct",
        layers=layers,
        input=InputSpec(height, width, channels),
        stored=(height, width),
        classes=classes,
        recipe=TrainRecipe(batch=128, epochs=140, lr=0.001, steps=(LrStep(120, 0.1), LrStep(130, 0.1))),
    )
