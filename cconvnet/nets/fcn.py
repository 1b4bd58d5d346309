"""FCN: a class for each pixel, by VGG-16 with convolutions for FC layers and learned upsampling.

Source: Long, Shelhamer and Darrell 2015, "Fully Convolutional Networks for Semantic Segmentation". Each
network begins with the weights of the one before it: FCN-32s with VGG-16's, FCN-16s with FCN-32s's. The
paper pads images by 100 pixels and crops the scores; here sides are multiples of 32, which need neither.
"""

from __future__ import annotations

from typing import Any

from cconvnet.nets.blocks import normalised, vgg_blocks
from cconvnet.nets.recipe import NetSpec, TrainRecipe
from cconvnet.nets.shapes import Shape
from cconvnet.nets.values import require
from cconvnet.nets.vgg import BLOCKS, DECAY

RECIPE = TrainRecipe(batch=20, epochs=175, lr=0.0001)


def build(image_shape: Shape = (512, 512, 3), classes: int = 21, stride: int = 32) -> NetSpec:
    """Return the network whose finest scores are `stride` pixels apart: 32, 16 or 8."""
    h, w, _ = image_shape
    require(h % 32 == w % 32 == 0, f"image_shape must have sides that are multiples of 32, not {h}x{w}")
    *_, pool3, pool4, x = vgg_blocks(normalised(image_shape), BLOCKS[16], DECAY)
    for i, window in ((6, 7), (7, 1)):
        x = x.conv(4096, window, pad=window // 2, weight_decay=DECAY, name=f"fc{i}").relu()
        x = x.dropout(0.5, inverted=True)
    score: dict[str, Any] = {"window": 1, "init": 0, "weight_decay": DECAY}
    up: dict[str, Any] = {"bias": None, "init": "bilinear"}
    x, step = x.conv(classes, **score, name="score32"), 32
    for finer in (pool4, pool3)[: {32: 0, 16: 1, 8: 2}[stride]]:
        step //= 2
        scores = finer.conv(classes, **score, name=f"score{step}")
        x = x.deconv(classes, 4, 2, pad=1, **up, name=f"up{step}") + scores
    x = x.deconv(classes, 2 * step, step, pad=step // 2, **up, lr_scale=0, name="up")
    return x.softmax(f"fcn{step}s", RECIPE, per_pixel=True, ignore=255)
