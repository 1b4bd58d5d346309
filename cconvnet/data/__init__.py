"""Images and labels: sources of data, and the loader that turns them into batches.

source = open_source("path/to/folder", size=256)
with Loader(source.train, batch=128, seed=1, crop=(224, 224), random_crop=True, mirror=True) as loader:
    for batch in loader.epoch(0):
        ...
"""

from __future__ import annotations

from cconvnet.data.images import BrokenImage, decode_image, resize_image
from cconvnet.data.loader import Batch, Loader, mean_image
from cconvnet.data.sources import Skipped, Source, open_source
from cconvnet.data.splits import MemorySplit, PictureSplit, Split, broken_allowed
from cconvnet.data.workers import WorkerError
from cconvnet.errors import DataError

__all__ = [
    "Batch",
    "BrokenImage",
    "DataError",
    "Loader",
    "MemorySplit",
    "PictureSplit",
    "Skipped",
    "Source",
    "Split",
    "WorkerError",
    "broken_allowed",
    "decode_image",
    "mean_image",
    "open_source",
    "resize_image",
]
