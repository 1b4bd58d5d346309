"""Activations of many images, as the features of other programs."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from cconvnet.data import Split
from cconvnet.errors import nearest
from cconvnet.evaluate import Trained, center_view
from cconvnet.seeing.probe import Floats
from cconvnet.system.outputs import write_output

KINDS = (".npy", ".safetensors")


def features(
    trained: Trained,
    split: Split,
    layer: str,
    numbers: NDArray[np.int64],
    stepped: Callable[[int, int], None] = lambda done, all_: None,
) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Compute a layer's activations of images, in the order of their numbers, outside of training.

    Args:
        trained: The network.
        split: The images.
        layer: The layer.
        numbers: The images; unreadable ones are left out.
        stepped: Called with the number of images done, and of all.

    Returns:
        The activations float32[n, ...]; the labels int64[n], of the images' own classes; and the numbers
        int64[n] of the images.

    Raises:
        ValueError: There is no such layer, or it runs in training only.
    """
    network = trained.network
    names = [own.name for own in network.spec.layers if own.name not in network.spec.train_only]
    if layer not in names:
        raise ValueError(nearest("--layer", layer, names))
    view = center_view(network.spec)
    found, right = [], []
    for first in range(0, len(numbers), network.batch):
        images, labels = split.read(numbers[first : first + network.batch])
        if len(images):
            view.show(network, images)
            found.append(network.outputs(layer)[: len(images)])
            right.append(labels)
        stepped(min(first + network.batch, len(numbers)), len(numbers))
    return np.concatenate(found), np.concatenate(right).astype(np.int64), split.readable(numbers)


def write(out: Path, values: Floats, labels: NDArray[np.int64], numbers: NDArray[np.int64]) -> None:
    """Write features: to .npy alone; to .safetensors with ``labels`` and the ``numbers`` of the images.

    Raises:
        OutputError: The file cannot be written.
        ValueError: Its name has another ending.
    """
    check_kind(out)
    if out.suffix == ".npy":
        content = io.BytesIO()
        np.save(content, values)
        write_output(out, [content.getbuffer()])
    else:
        tensors = {"features": values, "labels": labels, "numbers": numbers}
        write_output(out, [save({name: np.ascontiguousarray(value) for name, value in tensors.items()})])


def check_kind(out: Path) -> None:
    """Refuse a file whose name has another ending than KINDS.

    Raises:
        ValueError: It has.
    """
    if out.suffix not in KINDS:
        raise ValueError(f"--out must end with {' or '.join(KINDS)}, not {out.suffix!r}")
