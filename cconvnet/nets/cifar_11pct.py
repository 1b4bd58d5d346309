"""cuda-convnet's CIFAR-10 network "11% in 75 minutes" (its layers-conv-local-11pct configuration).

Response normalisation across nine maps follows the first pooling and precedes the second. Then come two
layers whose filters are not shared between positions. It is trained on random 24x24 crops and mirror images.
"""

from __future__ import annotations

from typing import Any

from cconvnet.nets.recipe import InputSpec, LrStep, NetSpec, TrainRecipe
from cconvnet.nets.specs import (
    ConvSpec,
    FcSpec,
    LocalSpec,
    LrnSpec,
    PoolSpec,
    SoftmaxCostSpec,
    chain,
    lrn_alpha,
)
from cconvnet.nets.values import RELU, gaussian


def build(image_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10) -> NetSpec:
    """Return the network for images of `image_shape`, of which 3/4 of each side is cropped: 24 of 32."""
    height, width, channels = image_shape
    same: dict[str, Any] = {"rounding": "ceil", "neuron": RELU}
    conv: dict[str, Any] = {"filters": 64, "window": (5, 5), "padding": (2, 2), **same}
    local: dict[str, Any] = {"window": (3, 3), "padding": (1, 1), **same}
    local.update(init=gaussian(0.04), weight_decay=0.004)
    pool: dict[str, Any] = {"pool": "max", "window": (3, 3), "stride": (2, 2), "rounding": "ceil"}
    norm: dict[str, Any] = {"size": 9, "alpha": lrn_alpha(0.001, 9), "beta": 0.75, "k": 1.0}
    layers = chain(
        ConvSpec(name="conv1", init=gaussian(0.0001), **conv),
        PoolSpec(name="pool1", **pool),
        LrnSpec(name="rnorm1", **norm),
        ConvSpec(name="conv2", init=gaussian(0.01), **conv),
        LrnSpec(name="rnorm2", **norm),
        PoolSpec(name="pool2", **pool),
        LocalSpec(name="local3", filters=64, **local),
        LocalSpec(name="local4", filters=32, **local),
        FcSpec(name="fc10", outputs=classes, init=gaussian(0.01), weight_decay=0.01),
        SoftmaxCostSpec(name="cost"),
    )
    return NetSpec(
        name="cifar-11pct",
        layers=layers,
        input=InputSpec(height * 3 // 4, width * 3 // 4, channels, center_mean=True),
        stored=(height, width),
        classes=classes,
        # 350 epochs with one of five batches held out for validation, 150 with all, then 10 with a tenth and
        # 10 with a hundredth of the weights' rate. Here all images are there from the start.
        recipe=TrainRecipe(
            batch=128,
            epochs=520,
            lr=0.001,
            steps=(LrStep(500, 0.1, of="weight"), LrStep(510, 0.1, of="weight")),
            crop=True,
            mirror=True,
        ),
    )
