"""AlexNet as the original program ran it in 2012: its configuration 145, a tower on each of two devices.

Source: layers/layers-145.cfg and layer-params-145.cfg, github.com/computerhistory/AlexNet-Source-Code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cconvnet.nets import alexnet
from cconvnet.nets.builder import image
from cconvnet.nets.recipe import LrStep, NetSpec
from cconvnet.nets.shapes import Shape
from cconvnet.nets.specs import lrn_alpha

# Rates of biases never fall, and conv1 is frozen at the end. The noisy input is divided by 1.1.
EARLY, LAST = (LrStep(25, 0.1, of="weight"), LrStep(51, 0.1, of="weight")), LrStep(79, 0.1, of="weight")
STEPS = (*EARLY, LrStep(67, 0.1, ("conv1",), "weight"), LrStep(72, 0, ("conv1",)), LAST)
RECIPE = replace(alexnet.RECIPE, epochs=91, steps=STEPS, color_noise_epochs=67, color_noise_shrinks=True)


def build(image_shape: Shape = (256, 256, 3), classes: int = 1000, width: float = 1.0) -> NetSpec:
    """Return the network; the arguments are those of ``alexnet``, and comments name what differs from it."""
    h, w, channels = image_shape
    n96, n256, n384, n4096 = (max(1, round(count * width / 2)) * 2 for count in (96, 256, 384, 4096))
    conv: dict[str, Any] = {"rounding": "ceil", "split": True, "init": 0.01, "weight_decay": 0.0005}
    pool: dict[str, Any] = {"window": 3, "stride": 2, "rounding": "ceil"}
    lrn: dict[str, Any] = {"alpha": lrn_alpha(1e-4, 5), "k": 2.0, "groups": 2}  # a fifth of the paper's alpha
    maps: dict[str, Any] = {"alpha": lrn_alpha(1e-3, 5, "same_map"), "region": "same_map", "name": "rnorm2"}
    x = image(h * 7 // 8, w * 7 // 8, channels, stored=(h, w), scale=1.0, center_mean=True)  # in every crop
    x = x.conv(n96, 11, 4, **conv).lrn(**lrn).maxpool(**pool).relu()  # the first ReLU comes last
    x = x.conv(n256, 5, pad=2, groups=2, bias=1.0, **conv).relu().lrn(**lrn).lrn(**maps).maxpool(**pool)
    conv |= {"window": 3, "pad": 1, "init": 0.03}  # not 0.01; and the fifth is pooled before its ReLU
    x = x.conv(n384, **conv).relu().conv(n384, groups=2, bias=1.0, **conv).relu()
    x = x.conv(n256, groups=2, bias=1.0, **conv).maxpool(name="pool5", **pool).relu(name="relu5")
    fc: dict[str, Any] = {"init": 0.01, "weight_decay": 0.0005}
    for i in (6, 7):
        x = x.fc(n4096, bias=1.0, split=True, name=f"fc{i}", **fc).relu().dropout(name=f"dropout{i}")
    return x.fc(classes, device=0, name="fc8", **fc).softmax("alexnet-2012", RECIPE)
