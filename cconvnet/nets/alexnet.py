"""AlexNet as the 2012 paper describes it: a tower on each of two devices, or both on one as channel groups.

Source: Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural Networks",
2012. Where the paper is silent, the settings are the original program's. Biases learn at twice the weights'
rate and do not decay. 224 pixels give 55 outputs because the last window reads zeros beyond the edge.
"""

from __future__ import annotations

from typing import Any

from cconvnet.nets.builder import image
from cconvnet.nets.recipe import LrStep, NetSpec, TrainRecipe
from cconvnet.nets.shapes import Shape

# The rates fall at the epochs at which those of the original's best run did.
STEPS = (LrStep(25, 0.1), LrStep(51, 0.1), LrStep(79, 0.1))
RECIPE = TrainRecipe(128, epochs=90, lr=0.01, steps=STEPS, crop=True, mirror=True, color_noise=0.1)


def build(image_shape: Shape = (256, 256, 3), classes: int = 1000, width: float = 1.0) -> NetSpec:
    """Return AlexNet for images of `image_shape`, of which 7/8 of each side is cropped: 224 of 256.

    `width` multiplies the filters and hidden units of every layer; both towers stay equally wide.
    """
    h, w, channels = image_shape
    n96, n256, n384, n4096 = (max(1, round(count * width / 2)) * 2 for count in (96, 256, 384, 4096))
    weights: dict[str, Any] = {"init": 0.01, "weight_decay": 0.0005}
    conv: dict[str, Any] = {"rounding": "ceil", "split": True, **weights}
    pool: dict[str, Any] = {"window": 3, "stride": 2, "rounding": "ceil"}
    x = image(h * 7 // 8, w * 7 // 8, channels, stored=(h, w), scale=1.0)
    x = x.conv(n96, 11, 4, **conv).relu().lrn(k=2.0, groups=2).maxpool(**pool)
    x = x.conv(n256, 5, pad=2, groups=2, bias=1.0, **conv).relu().lrn(k=2.0, groups=2).maxpool(**pool)
    x = x.conv(n384, 3, pad=1, **conv).relu().conv(n384, 3, pad=1, groups=2, bias=1.0, **conv).relu()
    x = x.conv(n256, 3, pad=1, groups=2, bias=1.0, **conv).relu().maxpool(name="pool5", **pool)
    for i in (6, 7):
        x = x.fc(n4096, bias=1.0, split=True, name=f"fc{i}", **weights).relu().dropout(name=f"dropout{i}")
    return x.fc(classes, device=0, name="fc8", **weights).softmax("alexnet", RECIPE)
