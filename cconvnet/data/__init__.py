"""Images and labels: datasets on disk, sources of training images, and the loader of batches.

Example:
    source = open_source("path/to/folder", size=256)
    with Loader(source.train, batch=128, seed=1, crop=(224, 224), random_crop=True, mirror=True) as loader:
        for batch in loader.epoch(0):
            ...

The modules, in the order in which an image passes from its file to a batch:

- ``names``, ``listing``: names of files and the contents of folders.
- ``byte_ranges``: the bytes of each picture: a whole file, or a member of a tar or shard.
- ``account``: the counts of pictures used and of files not used.
- ``dataset``: a dataset before anything is decoded.
- ``datasets``: the readers of all kinds of datasets.
- ``shards``: pictures prepared once for fast reading.
- ``downloads``: public datasets.
- ``fingerprint``, ``inspection``, and ``labels`` of ``datasets``: a dataset's identity, overview and checks.
- ``preprocessing``, ``containers``, ``images``: the rules of decoding, and decoding itself.
- ``workers``: processes that decode.
- ``splits``, ``sources``: the training and test images of a source.
- ``widths``: digits of one width.
- ``statistics``, ``color_noise``: the mean image and the colours of all training images.
- ``distortion``, ``resized_crops``: training images under affine maps and elastic fields, and parts of them.
- ``label_images``: a label for each pixel, cropped and mirrored with its image.
- ``loader``: batches in an order that depends on the seed alone.
"""

from __future__ import annotations

from cconvnet.data.datasets.arrays import Arrays
from cconvnet.data.datasets.digits import load as load_digits
from cconvnet.data.images import BrokenImage, decode_image, resize_image
from cconvnet.data.loader import Batch, Loader, augmentation, mean_image
from cconvnet.data.sources import Skipped, Source, open_source
from cconvnet.data.splits import MemorySplit, PictureSplit, Split, broken_allowed
from cconvnet.data.workers import WorkerError
from cconvnet.errors import DataError

__all__ = [
    "Arrays",
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
    "augmentation",
    "broken_allowed",
    "decode_image",
    "load_digits",
    "mean_image",
    "open_source",
    "resize_image",
]
