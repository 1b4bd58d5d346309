"""The training or test images of a source, in memory or decoded when read.

Both kinds number their images in the same way, broken ones included. So an epoch does not depend on whether
the images fit into memory. A broken image keeps its number and is never returned. Its label is never given to
another image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cconvnet.data.byte_ranges import ByteRanges
from cconvnet.data.images import Pixels, resize_image
from cconvnet.data.label_images import has_pixels
from cconvnet.data.resized_crops import ResizedCrops
from cconvnet.data.workers import (
    CHUNK,
    MAX_WORKERS,
    Broken,
    DecodePool,
    Decoding,
    usable_cores,
    worker_limit,
)
from cconvnet.errors import DataError

Labels = npt.NDArray[np.int32]
Indices = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]  # images done, images in all


def broken_allowed(count: int) -> int:
    """Return the number of images that may be broken among `count`.

    It is 0.1% of them, or a tenth of few images, between 1 and 10. It is never all of the images.
    """
    return min(max(count // 1000, min(count // 10, 10), 1), count - 1)


class Reader(Protocol):
    """A background reader of images, which `in_flight` simultaneous images keep busy."""

    in_flight: int

    def start(
        self, indices: Indices, images: Pixels, crops: ResizedCrops | None = None
    ) -> list[Future[Broken]]:
        """Begin to read images `indices` into images[n,H,W,C]; of each its part in `crops`, if given.

        The result of each future lists the places in `images` that are not written because the image is
        broken, with the reason. A future raises DataError or WorkerError.
        """
        ...

    def close(self) -> None:
        """Stop the reader."""
        ...


class Split(ABC):
    """Labelled images of one shape, read by their numbers.

    `labels` is int32[n], or label images [n,H,W], where n = len() is the number of images. Each image has the
    shape `image_shape` (H,W,C). `name` is "train" or "test".

    `skipped` maps the numbers of the broken images found so far to the reasons. `left_out` counts pictures
    that have no number, such as those without a label.
    """

    def __init__(self, name: str, labels: Labels, image_shape: tuple[int, int, int]) -> None:
        self.name = name
        self.labels = labels
        self.image_shape = image_shape
        self.skipped: dict[int, str] = {}
        self.left_out = 0

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: npt.ArrayLike) -> tuple[Pixels, Labels]:
        """Return the images uint8[n,H,W,C] with these numbers and their labels, without broken images.

        It raises IndexError for a number out of range, and DataError if too many images are broken.
        """
        chosen = self._check(indices)
        images = np.empty((len(chosen), *self.image_shape), np.uint8)
        broken = self.fill(chosen, images)
        for place, reason in broken:
            self.skip(int(chosen[place]), reason)
        good = np.ones(len(chosen), bool)
        good[[place for place, _ in broken]] = False
        return images[good], self.labels[chosen[good]]

    def readable(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return those of the numbers int[n] whose images have not been found broken."""
        return numbers[[number not in self.skipped for number in numbers.tolist()]]

    def skip(self, index: int, reason: str) -> None:
        """Count image `index` as broken.

        Raises:
            DataError: Too many images are broken now.
        """
        self.skipped[index] = reason
        allowed = broken_allowed(len(self))
        if len(self.skipped) + self.left_out > allowed:
            first = [f"  {self.file(i)}: {self.skipped[i]}" for i in sorted(self.skipped)[:10]]
            raise DataError(
                f"more than {allowed} of the {len(self):,} {self.name} images are broken; remove or "
                "replace them:\n" + "\n".join(first)
            )

    def _check(self, indices: npt.ArrayLike) -> Indices:
        chosen = np.asarray(indices, np.int64).reshape(-1)
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise IndexError(f"indices must be from 0 to {len(self) - 1}")
        return chosen

    @property
    def original(self) -> Split:
        """The split that reads the pictures as they are in files; itself if none were."""
        return self

    @abstractmethod
    def file(self, index: int) -> str:
        """Return the name of image `index` for messages."""

    @abstractmethod
    def fill(self, indices: Indices, images: Pixels, crops: ResizedCrops | None = None) -> Broken:
        """Read images `indices` into images[n,H,W,C], as Reader.start does, but in the foreground."""

    @abstractmethod
    def open_reader(self, workers: int | None, times: int = 1) -> Reader:
        """Return a reader with `workers` processes; None chooses, 0 is a thread of this process.

        The number of workers is limited to what the images, read `times` times, keep busy (worker_limit()).
        """


class MemorySplit(Split):
    """A split whose images[n,H,W,C] are in memory and are resized on reading if `size` differs.

    They may be those of `read_from`, the split of their files.
    """

    def __init__(
        self,
        name: str,
        images: Pixels,
        labels: Labels,
        size: int | None = None,
        files: Sequence[str] | None = None,
        read_from: Split | None = None,
    ) -> None:
        height, width, channels = images.shape[1:]
        self._size = None if size is None or height == width == size else size
        side = (size, size, channels) if size is not None else (height, width, channels)
        super().__init__(name, labels, side)
        self._images = images
        self._files = files
        self._read_from = read_from

    @property
    def original(self) -> Split:
        """The split that reads the pictures as they are in files; itself if none were."""
        return self if self._read_from is None else self._read_from

    def file(self, index: int) -> str:
        """Return the name of an image."""
        return self._files[index] if self._files is not None else f"{self.name} image {index}"

    def fill(self, indices: Indices, images: Pixels, crops: ResizedCrops | None = None) -> Broken:
        """Read images, as Split.fill."""
        if crops is not None:
            for place, index in enumerate(indices):
                crops.cut(self._images[index], place, images[place])
        elif self._size is None:
            np.take(self._images, indices, axis=0, out=images, mode="clip")  # clip: no extra copy
        else:
            for place, index in enumerate(indices):
                images[place] = resize_image(self._images[index], self._size)
        if not self.skipped:
            return []
        return [(j, self.skipped[i]) for j, i in enumerate(indices.tolist()) if i in self.skipped]

    def open_reader(self, workers: int | None, times: int = 1) -> Reader:
        """Return a reader that needs no workers."""
        return _MemoryReader(self)


class _MemoryReader:
    in_flight = 1

    def __init__(self, split: MemorySplit) -> None:
        self._split = split
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cconvnet-read")

    def start(
        self, indices: Indices, images: Pixels, crops: ResizedCrops | None = None
    ) -> list[Future[Broken]]:
        return [self._thread.submit(self._split.fill, indices, images, crops)]

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)


class StoredSplit(Split):
    """A split whose images are read from files on demand; `names` are the pictures' names."""

    def __init__(
        self,
        name: str,
        names: Sequence[str],
        ranges: ByteRanges,
        labels: Labels,
        image_shape: tuple[int, int, int],
    ) -> None:
        super().__init__(name, labels, image_shape)
        self.names = names
        self.ranges = ranges

    def file(self, index: int) -> str:
        """Return the name of an image."""
        return self.names[index]

    def into_memory(self, workers: int | None = None, progress: Progress | None = None) -> MemorySplit:
        """Read all images in parallel.

        Raises:
            DataError: Too many images are broken, or a label image is.
        """
        images = np.zeros((len(self), *self.image_shape), np.uint8)
        labels = self.labels[np.arange(len(self))] if has_pixels(self.labels) else self.labels
        split = MemorySplit(self.name, images, labels, files=self.names, read_from=self)
        split.left_out = self.left_out
        reader = self.open_reader(workers)
        try:
            for number, future in enumerate(reader.start(np.arange(len(self)), images)):
                for index, reason in future.result():
                    split.skip(index, reason)
                if progress is not None:
                    progress(min((number + 1) * CHUNK, len(self)), len(self))
        finally:
            reader.close()
        return split


class PictureSplit(StoredSplit):
    """A split whose images are decoded when they are read."""

    def __init__(
        self, name: str, names: Sequence[str], ranges: ByteRanges, labels: Labels, decoding: Decoding
    ) -> None:
        super().__init__(name, names, ranges, labels, decoding.shape)
        self._decoding = decoding

    def fill(self, indices: Indices, images: Pixels, crops: ResizedCrops | None = None) -> Broken:
        """Read images, as Split.fill."""
        return self._decoding.fill(self.ranges.select(indices), images, crops)

    def open_reader(self, workers: int | None, times: int = 1) -> _PictureReader:
        """Return a reader that decodes in `workers` processes."""
        if workers is None:
            # A worker takes about 0.3 s to start, which is too long for few images.
            workers = min(usable_cores(), MAX_WORKERS) if len(self) > 8 * CHUNK else 0
        workers = min(workers, worker_limit(len(self) * times))
        return _PictureReader(self.ranges, DecodePool(self._decoding, workers))


class _PictureReader:
    def __init__(self, ranges: ByteRanges, pool: DecodePool) -> None:
        self._ranges = ranges
        self.pool = pool
        self.in_flight = 2 * CHUNK * max(1, len(pool.pids))  # every worker has its next chunk waiting

    def start(
        self, indices: Indices, images: Pixels, crops: ResizedCrops | None = None
    ) -> list[Future[Broken]]:
        return self.pool.submit(self._ranges.select(indices), images, crops)

    def close(self) -> None:
        self.pool.close()
