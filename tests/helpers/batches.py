"""Batches of a loader, for comparison."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from cconvnet import data


def batches_equal(ours: list[data.Batch], theirs: list[data.Batch]) -> bool:
    return len(ours) == len(theirs) and all(
        np.array_equal(a, b)
        for x, y in zip(ours, theirs, strict=True)
        for a, b in zip(vars(x).values(), vars(y).values(), strict=True)
    )


def evaluation(
    split: data.Split, workers: int
) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]]:
    with data.Loader(split, 7, shuffle=False, drop_last=False, workers=workers) as loader:
        batches = list(loader.epoch(0))
    yield np.concatenate([b.images for b in batches]), np.concatenate([b.labels for b in batches])


def training(split: data.Split, workers: int, epochs: int = 2) -> list[data.Batch]:
    with data.Loader(split, 8, 3, crop=(4, 5), random_crop=True, mirror=True, workers=workers) as loader:
        return [batch for epoch in range(epochs) for batch in loader.epoch(epoch)]


def evaluation_batches(split: data.Split) -> list[data.Batch]:
    with data.Loader(split, 7, shuffle=False, drop_last=False, workers=0) as loader:
        return list(loader.epoch(0))
