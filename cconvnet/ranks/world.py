"""Values and arrays between ranks, and the end of them all.

Nothing is pickled: values travel as JSON, arrays as their memory. A rank that waits sleeps most of the time,
so that its core is free for ranks that still compute.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import platform
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from cconvnet.console import silence
from cconvnet.ranks.launch import Launch, RanksError, launched
from cconvnet.ranks.watchdog import EXIT_CODE, RanksWatchdog, Watchdog, timeout
from cconvnet.system.installation import pip_install

# A wait yields its core between two looks for this long, then sleeps longer and longer.
_SECONDS_OF_YIELDING = 1e-3
_MIN_SECONDS_OF_SLEEP, _MAX_SECONDS_OF_SLEEP = 50e-6, 1e-3
# Sleeping this part of the time that has passed makes a wait that much longer at most.
_SHARE_OF_SLEEP = 1 / 20

# While ranks connect or part no watchdog runs. The system's alarm ends a process that hangs there.
_SECONDS_TO_CONNECT, _SECONDS_TO_PART = 600, 60
# MPI may hang while it ends all ranks.
_SECONDS_TO_ABORT = 2
# The time in which a launcher ends all ranks because one was killed.
_SECONDS_FOR_LAUNCHER = 5.0
# Ranks often fail alike. The others leave it to rank 0 to print why, or at least to the ranks before them.
_SECONDS_FOR_RANK_0, _SECONDS_BETWEEN_RANKS = 1.0, 0.05


class World:
    """All ranks as one of them sees them. This class is the world of a process alone.

    Methods are collective: all ranks call them, in the same order. `wait`, `abort` and `fail` are not.

    Attributes:
        rank: The number of this process, from 0 to `size` - 1.
        size: The number of processes.
        local_rank: The number of this process among those of its host.
        local_size: The number of processes on this host.
        host: The name of this host.
        comm: A communicator of all ranks that is the world's own; None alone.
        watchdog: What this rank does, for the thread that ends all if they cannot go on.
        closed: True after `close`.

    A context of a world closes it, or ends all ranks if an exception leaves it.
    """

    def __init__(self) -> None:
        self.rank, self.size = 0, 1
        self.local_rank, self.local_size = 0, 1
        self.host = platform.node()
        self.comm: Any = None
        self.watchdog = Watchdog()
        self.closed = False

    @classmethod
    def alone(cls) -> World:
        """Return the world of a process that has no others."""
        return World()

    @property
    def first(self) -> bool:
        """True on rank 0, which prints and writes."""
        return self.rank == 0

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value on every rank.

        Args:
            value: On rank 0, a value of JSON; elsewhere of no meaning.
        """
        return value

    def broadcast_array(self, array: NDArray[Any]) -> None:
        """Overwrite an array with rank 0's.

        Args:
            array: Of the same shape and type on all ranks, C-contiguous.

        Raises:
            ValueError: If the array is not C-contiguous.
        """
        if not array.flags.c_contiguous:
            raise ValueError("array must be C-contiguous")

    def collect_array(self, own: NDArray[Any], whole: NDArray[Any]) -> None:
        """Copy the arrays of all ranks to rank 0.

        Args:
            own: Of the same shape and type on all ranks, C-contiguous.
            whole: On rank 0, C-contiguous: an array of each rank's, in the order of ranks.
        """
        whole[0] = own

    def share(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in the order of ranks.

        Args:
            value: A value of JSON.
        """
        return [value]

    def share_numbers(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the numbers of all ranks, float64[size, n], in one message.

        Args:
            numbers: float64[n], the same n on all ranks.
        """
        return np.array(numbers, np.float64)[None]

    def highest(self, number: float) -> float:
        """Return the highest of all ranks' numbers."""
        return float(number)

    def barrier(self) -> None:
        """Wait until all ranks are here."""

    def wait(self, requests: Sequence[Any]) -> None:
        """Wait until operations of MPI are complete, without keeping a core busy.

        Args:
            requests: Requests of `comm` or of another communicator.
        """

    def abort(self, code: int) -> NoReturn:
        """End all ranks at once.

        Args:
            code: The exit code.
        """
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        self._kill(code)

    def fail(self, code: int, text: str) -> NoReturn:
        """Print why this rank ends, and end all ranks.

        If rank 0 ends at about the same time, only its text is printed.

        Args:
            code: The exit code: 0 for an end that was asked for, 2 for a mistake of the user.
            text: The reason, or nothing.
        """
        if not self.first:
            time.sleep(_SECONDS_FOR_RANK_0 + min(1.0, self.rank * _SECONDS_BETWEEN_RANKS))
        if text:
            # Signals and the user's mistakes are mostly the same on all ranks, so a number would mislead.
            number = "" if self.first and code in (0, 2) else f"rank {self.rank} of {self.size}: "
            sys.stderr.write(f"{number}{text.rstrip()}\n")
        self.abort(code)

    def close(self) -> None:
        """End the work together. After it, ranks only exit."""
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.close()

    def _kill(self, code: int) -> NoReturn:
        os._exit(code)


class _Joined(World):
    """The world of a process that MPI connects with others."""

    def __init__(self, mpi: Any, limit: float | None) -> None:
        super().__init__()
        self._mpi = mpi
        self.comm = mpi.COMM_WORLD.Dup()
        self.comm.Set_errhandler(mpi.ERRORS_RETURN)  # mpi4py raises what is returned
        self.rank, self.size = self.comm.rank, self.comm.size
        local = self.comm.Split_type(mpi.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = local.rank, local.size
        local.Free()
        limit = self.broadcast(limit)  # a launcher may not pass variables on to other hosts
        self.watchdog = RanksWatchdog(self.comm.Dup(), self.share(self.host), limit, self._kill)

    def broadcast(self, value: Any) -> Any:
        text = np.frombuffer(json.dumps(value).encode(), np.uint8) if self.first else None
        length = np.array([0 if text is None else text.size])
        self.broadcast_array(length)
        if text is None:
            text = np.empty(length[0], np.uint8)
        self.wait([self.comm.Ibcast(text)])
        return json.loads(text.tobytes())

    def broadcast_array(self, array: NDArray[Any]) -> None:
        super().broadcast_array(array)
        self.wait([self.comm.Ibcast(array.reshape(-1).view(np.uint8))])

    def collect_array(self, own: NDArray[Any], whole: NDArray[Any]) -> None:
        everyones = whole.reshape(-1).view(np.uint8) if self.first else None
        self.wait([self.comm.Igather(own.reshape(-1).view(np.uint8), everyones)])

    def share(self, value: Any) -> list[Any]:
        text = np.frombuffer(json.dumps(value).encode(), np.uint8)
        lengths = np.empty(self.size, np.int64)
        self.wait([self.comm.Iallgather(np.array([text.size]), lengths)])
        ends = np.cumsum(lengths)
        texts = np.empty(ends[-1], np.uint8)
        self.wait([self.comm.Iallgatherv(text, [texts, lengths])])
        return [json.loads(part.tobytes()) for part in np.split(texts, ends[:-1])]

    def share_numbers(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        own = super().share_numbers(numbers)
        everyones = np.empty((self.size, own.size))
        self.wait([self.comm.Iallgather(own, everyones)])
        return everyones

    def highest(self, number: float) -> float:
        found = np.empty(1)
        self.wait([self.comm.Iallreduce(np.array([float(number)]), found, self._mpi.MAX)])
        return float(found[0])

    def barrier(self) -> None:
        self.wait([self.comm.Ibarrier()])

    def wait(self, requests: Sequence[Any]) -> None:
        requests = list(requests)
        began = time.monotonic()
        with self.watchdog.waiting():
            while not self._are_complete(requests):
                passed = time.monotonic() - began
                if passed < _SECONDS_OF_YIELDING:
                    os.sched_yield()  # sleep(0) would sleep for the slack of timers, 50 µs
                else:
                    seconds = max(passed * _SHARE_OF_SLEEP, _MIN_SECONDS_OF_SLEEP)
                    time.sleep(min(seconds, _MAX_SECONDS_OF_SLEEP))

    def _are_complete(self, requests: Sequence[Any]) -> bool:
        try:
            return bool(self._mpi.Request.Testall(requests))
        except self._mpi.Exception as error:
            # A rank is gone. Its launcher knows more, and ends all if it was killed.
            time.sleep(_SECONDS_FOR_LAUNCHER)
            self.fail(
                EXIT_CODE, f"another rank is gone, or the way to it is broken ({error}): resume the run"
            )

    def close(self) -> None:
        if self.closed:
            return
        with self.watchdog.phase("end"):
            self.barrier()
        with _alarm(_SECONDS_TO_PART):
            self.watchdog.stop(self.barrier)
            self.comm.Free()
            self._mpi.Finalize()
        self.closed = True

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.close()
        else:
            self.fail(*exit_of(error))

    def _kill(self, code: int) -> NoReturn:
        end = threading.Timer(_SECONDS_TO_ABORT, os._exit, [code])
        end.daemon = True
        end.start()
        signal.alarm(_SECONDS_TO_ABORT + 1)  # needs no lock of Python's
        with contextlib.suppress(OSError, ValueError):
            silence(sys.stderr)  # MPI adds lines of its own, which explain nothing
        self._mpi.COMM_WORLD.Abort(code)
        os._exit(code)


LEFT = "it ended before the others"
_world: World | None = None


def join() -> World:
    """Return this process's world: of all ranks if a launcher started several, else alone.

    The first call is collective, and initialises MPI. Every call returns the same world. A process that ends
    without having closed it ends all ranks.

    Raises:
        RanksError: If several processes were started and cannot be connected.
    """
    global _world
    if _world is None:
        launch = launched()
        if launch.alone:
            _world = World.alone()
        else:
            limit = timeout()
            with _alarm(_SECONDS_TO_CONNECT):
                _world = _Joined(_connect(launch), limit)
            atexit.register(_end, os.getpid(), _world)
    return _world


def joined() -> World | None:
    """Return the world that `join` returned, if it was called."""
    return _world


def exit_of(error: BaseException) -> tuple[int, str]:
    """Return the exit code of a rank that an exception ends, and the reason, for `World.fail`."""
    if isinstance(error, KeyboardInterrupt):
        return 130, ""
    if isinstance(error, SystemExit):
        code = error.code
        return (1, code) if isinstance(code, str) else (code if isinstance(code, int) and code else 1, LEFT)
    return 1, "".join(traceback.format_exception(error))


def _end(process: int, world: World) -> None:
    if not world.closed and os.getpid() == process:  # forks end alone
        world.fail(1, LEFT)


@contextlib.contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def _connect(launch: Launch) -> Any:
    """Return the module of MPI, initialised."""
    launch.check()
    try:
        import mpi4py

        mpi4py.rc.thread_level = "multiple"
        mpi4py.rc.finalize = False  # it waits for all ranks; only `close` may
        with warnings.catch_warnings(action="ignore"):  # of another launcher: the size below is sure
            from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # a RuntimeError without a library of MPI
        fix = pip_install("mpi4py", "mpich")
        raise RanksError(f"{launch.started}, which need mpi4py ({error}): {fix}") from None
    library = MPI.Get_library_version().splitlines()[0].strip("\0 ")
    size = MPI.COMM_WORLD.size
    if size != (launch.size or size):
        own = Path(sys.executable).with_name("mpiexec")
        raise RanksError(
            f"{launch.started}, but MPI sees {size}: mpiexec is of another MPI than mpi4py's, "
            f"which is {library}" + (f"; use {own}" if own.exists() else "; use that one's mpiexec")
        )
    if MPI.Query_thread() != MPI.THREAD_MULTIPLE:
        raise RanksError(f"{library} was initialised without THREAD_MULTIPLE, which ranks need")
    return MPI
