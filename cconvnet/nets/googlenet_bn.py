"""GoogLeNet with batch normalisation, as in torchvision: the branch of 5x5 windows has 3x3 ones.

Source: torchvision's `googlenet`, after Szegedy et al. 2014 and 2015. Its heads average over 4x4 windows that
cover the image; here they are windows of 5x5 at a distance of 3, as in the paper.
"""

from __future__ import annotations

from cconvnet.nets.builder import Value, concat, image
from cconvnet.nets.googlenet import MODULES, RECIPE
from cconvnet.nets.recipe import NetSpec
from cconvnet.nets.shapes import Shape


def conv(x: Value, filters: int, window: int = 1, stride: int = 1) -> Value:
    """Add a padded convolution without a bias, normalised, and its ReLU."""
    return x.conv(filters, window, stride, window // 2, bias=None, weight_decay=2e-4).bn(eps=1e-3).relu()


def build(image_shape: Shape = (256, 256, 3), classes: int = 1000) -> NetSpec:
    """Return the network for images of `image_shape`, of which 7/8 of each side is cropped: 224 of 256."""
    (h, w, channels), heads = image_shape, []
    grey = (127.5,) * channels
    x = image(h * 7 // 8, w * 7 // 8, channels, stored=(h, w), mean=grey, deviation=grey, scale=1.0)
    x = conv(conv(conv(x, 64, 7, 2).maxpool(3, 2, rounding="ceil"), 64), 192, 3)
    for name, (one, to3, three, to5, five, last) in MODULES.items():
        if name in ("3a", "4a", "5a"):
            x = x.maxpool(2 if name == "5a" else 3, 2, rounding="ceil")
        threes, fives = conv(conv(x, to3), three, 3), conv(conv(x, to5), five, 3)
        x = concat(conv(x, one), threes, fives, conv(x.maxpool(3, 1, 1), last), name=f"inception_{name}")
        if name in ("4a", "4d"):
            y = conv(x.avgpool(5, 3), 128).fc(1024, weight_decay=2e-4).relu()
            heads.append(y.dropout(0.7, inverted=True).fc(classes, weight_decay=2e-4).head(0.3))
    x = x.mean().dropout(0.2, inverted=True).fc(classes, weight_decay=2e-4)
    return x.softmax("googlenet-bn", RECIPE, heads=heads)
