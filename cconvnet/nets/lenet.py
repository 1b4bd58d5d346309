"""A small convolutional network for small images, after LeNet-5, with max pooling and ReLU.

Source: LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition"; the sizes are those of
Caffe's and cuda-convnet's time (20 and 50 filters, 500 hidden units).
"""

from __future__ import annotations

from typing import Any

from cconvnet.nets.recipe import InputSpec, LrStep, NetSpec, TrainRecipe
from cconvnet.nets.specs import ConvSpec, FcSpec, PoolSpec, SoftmaxCostSpec, chain
from cconvnet.nets.values import RELU


def build(image_shape: tuple[int, int, int] = (8, 8, 1), classes: int = 10) -> NetSpec:
    """Return the network for images of `image_shape`, which are not cropped."""
    height, width, channels = image_shape
    # Without padding, the second convolution would have no window left in the 8x8 digits.
    padding = 2 if min(height, width) < 20 else 0
    conv: dict[str, Any] = {"window": (5, 5), "padding": (padding, padding), "weight_decay": 0.0005}
    pool: dict[str, Any] = {"window": (2, 2), "stride": (2, 2), "rounding": "ceil"}
    layers = chain(
        ConvSpec(name="conv1", filters=20, **conv),
        PoolSpec(name="pool1", **pool),
        ConvSpec(name="conv2", filters=50, **conv),
        PoolSpec(name="pool2", **pool),
        FcSpec(name="fc1", outputs=500, neuron=RELU, weight_decay=0.0005),
        FcSpec(name="fc2", outputs=classes, weight_decay=0.0005),
        SoftmaxCostSpec(name="cost"),
    )
    return NetSpec(
        name="lenet",
        layers=layers,
        input=InputSpec(height, width, channels, scale=1 / 255),
        stored=(height, width),
        classes=classes,
        recipe=TrainRecipe(batch=64, epochs=20, lr=0.02, steps=(LrStep(14, 0.1), LrStep(18, 0.1))),
    )
