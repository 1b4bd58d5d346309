"""Processes that are measured side by side.

Each side of a comparison has a process of its own. So its environment, its threads and its peak memory are
its own, and an error in it leaves the other side running. The sides are idle until they are asked, and take
turns, so that a drift of the machine's speed affects all of them.

    >>> with Worker("cconvnet.bench.peers.cconvnet_step:OurStep", {"net": "lenet"}) as ours:
    ...     ours.ask("run", steps=3)

This makes an ``OurStep(net="lenet")`` in another process and returns the result of its ``run(steps=3)``.
Arguments and results are JSON values; large arrays go through files.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cconvnet.system.interpreter import python_command

# With these thresholds of glibc a process keeps its large buffers. By default it returns them to the system
# at every step, and each page of new ones costs a page fault. They make PyTorch nearly twice as fast on a
# CPU.
RAISED_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}


class WorkerError(RuntimeError):
    """A request to a worker failed there; the text says why."""


class PeerMissing(WorkerError):
    """A peer cannot be used here; the text says how to fix that."""


class Disagreement(WorkerError):
    """The sides compute different results, so their speeds cannot be compared; the text says where."""


class Worker:
    """An object in another process.

    Args:
        target: The object's class, "module:Class".
        arguments: Arguments of the class's constructor.
        environment: Variables added to the process's own.

    Raises:
        PeerMissing: The constructor raised it.
        WorkerError: The constructor failed in another way.
    """

    def __init__(
        self,
        target: str,
        arguments: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.target = target
        self._process = subprocess.Popen(
            python_command("cconvnet.bench.processes:serve", [target]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | dict(environment or {}),
        )
        try:
            self._call("", dict(arguments or {}))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def ask(self, method: str, **arguments: Any) -> Any:
        """Call a method of the object and return its result.

        After a WorkerError the object can still be asked, unless its process has ended.

        Raises:
            PeerMissing: The side cannot be used here.
            WorkerError: The method failed, or the process has ended.
        """
        return self._call(method, arguments)

    def _call(self, method: str, arguments: dict[str, Any]) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps([method, arguments]) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        answer = json.loads(line)
        if "error" in answer:
            raise (PeerMissing if answer["missing"] else WorkerError)(answer["error"])
        return answer["result"]

    def _ended(self) -> WorkerError:
        code = self._process.wait()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return WorkerError(f"the process of {self.target} {how}; its output is above")

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def peak_bytes() -> int:
    """Return this process's peak memory since :func:`forget_peak`, where that is supported."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Restart the measurement of peak memory, where the system can do that (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def serve(target: str) -> None:
    """Run a child: make an object of `target`, "module:Class", and answer requests to it."""
    # Output of libraries must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # The parent handles Ctrl-C and closes the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    served: Any = None
    for line in sys.stdin:
        method, arguments = json.loads(line)
        try:
            if method:
                result = getattr(served, method)(**arguments)
            else:
                module, _, name = target.partition(":")
                served, result = getattr(importlib.import_module(module), name)(**arguments), None
            answer = {"result": result}
        except Exception as error:
            if os.environ.get("CCONVNET_DEBUG") == "1":
                import traceback

                traceback.print_exc()
            text = str(error) if isinstance(error, WorkerError) else f"{type(error).__name__}: {error}"
            answer = {"error": text, "missing": isinstance(error, PeerMissing)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
