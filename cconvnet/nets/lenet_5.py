"""LeNet-5 of 1998: subsampling with weights, a table of connections, distances from bitmaps of the digits.

Source: LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition", section II. Its rates
also depend on second derivatives, so the first rate is not the paper's. First weights have its deviations.
"""

from __future__ import annotations

from typing import Any

from cconvnet.nets.bitmaps import DIGITS
from cconvnet.nets.builder import Value, concat, image
from cconvnet.nets.recipe import LrStep, NetSpec, TrainRecipe

STEPS = (LrStep(2, 0.4), LrStep(5, 0.5), LrStep(8, 0.5), LrStep(12, 0.2))
RECIPE = TrainRecipe(batch=8, epochs=20, lr=0.002, momentum=0.0, steps=STEPS)
# The maps that each map of the third layer reads: six read three, nine read four, one reads all six.
TABLE = ("012123234345045015", 3), ("012312342345034501450125013412450235", 4), ("012345", 6)


def conv(x: Value, filters: int, window: int, pad: Any = 0, groups: int = 1) -> Value:
    """Add a convolution and a scaled tanh."""
    init = 1.386 * groups / (window * window * x.channels)
    return x.conv(filters, window, pad=pad, groups=groups, init=init, bias_lr_scale=1.0).tanh(1.7159, 2 / 3)


def build(image_shape: tuple[int, int, int] = (32, 32, 1), classes: int = 10, plain: bool = False) -> NetSpec:
    """Return the network; images smaller than 32x32 are padded. `plain`: with full connections, and means."""
    if not plain and classes > len(DIGITS):
        raise ValueError(f"classes must be at most {len(DIGITS)}, the digits that have codes, not {classes}")
    x = image(*image_shape, scale=1.275 / 255)
    x = conv(x, 6, 5, pad=[max(0, 32 - side) // 2 for side in image_shape[:2]]).avgpool(2)
    x = x if plain else conv(x, 6, 1, groups=6)  # a coefficient and a bias for each map
    picked = [(x.select(map(int, maps)), len(maps) // each) for maps, each in TABLE]
    x = conv(x, 16, 5) if plain else concat(*(conv(y, groups, 5, groups=groups) for y, groups in picked))
    x = x.avgpool(2) if plain else conv(x.avgpool(2), 16, 1, groups=16)
    x = conv(x, 120, 5).fc(84, init=1.386 / 120, bias_lr_scale=1.0).tanh(1.7159, 2 / 3)
    if plain:
        return x.fc(classes, init=1.386 / 84, bias_lr_scale=1.0).softmax("lenet-5-plain", RECIPE)
    return x.rbf(DIGITS[:classes]).softmax("lenet-5", RECIPE)
