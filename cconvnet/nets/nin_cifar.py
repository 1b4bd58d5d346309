"""Network in Network for CIFAR-10: small multilayer perceptrons at every position, and a mean for each class.

Source: Lin, Chen and Yan 2013, "Network In Network", and its authors' definition for Caffe. The paper lowers
the rate tenfold, twice, when the training error stops falling. It names neither a rate nor the first biases.
"""

from __future__ import annotations

from typing import Any

from cconvnet.nets.builder import image
from cconvnet.nets.recipe import LrStep, NetSpec, TrainRecipe
from cconvnet.nets.shapes import Shape

STEPS = (LrStep(200, 0.1), LrStep(230, 0.1))
RECIPE = TrainRecipe(batch=128, epochs=250, lr=0.01, steps=STEPS, mirror=True)


def build(image_shape: Shape = (32, 32, 3), classes: int = 10) -> NetSpec:
    """Return the network for images of `image_shape`, which are not cropped."""
    weights: dict[str, Any] = {"weight_decay": 1e-4}
    pool: dict[str, Any] = {"window": 3, "stride": 2, "rounding": "ceil"}
    x = image(*image_shape, scale=1 / 58)  # a deviation of about 1
    x = x.conv(192, 5, pad=2, **weights).relu().conv(160, 1, **weights).relu().conv(96, 1, **weights).relu()
    x = x.maxpool(**pool).dropout(0.5, inverted=True)
    x = x.conv(192, 5, pad=2, **weights).relu().conv(192, 1, **weights).relu().conv(192, 1, **weights).relu()
    x = x.avgpool(**pool).dropout(0.5, inverted=True)
    x = x.conv(192, 3, pad=1, **weights).relu().conv(192, 1, **weights).relu()
    # The classes' ReLU stops those whose sums begin below 0, so all begin above.
    return x.conv(classes, 1, bias=1.0, **weights).relu().mean().softmax("nin-cifar", RECIPE)
