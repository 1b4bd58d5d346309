"""The arguments of Network.load, checked and brought to the types that devices take."""

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet.layers import ImageBatch
from cconvnet.nets import NetSpec

Array = np.ndarray[Any, Any]


def checked_batch(
    spec: NetSpec,
    most: int,
    images: Any,
    labels: Any,
    top: Any,
    left: Any,
    mirror: Any,
    shift: Any,
    scale: float,
) -> tuple[ImageBatch, Array]:
    """Return the images of a batch and its labels, int32[n].

    Args:
        spec: the network that is to read them.
        most: how many images it takes.
        images: and all others: see Network.load.
        labels: the classes.
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
    classes = spec.classes
    if labels is None and not spec.costs:
        labels = np.zeros(n, np.int32)
    labels = np.asarray(labels)
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers[{n}], not {type_and_shape(labels)}")
    if len(wrong := labels[(labels < 0) | (labels >= classes)]):
        raise ValueError(f"labels must be from 0 to {classes - 1}, not {wrong[0]}")
    room = (shape[0] - spec.input.height, shape[1] - spec.input.width)
    batch = ImageBatch(
        images=images,
        top=_offsets("top", top, n, room[0], spec.recipe.pad),
        left=_offsets("left", left, n, room[1], spec.recipe.pad),
        mirror=_per_image("mirror", mirror, (n,), np.uint8, 0),
        shift=None if shift is None else _per_image("shift", shift, (n, shape[2]), np.float32, 0),
        scale=scale,
    )
    return batch, labels.astype(np.int32)


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
