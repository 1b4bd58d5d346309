"""CaffeNet, the AlexNet of Caffe: both towers as channel groups of one, and pooling before normalisation.

Source: Caffe's ``bvlc_reference_caffenet``, whose 450,000 steps are 90 epochs of ImageNet. Biases learn at
twice the weights' rate and do not decay. Caffe divides the alpha of normalisation by the channels summed.
"""

from __future__ import annotations

from typing import Any

from cconvnet.nets.builder import image
from cconvnet.nets.recipe import LrStep, NetSpec, TrainRecipe
from cconvnet.nets.shapes import Shape
from cconvnet.nets.specs import lrn_alpha

STEPS = tuple(LrStep(epoch, 0.1) for epoch in (20, 40, 60, 80))
RECIPE = TrainRecipe(batch=256, epochs=90, lr=0.01, steps=STEPS, crop=True, mirror=True)


def build(image_shape: Shape = (256, 256, 3), classes: int = 1000) -> NetSpec:
    """Return the network for images of `image_shape`, of which it crops 227 of 256 pixels of each side."""
    h, w, channels = image_shape
    alpha, decay = lrn_alpha(1e-4, 5), 0.0005
    conv: dict[str, Any] = {"init": 0.01, "weight_decay": decay}
    x = image(h * 227 // 256, w * 227 // 256, channels, stored=(h, w), scale=1.0)
    x = x.conv(96, 11, 4, **conv).relu().maxpool(3, 2).lrn(alpha=alpha)
    x = x.conv(256, 5, pad=2, groups=2, bias=1.0, **conv).relu().maxpool(3, 2).lrn(alpha=alpha)
    conv |= {"window": 3, "pad": 1}
    x = x.conv(384, **conv).relu().conv(384, groups=2, bias=1.0, **conv).relu()
    x = x.conv(256, groups=2, bias=1.0, **conv).relu().maxpool(3, 2, name="pool5")
    for i in (6, 7):
        x = x.fc(4096, init=0.005, bias=1.0, weight_decay=decay, name=f"fc{i}").relu()
        x = x.dropout(0.5, inverted=True, name=f"drop{i}")
    return x.fc(classes, init=0.01, weight_decay=decay, name="fc8").softmax("caffenet", RECIPE)
