"""Our side of a comparison of loaders: the stages in which images are decoded, loaded and trained on."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np

from cconvnet import data
from cconvnet._problem import InputProblem
from cconvnet.bench.peers.feeding import open_streamed, timed, times_over
from cconvnet.data.images import Pixels
from cconvnet.data.resized_crops import ResizedCrops
from cconvnet.data.splits import Indices, Reader, Split
from cconvnet.data.workers import CHUNK, Broken
from cconvnet.devices import get_device
from cconvnet.nets import spec_from_dict
from cconvnet.network import Network
from cconvnet.network.synthetic import MEAN, TIMED_LR, Training


class Repeated(Split):
    """A split repeated several times, as if it had so many more images."""

    def __init__(self, split: Split, times: int) -> None:
        super().__init__(split.name, np.tile(split.labels, times), split.image_shape)
        self._split, self._times = split, times

    def file(self, index: int) -> str:
        """Return the file of an image."""
        return self._split.file(index % len(self._split))

    def skip(self, index: int, reason: str) -> None:
        """Count an image as unreadable."""
        self._split.skip(index % len(self._split), reason)

    def fill(self, indices: Indices, images: Pixels, crops: ResizedCrops | None = None) -> Broken:
        """Read images into an array."""
        return self._split.fill(indices % len(self._split), images, crops)

    def open_reader(self, workers: int | None, times: int = 1) -> Reader:
        """Open a reader of the split, whose indices are taken modulo its length."""
        reader = self._split.open_reader(workers, times * self._times)
        return _RepeatedReader(reader, len(self._split))


class _RepeatedReader:
    def __init__(self, reader: Reader, count: int) -> None:
        self._reader, self._count = reader, count
        self.in_flight = reader.in_flight

    def start(
        self, indices: Indices, images: Pixels, crops: ResizedCrops | None = None
    ) -> list[Future[Broken]]:
        return self._reader.start(indices % self._count, images, crops)

    def close(self) -> None:
        self._reader.close()


class OurData:
    """Our side of a comparison of loaders.

    Args:
        data: The data, as for open_source. Images are read anew each time, even if they would fit in memory.
        size: The size of stored images, as for open_source.
        spec: The network, as cconvnet.nets.spec_to_dict describes it.
        batch: Images in a batch.
        device: The name of the device.
        precision: One of cconvnet.devices.PRECISIONS.
        workers: Decoding processes.
    """

    def __init__(
        self,
        data: str | None,
        size: int | None,
        spec: dict[str, Any],
        batch: int,
        device: str,
        precision: str,
        workers: int,
    ) -> None:
        source = open_streamed(data, size)
        net = spec_from_dict(spec)
        self.batch, self.workers = batch, workers
        self.split = Repeated(source.train, times_over(len(source.train), batch))
        self.network = Network(net, batch=batch, devices=[device], precision=precision)
        self.training = Training(self.network)
        self.crop = (net.input.height, net.input.width)
        self._order = itertools.cycle(np.random.default_rng(0).permutation(len(self.split)).tolist())

    def measure(self, stage: str, seconds: float) -> tuple[int, float]:
        """Measure one turn of a stage; return images and seconds. Nothing continues to run afterwards."""
        stages: dict[str, Callable[[float], tuple[int, float]]] = {
            "decode 1": self._decode_alone,
            "decode": self._decode,
            "load": lambda seconds: self._loaded(lambda batch: None, seconds),
            "crops": self._crops,
            "feed": lambda seconds: self._loaded(self._fed, seconds),
            "step": self._step,
            "train": self._train,
        }
        return stages[stage](seconds)

    def _next(self) -> Indices:
        return np.fromiter(itertools.islice(self._order, CHUNK), np.int64, CHUNK)

    def _decode_alone(self, seconds: float) -> tuple[int, float]:
        images = np.empty((CHUNK, *self.split.image_shape), np.uint8)

        def advance() -> int:
            self.split.fill(self._next(), images)
            return CHUNK

        return timed(advance, seconds)

    def _decode(self, seconds: float) -> tuple[int, float]:
        reader = self.split.open_reader(self.workers)
        slots = 1 + -(-reader.in_flight // CHUNK)
        images = np.empty((slots, CHUNK, *self.split.image_shape), np.uint8)
        under_way: deque[list[Future[Broken]]] = deque()
        place = itertools.cycle(range(slots))

        def advance() -> int:
            while len(under_way) < slots:
                under_way.append(reader.start(self._next(), images[next(place)]))
            for future in under_way.popleft():
                future.result()
            return CHUNK

        try:
            return timed(advance, seconds, slots)
        finally:
            reader.close()

    def _loaded(self, use: Callable[[data.Batch], None], seconds: float) -> tuple[int, float]:
        """Load batches and call `use` with each."""
        with data.Loader(
            self.split,
            self.batch,
            seed=1,
            crop=self.crop,
            random_crop=True,
            mirror=True,
            workers=self.workers,
            allocate=self.network.devices[0].staging,
        ) as loader:
            batches: Iterator[data.Batch] = itertools.chain.from_iterable(
                map(loader.epoch, itertools.count())
            )

            def advance() -> int:
                batch = next(batches)
                use(batch)
                return len(batch)

            return timed(advance, seconds, loader.ahead)

    def _crops(self, seconds: float) -> tuple[int, float]:
        device = get_device("cpu:0")
        transform = device.module.input_transform
        problem = InputProblem(self.batch, *self.split.image_shape, *self.crop)
        mean = device.array(np.full(self.split.image_shape, MEAN, np.float32))
        crops = device.empty(problem.y_shape)

        def use(batch: data.Batch) -> None:
            where = batch.top, batch.left, batch.mirror
            transform(problem, batch.images, *where, mean, None, 1.0, None, crops, device.stream)

        return self._loaded(use, seconds)

    def _load(self, batch: data.Batch) -> None:
        self.network.load(*batch.inputs)

    def _fed(self, batch: data.Batch) -> None:
        self._load(batch)
        self.network.forward_inputs()
        for device in self.network.devices:
            device.synchronize()

    def _step(self, seconds: float) -> tuple[int, float]:
        training = self.training
        self.network.load(*training.inputs)

        def advance() -> int:
            training.train()
            return self.batch

        return timed(advance, seconds)

    def _train(self, seconds: float) -> tuple[int, float]:
        """Train in the trainer's order: the result of a step is read when the next has been launched."""
        results: deque[Callable[[], Any]] = deque()
        steps = itertools.count()

        def use(batch: data.Batch) -> None:
            self._load(batch)
            self.network.train_step(next(steps), TIMED_LR, self.network.spec.recipe.momentum)
            results.append(self.network.result_later())
            if len(results) > 1:
                results.popleft()()

        return self._loaded(use, seconds)
