"""A fake CUDA device: the emulator's kernels behind as much of CuPy as measurements use.

What CUDA refuses it refuses too: within a capture nothing is allocated and nobody waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from cconvnet.devices import Device, Feed

# Functions of a module that launch nothing, by the ends of their names.
QUERIES = ("_workspace", "_impls", "serves", "info", "kind", "digest", "rows")
LAUNCH = 4e-3  # seconds of the host that a call takes in addition to its work


class Event:
    """An event of a stream that runs all work at once."""

    def __init__(self, **options: Any) -> None:
        self.at: float | None = None

    def record(self, stream: Any) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        assert self.at is not None

    @property
    def done(self) -> bool:
        return True


class Pinned(np.ndarray[Any, Any]):
    """Staged memory."""


class FakeGpu(Device):
    """Attributes
    captures, replays: how many pieces of work have been captured, and how often they were done again.
    refused: the operations that cannot be captured.
    fed: the kind of memory of each batch of images that came.
    """

    def __init__(self, index: int = 0) -> None:
        super().__init__("emulator", index)
        self.kind, self.name, self.stream = "cuda", f"cuda:{index}", 7
        self.ordinal, self.captures, self.replays, self.refused = 0, 0, 0, set[str]()
        self.fed: list[type] = []
        self._capturing = False
        self._names: list[str] = []
        self.reason = "a GPU that is none"
        self.module = _Module(self.module, self)
        cuda = SimpleNamespace(
            Event=Event,
            ExternalStream=lambda pointer: pointer,
            Device=lambda: SimpleNamespace(attributes={"L2CacheSize": 1 << 12}),
            get_elapsed_time=lambda begin, end: 1e3 * (end.at - begin.at),
            set_allocator=lambda allocator: None,
            runtime=SimpleNamespace(
                memGetInfo=lambda: (1 << 30, 1 << 31),
                getDeviceProperties=lambda ordinal: {"name": b"none", "major": 9, "minor": 0},
            ),
        )
        pool = SimpleNamespace(total_bytes=lambda: 0, free_bytes=lambda: 0, free_all_blocks=lambda: None)
        self.xp = SimpleNamespace(
            **{name: getattr(np, name) for name in ("copyto", "count_nonzero", "isfinite", "matmul")},
            empty=self._empty, zeros=np.zeros, array=np.array, cuda=cuda,
            get_default_memory_pool=lambda: pool, get_default_pinned_memory_pool=lambda: pool,
        )  # fmt: skip

    def _empty(self, shape: Any, dtype: Any) -> Any:
        assert not self._capturing, "memory is allocated within a capture"
        return np.full(shape, 99, dtype)

    def staging(self, shape: Any, dtype: Any) -> Any:
        return np.empty(shape, dtype).view(Pinned)

    def feed(self, target: Any) -> Feed:
        return _Feed(self, target)

    def called(self, operation: str) -> None:
        """Run before the work of every call of the module."""
        if self._capturing and operation in self.refused:
            raise RuntimeError(f"{operation} cannot be captured")
        if not self._capturing:
            time.sleep(LAUNCH)

    def captured(self, work: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1
        self._capturing = True
        try:
            work()
        finally:
            self._capturing = False

        def replay() -> None:
            self.replays += 1
            self._capturing = True  # no launches
            try:
                work()
            finally:
                self._capturing = False

        return replay

    def synchronize(self) -> None:
        assert not self._capturing, "the host waits within a capture"


class _Module:
    def __init__(self, module: Any, gpu: FakeGpu) -> None:
        self._module, self._gpu = module, gpu

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        if not callable(value) or name.endswith(QUERIES):
            return value

        def call(*arguments: Any, **more: Any) -> Any:
            self._gpu.called(name)
            return value(*arguments, **more)

        return call


class _Feed(Feed):
    def start(self, host: Any) -> None:
        self._device.fed.append(type(host))  # type: ignore[attr-defined]
        super().start(host)
