"""Checkpoints in the background: a snapshot between two steps, and a thread that writes it.

Only the snapshot pauses training. It is copied into memory that was taken at the start, since the first touch
of fresh memory costs more than the copy. The thread then checks that every value is finite, takes the
SHA-256, writes, syncs and renames the file.
"""

from __future__ import annotations

import dataclasses
import time
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet.network import Network
from cconvnet.optim import Parameter
from cconvnet.runs.checkpoint import Checkpoint, Folder, NotFinite
from cconvnet.training.log import Log
from cconvnet.training.settings import Progress
from cconvnet.training.stopping import Failures, TrainingStopped

Array = np.ndarray[Any, Any]

_SECONDS_BETWEEN_CHECKPOINTS = 600.0
# An epoch's end is worth a checkpoint if the time since the last one is this many times as long as that one
# paused training, and twice as long as it was written. So the disk is free half of the time.
_TRAINING_PER_STALL = 10.0
_TIME_PER_WRITING = 2.0


class Snapshot(Mapping[str, Array]):
    """A network's state (``Network.state()``) at the last call of ``take()``, for which all ranks must meet.

    It takes as many bytes as the state. A parameter in several pieces is assembled when it is read.
    """

    def __init__(self, network: Network) -> None:
        self._copies: dict[str, tuple[Parameter, list[Array]]] = {}
        pairs: dict[str, list[tuple[Any, Array]]] = {device.name: [] for device in network.devices}
        for name, (parameter, what) in network.stateful().items():
            copies = []
            for piece in parameter.pieces:
                array = getattr(piece, what)
                if piece.collected and what == "velocity":
                    copies.append(array)  # nothing changes it before the next snapshot
                    continue
                copies.append(piece.device.host_memory(array.shape, array.dtype))
                pairs[piece.device.name].append((array, copies[-1]))
            self._copies[name] = parameter, copies
        self._network = network
        self._pairs = [(device, pairs[device.name]) for device in network.devices if pairs[device.name]]

    def take(self) -> Callable[[], None]:
        """Begin to copy the state after all work that the devices have been given; later work may change it.

        Returns:
            A function that waits for the copies, in any thread. Nothing may be read before it has returned.
        """
        self._network.collect()
        waits = [device.copy_out(pairs) for device, pairs in self._pairs]

        def wait_for_all() -> None:
            for wait_for_device in waits:
                wait_for_device()

        return wait_for_all

    def __getitem__(self, name: str) -> Array:
        parameter, copies = self._copies[name]
        return parameter.whole(copies)

    def __iter__(self) -> Iterator[str]:
        return iter(self._copies)

    def __len__(self) -> int:
        return len(self._copies)


@dataclasses.dataclass(frozen=True)
class Saved:
    """A checkpoint that was written.

    Attributes:
        step: The number of steps done.
        path: The file.
        bytes: Its size.
        seconds: The time that checking, hashing and writing took.
    """

    step: int
    path: Path
    bytes: int
    seconds: float


class Saver:
    """The writer of snapshots of a network, one at a time; its context ends when all is written.

    Args:
        network: The network.
        folder: Where the checkpoints are.
        writes: False on a rank that only gives its part to the first; it has no memory for snapshots.
    """

    def __init__(self, network: Network, folder: Folder, writes: bool = True) -> None:
        self._network, self._folder = network, folder
        self._snapshot = Snapshot(network) if writes else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cconvnet-checkpoint")
        self._pending: Future[Saved] | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.shutdown()

    @property
    def busy(self) -> bool:
        """True while a checkpoint is being written."""
        return self._pending is not None and not self._pending.done()

    def begin(self, checkpoint: Checkpoint, best_step: int | None) -> None:
        """Take a snapshot and begin to write it. The checkpoint before must have been collected.

        Args:
            checkpoint: Its tensors are written beside the network's own. Nothing in it may change.
            best_step: The step of the checkpoint with the lowest test error, which stays.
        """
        assert self._pending is None and self._snapshot is not None
        self._pending = self._thread.submit(self._write, checkpoint, best_step, self._snapshot.take())

    def give(self) -> None:
        """Give this rank's part of a snapshot to the first rank, which writes it."""
        self._network.collect()

    def _write(self, beside: Checkpoint, best_step: int | None, wait_for_copies: Callable[[], None]) -> Saved:
        wait_for_copies()
        begun = time.perf_counter()
        assert self._snapshot is not None
        tensors = ChainMap(dict(beside.tensors), self._snapshot)  # type: ignore[arg-type]
        path = self._folder.save(dataclasses.replace(beside, tensors=tensors), best_step)
        return Saved(beside.step, path, path.stat().st_size, time.perf_counter() - begun)

    def settle(self) -> None:
        """Wait until nothing is being written, whether that succeeds or not."""
        if self._pending is not None:
            wait([self._pending])

    def collect(self) -> Saved | None:
        """Wait for the last begin() and return its result, once; None if there is none.

        Raises:
            NotFinite, OSError: As :func:`cconvnet.runs.checkpoint.save`.
        """
        pending, self._pending = self._pending, None
        return None if pending is None else pending.result()


class Checkpointer:
    """The checkpoints of a training: when one is due, and the log of what it took.

    Args:
        saver: Writes the checkpoints.
        progress: The progress of the training.
        log: Has a line for each checkpoint.
        failures: Makes the texts of errors.
        content: Returns what is saved beside the network's state, as it is now; None on a rank that only
            gives its part of the state to the first.

    Attributes:
        saved_step: The step of the newest checkpoint.
        writing_seconds: The time that the last checkpoint was written.
    """

    def __init__(
        self,
        saver: Saver,
        progress: Progress,
        log: Log,
        failures: Failures,
        content: Callable[[], Checkpoint] | None,
    ) -> None:
        self._saver, self._progress, self._content = saver, progress, content
        self._log, self._failures = log, failures
        self.saved_step = -1
        self._saved_at = time.monotonic()
        # Seconds for which the last checkpoint paused training and was written. They are 0 at first, so that
        # the first epoch's end of a resumed run is saved.
        self._stalled, self.writing_seconds = 0.0, 0.0

    def due(self, every: int | None) -> bool:
        """Return True if a checkpoint should be saved now.

        Args:
            every: The number of steps between checkpoints; None: ten minutes, if none is being written.
        """
        if every is not None:
            return self._progress.step % every == 0
        return not self._saver.busy and time.monotonic() - self._saved_at > _SECONDS_BETWEEN_CHECKPOINTS

    def worth_it(self) -> bool:
        """Return True if the end of an epoch that is neither the best nor due is worth a checkpoint.

        That is so if none is being written and a kill would cost much more time than saving takes. So a run
        of short epochs and a large network does not spend its time on its disk.
        """
        if self._saver.busy:
            return False
        self.wait()
        enough = max(_TRAINING_PER_STALL * self._stalled, _TIME_PER_WRITING * self.writing_seconds)
        return time.monotonic() - self._saved_at >= enough

    def save(self) -> None:
        """Begin to save a checkpoint. There is one writer: a checkpoint that is being written is waited for.

        Raises:
            TrainingStopped: The checkpoint before could not be written.
        """
        begun = time.monotonic()
        self.wait()
        best = self._progress.best
        if self._content is None:
            self._saver.give()
        else:
            self._saver.begin(self._content(), best["step"] if best else None)
        self.saved_step, self._saved_at = self._progress.step, time.monotonic()
        self._stalled = self._saved_at - begun

    def collect(self) -> None:
        """Log the last checkpoint if it was written meanwhile.

        Raises:
            TrainingStopped: It could not be written.
        """
        if not self._saver.busy:
            self.wait()

    def wait(self) -> None:
        """Wait for the checkpoint that is being written, if there is one, and log it.

        Raises:
            TrainingStopped: It could not be written.
        """
        try:
            with self._failures.of_disk():
                saved = self._saver.collect()
        except NotFinite as error:
            step = self.saved_step
            raise TrainingStopped(
                f"{error} after step {step} (epoch {self._log.epoch_at(step):g}). "
                + self._failures.advise_lower_rate()
            ) from error
        if saved is None:
            return
        self.writing_seconds = saved.seconds
        self._log.write_checkpoint(
            saved.step,
            {
                "checkpoint": saved.path.name,
                "stall_seconds": round(self._stalled, 6),
                "write_seconds": round(saved.seconds, 6),
                "bytes": saved.bytes,
            },
        )
