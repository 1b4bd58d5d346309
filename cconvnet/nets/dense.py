"""A classifier at every place of a larger image: fully connected layers as convolutions.

Source: Sermanet et al. 2013, "OverFeat", section 3.5.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from cconvnet.nets.costs import answers_for_pixels, labels_of
from cconvnet.nets.fine import at_every_offset
from cconvnet.nets.layer_spec import LayerSpec
from cconvnet.nets.recipe import NetSpec
from cconvnet.nets.shapes import Shape, shapes
from cconvnet.nets.specs import (
    ConvSpec,
    FcSpec,
    LocalSpec,
    PoolSpec,
    RbfSpec,
    SoftmaxCostSpec,
)
from cconvnet.nets.transform import without_heads
from cconvnet.nets.values import Pair

Array = np.ndarray[Any, Any]

_MAX_STEP = 256  # pixels from one side that a network takes to the next: more than any network's stride


def dense(spec: NetSpec, image: Pair, fine: bool = False) -> NetSpec:
    """Return the network that classifies every place of a larger image, without its heads.

    An FC layer becomes a convolution whose window is the image that the layer read, and a mean over the whole
    image one over windows of that size. The softmax is that of each place. There its answer is the network's
    for the crop at this place, if no layer reads padding or clips windows. With padding, the image's own
    pixels take the place of the zeros around a crop.

    A network that answers for each pixel stays as it is, for images of another size, smaller ones too.

    Args:
        spec: the network.
        image: (H, W) of the images, at least those of the network.
        fine: whether the last pooling begins at every offset, so that places are as close as what it
            reads; see :func:`cconvnet.nets.fine.at_every_offset`.

    Raises:
        ValueError: the network has a layer that belongs to one size, or the image is too small for it; or
            its places cannot be closer.
    """
    spec = without_heads(spec)
    if answers_for_pixels(spec):
        if fine:
            raise ValueError(f"{spec.name} answers for each pixel: its places cannot be closer")
        return _of_pixels(spec, image)
    small = spec.input.height, spec.input.width
    if image[0] < small[0] or image[1] < small[1]:
        raise ValueError(
            f"a dense network needs images of at least {small[0]}x{small[1]}, not {image[0]}x{image[1]}"
        )
    found = shapes(spec)
    whole = dataclasses.replace(
        spec,
        layers=tuple(_dense(layer, [found[name] for name in layer.inputs]) for layer in spec.layers),
        # Crops are the whole images, so that their mean is the same.
        input=dataclasses.replace(spec.input, height=image[0], width=image[1], center_mean=False),
        stored=image,
    )
    if fine:
        whole = at_every_offset(whole)
    shapes(whole)
    return whole


def _of_pixels(spec: NetSpec, image: Pair) -> NetSpec:
    """Return a network that answers for each pixel for images of another size.

    Raises:
        ValueError: a layer belongs to one size, or the answers are not those of the image's pixels.
    """
    for layer in spec.layers:
        one_size = isinstance(layer, FcSpec | LocalSpec | RbfSpec)
        if one_size or (isinstance(layer, ConvSpec) and not layer.shared_bias):
            raise ValueError(f"layer {layer.name}: its weights belong to places of one size of images")
    image_of = dataclasses.replace(spec.input, height=image[0], width=image[1], center_mean=False)
    whole = dataclasses.replace(spec, input=image_of, stored=image)
    needed = labels_of(whole)
    if needed is None or needed.shape != image:
        answers = "no" if needed is None else "x".join(map(str, needed.shape))
        raise ValueError(f"{spec.name} answers for {answers} pixels of images of {image[0]}x{image[1]}")
    return whole


def sides_taken(spec: NetSpec, image: Pair) -> Pair:
    """Return the smallest sides, of at least those of an image, for which a network answers for each pixel.

    Args:
        spec: the network.
        image: (H, W) of the image.

    Raises:
        ValueError: it answers for images of one size alone; the text has the reason.
    """
    spec = without_heads(spec)
    own = spec.input.height, spec.input.width
    found = []
    for axis, least in enumerate(image):
        for side in range(least, least + _MAX_STEP):
            sides = (side, own[1]) if axis == 0 else (own[0], side)
            try:
                _of_pixels(spec, sides)
            except ValueError as error:
                reason = error
                continue
            found.append(side)
            break
        else:
            raise ValueError(f"{spec.name} takes images of {own[0]}x{own[1]} alone: {reason}")
    return found[0], found[1]


def _dense(layer: LayerSpec, inputs: list[Shape]) -> LayerSpec:
    """Return the layer for every place, by the shapes that it reads in the network for one."""
    images = [shape[:2] for shape in inputs]
    if isinstance(layer, LocalSpec | RbfSpec) or (isinstance(layer, ConvSpec) and not layer.shared_bias):
        raise ValueError(f"layer {layer.name}: its weights or codes belong to places of one size of images")
    if isinstance(layer, FcSpec):
        values = {
            field.name: getattr(layer, field.name)
            for field in dataclasses.fields(layer)
            if field.name != "outputs"
        }
        if len(set(images)) > 1:
            entries = layer.per_input or ({},) * len(images)
            values["per_input"] = tuple(
                {**entry, "window": window} for entry, window in zip(entries, images, strict=True)
            )
        return ConvSpec(filters=layer.outputs, window=images[0], **values)
    if isinstance(layer, PoolSpec) and layer.pool == "avg" and layer.window == images[0]:
        return dataclasses.replace(layer, stride=(1, 1), padding=(0, 0), outputs=None)
    if isinstance(layer, SoftmaxCostSpec):
        if images[0] != (1, 1):
            raise ValueError(
                f"layer {layer.name}: it reads classes of {images[0][0]}x{images[0][1]} places as one"
            )
        return dataclasses.replace(layer, per_pixel=True)
    return layer


def dense_state(state: Mapping[str, Array], sizes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Return the state of a network for that of its dense form: weights [K, H*W*C] are filters [K,H,W,C].

    The weights of convolutions that are means are those of means.

    Args:
        state: as Network.state returns it.
        sizes: the shapes of the dense network's tensors, as Network.state_shapes returns them.
    """
    return {
        name: state[name].reshape(shape)
        if name in state
        else np.full(shape, 1 / (shape[1] * shape[2]), np.float32)
        for name, shape in sizes.items()
    }
