"""cuda-convnet's CIFAR-10 network "13% in 25 minutes" (its layers-conv-local-13pct configuration).

After two convolutions come two layers whose filters are not shared between positions. It is trained on random
24x24 crops and mirror images, and tested on the central crop or on several.
"""

from __future__ import annotations

from typing import Any

from cconvnet.nets.builder import image
from cconvnet.nets.recipe import LrStep, NetSpec, TrainRecipe

# The configuration does not give the number of epochs; these are the 18% network's. Only the weights' rates
# fall, as in the other networks with local layers.
STEPS = (LrStep(120, 0.1, of="weight"), LrStep(130, 0.1, of="weight"))
RECIPE = TrainRecipe(batch=128, epochs=140, lr=0.001, steps=STEPS, crop=True, mirror=True)


def build(image_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10) -> NetSpec:
    """Return the network for images of `image_shape`, of which 3/4 of each side is cropped: 24 of 32."""
    height, width, channels = image_shape
    local: dict[str, Any] = {"rounding": "ceil", "init": 0.04, "weight_decay": 0.004}
    x = image(height * 3 // 4, width * 3 // 4, channels, stored=(height, width), scale=1.0, center_mean=True)
    for sigma in (0.0001, 0.01):
        x = x.conv(64, 5, pad=2, rounding="ceil", init=sigma).relu().maxpool(3, 2, rounding="ceil")
    x = x.local(32, 3, pad=1, name="local3", **local).relu()
    x = x.local(32, 3, pad=1, name="local4", **local).relu()
    return x.fc(classes, init=0.01, weight_decay=0.004, name="fc10").softmax("cifar-13pct", RECIPE)
