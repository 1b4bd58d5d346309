"""One call of an operation: its arguments checked, its device found, its work ordered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cconvnet import bfloat16
from cconvnet.checks import whole
from cconvnet.devices import Device, cuda_device_on, get_device, import_cupy, require_precision

Array = Any  # numpy.ndarray or cupy.ndarray

Pair = int | tuple[int, int]

Padding = int | tuple[int | tuple[int, int], int | tuple[int, int]]

_DLPACK_CPU, _DLPACK_CUDA = 1, 2

# The arrays that may be None.
_OPTIONAL = ("bias", "mean", "shift", "w_bf16")


def _is_cupy(array: Any) -> bool:
    return type(array).__module__.partition(".")[0] == "cupy"


def adopt(name: str, value: Any) -> Array:
    """`value` as a NumPy or CuPy array over the same memory."""
    if isinstance(value, np.ndarray) or _is_cupy(value):
        return value
    if not hasattr(value, "__dlpack__"):
        raise TypeError(f"{name} must be a NumPy or CuPy array or offer DLPack, not {type(value).__name__}")
    kind, index = value.__dlpack_device__()
    if str(getattr(value, "dtype", "")).endswith("bfloat16"):
        raise TypeError(
            f"{name} is of bfloat16, which NumPy and CuPy do not have; give its bits: "
            f"{name}.view(torch.uint16)"
        )
    if kind == _DLPACK_CPU:
        return np.from_dlpack(value)
    if kind == _DLPACK_CUDA:
        cupy = import_cupy()
        # The producer's stream is made to wait for: by CuPy's current stream of the GPU that is selected.
        with cupy.cuda.Device(index):
            return cupy.from_dlpack(value)
    raise ValueError(f"{name} lies on a device of DLPack type {int(kind)}; host and CUDA are served")


def _name(dtype: Any) -> str:
    return "uint16 (bfloat16's bits)" if dtype == bfloat16.BITS else np.dtype(dtype).name


def _spread(array: Array) -> tuple[int, int]:
    """The addresses between which an array's elements lie."""
    if _is_cupy(array):
        return array.data.ptr, array.data.ptr + array.nbytes
    return np.lib.array_utils.byte_bounds(array)


class OrderedModule:
    """The functions of a device's module, each in order with the caller's stream."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._device.module, name)
        if name.endswith("_workspace"):  # sizes, which are no work of the device
            return function

        def ordered(*arguments: Any, **options: Any) -> Any:
            # Entered when all arrays are allocated: their memory may be fresh from the current stream.
            with self._device.ordered():
                return function(*arguments, **options)

        return ordered


class Call:
    """One call of an operation: its device, and its arrays checked one by one."""

    def __init__(self, device: str | Device | None, **arrays: Any) -> None:
        self.arrays = {
            name: adopt(name, value)
            for name, value in arrays.items()
            if value is not None or name not in _OPTIONAL
        }
        on_gpu = {name: _is_cupy(array) for name, array in self.arrays.items()}
        first = next(iter(on_gpu))
        for name, there in on_gpu.items():
            if there != on_gpu[first]:
                raise ValueError(
                    f"{name} is on {'a GPU' if there else 'the host'}, but {first} is not: copy one of them"
                )
        if device is None:
            device = cuda_device_on(self.arrays[first].device.id) if on_gpu[first] else "cpu:0"
        self.device = get_device(device)
        if (self.device.kind == "cuda") != on_gpu[first]:
            raise ValueError(
                f"device is {self.device.name}, but {first} is on "
                + ("a GPU" if on_gpu[first] else "the host; cupy.asarray copies it there")
            )
        self.module: Any = OrderedModule(self.device) if on_gpu[first] else self.device.module
        self.element: Any = np.float32  # of the arrays that may be of bfloat16s
        self.precision = "fp32"
        self.stream = self.device.stream

    def numbers(self, name: str, layout: str) -> Array:
        """The array called `name`, as of `get`, whose element type, float32 or bfloat16, is the call's."""
        array = self.arrays[name]
        if array.dtype == bfloat16.BITS:
            require_precision(self.device, "bf16")
            self.element = bfloat16.BITS
        return self.get(name, layout, self.element)

    def factor(self, name: str, layout: str, precision: str | None) -> Array:
        """The array called `name`, as of `numbers`, which is multiplied in a precision."""
        array = self.numbers(name, layout)
        allowed = ("bf16",) if self.element == bfloat16.BITS else ("fp32", "tf32")
        self.precision = allowed[0] if precision is None else text("precision", precision)
        if self.precision not in allowed:
            raise ValueError(
                f"precision must be {' or '.join(allowed)} for arrays of {_name(self.element)}, "
                f"not {precision!r}"
            )
        require_precision(self.device, self.precision)
        return array

    def element_of(self, name: str, out: Any) -> Any:
        """The element type of an output that may be of either."""
        if out is None or adopt(name, out).dtype != bfloat16.BITS:
            return np.float32
        require_precision(self.device, "bf16")
        return bfloat16.BITS

    def get(self, name: str, layout: str, dtype: Any = np.float32) -> Array:
        """The array called `name`, of the rank that `layout` ("N,H,W,C"; "any") says."""
        array = self.arrays[name]
        self._check(name, array, dtype)
        if layout != "any" and array.ndim != (rank := layout.count(",") + 1):
            raise ValueError(f"{name} must have {rank} axes [{layout}], not shape {array.shape}")
        return array

    def optional(self, name: str, shape: tuple[int, ...], dtype: Any = np.float32) -> Array | None:
        return self.shaped(name, shape, dtype) if name in self.arrays else None

    def shaped(self, name: str, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
        """The array called `name`, of exactly this shape."""
        array = self.arrays[name]
        self._check(name, array, dtype)
        if array.shape != tuple(shape):
            raise ValueError(f"{name} must have shape {tuple(shape)}, not {array.shape}")
        return array

    def _check(self, name: str, array: Array, dtype: Any) -> None:
        if self.device.kind == "cuda" and array.device.id != self.device.ordinal:
            raise ValueError(
                f"{name} is on GPU {array.device.id}, but {self.device.name} is GPU {self.device.ordinal}: "
                "copy one of them"
            )
        wide = self.device.kind == "reference" and np.dtype(dtype) == np.float32
        if array.dtype != dtype and not (wide and array.dtype == np.float64):
            raise ValueError(f"{name} must be {_name(dtype)}, not {array.dtype}")
        if not array.flags.c_contiguous:
            raise ValueError(
                f"{name} must be C-contiguous; ascontiguousarray({name}) makes it so (shape {array.shape}, "
                f"strides {array.strides})"
            )
        if array.size == 0:
            raise ValueError(f"{name} must not be empty, shape {array.shape}")
        if array.size >= 2**31:
            raise ValueError(f"{name} must have fewer than 2^31 elements, not shape {array.shape}")

    def output(
        self,
        out: Any,
        shape: tuple[int, ...],
        *,
        in_place: tuple[str, ...] = (),
        name: str = "out",
        dtype: Any = np.float32,
    ) -> Array:
        """`out`, checked, or a new array; `in_place` names the inputs that it may be."""
        if out is None:
            return self._new(shape, self.device.float_type if dtype == np.float32 else dtype)
        inputs = dict(self.arrays)
        out = adopt(name, out)
        self.arrays[name] = out
        if _is_cupy(out) != (self.device.kind == "cuda"):
            raise ValueError(f"{name} must be on {self.device.name}")
        self.shaped(name, shape, dtype)
        if not _is_cupy(out) and not out.flags.writeable:
            raise ValueError(f"{name} must be writable")
        low, high = _spread(out)
        for other, array in inputs.items():
            other_low, other_high = _spread(array)
            same = other in in_place and (low, high) == (other_low, other_high)
            if low < other_high and other_low < high and not same:
                raise ValueError(f"{name} shares memory with {other}, which this operation still reads")
        return out

    def workspace(self, size: int) -> Array | None:
        if not size:
            return None
        if self.device.capturing():
            raise RuntimeError(
                f"this operation needs a workspace of {size} bytes, which a captured graph would not keep: "
                "capture another impl, or call it outside the capture"
            )
        return self._new(size, np.uint8)

    def _new(self, shape: tuple[int, ...] | int, dtype: Any) -> Array:
        """An array that belongs to the caller's stream: CuPy reuses its memory behind that stream's work."""
        with self.device.selected():
            return self.device.xp.empty(shape, dtype)


def pair_of(name: str, value: Pair, low: int = 1) -> tuple[int, int]:
    """A vertical and a horizontal number, or one number for both."""
    pair = value if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"{name} must be an integer or a pair of integers, not {value!r}")
    return whole(name, pair[0], low), whole(name, pair[1], low)


def padding_pairs(value: Padding, low: int = 0) -> tuple[tuple[int, int], tuple[int, int]]:
    """((above, below), (left, right)) of a number for all of them, or of two for the axes, each of which may
    be a pair itself."""
    axes = value if isinstance(value, tuple | list) else (value, value)
    if len(axes) != 2:
        raise ValueError(f"padding must be an integer or two integers or pairs of integers, not {value!r}")
    vertical, horizontal = (pair_of("padding", axis, low) for axis in axes)
    return vertical, horizontal


def four_extents(name: str, value: Sequence[int], layout: str = "N,H,W,C") -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or len(value) != 4:
        raise ValueError(f"{name} must be 4 integers [{layout}], not {value!r}")
    return tuple(whole(name, extent, 1) for extent in value)


def text(name: str, value: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {value!r}")
    return value


def impl_name(impl: str | None) -> str | None:
    return impl if impl is None else text("impl", impl)
