"""ResNet for CIFAR-10: three stages of blocks of two 3x3 convolutions, each added to its own input.

Source: He, Zhang, Ren and Sun 2015, "Deep Residual Learning for Image Recognition", section 4.2, with
shortcuts of option A: where the size halves, every second pixel, between channels of zeros.
"""

from __future__ import annotations

from cconvnet.nets.blocks import conv_bn, normalised
from cconvnet.nets.recipe import LrStep, NetSpec, TrainRecipe
from cconvnet.nets.shapes import Shape

STEPS = (LrStep(82, 0.1), LrStep(123, 0.1))  # 32,000 and 48,000 of 64,000 steps
RECIPE = TrainRecipe(batch=128, epochs=164, lr=0.1, steps=STEPS, pad=4, mirror=True)


def build(image_shape: Shape = (32, 32, 3), classes: int = 10, depth: int = 20) -> NetSpec:
    """Return the network of `depth` layers with weights, 6 n + 2, for images that are not cropped."""
    x = conv_bn(normalised(image_shape), "conv1", 16, 3).relu()
    for stage, width in enumerate((16, 32, 64), 1):
        for i in range((depth - 2) // 6):
            name, stride = f"layer{stage}_{i}", 2 if stage > 1 and i == 0 else 1
            y = conv_bn(conv_bn(x, f"{name}_conv1", width, 3, stride).relu(), f"{name}_conv2", width, 3)
            if stride > 1:
                zeros = [None] * ((width - x.channels) // 2)
                x = x.avgpool(1, 2).select([*zeros, *range(x.channels), *zeros])
            x = (x + y).relu()
    return x.mean().fc(classes, weight_decay=0.0001, name="fc").softmax(f"resnet{depth}", RECIPE)
