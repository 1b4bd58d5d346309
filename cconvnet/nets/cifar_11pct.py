"""cuda-convnet's CIFAR-10 network "11% in 75 minutes" (its layers-conv-local-11pct configuration).

Response normalisation across nine maps follows the first pooling and precedes the second. Then come two
layers whose filters are not shared between positions. It is trained on random 24x24 crops and mirror images.
"""

from __future__ import annotations

from typing import Any

from cconvnet.nets.builder import image
from cconvnet.nets.recipe import LrStep, NetSpec, TrainRecipe
from cconvnet.nets.specs import lrn_alpha

# 350 epochs with one of five batches held out for validation, 150 with all, then 10 with a tenth and 10 with
# a hundredth of the weights' rate. Here all images are there from the start.
STEPS = (LrStep(500, 0.1, of="weight"), LrStep(510, 0.1, of="weight"))
RECIPE = TrainRecipe(batch=128, epochs=520, lr=0.001, steps=STEPS, crop=True, mirror=True)


def build(image_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10) -> NetSpec:
    """Return the network for images of `image_shape`, of which 3/4 of each side is cropped: 24 of 32."""
    height, width, channels = image_shape
    conv: dict[str, Any] = {"window": 5, "pad": 2, "rounding": "ceil"}
    pool: dict[str, Any] = {"window": 3, "stride": 2, "rounding": "ceil"}
    norm: dict[str, Any] = {"size": 9, "alpha": lrn_alpha(0.001, 9)}
    local: dict[str, Any] = {"rounding": "ceil", "init": 0.04, "weight_decay": 0.004}
    x = image(height * 3 // 4, width * 3 // 4, channels, stored=(height, width), scale=1.0, center_mean=True)
    x = x.conv(64, init=0.0001, **conv).relu().maxpool(**pool).lrn(name="rnorm1", **norm)
    x = x.conv(64, init=0.01, **conv).relu().lrn(name="rnorm2", **norm).maxpool(**pool)
    x = x.local(64, 3, pad=1, name="local3", **local).relu()
    x = x.local(32, 3, pad=1, name="local4", **local).relu()
    return x.fc(classes, init=0.01, weight_decay=0.01, name="fc10").softmax("cifar-11pct", RECIPE)
