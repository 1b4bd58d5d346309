"""AlexNet as the original program ran it in 2012: its configuration 145, a tower on each of two devices.

It differs from the paper's description (``alexnet``) in these ways:

- LRN and pooling come before the first ReLU, and the fifth convolution is pooled before its ReLU.
- A second normalisation, within each map, follows the second layer's LRN; both come before pooling.
- LRN's scale is divided by the number of values summed: a fifth of the paper's alpha.
- The first weights of conv3, conv4 and conv5 have a standard deviation of 0.03, not 0.01.
- Rates fall at the epochs and in the layers that its authors chose. Those of biases never fall, and conv1 is
  frozen at the end.
- While there is colour noise, the noisy input is divided by 1.1.
- The mean subtracted is that of the images' centre, wherever the crop is.

Source: the program and its layer files, released by the Computer History Museum in 2025
(github.com/computerhistory/AlexNet-Source-Code: convdata.py, layers/layers-145.cfg and layer-params-145.cfg).
The names of layers are those of ``alexnet``.
"""

from __future__ import annotations

from typing import Any

from cconvnet.nets.recipe import InputSpec, LrStep, NetSpec, TrainRecipe
from cconvnet.nets.specs import (
    ConvSpec,
    DropoutSpec,
    FcSpec,
    LrnSpec,
    NeuronSpec,
    PoolSpec,
    SoftmaxCostSpec,
    chain,
    lrn_alpha,
)
from cconvnet.nets.values import RELU, gaussian


def build(
    image_shape: tuple[int, int, int] = (256, 256, 3), classes: int = 1000, width: float = 1.0
) -> NetSpec:
    """Return the network for images of `image_shape`, of which 7/8 of each side is cropped: 224 of 256.

    `width` multiplies the number of filters and hidden units of every layer, for tests and small data.
    """

    def units(count: int) -> int:
        # Even, so that both towers stay equally wide.
        return max(1, round(count * width / 2)) * 2

    tower: dict[str, Any] = {"split": True}
    decay: dict[str, Any] = {"weight_decay": 0.0005}
    conv: dict[str, Any] = {"rounding": "ceil", **tower, **decay}
    deep: dict[str, Any] = {"window": (3, 3), "padding": (1, 1), "init": gaussian(0.03), **conv}
    hidden: dict[str, Any] = {"outputs": units(4096), "neuron": RELU, "bias": 1.0, **tower, **decay}
    across: dict[str, Any] = {"size": 5, "alpha": lrn_alpha(1e-4, 5), "beta": 0.75, "k": 2.0, "groups": 2}
    same_map: dict[str, Any] = {
        "size": 5,
        "alpha": lrn_alpha(1e-3, 5, "same_map"),
        "beta": 0.75,
        "region": "same_map",
    }
    pool: dict[str, Any] = {"pool": "max", "window": (3, 3), "stride": (2, 2), "rounding": "ceil", **tower}
    small = gaussian(0.01)
    layers = chain(
        ConvSpec(name="conv1", filters=units(96), window=(11, 11), stride=(4, 4), init=small, **conv),
        LrnSpec(name="lrn1", **across, **tower),
        PoolSpec(name="pool1", **pool),
        NeuronSpec(name="relu1", **tower),
        ConvSpec(
            name="conv2",
            filters=units(256),
            window=(5, 5),
            padding=(2, 2),
            groups=2,
            neuron=RELU,
            bias=1.0,
            init=small,
            **conv,
        ),
        LrnSpec(name="lrn2", **across, **tower),
        LrnSpec(name="rnorm2", **same_map, **tower),
        PoolSpec(name="pool2", **pool),
        ConvSpec(name="conv3", filters=units(384), neuron=RELU, **deep),
        ConvSpec(name="conv4", filters=units(384), groups=2, neuron=RELU, bias=1.0, **deep),
        ConvSpec(name="conv5", filters=units(256), groups=2, bias=1.0, **deep),
        PoolSpec(name="pool5", **pool),
        NeuronSpec(name="relu5", **tower),
        FcSpec(name="fc6", init=small, **hidden),
        DropoutSpec(name="dropout6", keep=0.5, **tower),
        FcSpec(name="fc7", init=small, **hidden),
        DropoutSpec(name="dropout7", keep=0.5, **tower),
        FcSpec(name="fc8", outputs=classes, init=small, device=0, **decay),
        SoftmaxCostSpec(name="cost"),
    )
    height, width_, channels = image_shape
    return NetSpec(
        name="alexnet-2012",
        layers=layers,
        input=InputSpec(height * 7 // 8, width_ * 7 // 8, channels, center_mean=True),
        stored=(height, width_),
        classes=classes,
        # The log at the end of the original's parameter file.
        recipe=TrainRecipe(
            batch=128,
            epochs=91,
            lr=0.01,
            steps=(
                LrStep(25, 0.1, of="weight"),
                LrStep(51, 0.1, of="weight"),
                LrStep(67, 0.1, ("conv1",), "weight"),
                LrStep(72, 0, ("conv1",)),
                LrStep(79, 0.1, of="weight"),
            ),
            crop=True,
            mirror=True,
            color_noise=0.1,
            color_noise_epochs=67,
            color_noise_shrinks=True,
        ),
    )
