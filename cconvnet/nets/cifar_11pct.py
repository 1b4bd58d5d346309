"""cuda-convnet's CIFAR-10 network "11% in 75 minutes" (its layers-conv-local-11pct configuration).

The 13% network with response normalisation across channels after both convolutions, before the pooling, and
trained for much longer.
"""

from __future__ import annotations

import dataclasses

from cconvnet.nets import cifar_13pct
from cconvnet.nets.specs import LayerSpec, LrnSpec, LrStep, NetSpec, TrainRecipe, lrn_alpha


def build(image_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10) -> NetSpec:
    """The network for stored images of `image_shape`, of which 3/4 of each side is cropped: 24 of 32."""
    base = cifar_13pct.build(image_shape, classes)
    layers: list[LayerSpec] = []
    for layer in base.layers:
        if layer.name in ("pool1", "pool2"):
            norm = f"rnorm{layer.name[-1]}"
            layers.append(
                LrnSpec(name=norm, inputs=layer.inputs, size=5, alpha=lrn_alpha(0.001, 5), beta=0.75, k=1.0)
            )
            layer = dataclasses.replace(layer, inputs=(norm,))
        layers.append(layer)
    return dataclasses.replace(
        base,
        name="cifar-11pct",
        layers=tuple(layers),
        # 350 epochs with a fifth of the images held out for validation, 150 with all, then twice 10 with a
        # tenth of the weights' rate. Here all images are there from the start.
        recipe=TrainRecipe(
            batch=128,
            epochs=520,
            lr=0.001,
            steps=(LrStep(500, 0.1, of="weight"), LrStep(510, 0.1, of="weight")),
            crop=True,
            mirror=True,
        ),
    )
