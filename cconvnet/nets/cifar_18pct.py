"""cuda-convnet's CIFAR-10 network "18% in 20 minutes" (its layers-18pct configuration)."""

from __future__ import annotations

from typing import Any

from cconvnet.nets.builder import Value, image
from cconvnet.nets.recipe import LrStep, NetSpec, TrainRecipe
from cconvnet.nets.specs import lrn_alpha

RECIPE = TrainRecipe(batch=128, epochs=140, lr=0.001, steps=(LrStep(120, 0.1), LrStep(130, 0.1)))


def build(image_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10) -> NetSpec:
    """Return the network for images of `image_shape`, which are not cropped."""
    conv: dict[str, Any] = {"window": 5, "pad": 2, "rounding": "ceil", "weight_decay": 0.004}
    pool: dict[str, Any] = {"window": 3, "stride": 2, "rounding": "ceil"}

    def norm(x: Value, name: str) -> Value:
        return x.lrn(3, lrn_alpha(5e-5, 3, "same_map"), region="same_map", name=name)

    x = image(*image_shape, scale=1.0)
    # The configuration declares the first ReLU after the pooling; the two commute, and here it is fused.
    x = norm(x.conv(32, init=0.0001, **conv).relu().maxpool(**pool), "rnorm1")
    x = norm(x.conv(32, init=0.01, **conv).relu().avgpool(**pool), "rnorm2")
    x = x.conv(64, init=0.01, **conv).relu().avgpool(**pool)
    # A decay of 1 looks like a mistake but is the configuration's.
    return x.fc(classes, init=0.01, weight_decay=1.0, name="fc10").softmax("cifar-18pct", RECIPE)
