"""Writers of shards: child processes, or this process if the pictures are in its memory."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cconvnet.data.byte_ranges import ByteRange
from cconvnet.data.dataset import Pictures
from cconvnet.data.images import BrokenImage, Content, read_bytes, read_raw
from cconvnet.data.shards.encoding import Recipe
from cconvnet.data.shards.journal import Broken, Part, write_record
from cconvnet.data.shards.writer import Picture, write_shard
from cconvnet.data.workers import WorkerError, answers_to_parent, ending, spawn
from cconvnet.errors import DataError

_SECONDS_BETWEEN_REPORTS = 0.2

# Called with the number of this shard's finished pictures, and the numbers and reasons of newly found broken
# ones.
Report = Callable[[int, Broken], None]


class ShardMaker(Protocol):
    """A writer of one shard at a time; close() interrupts it."""

    def make(self, part: Part, report: Report) -> None:
        """Make one shard.

        Raises:
            DataError: The pictures cannot be read.
            OSError: The shard cannot be written.
            WorkerError: A worker process died or failed.
        """
        ...

    def close(self) -> None:
        """Stop the maker."""
        ...


def make_shard(
    folder: Path, part: Part, read: Callable[[int], Content], recipe: Recipe, report: Report
) -> None:
    """Write a shard and its record; `read` reads the picture with a given number.

    Raises:
        DataError: The pictures cannot be read.
        OSError: The shard cannot be written.
    """
    skipped: Broken = []

    def pictures() -> Iterator[Picture]:
        reported, reported_broken = time.monotonic(), 0
        for done, number in enumerate(range(part.first, part.first + part.count), 1):
            try:
                yield recipe.apply(read(number))
            except BrokenImage as error:
                skipped.append((number, str(error)))
            if time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS:
                report(done, skipped[reported_broken:])
                reported, reported_broken = time.monotonic(), len(skipped)
        report(part.count, skipped[reported_broken:])

    shard = write_shard(folder / part.name, pictures())
    write_record(folder, part, shard, skipped)


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror or error}") from error


class LocalMaker:
    """A maker in this process, for pictures in its memory or for runs without workers."""

    def __init__(self, folder: Path, splits: dict[str, Pictures], recipe: Recipe) -> None:
        self._folder, self._splits, self._recipe = folder, splits, recipe
        self._closed = threading.Event()

    def make(self, part: Part, report: Report) -> None:
        """Make one shard."""

        def read(number: int) -> Content:
            if self._closed.is_set():
                raise WorkerError("the work was stopped")
            with _reading():
                return self._splits[part.split].content(number)

        make_shard(self._folder, part, read, self._recipe, report)

    def close(self) -> None:
        """Stop before the next picture."""
        self._closed.set()


class ProcessMaker:
    """A maker in a child process, which inherits the folder's lock and holds it until it ends."""

    def __init__(self, folder: Path, splits: dict[str, Pictures], recipe: Recipe, lock: int) -> None:
        self._splits = splits
        start = {"folder": str(folder), "recipe": dataclasses.asdict(recipe)}
        self._folder, self.process = folder, spawn("cconvnet.data.shards.writer_pool:main", start, [lock])

    def make(self, part: Part, report: Report) -> None:
        """Make one shard."""
        process = self.process
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead, which its answers will report
            process.stdin.write(json.dumps([vars(part), *_places(self._splits[part.split], part)]).encode())
            process.stdin.write(b"\n")
            process.stdin.flush()
        for line in process.stdout:
            answer = json.loads(line) if line.endswith(b"\n") else {}
            if "done" in answer:
                report(answer["done"], [(number, reason) for number, reason in answer["broken"]])
            elif "finished" in answer:
                return
            elif "data_error" in answer:
                raise DataError(answer["data_error"])
            elif "errno" in answer:
                raise OSError(answer["errno"], answer["text"], str(self._folder))
            elif "error" in answer:
                raise WorkerError(f"worker (process {process.pid}) failed: {answer['error']}")
        how = ending(process, " fewer --workers need less")
        raise WorkerError(
            f"worker (process {process.pid}) {how} while it made {part.name}; what was finished is kept, and "
            "the same command resumes"
        )

    def close(self) -> None:
        """Kill the process; its unfinished shard is made again later."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()


def _places(pictures: Pictures, part: Part) -> tuple[list[ByteRange], list[list[int]] | None]:
    """Return the byte ranges of a part's pictures and, for raw ones, heights, widths and channels."""
    assert pictures.ranges is not None
    numbers = np.arange(part.first, part.first + part.count)
    stored, raw = pictures.ranges.select(numbers), pictures.raw
    if raw is None:
        return stored, None
    channels = np.full(part.count, raw.channels)
    return stored, np.stack([raw.height[numbers], raw.width[numbers], channels], axis=1).tolist()


def main(start: dict[str, Any]) -> None:
    """Run a worker: read a request, make the shard, report progress, answer."""
    answers = answers_to_parent()
    recipe, folder = Recipe.from_dict(start["recipe"]), Path(start["folder"])

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values).encode() + b"\n")
        answers.flush()

    for request in sys.stdin.buffer:
        fields, stored, shapes = json.loads(request)
        part = Part(**fields)
        reader = _Reader(part.first, stored, shapes)
        try:
            # The report fails if the parent is gone, so a worker may outlive it for a moment, with the lock.
            make_shard(folder, part, reader, recipe, lambda done, broken: answer(done=done, broken=broken))
            answer(finished=True)
        except BrokenPipeError:
            return
        except DataError as error:
            answer(data_error=str(error))
        except OSError as error:
            answer(errno=error.errno, text=error.strerror)
        except Exception as error:
            answer(error=f"{type(error).__name__}: {error}")


@dataclass(frozen=True)
class _Reader:
    first: int
    stored: Sequence[Sequence[Any]]
    shapes: Sequence[Sequence[int]] | None

    def __call__(self, number: int) -> Content:
        stored = ByteRange(*self.stored[number - self.first])
        with _reading():
            if self.shapes is None:
                return read_bytes(stored)
            pixels = np.empty(self.shapes[number - self.first], np.uint8)
            read_raw(stored, pixels)
            return pixels
