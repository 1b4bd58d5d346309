"""Libraries of arrays: adopting their arrays without a copy, and returning results as arrays of theirs.

A library is recognised by protocols, and is never imported here. Its arrays offer DLPack. Its namespace, with
``from_dlpack``, is that of ``__array_namespace__`` (the array API standard) or the module that defines the
array's class. PyTorch's tensors and JAX's arrays are recognised in this way.

bfloat16 is recognised by the name of the type: ``ml_dtypes.bfloat16``, ``torch.bfloat16``. Kernels read the
bits of such an array as uint16.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from cconvnet import bfloat16
from cconvnet.devices import import_cupy
from cconvnet.ops.arguments import Array

# Types of devices in DLPack. Pinned memory is the host's.
_CPU, _CUDA, _PINNED = 1, 2, 3
_OTHER_DEVICES = {
    4: "OpenCL", 7: "Vulkan", 8: "Metal", 10: "ROCm", 11: "ROCm's pinned memory", 13: "CUDA's managed memory",
    14: "oneAPI", 15: "WebGPU", 16: "Hexagon", 17: "MAIA",
}  # fmt: skip

# NumPy numbers the types that other packages define from here on.
USER_TYPES = 256


class Library:
    """A library whose arrays are exchanged with NumPy's and CuPy's over the same memory.

    Attributes:
        name: Its name, as in errors.
        namespace: The module with ``from_dlpack``; None for NumPy and CuPy.
    """

    def __init__(self, name: str, namespace: Any = None) -> None:
        self.name = name
        self.namespace = namespace

    @property
    def converter(self) -> str:
        """The function that makes arrays of the library, as in errors."""
        if self.namespace is None:
            return f"{self.name.lower()}.asarray"
        return f"{self.name}.from_dlpack"

    @property
    def bfloat16(self) -> Any:
        """The library's type of bfloat16, or None."""
        return getattr(self.namespace, "bfloat16", None)

    def adopt(self, name: str, value: Any) -> Array:
        """Return an array of the library as one of NumPy or CuPy, bfloat16s as uint16.

        Raises:
            TypeError: It is no array.
            ValueError: It cannot be shared as it is.
        """
        if not hasattr(value, "__dlpack__") or not hasattr(value, "__dlpack_device__"):
            raise TypeError(
                f"{name} must be a NumPy or CuPy array or offer DLPack, not {type(value).__name__}"
            )
        if getattr(value, "requires_grad", False):
            raise ValueError(
                f"{name} requires gradients, which cconvnet.ops does not record: "
                f"give {name}.detach(), or call the function of cconvnet.torch"
            )
        real = is_bfloat16(value)
        if real and self.namespace is None:
            raise TypeError(
                f"{name} is of bfloat16, which DLPack does not hand to NumPy; give its bits as uint16"
            )
        try:
            kind, index = value.__dlpack_device__()
            if real:
                value = value.view(self.namespace.uint16)
            if kind in (_CPU, _PINNED):
                return _on_host(value)
        except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{name} cannot be read without a copy: {error}") from error
        if kind != _CUDA:
            raise ValueError(
                f"{name} is on a device of {_OTHER_DEVICES.get(kind, 'another kind')} (DLPack's type "
                f"{int(kind)}); the host and CUDA are served"
            )
        with self.stream(index):
            try:
                # The current stream waits for the work of the producer.
                return import_cupy().from_dlpack(value)
            except (BufferError, TypeError) as error:
                raise ValueError(f"{name} cannot be read without a copy: {error}") from error

    def give(self, array: Array, dtype: Any = None) -> Any:
        """Return an array of NumPy or CuPy as one of the library.

        Args:
            array: The array.
            dtype: The type of bfloat16 to return uint16 as, or None.
        """
        value = array if self.namespace is None else self.namespace.from_dlpack(array)
        return value if dtype is None else value.view(dtype)

    @property
    def knows_streams(self) -> bool:
        """True if the library can be asked for its current stream."""
        return hasattr(getattr(self.namespace, "cuda", None), "current_stream")

    @contextlib.contextmanager
    def stream(self, gpu: int) -> Iterator[None]:
        """Make the library's current stream of a GPU CuPy's current stream inside.

        Operations follow the current stream, and it follows them. The library's own work is then in order
        with them, and so is the reuse of memory by its allocator.
        """
        cuda = import_cupy().cuda
        with cuda.Device(gpu):
            if not self.knows_streams:
                yield
                return
            handle = self.namespace.cuda.current_stream(gpu).cuda_stream
            with cuda.ExternalStream(handle, gpu) if handle else cuda.Stream.null:
                yield


NUMPY, CUPY = Library("NumPy"), Library("CuPy")

_by_type: weakref.WeakKeyDictionary[type, Library | None] = weakref.WeakKeyDictionary()
_libraries: dict[Any, Library] = {}


def is_cupy(array: Any) -> bool:
    """Return True for an array of CuPy, which is not imported for it."""
    kind = type(array)
    return kind is not np.ndarray and kind.__module__.partition(".")[0] == "cupy"


def is_bfloat16(array: Any) -> bool:
    """Return True for an array whose own type is bfloat16, whichever package defines it."""
    return bfloat16.is_type(getattr(array, "dtype", None))


def adopted(name: str, value: Any) -> tuple[Library, Array, Any]:
    """Return an array's library, a NumPy or CuPy array over its memory, and its type if that is bfloat16.

    An object that offers nothing but DLPack counts as an array of NumPy or CuPy.

    Raises:
        TypeError: It is no array.
        ValueError: It cannot be shared as it is.
    """
    real = value.dtype if is_bfloat16(value) else None
    on_gpu = is_cupy(value)
    if on_gpu or isinstance(value, np.ndarray):
        array = value if real is None else value.view(bfloat16.BITS)
        return CUPY if on_gpu else NUMPY, array, real
    library = _library_of(value)
    array = (library or NUMPY).adopt(name, value)
    return library or (CUPY if is_cupy(array) else NUMPY), array, real


def _library_of(value: Any) -> Library | None:
    kind = type(value)
    if kind not in _by_type:
        namespace = _namespace_of(value)
        if namespace is not None and namespace not in _libraries:
            _libraries[namespace] = Library(namespace.__name__, namespace)
        _by_type[kind] = _libraries.get(namespace)
    return _by_type[kind]


def _namespace_of(value: Any) -> Any:
    """Return the module that makes arrays of a value's kind, or None."""
    declared: Callable[[], Any] | None = getattr(value, "__array_namespace__", None)
    if declared is not None:
        return declared()
    for base in type(value).__mro__:
        module = sys.modules.get(base.__module__.partition(".")[0])
        if hasattr(module, "from_dlpack"):
            return module
    return None


def _on_host(value: Any) -> Array:
    array = np.from_dlpack(value)
    if array.flags.writeable or _tells_read_only(value):
        return array
    # NumPy takes memory for read-only where DLPack's version cannot tell, as that of older PyTorch.
    interface = {**array.__array_interface__, "data": (array.ctypes.data, False)}
    return np.asarray(SimpleNamespace(__array_interface__=interface, owner=array))


def _tells_read_only(value: Any) -> bool:
    """Return True if an exporter has DLPack's version 1, which marks read-only memory."""
    try:
        return "versioned" in repr(value.__dlpack__(max_version=(1, 0)))
    except TypeError:
        return False
