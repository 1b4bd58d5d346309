"""AlexNet as the 2012 paper describes it: a tower on each of two devices, or both on one as channel groups.

Source: Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural Networks",
2012. Where the paper is silent, the settings are the original program's. Biases learn at twice the weights'
rate and do not decay. 224 pixels give 55 outputs because the last window reads zeros beyond the edge.
"""

from __future__ import annotations

from typing import Any

from cconvnet.nets.recipe import InputSpec, LrStep, NetSpec, TrainRecipe
from cconvnet.nets.specs import ConvSpec, DropoutSpec, FcSpec, LrnSpec, PoolSpec, SoftmaxCostSpec, chain
from cconvnet.nets.values import RELU, gaussian


def build(
    image_shape: tuple[int, int, int] = (256, 256, 3), classes: int = 1000, width: float = 1.0
) -> NetSpec:
    """Return AlexNet for images of `image_shape`, of which 7/8 of each side is cropped: 224 of 256.

    `width` multiplies the number of filters and hidden units of every layer, for tests and small data.
    """

    def units(count: int) -> int:
        # Even, so that both towers stay equally wide.
        return max(1, round(count * width / 2)) * 2

    tower: dict[str, Any] = {"split": True}
    learned: dict[str, Any] = {"init": gaussian(0.01), "weight_decay": 0.0005}
    conv: dict[str, Any] = {"rounding": "ceil", "neuron": RELU, **tower, **learned}
    same: dict[str, Any] = {"window": (3, 3), "padding": (1, 1), **conv}
    hidden: dict[str, Any] = {"outputs": units(4096), "neuron": RELU, "bias": 1.0, **tower, **learned}
    lrn: dict[str, Any] = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0, "groups": 2, **tower}
    pool: dict[str, Any] = {"pool": "max", "window": (3, 3), "stride": (2, 2), "rounding": "ceil", **tower}
    layers = chain(
        ConvSpec(name="conv1", filters=units(96), window=(11, 11), stride=(4, 4), **conv),
        LrnSpec(name="lrn1", **lrn),
        PoolSpec(name="pool1", **pool),
        ConvSpec(name="conv2", filters=units(256), window=(5, 5), padding=(2, 2), groups=2, bias=1.0, **conv),
        LrnSpec(name="lrn2", **lrn),
        PoolSpec(name="pool2", **pool),
        ConvSpec(name="conv3", filters=units(384), **same),
        ConvSpec(name="conv4", filters=units(384), groups=2, bias=1.0, **same),
        ConvSpec(name="conv5", filters=units(256), groups=2, bias=1.0, **same),
        PoolSpec(name="pool5", **pool),
        FcSpec(name="fc6", **hidden),
        DropoutSpec(name="dropout6", keep=0.5, **tower),
        FcSpec(name="fc7", **hidden),
        DropoutSpec(name="dropout7", keep=0.5, **tower),
        FcSpec(name="fc8", outputs=classes, device=0, **learned),
        SoftmaxCostSpec(name="cost"),
    )
    height, width_, channels = image_shape
    return NetSpec(
        name="alexnet",
        layers=layers,
        input=InputSpec(height * 7 // 8, width_ * 7 // 8, channels),
        stored=(height, width_),
        classes=classes,
        # The rates fall at the epochs at which those of the original's best run did.
        recipe=TrainRecipe(
            batch=128,
            epochs=90,
            lr=0.01,
            steps=(LrStep(25, 0.1), LrStep(51, 0.1), LrStep(79, 0.1)),
            crop=True,
            mirror=True,
            color_noise=0.1,
        ),
    )
