"""Processes that decode: their resources, their end, and the errors they report."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from helpers.batches import batches_equal, training
from helpers.flat_pictures import CLASSES, make_pictures, told

from cconvnet import data
from cconvnet.bench.peers.cconvnet_data import Repeated
from cconvnet.data.workers import spawn, surplus, worker_limit
from cconvnet.errors import DataError


@pytest.fixture
def streamed(tmp_path: Path) -> data.Split:
    make_pictures(tmp_path, dict.fromkeys(CLASSES, 200))
    return data.open_source(tmp_path, cache_bytes=0).train


def pids(loader: data.Loader) -> list[int]:
    return loader._reader.pool.pids


def is_gone(pid: int) -> bool:
    """No process, or one that has ended but is not yet waited for by whoever adopted it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until_gone(pids: list[int], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not all(map(is_gone, pids)):
        assert time.monotonic() < end, f"{pids} are still there"
        time.sleep(0.02)


def held() -> tuple[int, int, list[str]]:
    """Count the traces of a forgotten worker: open files, threads, shared memory."""
    shared = sorted(path.name for path in Path("/dev/shm").glob("*")) if Path("/dev/shm").exists() else []
    mine = [name for name in shared if "cconvnet" in name]
    return len(os.listdir("/proc/self/fd")), threading.active_count(), mine  # noqa: PTH208


linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")


@linux
def test_nothing_is_left_after_a_loader(streamed: data.Split) -> None:
    before = held()
    with data.Loader(streamed, 16, workers=2) as loader:  # read to the end
        assert len(list(loader.epoch(0))) == 37
        first = pids(loader)
    assert held() == before and all(map(is_gone, first))
    with data.Loader(streamed, 16, workers=2) as loader:  # left in the middle
        batches = loader.epoch(0)
        kept = next(batches)
        second = pids(loader)
    with pytest.raises(ZeroDivisionError), data.Loader(streamed, 16, workers=2) as loader:
        third = pids(loader)
        for _ in loader.epoch(0):
            1 / 0  # noqa: B018
    forgotten = data.Loader(streamed, 16, workers=1)  # not closed at all
    next(forgotten.epoch(0))
    fourth = pids(forgotten)
    del forgotten, loader
    assert all(map(is_gone, first + second + third + fourth))
    assert told(kept.images)  # copied out: it outlives the workers
    with pytest.raises(RuntimeError, match="the loader is closed"):
        next(batches)
    del batches
    assert held() == before


@linux
@pytest.mark.parametrize("workers", [0, 2])
def test_memory_stays_flat_over_thousands_of_batches(streamed: data.Split, workers: int) -> None:
    """No batch outlives its use, and nothing else is gathered."""
    alive: list[weakref.ref[npt.NDArray[np.uint8]]] = []
    most, batches = 0, 0

    def allocate(shape: tuple[int, ...], dtype: type[np.uint8]) -> npt.NDArray[np.uint8]:
        nonlocal most
        images = np.empty(shape, dtype)
        alive[:] = [reference for reference in alive if reference() is not None]
        alive.append(weakref.ref(images))
        most = max(most, len(alive))
        return images

    with data.Loader(streamed, 4, workers=workers, allocate=allocate) as loader:
        inside = held()
        for epoch in range(14):
            for batch in loader.epoch(epoch):
                batches += 1
                assert len(batch) == 4
            inside = inside if epoch else held()  # once every thread has begun
        files, threads, shared = held()
        assert (files, shared) == (inside[0], inside[2])
        assert threads <= inside[1]  # one of an earlier test may have ended
    assert batches >= 1900
    assert most <= loader.ahead + 1  # those under way, and the one in use


def test_memory_without_memfd(streamed: data.Split, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = training(streamed, 0, 1)
    monkeypatch.delattr(os, "memfd_create", raising=False)
    assert batches_equal(expected, training(streamed, 2, 1))


DIED = (
    r"decoding worker 1 \(process {}\) was killed by SIGKILL \(out of memory\?\) while it had \d+ pictures "
    r"to decode, from .*\.png to .*\.png\. If memory is short, fewer --workers"
)


@pytest.mark.parametrize("when", ["idle", "busy"])
def test_a_dead_worker_is_named(streamed: data.Split, when: str) -> None:
    start = time.monotonic()
    with data.Loader(streamed, 16, workers=2) as loader:
        batches = loader.epoch(0)
        if when == "busy":
            next(batches)
        victim = pids(loader)[1]
        os.kill(victim, signal.SIGKILL)
        wait_until_gone([victim])
        with pytest.raises(data.WorkerError, match=DIED.format(victim)):
            for epoch in itertools.count():
                list(batches if epoch == 0 else loader.epoch(epoch))
        others = pids(loader)
    assert time.monotonic() - start < 20
    assert all(map(is_gone, others))


@linux
def test_workers_do_not_heed_signals_meant_for_their_parent(streamed: data.Split) -> None:
    signs = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    with data.Loader(streamed, 16, workers=2) as loader:
        for pid, sign in itertools.product(pids(loader), signs):
            os.kill(pid, sign)  # they are only starting
        expected = list(loader.epoch(0))
        for pid, sign in itertools.product(pids(loader), signs):
            os.kill(pid, sign)
        assert batches_equal(expected, list(loader.epoch(0)))


@linux
def test_workers_that_hang_do_not_keep_their_parent(streamed: data.Split) -> None:
    """As on a network disk that does not answer."""
    workers: list[int] = []
    alarms: list[int] = []

    def alarm(number: int, frame: object) -> None:
        alarms.append(number)
        if len(alarms) == 1:
            raise KeyboardInterrupt  # while the picture is waited for
        for pid in workers:
            os.kill(pid, signal.SIGKILL)

    before = signal.signal(signal.SIGALRM, alarm)
    try:
        with pytest.raises(KeyboardInterrupt), data.Loader(streamed, 16, workers=2) as loader:
            workers += pids(loader)
            for pid in workers:
                os.kill(pid, signal.SIGSTOP)
            signal.setitimer(signal.ITIMER_REAL, 0.2, 60)
            next(loader.epoch(0))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(alarms) == 1
    assert all(map(is_gone, workers))


@pytest.mark.parametrize(
    "pictures, cores, limit",
    [(1, 4, 1), (20, 4, 1), (32, 4, 1), (33, 4, 2), (10**6, 1, 16), (10**6, 2, 16), (10**6, 8, 64)],
)
def test_workers_that_pictures_and_cores_keep_busy(
    pictures: int, cores: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cconvnet.data.workers.usable_cores", lambda: cores)
    assert worker_limit(pictures) == limit
    for asked in (None, 0, 1, limit):
        assert surplus(asked, pictures) == ""
    assert surplus(limit + 1, pictures).startswith(f"workers: {limit} instead of {limit + 1}: ")


@linux
def test_no_more_workers_than_there_is_work(tmp_path: Path) -> None:
    make_pictures(tmp_path, {"a": 20, "b": 25})
    split = data.open_source(tmp_path, cache_bytes=0).train
    for asked, count in ((1, 1), (2, 2), (60, 2)):
        with data.Loader(split, 8, workers=asked) as loader:
            assert len(pids(loader)) == count
    with data.Loader(Repeated(split, 3), 8, workers=60) as loader:
        assert len(loader._reader._reader.pool.pids) == 5  # type: ignore[attr-defined]


@linux
def test_more_workers_than_the_system_allows(streamed: data.Split, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    def allowed(*arguments: Any) -> subprocess.Popen[bytes]:
        if len(begun) == 2:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        process = spawn(*arguments)
        begun.append(process.pid)
        return process

    monkeypatch.setattr("cconvnet.data.workers.spawn", allowed)
    words = (
        "decoding process 3 of 4 cannot begin: Resource temporarily unavailable. Fewer --workers need less"
    )
    with pytest.raises(data.WorkerError, match=f"^{words}$"):
        data.Loader(streamed, 16, workers=4)
    assert len(begun) == 2 and all(map(is_gone, begun))


def test_an_error_in_a_worker_reaches_the_consumer(streamed: data.Split) -> None:
    Path(streamed.file(77)).unlink()
    with (
        data.Loader(streamed, 16, workers=2) as loader,
        pytest.raises(DataError, match=r"ant/0077\.png cannot be read: No such file"),
    ):
        list(loader.epoch(0))


# A script without `if __name__ == "__main__"`, as people write them.
SCRIPT = """
import signal, sys
from cconvnet import data
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs without it
source = data.open_source(sys.argv[1], cache_bytes=0)
loader = data.Loader(source.train, 16, workers=2)
for epoch in range(10**6):
    for step, batch in enumerate(loader.epoch(epoch)):
        if epoch == 0 and step == 3:
            print(*loader._reader.pool.pids, flush=True)
"""


@linux
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(streamed: data.Split, tmp_path: Path, sign: signal.Signals) -> None:
    script = tmp_path.parent / f"{tmp_path.name}.py"
    script.write_text(SCRIPT)
    shared = held()[2]
    process = subprocess.Popen(
        [sys.executable, script, tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(data.__file__).parents[2])},
    )
    try:
        assert process.stdout is not None
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 2 and not any(map(is_gone, workers))
        # As the terminal does it on Ctrl-C: to the whole process group.
        os.killpg(process.pid, sign)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait(timeout=200)
    assert process.returncode == -sign
    wait_until_gone(workers)
    assert held()[2] == shared
    assert errors.count("Traceback") == (sign == signal.SIGINT), errors
    assert errors.count("KeyboardInterrupt") == (sign == signal.SIGINT), errors
