"""A column of the multi-column network for MNIST's digits; the paper averages 35 of them.

Source: Ciresan, Meier and Schmidhuber 2012, "Multi-column Deep Neural Networks for Image Classification",
section 3.1. The limits of the distortion are those of the authors' "Deep, Big, Simple Neural Nets for
Handwritten Digit Recognition" of 2010.
"""

from __future__ import annotations

from typing import Any

from cconvnet.nets.builder import image
from cconvnet.nets.recipe import NetSpec, TrainRecipe
from cconvnet.nets.shapes import Shape
from cconvnet.nets.values import Distortion, Neuron, RateCurve

FALL = RateCurve("epochs", 0.001 / 0.00003, power=0.993)
DISTORT = Distortion(rotation=15, scaling=15, alpha=36, sigma=6)
RECIPE = TrainRecipe(batch=1, epochs=800, lr=0.001, momentum=0.0, schedule=FALL, distort=DISTORT)


def build(image_shape: Shape = (29, 29, 1), classes: int = 10) -> NetSpec:
    """Return the network for images of `image_shape`, which are padded to 29x29 if they are smaller."""
    h, w, channels = image_shape
    # The deviation of the paper's uniform distribution from -0.05 to 0.05.
    weights: dict[str, Any] = {"neuron": Neuron("tanh", 1.7159, 2 / 3), "init": 0.0289, "bias_lr_scale": 1.0}
    x = image(h, w, channels, scale=2 / 255)
    x = x.conv(20, 4, pad=((0, max(0, 29 - h)), (0, max(0, 29 - w))), **weights).maxpool(2)
    x = x.conv(40, 5, **weights).maxpool(3).fc(150, **weights)
    return x.fc(classes, **{**weights, "neuron": None}).softmax("mcdnn-mnist", RECIPE)
