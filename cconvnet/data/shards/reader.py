"""Shards read as data to train on."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cconvnet.data.byte_ranges import Extents, Raw
from cconvnet.data.dataset import Origin, Pictures
from cconvnet.data.images import BrokenImage, Pixels, read_raw, resize_image
from cconvnet.data.listing import beside
from cconvnet.data.shards.format import AGAIN, COLORS, DOCUMENT, JOURNAL, MEAN, SKIPPED, Dataset, read_dataset
from cconvnet.data.splits import Indices, Labels, PictureSplit, StoredSplit
from cconvnet.data.workers import CHUNK, Broken, Decoding, usable_cores, worker_limit
from cconvnet.errors import DataError

# Reading is copying and checksums. One thread of an AMD EPYC (Zen 4) read 12,000 pictures of 256x256 pixels a
# second from memory in November 2026: 31 us each for the copy, 47 us for the checksum, 3 us for opening.
_MOST_THREADS = 4


def open_origin(root: Path) -> Origin:
    """The shards in a folder as data to train on. Errors: DataError."""
    dataset = read_dataset(root)
    for name, file in dataset.files.items():
        path = root / name
        if not path.is_file():
            raise DataError(f"{path} is missing; {AGAIN}")
        length = path.stat().st_size
        if length != file.bytes:
            raise DataError(f"{path} has {length:,} bytes instead of {file.bytes:,}; remove it, and {AGAIN}")
    skipped = sum(dataset.skipped.values())
    programs = " and ".join(sorted({dataset.decoder, dataset.encoder} - {""}))
    notes = [f"shards: {dataset.describe()}{programs and ', made with '}{programs}", *dataset.notes]
    if skipped:
        notes.append(f"{skipped:,} pictures were left out when the shards were made: {root / SKIPPED}")
    return Origin(
        kind="shards",
        name=f"shards of {dataset.name}",
        classes=dataset.classes,
        train=_pictures(dataset, "train"),
        test=_pictures(dataset, "test") if "test" in dataset.pictures else None,
        notes=notes,
        titles=dataset.titles,
        mean=_statistics(dataset, MEAN, 3),
        colors=_statistics(dataset, COLORS, 2),
        folder=root,
        size=dataset.size,
        preprocessing=dataset.preprocessing if dataset.decoder else None,
        beside=beside(root, {DOCUMENT, JOURNAL, *dataset.files}),
        source_account=dataset.account,
        form=f"shards, {dataset.describe()}",
        fingerprints=dataset.fingerprints,
    )


def _pictures(dataset: Dataset, split: str) -> Pictures:
    rows = dataset.rows(split)
    extents = Extents(
        [str(dataset.root / name) for name in dataset.shards(split)],
        np.ascontiguousarray(rows["file"]),
        np.ascontiguousarray(rows["offset"]),
        rows["length"].astype(np.int64),
        np.ascontiguousarray(rows["crc32"]),
    )
    height, width = (np.ascontiguousarray(rows[name]) for name in ("height", "width"))
    return Pictures(
        dataset.names(split),
        np.ascontiguousarray(rows["label"]),
        extents,
        raw=Raw(height, width, dataset.channels) if dataset.encoding == "raw" else None,
    )


def _statistics(dataset: Dataset, name: str, dimensions: int) -> npt.NDArray[np.float32]:
    array = dataset.array(name)
    if (
        array.dtype != np.float32
        or array.ndim != dimensions
        or array.shape[-1] != dataset.channels
        or not np.isfinite(array).all()
    ):
        raise DataError(f"{dataset.root / name} has {array.dtype} of {array.shape}, or is not finite")
    return array


class RawSplit(StoredSplit):
    """A split whose images lie in shards as raw pixels: reading is copying.

    size: what they are brought to, by resize_image's rule; None: they are all of one size and keep it.
    """

    def __init__(
        self,
        name: str,
        names: Sequence[str],
        extents: Extents,
        raw: Raw,
        labels: Labels,
        size: int | None = None,
    ) -> None:
        side = int(raw.height[0]), int(raw.width[0])
        if size is None and ((raw.height != side[0]) | (raw.width != side[1])).any():
            raise DataError(
                f"the {name} pictures have different sizes; give a size, and all are resized to it"
            )
        super().__init__(
            name, names, extents, labels, (*(side if size is None else (size, size)), raw.channels)
        )
        self._raw = raw

    def fill(self, indices: Indices, images: Pixels) -> Broken:
        broken = []
        for place, (index, stored) in enumerate(
            zip(indices.tolist(), self.extents.stored(indices), strict=True)
        ):
            shape = int(self._raw.height[index]), int(self._raw.width[index]), self._raw.channels
            fits = shape == self.image_shape
            pixels = images[place] if fits else np.empty(shape, np.uint8)
            try:
                read_raw(stored, pixels)
            except BrokenImage as error:
                broken.append((place, str(error)))
                continue
            except OSError as error:
                raise DataError(f"{stored.path} cannot be read: {error.strerror or error}") from error
            if not fits:
                images[place] = resize_image(pixels, self.image_shape[0])
        return broken

    def open_reader(self, workers: int | None, times: int = 1) -> _RawReader:
        """`workers` threads, at least one, read: neither copying nor checksums hold Python's lock."""
        threads = min(usable_cores(), _MOST_THREADS) if workers is None else max(1, workers)
        return _RawReader(self, min(threads, worker_limit(len(self) * times)))


class _RawReader:
    def __init__(self, split: RawSplit, threads: int) -> None:
        self._split = split
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="cconvnet-read")
        self.in_flight = 2 * CHUNK * threads

    def start(self, indices: Indices, images: Pixels) -> list[Future[Broken]]:
        return [
            self._threads.submit(self._fill, first, indices[first : first + CHUNK], images)
            for first in range(0, len(indices), CHUNK)
        ]

    def _fill(self, first: int, indices: Indices, images: Pixels) -> Broken:
        broken = self._split.fill(indices, images[first : first + len(indices)])
        return [(first + place, reason) for place, reason in broken]

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)


def open_split(dataset: Dataset, split: str, decoder: str) -> StoredSplit:
    """A split's pictures at the size they were brought to, whatever else of the dataset is there.

    Errors: DataError.
    """
    pictures, size = _pictures(dataset, split), dataset.size
    assert pictures.extents is not None
    where = split, pictures.names, pictures.extents
    if pictures.raw is not None:
        return RawSplit(*where, pictures.raw, pictures.labels, size)
    first = dataset.rows(split)[0]
    sides = (int(first["height"]), int(first["width"])) if size is None else (size, size)
    return PictureSplit(*where, pictures.labels, Decoding(size, (*sides, 3), decoder, dataset.preprocessing))
