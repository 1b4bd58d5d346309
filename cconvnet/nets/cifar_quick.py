"""cuda-convnet's CIFAR-10 network "26% in 80 seconds" (its layers-80sec configuration)."""

from __future__ import annotations

from typing import Any

from cconvnet.nets.builder import image
from cconvnet.nets.recipe import LrStep, NetSpec, TrainRecipe

RECIPE = TrainRecipe(batch=128, epochs=12, lr=0.001, steps=(LrStep(9, 0.1), LrStep(11, 0.1)))


def build(image_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10) -> NetSpec:
    """Return the network for images of `image_shape`, which are not cropped."""
    conv: dict[str, Any] = {"window": 5, "pad": 2, "rounding": "ceil", "weight_decay": 0.004}
    pool: dict[str, Any] = {"window": 3, "stride": 2, "rounding": "ceil"}
    x = image(*image_shape, scale=1.0)
    # The configuration declares the first ReLU after the pooling; the two commute, and here it is fused.
    x = x.conv(32, init=0.0001, **conv).relu().maxpool(**pool)
    x = x.conv(32, init=0.01, **conv).relu().avgpool(**pool)
    x = x.conv(64, init=0.01, **conv).relu().avgpool(**pool)
    x = x.fc(64, init=0.1, weight_decay=0.03, name="fc64").relu()
    return x.fc(classes, init=0.1, weight_decay=0.03, name="fc10").softmax("cifar-quick", RECIPE)
