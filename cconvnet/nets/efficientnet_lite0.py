"""EfficientNet-lite0, for small devices: narrow layers, with wide depthwise convolutions between them.

Source: Tan and Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", in its
authors' lite form. They train by RMSprop with stochastic depth; this recipe has their fall of the rate.
"""

from __future__ import annotations

from cconvnet.nets.builder import Value, image
from cconvnet.nets.recipe import NetSpec, TrainRecipe
from cconvnet.nets.shapes import Shape
from cconvnet.nets.values import RateCurve

FALL = RateCurve("epochs", power=0.97 ** (1 / 2.4))
RECIPE = TrainRecipe(256, epochs=350, lr=0.1, schedule=FALL, crop=True, mirror=True)
# Of each block: by how much it widens what it reads, its depthwise window and stride, and its filters.
BLOCKS = [(1, 3, 1, 16), (6, 3, 2, 24), (6, 3, 1, 24), (6, 5, 2, 40), (6, 5, 1, 40), (6, 3, 2, 80)]
BLOCKS += [*2 * [(6, 3, 1, 80)], *3 * [(6, 5, 1, 112)], (6, 5, 2, 192), *3 * [(6, 5, 1, 192)], (6, 3, 1, 320)]


def conv(x: Value, name: str, filters: int, window: int = 1, stride: int = 1, groups: int = 1) -> Value:
    """Add a normalised convolution, padded as by TensorFlow's "SAME": an odd zero is below or right."""
    rows, columns = (max(0, window - (side % stride or stride)) for side in x.shape[:2])
    pad = (rows // 2, -(-rows // 2)), (columns // 2, -(-columns // 2))
    x = x.conv(filters, window, stride, pad, groups=groups, bias=None, weight_decay=1e-5, name=name)
    return x.bn(eps=1e-3, momentum=0.01, name=f"{name}_bn")


def build(image_shape: Shape = (256, 256, 3), classes: int = 1000) -> NetSpec:
    """Return the network for images of `image_shape`, of which 7/8 of each side is cropped: 224 of 256."""
    (h, w, channels), grey = image_shape, (127.5,) * image_shape[2]
    x = image(h * 7 // 8, w * 7 // 8, channels, stored=(h, w), mean=grey, deviation=grey, scale=1.0)
    x = conv(x, "stem", 32, 3, 2).relu6()
    for i, (factor, window, stride, filters) in enumerate(BLOCKS):
        y = conv(x, f"block{i}_expand", factor * x.channels).relu6() if factor > 1 else x
        y = conv(y, f"block{i}_depthwise", y.channels, window, stride, groups=y.channels).relu6()
        y = conv(y, f"block{i}_project", filters)
        x = x + y if x.shape == y.shape else y
    x = conv(x, "head", 1280).relu6().mean().dropout(0.2, inverted=True)
    return x.fc(classes, init=0.01, weight_decay=1e-5, name="fc").softmax("efficientnet-lite0", RECIPE)
