"""SqueezeNet, AlexNet's accuracy with a fiftieth of its weights: narrow 1x1 layers before wide ones.

Source: Iandola et al. 2016, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model
size", and its authors' definition for Caffe, which trains for 170,000 steps, 68 epochs.
"""

from __future__ import annotations

from cconvnet.nets.builder import Value, concat, image
from cconvnet.nets.recipe import NetSpec, TrainRecipe
from cconvnet.nets.shapes import Shape
from cconvnet.nets.values import RateCurve

RECIPE = TrainRecipe(512, epochs=68, lr=0.04, schedule=RateCurve("linear"), crop=True, mirror=True)
# The first convolution, and the fire modules before which the image is pooled.
FORMS = {"1.0": (96, 7, (2, 5, 9)), "1.1": (64, 3, (2, 4, 6))}


def fire(x: Value, squeeze: int, name: str) -> Value:
    """Add a fire module: few channels, then four times as many by 1x1 filters, and by 3x3 ones."""
    x = x.conv(squeeze, 1, weight_decay=2e-4, name=f"{name}_squeeze").relu()
    one = x.conv(4 * squeeze, 1, weight_decay=2e-4, name=f"{name}_expand1").relu()
    return concat(one, x.conv(4 * squeeze, 3, pad=1, weight_decay=2e-4, name=f"{name}_expand3").relu())


def build(
    image_shape: Shape = (256, 256, 3), classes: int = 1000, version: str = "1.0", border: int = 1
) -> NetSpec:
    """Return the network for images of `image_shape`, of which 227 of 256 pixels of each side are cropped.

    `border` pads the last convolution. Without it, as in torchvision's forms, 224 pixels are cropped.
    """
    (h, w, c), side, (filters, window, pools) = image_shape, 227 if border else 224, FORMS[version]
    x = image(h * side // 256, w * side // 256, c, stored=(h, w), scale=1 / 58)  # a deviation of 1
    x = x.conv(filters, window, 2, weight_decay=2e-4).relu()
    for i in range(2, 10):
        x = x.maxpool(3, 2, rounding="ceil") if i in pools else x
        x = fire(x, i // 2 * 16, f"fire{i}")
    x = x.dropout(inverted=True).conv(classes, 1, pad=border, init=0.01, weight_decay=2e-4, name="conv10")
    return x.relu().mean().softmax(f"squeezenet-{version}", RECIPE)
