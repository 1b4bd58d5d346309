"""OverFeat's two classifiers: AlexNet's successors with larger maps and no normalisation.

Source: Sermanet et al. 2013, "OverFeat: Integrated Recognition, Localization and Detection using
Convolutional Networks", section 3 and its tables. The paper does not say how long it trained.
"""

from __future__ import annotations

from typing import Any

from cconvnet.nets.builder import image
from cconvnet.nets.recipe import LrStep, NetSpec, TrainRecipe
from cconvnet.nets.shapes import Shape

STEPS = tuple(LrStep(epoch, 0.5) for epoch in (30, 50, 60, 70, 80))
RECIPE = TrainRecipe(128, epochs=90, lr=0.05, momentum=0.6, steps=STEPS, crop=True, mirror=True)


def build(image_shape: Shape = (256, 256, 3), classes: int = 1000, accurate: bool = False) -> NetSpec:
    """Return the fast network for images of `image_shape`, or the accurate one.

    The fast one crops 231 of 256 pixels of each side, the accurate one 221.
    """
    h, w, channels = image_shape
    weights: dict[str, Any] = {"init": 0.01, "weight_decay": 1e-5}
    side = 221 if accurate else 231
    x = image(h * side // 256, w * side // 256, channels, stored=(h, w), scale=1 / 58)  # a deviation of 1
    if accurate:
        x = x.conv(96, 7, 2, **weights).relu().maxpool(3).conv(256, 7, **weights).relu().maxpool(2)
    else:
        x = x.conv(96, 11, 4, **weights).relu().maxpool(2).conv(256, 5, **weights).relu().maxpool(2)
    for filters in (512, 512, 1024, 1024) if accurate else (512, 1024, 1024):
        x = x.conv(filters, 3, pad=1, **weights).relu()
    x = x.maxpool(3 if accurate else 2)
    for i, outputs in enumerate((4096 if accurate else 3072, 4096), 1):
        x = x.fc(outputs, **weights, name=f"fc{i}").relu().dropout(0.5, inverted=True)
    name = "overfeat-accurate" if accurate else "overfeat-fast"
    return x.fc(classes, **weights, name="fc3").softmax(name, RECIPE)
