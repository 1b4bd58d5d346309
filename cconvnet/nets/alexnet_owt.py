"""AlexNet of "one weird trick", in torchvision's form: a single tower without response normalisation.

Source: Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks"; torchvision's
``alexnet`` and its reference recipe, whose crops of random area are crops of one size here. Dropout is before
the fully connected layers.
"""

from __future__ import annotations

from typing import Any

from cconvnet.nets.builder import image
from cconvnet.nets.recipe import LrStep, NetSpec, TrainRecipe
from cconvnet.nets.shapes import Shape

STEPS = (LrStep(30, 0.1), LrStep(60, 0.1))
RECIPE = TrainRecipe(batch=256, epochs=90, lr=0.01, steps=STEPS, crop=True, mirror=True)


def build(image_shape: Shape = (256, 256, 3), classes: int = 1000) -> NetSpec:
    """Return the network for images of `image_shape`, of which 7/8 of each side is cropped: 224 of 256."""
    h, w, channels = image_shape
    weights: dict[str, Any] = {"weight_decay": 1e-4, "bias_weight_decay": 1e-4, "bias_lr_scale": 1.0}
    conv: dict[str, Any] = {"window": 3, "pad": 1, **weights}
    x = image(h * 7 // 8, w * 7 // 8, channels, stored=(h, w), scale=1 / 58)  # a deviation of about 1
    x = x.conv(64, 11, 4, pad=2, **weights).relu().maxpool(3, 2)
    x = x.conv(192, 5, pad=2, **weights).relu().maxpool(3, 2)
    x = x.conv(384, **conv).relu().conv(256, **conv).relu().conv(256, **conv).relu().maxpool(3, 2)
    for _ in range(2):
        x = x.dropout(0.5, inverted=True).fc(4096, **weights).relu()
    return x.fc(classes, **weights).softmax("alexnet-owt", RECIPE)
