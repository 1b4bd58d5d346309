"""A classifier's weights in a network that answers for each pixel.

Matrices of FC layers become filters, and layers that no classifier has begin with the values that the network
gives them: scores with zeros, transposed convolutions with an interpolation.

Source: Long, Shelhamer and Darrell 2015, "Fully Convolutional Networks for Semantic Segmentation", sections
3.1 and 4.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from cconvnet.formats.layouts import Part, Sizes
from cconvnet.nets import NetSpec
from cconvnet.nets.costs import answers_for_pixels
from cconvnet.nets.layer_spec import WeightedSpec
from cconvnet.nets.values import Init

Array = np.ndarray[Any, Any]


def as_filters(part: Part, value: Array, wanted: Sizes) -> Array:
    """Return the matrix of an FC layer as filters of the shape `wanted`; other tensors as they are.

    A matrix [K, C * H * W] has the order of filters [K,C,H,W] in memory, and one [K, H * W * C] of [K,H,W,C].
    """
    fits = value.ndim == 2 and len(value) == wanted[0] and value.size == math.prod(wanted)
    return value.reshape(wanted) if part.is_filters and fits else value


def begins_anew(
    spec: NetSpec, parts: Sequence[Part], there: Callable[[Part], tuple[Array | None, Sizes]]
) -> set[str]:
    """Return the layers whose first values a network for pixels gives, and which a file lacks.

    Of fixed interpolations, which depend on the distance of the finest scores, those of another shape count
    too.

    Args:
        spec: The network.
        parts: Its tensors.
        there: Returns the tensor of the file for one of them, None if it lacks it, and the shape needed.
    """
    if not answers_for_pixels(spec):
        return set()
    layers = {layer.name: layer for layer in spec.layers}
    found = set()
    for part in parts:
        layer = layers[part.layer]
        if not isinstance(layer, WeightedSpec) or part.of == "bias" or not _is_given(layer.init):
            continue
        value, shape = there(part)
        fixed = layer.init.kind == "bilinear" and layer.lr_scale == 0
        if value is None or (fixed and value.shape != shape):
            found.add(part.layer)
    return found


def classifiers_last(spec: NetSpec, tensors: Mapping[str, Array], taken: Collection[str]) -> str | None:
    """Return the only FC layer in a file for which a network for pixels has no layer; None: there is none.

    Args:
        spec: The network.
        tensors: Those of the file.
        taken: The names of those that the network has.
    """
    if not answers_for_pixels(spec):
        return None
    names = [name for name in tensors if name.endswith(".weight") and name not in taken]
    matrices = [name for name in names if tensors[name].ndim == 2]
    return matrices[0].removesuffix(".weight") if len(matrices) == 1 else None


def _is_given(init: Init) -> bool:
    """Return True if first weights are zeros or an interpolation, and not random."""
    return init.kind == "bilinear" or (init.kind == "gaussian" and init.sigma == 0)
