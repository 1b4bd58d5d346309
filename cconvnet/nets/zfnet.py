"""ZFNet, AlexNet with finer first layers, as its authors changed it after they saw its features.

Source: Zeiler and Fergus 2013, "Visualizing and Understanding Convolutional Networks", section 3 and its
figure 3. The normalisation's constants are AlexNet's. The rate falls tenfold when the error stops falling.
"""

from __future__ import annotations

from cconvnet.nets.builder import Value, image
from cconvnet.nets.recipe import NetSpec, TrainRecipe
from cconvnet.nets.shapes import Shape

RECIPE = TrainRecipe(batch=128, epochs=70, lr=0.01, plateau=5, crop=True, mirror=True)
LARGEST = 0.1  # root mean square of a filter; one beyond it is scaled down after each update


def conv(x: Value, filters: int, window: int, stride: int, pad: int) -> Value:
    """Add a convolution and its ReLU."""
    norm = LARGEST * (window * window * x.channels) ** 0.5
    return x.conv(filters, window, stride, pad=pad, init=0.01, norm_limit=norm).relu()


def build(
    image_shape: Shape = (256, 256, 3), classes: int = 1000, last: tuple[int, ...] = (384, 384, 256)
) -> NetSpec:
    """Return the network for images of `image_shape`, of which 7/8 of each side is cropped: 224 of 256.

    `last` are the filters of conv3 to conv5; (512, 1024, 512) is the larger network of the paper.
    """
    h, w, channels = image_shape
    x = image(h * 7 // 8, w * 7 // 8, channels, stored=(h, w), scale=1.0)
    x = conv(x, 96, 7, 2, pad=1).maxpool(3, 2, rounding="ceil").lrn(k=2.0)
    x = conv(x, 256, 5, 2, pad=0).maxpool(3, 2, rounding="ceil").lrn(k=2.0)
    for filters in last:
        x = conv(x, filters, 3, 1, pad=1)
    x = x.maxpool(3, 2, name="pool5")
    for i in (6, 7):
        x = x.fc(4096, init=0.01, name=f"fc{i}").relu().dropout(0.5, inverted=True)
    return x.fc(classes, init=0.01, name="fc8").softmax("zfnet", RECIPE)
