"""A column of the multi-column network for CIFAR-10; the paper averages eight of them.

Source: Ciresan, Meier and Schmidhuber 2012, "Multi-column Deep Neural Networks for Image Classification",
section 3.4. Pooling rounds sizes up, so that the last map has one pixel. The recipe is that of the
digits, but images are only shifted, by at most 5%.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from cconvnet.nets.builder import image
from cconvnet.nets.mcdnn_mnist import RECIPE
from cconvnet.nets.recipe import NetSpec
from cconvnet.nets.shapes import Shape
from cconvnet.nets.values import Distortion, Neuron

SHIFTED = dataclasses.replace(RECIPE, distort=Distortion(translation=5))


def build(image_shape: Shape = (32, 32, 3), classes: int = 10) -> NetSpec:
    """Return the network for images of `image_shape`, which are not cropped."""
    # The deviation of the paper's uniform distribution from -0.05 to 0.05.
    weights: dict[str, Any] = {"neuron": Neuron("tanh", 1.7159, 2 / 3), "init": 0.0289, "bias_lr_scale": 1.0}
    x = image(*image_shape, scale=2 / 255)
    for window in (3, 2, 3, 2):
        x = x.conv(300, window, **weights).maxpool(2, rounding="ceil")
    x = x.fc(300, **weights).fc(100, **weights)
    return x.fc(classes, **{**weights, "neuron": None}).softmax("mcdnn-cifar", SHIFTED)
