"""A small convolutional network for small images, after LeNet-5, with max pooling and ReLU.

Source: LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition"; the sizes are those of
Caffe's and cuda-convnet's time (20 and 50 filters, 500 hidden units).
"""

from __future__ import annotations

from cconvnet.nets.builder import image
from cconvnet.nets.recipe import LrStep, NetSpec, TrainRecipe

RECIPE = TrainRecipe(batch=64, epochs=20, lr=0.02, steps=(LrStep(14, 0.1), LrStep(18, 0.1)))


def build(image_shape: tuple[int, int, int] = (8, 8, 1), classes: int = 10) -> NetSpec:
    """Return the network for images of `image_shape`, which are not cropped."""
    # Without padding, the second convolution would have no window left in the 8x8 digits.
    pad = 2 if min(image_shape[:2]) < 20 else 0
    x = image(*image_shape)
    for filters in (20, 50):
        x = x.conv(filters, 5, pad=pad, weight_decay=0.0005).maxpool(2, rounding="ceil")
    x = x.fc(500, weight_decay=0.0005).relu()
    return x.fc(classes, weight_decay=0.0005).softmax("lenet", RECIPE)
