"""cuda-convnet's CIFAR-10 network "13% in 25 minutes" (its layers-conv-local-13pct configuration).

After two convolutions come two layers whose filters are not shared between positions. It is trained on random
24x24 crops and mirror images, and tested on the central crop or on several.
"""

from __future__ import annotations

from typing import Any

from cconvnet.nets.recipe import InputSpec, LrStep, NetSpec, TrainRecipe
from cconvnet.nets.specs import ConvSpec, FcSpec, LocalSpec, PoolSpec, SoftmaxCostSpec, chain
from cconvnet.nets.values import RELU, gaussian


def build(image_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10) -> NetSpec:
    """Return the network for images of `image_shape`, of which 3/4 of each side is cropped: 24 of 32."""
    height, width, channels = image_shape
    same: dict[str, Any] = {"rounding": "ceil", "neuron": RELU}
    conv: dict[str, Any] = {"filters": 64, "window": (5, 5), "padding": (2, 2), **same}
    local: dict[str, Any] = {"filters": 32, "window": (3, 3), "padding": (1, 1), **same}
    local.update(init=gaussian(0.04), weight_decay=0.004)
    pool: dict[str, Any] = {"pool": "max", "window": (3, 3), "stride": (2, 2), "rounding": "ceil"}
    layers = chain(
        ConvSpec(name="conv1", init=gaussian(0.0001), **conv),
        PoolSpec(name="pool1", **pool),
        ConvSpec(name="conv2", init=gaussian(0.01), **conv),
        PoolSpec(name="pool2", **pool),
        LocalSpec(name="local3", **local),
        LocalSpec(name="local4", **local),
        FcSpec(name="fc10", outputs=classes, init=gaussian(0.01), weight_decay=0.004),
        SoftmaxCostSpec(name="cost"),
    )
    return NetSpec(
        name="cifar-13pct",
        layers=layers,
        input=InputSpec(height * 3 // 4, width * 3 // 4, channels, center_mean=True),
        stored=(height, width),
        classes=classes,
        # The configuration does not give the number of epochs; these are the 18% network's. Only the weights'
        # rates fall, as in the other networks with local layers.
        recipe=TrainRecipe(
            batch=128,
            epochs=140,
            lr=0.001,
            steps=(LrStep(120, 0.1, of="weight"), LrStep(130, 0.1, of="weight")),
            crop=True,
            mirror=True,
        ),
    )
