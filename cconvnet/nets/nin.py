"""Network in Network for ImageNet: AlexNet's windows, each convolution followed by two of 1x1.

Source: Lin, Chen and Yan 2013, "Network In Network", and its authors' definition for Caffe.
"""

from __future__ import annotations

from typing import Any

from cconvnet.nets.builder import image
from cconvnet.nets.recipe import NetSpec, TrainRecipe
from cconvnet.nets.shapes import Shape

RECIPE = TrainRecipe(batch=128, epochs=90, lr=0.01, plateau=5, crop=True, mirror=True)


def build(image_shape: Shape = (256, 256, 3), classes: int = 1000) -> NetSpec:
    """Return the network for images of `image_shape`, of which 7/8 of each side is cropped: 224 of 256."""
    h, w, channels = image_shape
    weights: dict[str, Any] = {"weight_decay": 0.0005}
    pool: dict[str, Any] = {"window": 3, "stride": 2, "rounding": "ceil"}
    x = image(h * 7 // 8, w * 7 // 8, channels, stored=(h, w), scale=1 / 58)  # a deviation of about 1
    for filters, window, stride in ((96, 11, 4), (256, 5, 1), (384, 3, 1)):
        x = x.conv(filters, window, stride, pad=window // 2 if stride == 1 else 0, **weights).relu()
        x = x.conv(filters, 1, **weights).relu().conv(filters, 1, **weights).relu().maxpool(**pool)
    x = x.dropout(0.5, inverted=True).conv(1024, 3, pad=1, **weights).relu().conv(1024, 1, **weights).relu()
    return x.conv(classes, 1, **weights).relu().mean().softmax("nin", RECIPE)
