"""Shards opened as data to train on."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cconvnet.data.byte_ranges import ByteRanges, RawShapes
from cconvnet.data.dataset import Dataset, Pictures
from cconvnet.data.images import BrokenImage, Pixels, read_raw, resize_image
from cconvnet.data.listing import beside
from cconvnet.data.resized_crops import ResizedCrops
from cconvnet.data.shards.format import (
    AGAIN,
    COLORS,
    DOCUMENT,
    JOURNAL,
    MEAN,
    SKIPPED,
    ShardSet,
    read_shard_set,
)
from cconvnet.data.splits import Indices, Labels, PictureSplit, StoredSplit
from cconvnet.data.workers import CHUNK, Broken, Decoding, usable_cores, worker_limit
from cconvnet.errors import DataError

# Reading consists of copying and checksums. In November 2026, one thread of an AMD EPYC (Zen 4) read 12,000
# pictures of 256x256 pixels a second from memory. The copy took 31 us, the checksum 47 us and opening the
# file 3 us.
_MAX_THREADS = 4


def open_dataset(root: Path) -> Dataset:
    """Open the shards in a folder as data to train on.

    Raises:
        DataError: A file is missing or damaged, or has another length than recorded.
    """
    shard_set = read_shard_set(root)
    for name, file in shard_set.files.items():
        path = root / name
        if not path.is_file():
            raise DataError(f"{path} is missing; {AGAIN}")
        length = path.stat().st_size
        if length != file.bytes:
            raise DataError(f"{path} has {length:,} bytes instead of {file.bytes:,}; remove it, and {AGAIN}")
    skipped = sum(shard_set.skipped.values())
    programs = " and ".join(sorted({shard_set.decoder, shard_set.encoder} - {""}))
    notes = [f"shards: {shard_set.describe()}{programs and ', made with '}{programs}", *shard_set.notes]
    if skipped:
        notes.append(f"{skipped:,} pictures were left out when the shards were made: {root / SKIPPED}")
    return Dataset(
        kind="shards",
        name=f"shards of {shard_set.name}",
        classes=shard_set.classes,
        train=_pictures(shard_set, "train"),
        test=_pictures(shard_set, "test") if "test" in shard_set.pictures else None,
        notes=notes,
        titles=shard_set.titles,
        mean=_statistics(shard_set, MEAN, 3),
        colors=_statistics(shard_set, COLORS, 2),
        folder=root,
        size=shard_set.size,
        preprocessing=shard_set.preprocessing if shard_set.decoder else None,
        beside=beside(root, {DOCUMENT, JOURNAL, *shard_set.files}),
        source_account=shard_set.account,
        form=f"shards, {shard_set.describe()}",
        fingerprints=shard_set.fingerprints,
    )


def _pictures(shard_set: ShardSet, split: str) -> Pictures:
    records = shard_set.records(split)
    ranges = ByteRanges(
        [str(shard_set.root / name) for name in shard_set.shards(split)],
        np.ascontiguousarray(records["file"]),
        np.ascontiguousarray(records["offset"]),
        records["length"].astype(np.int64),
        np.ascontiguousarray(records["crc32"]),
    )
    height, width = (np.ascontiguousarray(records[name]) for name in ("height", "width"))
    return Pictures(
        shard_set.names(split),
        np.ascontiguousarray(records["label"]),
        ranges,
        raw=RawShapes(height, width, shard_set.channels) if shard_set.encoding == "raw" else None,
    )


def _statistics(shard_set: ShardSet, name: str, dimensions: int) -> npt.NDArray[np.float32]:
    array = shard_set.array(name)
    if (
        array.dtype != np.float32
        or array.ndim != dimensions
        or array.shape[-1] != shard_set.channels
        or not np.isfinite(array).all()
    ):
        raise DataError(f"{shard_set.root / name} has {array.dtype} of {array.shape}, or is not finite")
    return array


class RawSplit(StoredSplit):
    """A split whose images are in shards as raw pixels, which are only copied.

    Args:
        size: The side that the images are resized to, as by resize_image. None: they are all of one size and
            keep it.
    """

    def __init__(
        self,
        name: str,
        names: Sequence[str],
        ranges: ByteRanges,
        raw: RawShapes,
        labels: Labels,
        size: int | None = None,
    ) -> None:
        side = int(raw.height[0]), int(raw.width[0])
        if size is None and ((raw.height != side[0]) | (raw.width != side[1])).any():
            raise DataError(
                f"the {name} pictures have different sizes; give a size, and all are resized to it"
            )
        super().__init__(
            name, names, ranges, labels, (*(side if size is None else (size, size)), raw.channels)
        )
        self._raw = raw

    def fill(self, indices: Indices, images: Pixels, crops: ResizedCrops | None = None) -> Broken:
        """Read images, as Split.fill."""
        broken = []
        for place, (index, stored) in enumerate(
            zip(indices.tolist(), self.ranges.select(indices), strict=True)
        ):
            shape = int(self._raw.height[index]), int(self._raw.width[index]), self._raw.channels
            fits = shape == self.image_shape and crops is None
            pixels = images[place] if fits else np.empty(shape, np.uint8)
            try:
                read_raw(stored, pixels)
            except BrokenImage as error:
                broken.append((place, str(error)))
                continue
            except OSError as error:
                raise DataError(f"{stored.path} cannot be read: {error.strerror or error}") from error
            if crops is not None:
                crops.cut(pixels, place, images[place])
            elif not fits:
                images[place] = resize_image(pixels, self.image_shape[0])
        return broken

    def open_reader(self, workers: int | None, times: int = 1) -> _RawReader:
        """Return a reader with `workers` threads, at least one.

        Threads suffice, because neither copying nor checksums hold Python's global lock.
        """
        threads = min(usable_cores(), _MAX_THREADS) if workers is None else max(1, workers)
        return _RawReader(self, min(threads, worker_limit(len(self) * times)))


class _RawReader:
    def __init__(self, split: RawSplit, threads: int) -> None:
        self._split = split
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="cconvnet-read")
        self.in_flight = 2 * CHUNK * threads

    def start(
        self, indices: Indices, images: Pixels, crops: ResizedCrops | None = None
    ) -> list[Future[Broken]]:
        return [
            self._threads.submit(self._fill, first, indices[first : first + CHUNK], images, crops)
            for first in range(0, len(indices), CHUNK)
        ]

    def _fill(self, first: int, indices: Indices, images: Pixels, crops: ResizedCrops | None) -> Broken:
        own = None if crops is None else crops.after(first)
        broken = self._split.fill(indices, images[first : first + len(indices)], own)
        return [(first + place, reason) for place, reason in broken]

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)


def open_split(shard_set: ShardSet, split: str, decoder: str) -> StoredSplit:
    """Open one split at the size of its stored pictures, even if other files of the set are missing.

    Raises:
        DataError: The split's index or names are missing or damaged.
    """
    pictures, size = _pictures(shard_set, split), shard_set.size
    assert pictures.ranges is not None
    where = split, pictures.names, pictures.ranges
    if pictures.raw is not None:
        return RawSplit(*where, pictures.raw, pictures.labels, size)
    first = shard_set.records(split)[0]
    sides = (int(first["height"]), int(first["width"])) if size is None else (size, size)
    return PictureSplit(
        *where, pictures.labels, Decoding(size, (*sides, 3), decoder, shard_set.preprocessing)
    )
