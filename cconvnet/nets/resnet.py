"""ResNet for ImageNet: blocks of two or three convolutions, each added to its own input.

Source: He, Zhang, Ren and Sun 2015, "Deep Residual Learning for Image Recognition". A block begins as its
shortcut: its last gamma is 0 at first, as in Goyal et al. 2017, "Accurate, Large Minibatch SGD", section 5.1.
"""

from __future__ import annotations

from cconvnet.nets.blocks import conv_bn, normalised, residual
from cconvnet.nets.recipe import LrStep, NetSpec, TrainRecipe
from cconvnet.nets.shapes import Shape

# Blocks in each stage, by the number of layers with weights; from 50 on they are bottlenecks.
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
STEPS = (LrStep(30, 0.1), LrStep(60, 0.1))
RECIPE = TrainRecipe(batch=256, epochs=90, lr=0.1, steps=STEPS, crop=True, mirror=True)


def build(
    image_shape: Shape = (256, 256, 3), classes: int = 1000, depth: int = 50, stride_in: str = "3x3"
) -> NetSpec:
    """Return the network for images of `image_shape`, of which 7/8 of each side is cropped: 224 of 256.

    `stride_in` is where a bottleneck has its stride, "3x3" as in torchvision or "1x1" as in the paper.
    """
    h, w, channels = image_shape
    x = normalised((h * 7 // 8, w * 7 // 8, channels), (h, w))
    x = conv_bn(x, "conv1", 64, 7, 2).relu().maxpool(3, 2, pad=1)
    for stage, count in enumerate(BLOCKS[depth], 1):
        for i in range(count):
            name, width, stride = f"layer{stage}_{i}", 32 << stage, 2 if stage > 1 and i == 0 else 1
            steps = [(width, 3, stride), (width, 3, 1)]
            if depth >= 50:
                first, second = (1, stride) if stride_in == "3x3" else (stride, 1)
                steps = [(width, 1, first), (width, 3, second), (4 * width, 1, 1)]
            x = residual(x, name, steps, stride)
    return x.mean().fc(classes, init=0.01, weight_decay=1e-4, name="fc").softmax(f"resnet{depth}", RECIPE)
