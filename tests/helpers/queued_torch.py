"""As much of PyTorch as operations use, over the queues of queued_cupy.py: tensors, and a stream of its own.

Like PyTorch it takes and offers arrays by DLPack's rule for streams: the consumer's stream waits for the
producer's. Memory of a tensor that is dropped belongs to the next tensor of the stream it was made on.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from helpers.queued_cupy import Event, QueuedArray, QueuedCupy, Stream


class QueuedTorch:
    """The module `torch`; with `tells` it can be asked for its current stream."""

    __name__ = "queued"

    def __init__(self, cupy: QueuedCupy, own_stream: bool, tells: bool = True) -> None:
        self.cupy = cupy
        self.Tensor = type("Tensor", (QueuedTensor,), {})  # its class is how a library is known
        self.current = Stream(cupy, cupy.gpu) if own_stream else cupy.null
        if tells:
            found = SimpleNamespace(cuda_stream=self.current.ptr)
            self.cuda = SimpleNamespace(current_stream=lambda gpu: found)

    def wait(self, later: Stream, earlier: Stream) -> None:
        if later is not earlier:
            event = Event(self.cupy)
            event.record(earlier)
            later.wait_event(event)

    def from_dlpack(self, array: QueuedArray) -> Any:
        self.wait(self.current, self.cupy.current)
        return self.Tensor(self, array)

    def empty(self, shape: Any) -> Any:
        with self.current:
            return self.Tensor(self, self.cupy.empty(shape))

    def launch(self, kernel: Callable[..., Any], target: QueuedTensor, *sources: QueuedTensor) -> Any:
        """Enqueue a kernel on the library's stream: target = kernel(*sources)."""
        with self.current:
            self.cupy.launch(kernel, target.array, *[source.array for source in sources])
        return target

    def tensor(self, values: np.ndarray[Any, Any]) -> Any:
        return self.launch(lambda: values, self.empty(values.shape))

    def numpy(self, tensor: QueuedTensor) -> np.ndarray[Any, Any]:
        with self.current:
            host: np.ndarray[Any, Any] = self.cupy.asnumpy(tensor.array)
        return host


class QueuedTensor:
    """A tensor on a GPU."""

    def __init__(self, library: QueuedTorch, array: QueuedArray) -> None:
        self.library, self.array, self.dtype = library, array, array.dtype

    def __array_namespace__(self) -> QueuedTorch:
        return self.library

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.array.device.id

    def __dlpack__(self) -> None: ...

    def as_cupy(self, stream: Stream) -> QueuedArray:
        self.library.wait(stream, self.library.current)
        # An array of its own over the same memory, which it keeps.
        return self.array[...]
