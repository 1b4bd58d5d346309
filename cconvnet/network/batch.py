"""The arguments of Network.load, checked and brought to the types that devices take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cconvnet.layers import ImageBatch
from cconvnet.nets import NetSpec
from cconvnet.nets.costs import Labels, labels_of, targets_of

Array = np.ndarray[Any, Any]


def checked_batch(
    spec: NetSpec,
    most: int,
    images: Any,
    top: Any,
    left: Any,
    mirror: Any,
    shift: Any,
    scale: float,
) -> ImageBatch:
    """Return the images of a batch.

    Args:
        spec: the network that is to read them.
        most: how many images it takes.
        images: and all others: see Network.load.
        top: the first rows of crops.
        left: the first columns of crops.
        mirror: which images are mirrored.
        shift: added to pixels.
        scale: multiplies pixels.

    Raises:
        ValueError: naming the argument that has a wrong type, shape or value.
    """
    # Pinned memory must keep its type, which tells the device that it can read it by itself.
    images = np.asanyarray(images)
    shape = spec.stored_shape
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        raise ValueError(
            f"images must be uint8[n, {', '.join(map(str, shape))}], not {type_and_shape(images)}"
        )
    n = len(images)
    if not 1 <= n <= most:
        raise ValueError(f"images must be from 1 to {most} in number, not {n}")
    room = (shape[0] - spec.input.height, shape[1] - spec.input.width)
    return ImageBatch(
        images=images,
        top=_offsets("top", top, n, room[0], spec.recipe.pad),
        left=_offsets("left", left, n, room[1], spec.recipe.pad),
        mirror=_per_image("mirror", mirror, (n,), np.uint8, 0),
        shift=None if shift is None else _per_image("shift", shift, (n, shape[2]), np.float32, 0),
        scale=scale,
    )


def checked_labels(needed: Labels, classes: int, n: int, given: Any) -> Array:
    """Return the labels of a batch, int32[n] or int32[n, H, W].

    Args:
        needed: their shape, and the label that is ignored.
        classes: how many classes there are.
        n: how many images the batch has.
        given: the labels; see Network.load.

    Raises:
        ValueError: their type or shape is wrong, or one of them is no class.
    """
    labels = np.asarray(given)
    shape = (n, *needed.shape)
    if labels.shape != shape or labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers{list(shape)}, not {type_and_shape(labels)}")
    bad = (labels < 0) | (labels >= classes)
    other = ""
    if needed.ignore is not None:
        bad &= labels != needed.ignore
        other = f" or {needed.ignore}, which is ignored"
    if len(wrong := labels[bad]):
        raise ValueError(f"labels must be from 0 to {classes - 1}{other}, not {wrong[0]}")
    return labels.astype(np.int32)


def checked_targets(
    needed: Mapping[str, tuple[int, ...]], n: int, given: Mapping[str, Any] | None
) -> dict[str, Array]:
    """Return the targets of a batch, float32[n, ...], by the layers of L2 costs.

    Args:
        needed: the shape of an image's target of each of these layers.
        n: how many images the batch has.
        given: the targets; see Network.load.

    Raises:
        ValueError: a target is missing, of no such layer, or has a wrong type or shape.
    """
    given = {} if given is None else given
    for name in given:
        if name not in needed:
            raise ValueError(f"targets: no L2 cost is called {name!r}")
    found = {}
    for name, shape in needed.items():
        if name not in given:
            raise ValueError(f"targets must have an array for the layer {name}")
        found[name] = _per_image(f"targets of {name}", given[name], (n, *shape), np.float32, 0)
    return found


def random_wanted(spec: NetSpec, n: int, draws: np.random.Generator) -> dict[str, Any]:
    """Return the `labels` and `targets` of Network.load for `n` images, at random; a quarter are ignored."""
    needed, labels = labels_of(spec), None
    if needed is not None:
        labels = draws.integers(0, spec.classes, (n, *needed.shape)).astype(np.int32)
        if needed.ignore is not None:
            labels[draws.random(labels.shape) < 0.25] = needed.ignore
    shapes = targets_of(spec).items()
    targets = {name: draws.normal(0, 1, (n, *shape)).astype(np.float32) for name, shape in shapes}
    return {"labels": labels, "targets": targets}


def _per_image(name: str, given: Any, shape: tuple[int, ...], dtype: Any, default: int) -> Array:
    """One value, or several, for each image, as the device takes them."""
    if given is None:
        return np.full(shape, default, dtype)
    array = np.asarray(given)
    if array.shape != shape or array.dtype.kind not in ("f" if dtype is np.float32 else "iub"):
        kind = "floats" if dtype is np.float32 else "integers"
        raise ValueError(f"{name} must be {kind}{list(shape)}, not {type_and_shape(array)}")
    return np.ascontiguousarray(array, dtype)


def _offsets(name: str, given: Any, n: int, room: int, pad: int) -> Array:
    """The first rows or columns of crops; in the middle if none are given."""
    offsets = _per_image(name, given, (n,), np.int32, room // 2)
    if offsets.min() < -pad or offsets.max() > room + pad:
        allowed = f"from {-pad} to {room + pad}"
        raise ValueError(f"{name} must be {allowed}, not from {offsets.min()} to {offsets.max()}")
    return offsets


def type_and_shape(array: Array) -> str:
    """An array's type and shape in an error, like "float32[3, 4]"."""
    return f"{array.dtype}{list(array.shape)}"
