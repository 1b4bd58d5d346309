"""Batches whose order and crops depend only on the seed, the epoch and the step.

So a resumed run sees the same images, cropped and mirrored in the same way, with any number of workers. All
random numbers are raw words of Philox4x64. NumPy promises that these never change, but it does not promise
that for its Generator. The key is (seed, epoch). The highest word of the counter is the purpose.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cconvnet.checks import whole
from cconvnet.data.distortion import distort
from cconvnet.data.images import Pixels
from cconvnet.data.label_images import cropped, has_pixels
from cconvnet.data.resized_crops import ResizedCrops
from cconvnet.data.splits import Indices, Labels, Progress, Split
from cconvnet.data.workers import Broken
from cconvnet.nets import NO_DISTORTION, Distortion, TrainRecipe, as_area

_ORDER, _CROP = 0, 1  # purposes

Offsets = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Batch:
    """A batch of n whole images, with the place of each one's crop and whether it is mirrored.

    Each crop begins at row `top` and column `left`. The arrays are images uint8[n,H,W,C], labels int32[n],
    top and left int32[n], mirror uint8[n] (0 or 1), and indices int64[n]. `indices` are the images' numbers
    in the split. Labels of pixels are int32[n,h,w], cropped and mirrored. The receiver may keep the arrays.
    """

    images: Pixels
    labels: Labels
    top: Offsets
    left: Offsets
    mirror: npt.NDArray[np.uint8]
    indices: Indices

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, part: slice | Indices) -> Batch:
        """Return a part of the batch; a slice gives views."""
        return Batch(*(array[part] for array in vars(self).values()))

    @property
    def inputs(self) -> tuple[Pixels, Labels, Offsets, Offsets, npt.NDArray[np.uint8]]:
        """The arguments of :meth:`cconvnet.network.Network.load`, in their order."""
        return self.images, self.labels, self.top, self.left, self.mirror


@dataclass(frozen=True)
class _Pending:
    """A batch whose images are still being written.

    Attributes:
        batch: The batch.
        first: The place of its first image in the epoch.
        crops: The random-resized crops; None: there are none.
        read: The parts of the reading.
        distorted: The distortion of a batch without broken images; None: there is none.
    """

    batch: Batch
    first: int
    crops: ResizedCrops | None
    read: list[Future[Broken]]
    distorted: Future[None] | None

    def cancel(self) -> None:
        """Do not begin what has not begun."""
        for future in (*self.read, self.distorted):
            if future is not None:
                future.cancel()


class Loader:
    """Read a split batch by batch, ahead of its consumer and in the background.

    Args:
        crop: (height, width) of the part to use; None is the whole image. With `random_crop` its place is
            random, otherwise it is the centre. `mirror` mirrors an image with probability 1/2. The loader
            only draws the numbers; the input kernel crops and mirrors.
        pad: The pixels of zeros around an image into which random crops may reach. Then `top` and `left` are
            from -pad on.
        area: The least and the largest part of a picture's area, from which a random-resized crop is drawn
            and resized to `crop`, anew in each epoch; None: there are no such crops. It is read from the
            picture as it was before it was resized, and is at the centre of the image, among zeros.
        distortion: The distortion of each image before the crop, drawn anew in each epoch. A thread distorts
            the batches that are read ahead.
        drop_last: If true, every batch is full. The images that remain at the end of an epoch are dropped.
            The next good image of the split replaces a broken one. If false (for evaluation), the last batch
            may be short, and broken images are left out. So every good image comes exactly once.
        workers: The number of processes that decode images that are not in memory. None chooses, at most one
            per core; 0 decodes in a thread.
        allocate: Allocates the memory of batches' images, such as ``Device.staging`` of the training device.
        numbers: The numbers of the images to read; None is all.
        part: The images of each full batch that are read and returned; None is all. Order and crops are those
            of the whole batch.

    Attributes:
        ahead: The largest number of batches that are being read at the same time.

    Raises:
        ValueError: An argument is out of range.
        DataError: While reading, if too many images are broken.
        WorkerError: While reading, if a worker process died or failed.
    """

    def __init__(
        self,
        split: Split,
        batch: int,
        seed: int = 0,
        *,
        crop: tuple[int, int] | None = None,
        random_crop: bool = False,
        pad: int = 0,
        mirror: bool = False,
        area: tuple[float, float] | None = None,
        distortion: Distortion = NO_DISTORTION,
        shuffle: bool = True,
        drop_last: bool = True,
        workers: int | None = None,
        allocate: Callable[[tuple[int, ...], type[np.uint8]], Pixels] = np.empty,
        numbers: Indices | None = None,
        part: slice | None = None,
    ) -> None:
        height, width, _ = split.image_shape
        crop = (height, width) if crop is None else crop
        whole("batch", batch, 1)
        self._numbers = np.arange(len(split)) if numbers is None else numbers
        count = len(self._numbers)
        if drop_last and batch > count:
            raise ValueError(
                f"batch is {batch}, more than the {count} {split.name} images: not one batch is full"
            )
        if not (1 <= crop[0] <= height and 1 <= crop[1] <= width):
            raise ValueError(
                f"crop is {crop[0]}x{crop[1]}; it must be from 1x1 to the images' {height}x{width}"
            )
        whole("pad", pad, 0, min(crop) - 1)  # or a crop could miss the image
        whole("seed", seed, 0, 2**64 - 1)
        if area is not None and (random_crop or pad):
            raise ValueError("area is for crops without random_crop and pad: they are drawn with their size")
        if has_pixels(split.labels) and (area is not None or not distortion.is_identity):
            raise ValueError("label images are not resized or distorted with their images: leave out both")
        self._area = None if area is None else as_area("area", area)
        self._crop = crop
        if workers is not None:
            whole("workers", workers, 0)
        self.split, self.batch, self.seed = split, batch, seed
        self._room = (height - crop[0], width - crop[1])
        self._random_crop, self._pad, self._mirror = random_crop, pad, mirror
        self._shuffle, self._drop_last = shuffle, drop_last
        self._allocate = allocate
        self._part = slice(0, batch) if part is None else part
        own = len(range(batch)[self._part])
        if part is not None and (not drop_last or own < 1):
            raise ValueError(f"part must be of full batches, and not empty: {part}")
        self.steps_per_epoch = count // batch if drop_last else -(-count // batch)
        self._distortion = distortion
        self._thread = None if distortion.is_identity else ThreadPoolExecutor(1, "cconvnet-distort")
        self._pictures = split if area is None else split.original
        self._reader = self._pictures.open_reader(workers)
        # Batches being read, including the one that the consumer waits for.
        self.ahead = 1 + max(1, -(-self._reader.in_flight // own))
        self._closed = False

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers. Batches that were handed out stay valid."""
        self._closed = True
        self._reader.close()
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch from `start_step` on, the same at every call.

        Raises:
            ValueError: An argument is out of range.
        """
        whole("epoch", epoch, 0, 2**64 - 1)
        if not 0 <= start_step <= self.steps_per_epoch:
            raise ValueError(f"start_step must be from 0 to {self.steps_per_epoch}, not {start_step}")
        return self._batches(epoch, start_step)

    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        order = self._order(epoch)
        pending: deque[_Pending] = deque()
        try:
            ahead = start_step
            for step in range(start_step, self.steps_per_epoch):
                if self._closed:
                    raise RuntimeError("the loader is closed")
                while ahead < min(step + self.ahead, self.steps_per_epoch):
                    pending.append(self._begin(order, epoch, ahead))
                    ahead += 1
                batch = self._finish(pending.popleft(), epoch)
                if len(batch):  # all its images may be broken
                    yield batch
        finally:
            for waiting in pending:
                waiting.cancel()

    def _begin(self, order: Indices, epoch: int, step: int) -> _Pending:
        """Return the batch while its images are still being written."""
        begin = step * self.batch
        first = begin + self._part.start
        indices = order[first : begin + self._part.stop].copy()
        count = len(indices)
        # Counter i gives image i of the epoch four words: top, left, mirror and one that is not used.
        words = _philox(self.seed, epoch, _CROP, first).random_raw(4 * count).reshape(count, 4)
        room, pad = np.array(self._room, np.uint64), self._pad
        if self._random_crop:
            at = (words[:, :2] % (room + np.uint64(2 * pad + 1))).astype(np.int32) - np.int32(pad)
        else:
            at = (room // 2 + 0 * words[:, :2]).astype(np.int32)
        top, left = at.T.copy()
        mirror = (words[:, 2] & np.uint64(self._mirror)).astype(np.uint8)
        images = self._allocate((count, *self.split.image_shape), np.uint8)
        labels = self._labels(indices, top, left, mirror)
        batch = Batch(images, labels, top, left, mirror, indices)
        crops = None
        if self._area is not None:
            crops = ResizedCrops(self._area, self._crop, self.seed, epoch, first)
        read = self._reader.start(indices, images, crops)
        distorted = None
        if self._thread is not None:
            seen = images if crops is None else crops.window(images)
            distorted = self._thread.submit(self._distort_good, seen, read, epoch, first)
        return _Pending(batch, first, crops, read, distorted)

    def _distort_good(self, images: Pixels, read: list[Future[Broken]], epoch: int, first: int) -> None:
        """Wait for the images of a batch, and distort them unless some are broken."""
        if sum(len(future.result()) for future in read) == 0:
            self._distort(images, epoch, first)

    def _distort(self, images: Pixels, epoch: int, first: int) -> None:
        if not self._distortion.is_identity:
            distort(images, self._distortion, self.seed, epoch, first)

    def _finish(self, pending: _Pending, epoch: int) -> Batch:
        batch = pending.batch
        broken = [found for future in pending.read for found in future.result()]
        if not broken:
            if pending.distorted is not None:
                pending.distorted.result()
            return batch
        for place, reason in broken:
            self.split.skip(int(batch.indices[place]), reason)
        if self._drop_last:
            for place, _ in broken:
                self._replace(batch, place, pending.crops)
        seen = batch.images if pending.crops is None else pending.crops.window(batch.images)
        self._distort(seen, epoch, pending.first)
        if self._drop_last:
            return batch
        good = np.setdiff1d(np.arange(len(batch)), [place for place, _ in broken])
        return batch[good]

    def _replace(self, batch: Batch, place: int, crops: ResizedCrops | None) -> None:
        """Put the next good image of the split, with its own label, in the place of a broken one."""
        here = slice(place, place + 1)
        own = None if crops is None else crops.after(place)
        while True:  # ends: skip() raises long before all images are broken
            batch.indices[here] = (batch.indices[here] + 1) % len(self.split)
            broken = self._pictures.fill(batch.indices[here], batch.images[here], own)
            if not broken:
                break
            self.split.skip(int(batch.indices[place]), broken[0][1])
        at = batch.top[here], batch.left[here], batch.mirror[here]
        batch.labels[here] = self._labels(batch.indices[here], *at)

    def _labels(self, indices: Indices, top: Offsets, left: Offsets, mirror: npt.NDArray[np.uint8]) -> Labels:
        """Return the labels of images, or those of their crops' pixels."""
        labels = self.split.labels[indices]
        return cropped(labels, self._crop, top, left, mirror) if has_pixels(labels) else labels

    def _order(self, epoch: int) -> Indices:
        """Return the numbers of the images of an epoch, shuffled by sorting random words."""
        if not self._shuffle:
            return self._numbers
        words = _philox(self.seed, epoch, _ORDER, 0).random_raw(len(self._numbers))
        return self._numbers[np.argsort(words, kind="stable")]


def _philox(seed: int, epoch: int, purpose: int, block: int) -> np.random.Philox:
    return np.random.Philox(
        key=np.array([seed, epoch], np.uint64), counter=np.array([block, 0, 0, purpose], np.uint64)
    )


def augmentation(recipe: TrainRecipe) -> dict[str, Any]:
    """Return the arguments by which a Loader augments training images as a recipe says."""
    resized = recipe.random_resized_crop
    return {
        "random_crop": not resized and (recipe.crop or recipe.pad > 0),
        "pad": 0 if resized else recipe.pad,
        "mirror": recipe.mirror,
        "area": recipe.area if resized else None,
        "distortion": recipe.distort,
    }


def mean_image(
    split: Split, progress: Progress | None = None, workers: int | None = None
) -> npt.NDArray[np.float32]:
    """Return the mean float32[H,W,C] of a split's good images, pixel by pixel.

    The sums are sums of integers below 2^53 in float64. So they are exact, and the order of adding changes
    nothing.
    """
    total = np.zeros(split.image_shape, np.float64)
    count = 0
    with Loader(split, 256, shuffle=False, drop_last=False, workers=workers) as loader:
        for number, batch in enumerate(loader.epoch(0)):
            total += batch.images.sum(axis=0, dtype=np.uint32)
            count += len(batch)
            if progress is not None:
                progress(min((number + 1) * loader.batch, len(split)), len(split))
    return (total / count).astype(np.float32)
