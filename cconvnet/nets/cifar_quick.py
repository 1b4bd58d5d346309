"""cuda-convnet's CIFAR-10 network "26% in 80 seconds" (its layers-80sec configuration)."""

from __future__ import annotations

from typing import Any

from cconvnet.nets.recipe import InputSpec, LrStep, NetSpec, TrainRecipe
from cconvnet.nets.specs import ConvSpec, FcSpec, PoolSpec, SoftmaxCostSpec, chain
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
    fc: dict[str, Any] = {"init": gaussian(0.1), "weight_decay": 0.03}
    layers = chain(
        # The configuration declares this ReLU here, before the pooling; the two commute.
        ConvSpec(name="conv1", filters=32, init=gaussian(0.0001), **conv),
        PoolSpec(name="pool1", pool="max", **pool),
        ConvSpec(name="conv2", filters=32, init=gaussian(0.01), **conv),
        PoolSpec(name="pool2", pool="avg", **pool),
        ConvSpec(name="conv3", filters=64, init=gaussian(0.01), **conv),
        PoolSpec(name="pool3", pool="avg", **pool),
        FcSpec(name="fc64", outputs=64, neuron=RELU, **fc),
        FcSpec(name="fc10", outputs=classes, **fc),
        SoftmaxCostSpec(name="cost"),
    )
    return NetSpec(
        name="cifar-quick",
        layers=layers,
        input=InputSpec(height, width, channels),
        stored=(height, width),
        classes=classes,
        recipe=TrainRecipe(batch=128, epochs=12, lr=0.001, steps=(LrStep(9, 0.1), LrStep(11, 0.1))),
    )
