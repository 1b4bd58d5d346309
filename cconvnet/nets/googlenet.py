"""GoogLeNet: inception modules of four branches, and two heads that help to train the layers below them.

Source: Szegedy et al. 2014, "Going Deeper with Convolutions"; what it leaves open is that of bvlc_googlenet.
"""

from __future__ import annotations

from cconvnet.nets.builder import Value, concat, image
from cconvnet.nets.recipe import LrStep, NetSpec, TrainRecipe
from cconvnet.nets.shapes import Shape

STEPS = tuple(LrStep(epoch, 0.96) for epoch in range(8, 250, 8))
RECIPE = TrainRecipe(batch=32, epochs=250, lr=0.01, steps=STEPS, crop=True, mirror=True)
MODULES = {  # filters of 1x1, of 1x1 before 3x3, of 3x3, of 1x1 before 5x5, of 5x5, of 1x1 behind the pooling
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64), "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64), "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128), "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}  # fmt: skip


def conv(x: Value, filters: int, window: int = 1, stride: int = 1) -> Value:
    """Add a padded convolution and its ReLU."""
    return x.conv(filters, window, stride, window // 2, bias=0.2, weight_decay=2e-4).relu()


def build(image_shape: Shape = (256, 256, 3), classes: int = 1000) -> NetSpec:
    """Return the network for images of `image_shape`, of which 7/8 of each side is cropped: 224 of 256."""
    (h, w, channels), heads = image_shape, []
    x = image(h * 7 // 8, w * 7 // 8, channels, stored=(h, w), scale=1 / 58)  # a deviation of about 1
    x = conv(conv(conv(x, 64, 7, 2).maxpool(3, 2, rounding="ceil").lrn(5, 2e-5), 64), 192, 3).lrn(5, 2e-5)
    for name, (one, to3, three, to5, five, last) in MODULES.items():
        x = x.maxpool(3, 2, rounding="ceil") if name in ("3a", "4a", "5a") else x
        threes, fives = conv(conv(x, to3), three, 3), conv(conv(x, to5), five, 5)
        x = concat(conv(x, one), threes, fives, conv(x.maxpool(3, 1, 1), last), name=f"inception_{name}")
        if name in ("4a", "4d"):
            y = conv(x.avgpool(5, 3), 128).fc(1024, bias=0.2, weight_decay=2e-4).relu()
            heads.append(y.dropout(0.7, inverted=True).fc(classes, weight_decay=2e-4).head(0.3))
    x = x.mean().dropout(0.4, inverted=True).fc(classes, weight_decay=2e-4)
    return x.softmax("googlenet", RECIPE, heads=heads)
