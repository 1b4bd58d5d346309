"""Processes that decode image files, because one Python process uses about one core.

A worker is a plain child process. It receives a list of files in one line of JSON and decodes them into
memory shared with its parent. It answers in one line that lists the broken ones. So nothing remains to be
cleaned up:

- The shared memory has no name, so no crash can leave it behind.
- A worker ends when its parent's end of the pipe closes, however the parent died.
- If a worker dies, its stream of answers ends.

Nothing is forked, so a parent may use a GPU and threads. Nothing is imported from the parent's main module,
so scripts need no guard.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import mmap
import os
import queue
import signal
import subprocess
import sys
import tempfile
import warnings
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from cconvnet.data.byte_ranges import ByteRange
from cconvnet.data.images import BrokenImage, Pixels, read_image, read_part
from cconvnet.data.label_images import CANVAS, centre, paste
from cconvnet.data.preprocessing import CURRENT, Preprocessing
from cconvnet.data.resized_crops import ResizedCrops
from cconvnet.errors import DataError
from cconvnet.system.interpreter import python_command

# The number of files that a worker is given at once. They are enough to make the exchange cheap compared with
# the decoding (about 0.1 ms against 2 ms for 32x32 pixels). They are few enough to spread a batch over the
# workers.
CHUNK = 32

# The default number of workers ends here, because more would hinder each other. It is no limit.
MAX_WORKERS = 16
# A worker that reads from a slow disk mostly waits, so more workers than cores may help. But their number is
# limited: each takes about 30 MB of memory in addition to its pictures.
WORKERS_PER_CORE = 8

# A batch system sends a signal to all processes of a job to stop them. The parent may want to finish its
# work, so a worker ignores the signal. It ends when the parent does.
_FOR_PARENTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# For each broken image, its place in the list of files and the reason.
Broken = list[tuple[int, str]]


class WorkerError(RuntimeError):
    """A decoding process that died or failed. The text names it and its files."""


@dataclass(frozen=True)
class Decoding:
    """The arguments of read_image and read_part for every file of a split.

    With `placed`, pictures are not resized: each is in the middle of a canvas of the shape.
    """

    size: int | None
    shape: tuple[int, int, int]
    decoder: str
    preprocessing: Preprocessing = CURRENT
    placed: bool = False

    def fill(
        self, pictures: Sequence[ByteRange], images: Pixels, crops: ResizedCrops | None = None
    ) -> Broken:
        """Decode `pictures` into images[n,H,W,C]; the contents at a broken picture's place are undefined.

        Args:
            pictures: The pictures.
            images: Where they are written.
            crops: The part of each that is resized to the centre of its image, among zeros; None: all of it.

        Raises:
            DataError: A picture has another shape than the split. The text names the file.
        """
        broken = []
        for place, stored in enumerate(pictures):
            image = images[place]
            try:
                if self.placed:
                    self._place(stored, image)
                    continue
                if crops is None:
                    read_image(stored, self.size, self.shape, self.decoder, image, self.preprocessing)
                    continue
                image[...] = 0
                part = functools.partial(crops.box, place)
                read_part(stored, part, self.decoder, crops.window(image), self.preprocessing)
            except BrokenImage as error:
                broken.append((place, str(error)))
            except OSError as error:
                raise DataError(f"{stored.path} cannot be read: {error.strerror or error}") from error
            except MemoryError as error:
                raise DataError(f"there is not enough memory to decode {stored.path}") from error
        return broken

    def _place(self, stored: ByteRange, image: Pixels) -> None:
        pixels = read_image(stored, None, None, self.decoder, preprocessing=self.preprocessing)
        own, canvas = (pixels.shape[0], pixels.shape[1]), (self.shape[0], self.shape[1])
        if self.size is None and own != canvas:
            raise DataError(
                f"{stored.description} has {own[0]}x{own[1]} pixels (height x width), other images "
                f"{canvas[0]}x{canvas[1]}; give a size, the side of a canvas for all"
            )
        paste(pixels, image, centre(own, canvas), CANVAS)


def usable_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_limit(pictures: int) -> int:
    """Return the largest number of workers, at least 1, that these pictures and cores keep busy."""
    return max(1, min(-(-pictures // CHUNK), max(MAX_WORKERS, WORKERS_PER_CORE * usable_cores())))


def surplus(workers: int | None, pictures: int) -> str:
    """Return a sentence if fewer workers are used than were requested, otherwise ""."""
    limit = worker_limit(pictures)
    if workers is None or workers <= limit:
        return ""
    if limit * CHUNK >= pictures:
        return f"workers: {limit} instead of {workers}: {pictures:,} pictures keep no more busy"
    cores = usable_cores()
    return f"workers: {limit} instead of {workers}: {cores} core{'s' * (cores > 1)} serve no more"


def ending(process: subprocess.Popen[bytes], advice: str = "") -> str:
    """Describe how a child process ended; `advice` is added if the cause may be a lack of memory."""
    status = process.wait()
    if status >= 0:
        return f"ended with status {status}"
    killed = f"was killed by {signal.Signals(-status).name}"
    return f"{killed} (out of memory?{advice})" if -status == signal.SIGKILL else killed


class DecodePool:
    """A pool of `workers` processes that decode files; 0 is one thread of this process.

    Use it as a context manager, or close it with close(). `pids` are the workers' process ids.

    Raises:
        WorkerError: The system refuses to start so many processes.
    """

    def __init__(self, decoding: Decoding, workers: int) -> None:
        self._workers: list[_Worker] = []
        try:
            for number in range(workers):
                self._workers.append(_Worker(number, decoding))
        except OSError as error:
            for worker in self._workers:
                worker.close()
            raise WorkerError(
                f"decoding process {number + 1} of {workers} cannot begin: {error.strerror}. "
                "Fewer --workers need less"
            ) from error
        self._idle: queue.SimpleQueue[_Worker | Decoding] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        if not workers:
            self._idle.put(decoding)
        # Each worker has a thread, which sends it a chunk, sleeps until it answers and copies the pixels.
        self._threads = ThreadPoolExecutor(max(workers, 1), thread_name_prefix="cconvnet-decode")
        self.close = weakref.finalize(self, _close, self._threads, self._workers)

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers."""
        return [worker.process.pid for worker in self._workers]

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def submit(
        self, pictures: Sequence[ByteRange], images: Pixels, crops: ResizedCrops | None = None
    ) -> list[Future[Broken]]:
        """Begin to decode `pictures` into images[n,H,W,C]; there is a future for every CHUNK.

        The result of a future is that of Decoding.fill, with places counted from the beginning of `pictures`.
        A future raises DataError or WorkerError.
        """
        return [
            self._threads.submit(_fill, self._idle, start, pictures[start : start + CHUNK], images, crops)
            for start in range(0, len(pictures), CHUNK)
        ]


def _fill(
    idle: queue.SimpleQueue[_Worker | Decoding],
    start: int,
    pictures: Sequence[ByteRange],
    images: Pixels,
    crops: ResizedCrops | None,
) -> Broken:
    worker = idle.get()
    try:
        own = None if crops is None else crops.after(start)
        broken = worker.fill(pictures, images[start : start + len(pictures)], own)
    finally:
        idle.put(worker)  # a dead one too: its next chunk reports that again
    return [(start + place, reason) for place, reason in broken]


def _close(threads: ThreadPoolExecutor, workers: list[_Worker]) -> None:
    threads.shutdown(wait=False, cancel_futures=True)
    for worker in workers:
        worker.process.kill()  # its work is no longer needed, and a disk that hangs may block it for ever
    threads.shutdown(wait=True)
    for worker in workers:
        worker.close()


class _Worker:
    """The parent's side of one worker."""

    def __init__(self, number: int, decoding: Decoding) -> None:
        self.name = f"decoding worker {number}"
        chunk = (CHUNK, *decoding.shape)
        descriptor = _nameless_memory(int(np.prod(chunk)))
        try:
            self._memory = mmap.mmap(descriptor, 0)
            self._images: Pixels = np.frombuffer(self._memory, np.uint8).reshape(chunk)
            start = {"memory": descriptor, **dataclasses.asdict(decoding)}
            self.process = spawn("cconvnet.data.workers:main", start, [descriptor])
        finally:
            os.close(descriptor)

    def fill(self, pictures: Sequence[ByteRange], images: Pixels, crops: ResizedCrops | None) -> Broken:
        """Run Decoding.fill in the worker."""
        assert self.process.stdin is not None and self.process.stdout is not None
        request = [list(pictures), None if crops is None else dataclasses.astuple(crops)]
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if not answer.endswith(b"\n"):
            raise WorkerError(
                f"{self.name} (process {self.process.pid}) {ending(self.process)} while it had "
                f"{len(pictures)} pictures to decode, from {pictures[0].description} to "
                f"{pictures[-1].description}. If memory is short, fewer --workers need less; if it dies "
                "again, take these pictures out"
            )
        result = json.loads(answer)
        if "data_error" in result:
            raise DataError(result["data_error"])
        if "error" in result:
            raise WorkerError(f"{self.name} (process {self.process.pid}) failed: {result['error']}")
        np.copyto(images, self._images[: len(pictures)])
        return [(place, reason) for place, reason in result["broken"]]

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it died with a request unread
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        del self._images  # a view of the memory, which prevents closing it
        self._memory.close()


def spawn(target: str, start: Mapping[str, Any], inherited: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Start a child process that calls `target`, "module:function", with the JSON values `start`.

    The child inherits the file descriptors `inherited`. The pipes to and from it carry bytes.
    """
    # A child inherits the blocked signals, so that these cannot end it even while it starts.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_PARENTS)
    try:
        return subprocess.Popen(
            python_command(target, [dict(start)], sys.path),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=inherited,
            # One thread each is enough: the workers already run in parallel.
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            # The worker gets a process group of its own, so that the terminal's Ctrl-C reaches only the
            # parent.
            process_group=0,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _nameless_memory(size: int) -> int:
    """Return a descriptor of `size` bytes of shared memory, which is freed when its last user ends."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("cconvnet-decode")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def answers_to_parent() -> BinaryIO:
    """Prepare a spawned child, which must call this first, and return its stream of answers."""
    warnings.simplefilter("ignore")  # Pillow warns about odd metadata; real faults are answers
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library's output must not get among the answers
    return answers


def main(start: dict[str, Any]) -> None:
    """Run a worker: read a list of files, decode them into the shared memory, answer."""
    answers = answers_to_parent()
    preprocessing = Preprocessing(**start["preprocessing"])
    shape = tuple(start["shape"])
    decoding = Decoding(start["size"], shape, start["decoder"], preprocessing, start["placed"])
    memory = mmap.mmap(start["memory"], 0)
    images = np.frombuffer(memory, np.uint8).reshape(CHUNK, *decoding.shape)
    for request in sys.stdin.buffer:
        answer: dict[str, object]
        try:
            ranges, drawn = json.loads(request)
            pictures = [ByteRange(*fields) for fields in ranges]
            crops = None if drawn is None else ResizedCrops(*drawn)
            answer = {"broken": decoding.fill(pictures, images, crops)}
        except DataError as error:
            answer = {"data_error": str(error)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        try:
            answers.write(json.dumps(answer).encode() + b"\n")
            answers.flush()
        except BrokenPipeError:  # the parent is gone
            return
