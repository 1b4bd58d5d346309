"""Call, one call of an operation: arrays checked against the description, device found, work ordered."""

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet import bfloat16
from cconvnet.devices import Device, cuda_device_on, get_device, require_precision
from cconvnet.operations import ANY, ELEMENT, Operation
from cconvnet.ops.arguments import Array, text
from cconvnet.ops.arrays import CUPY, NUMPY, USER_TYPES, Library, adopted, is_cupy


def _name(dtype: Any) -> str:
    return "uint16 (bfloat16's bits)" if dtype == bfloat16.BITS else np.dtype(dtype).name


def _mixed(name: str, library: Library, first: str, other: Library) -> TypeError:
    return TypeError(
        f"{name} is an array of {library.name}, but {first} is one of {other.name}: give arrays of one "
        f"library; {other.converter}({name}) makes it one of {other.name}"
    )


def _spread(array: Array) -> tuple[int, int]:
    """Return the addresses between which an array's elements lie."""
    if is_cupy(array):
        return array.data.ptr, array.data.ptr + array.nbytes
    return np.lib.array_utils.byte_bounds(array)


def _overlap(one: Array, other: Array) -> bool:
    """Return True if some element of two contiguous arrays has the same address."""
    if type(one) is np.ndarray and type(other) is np.ndarray:
        return np.may_share_memory(one, other)
    (low, high), (other_low, other_high) = _spread(one), _spread(other)
    return low < other_high and other_low < high


class OrderedModule:
    """Functions of a device's module, each in order with the caller's stream."""

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
    """One call of an operation.

    A function of this package makes a Call of its arrays, asks it for the shapes that the problem consists
    of, and runs it with the problem. All arrays are then checked against the operation's description.

    Attributes:
        operation: The description.
        arrays: The arrays by name, without those that are None.
        device: The device of the arrays.
        module: The device's functions, in order with the caller's stream.
        element: The type of the arrays that may be of bfloat16s: float32, or bfloat16's bits.
        precision: The precision of a product.
    """

    def __init__(self, operation: Operation, device: str | Device | None, **arrays: Any) -> None:
        """Adopt the arrays and find their device.

        Raises:
            TypeError: An array is none.
            ValueError: An array is on another device than the first, or not on `device`.
            DeviceUnavailable: The device cannot be used.
        """
        self.operation = operation
        self.arrays: dict[str, Array] = {}
        self._first = ""
        self._library = NUMPY
        self._bfloat16: dict[str, Any] = {}  # the types of arrays whose own type is bfloat16
        self._exchanged = False  # True if some array is none of NumPy's or CuPy's as they are
        self._borrowed = False  # True if some array is another library's, on a GPU
        for name, value in arrays.items():
            if value is not None or not operation.arrays[name].optional:
                self.arrays[name] = self._adopt(name, value)
        first = self._first
        on_gpu = self._library is CUPY or (self._library is not NUMPY and is_cupy(self.arrays[first]))
        if self._library not in (NUMPY, CUPY):
            for name, array in self.arrays.items():
                self._require_side(name, is_cupy(array), on_gpu)
        if device is None:
            device = cuda_device_on(self.arrays[first].device.id) if on_gpu else "cpu:0"
        self.device = get_device(device)
        if (self.device.kind == "cuda") != on_gpu:
            raise ValueError(
                f"device is {self.device.name}, but {first} is on "
                + ("a GPU" if on_gpu else "the host: copy it to the GPU")
            )
        self.module: Any = OrderedModule(self.device) if on_gpu else self.device.module
        self.precision = "fp32"
        # The element type of the call is that of the first array that may be of either.
        either = (array for name, array in self.arrays.items() if operation.arrays[name].type is ELEMENT)
        typed = next(either, None)
        self._typed = typed is not None
        self.element: Any = self._supported(typed.dtype) if typed is not None else np.float32
        self._checked: set[str] = set()

    def _adopt(self, name: str, value: Any) -> Array:
        """Return an array as one of NumPy or CuPy, after a check that it is of the call's library."""
        if type(value) is np.ndarray and value.dtype.num < USER_TYPES:
            library = NUMPY
        elif is_cupy(value) and value.dtype.num < USER_TYPES:
            library = CUPY
        else:
            library, array, own = adopted(name, value)
            if array is not value:
                self._exchanged = True
                self._borrowed = self._borrowed or (is_cupy(array) and not is_cupy(value))
                value = array
            if own is not None:
                self._bfloat16[name] = own
        if not self._first:
            self._first, self._library = name, library
        elif library is not self._library:
            if library in (NUMPY, CUPY) and self._library in (NUMPY, CUPY):
                self._require_side(name, library is CUPY, self._library is CUPY)
            raise _mixed(name, library, self._first, self._library)
        return value

    def _require_side(self, name: str, on_gpu: bool, first_on_gpu: bool) -> None:
        if on_gpu != first_on_gpu:
            side = "a GPU" if on_gpu else "the host"
            raise ValueError(f"{name} is on {side}, but {self._first} is not: copy one of them")

    def _supported(self, dtype: Any) -> Any:
        """Return float32, or bfloat16's bits if that is the type and the device computes with them."""
        if dtype != bfloat16.BITS:
            return np.float32
        require_precision(self.device, "bf16")
        return bfloat16.BITS

    def _dtype(self, name: str) -> Any:
        described = self.operation.arrays[name].type
        return self.element if described is ELEMENT else described

    def shape(self, name: str) -> tuple[int, ...]:
        """Check an array but for its extents, and return its shape.

        Raises:
            ValueError: The array's type, layout, size or number of axes is wrong, or it is on another GPU.
        """
        array, described = self.arrays[name], self.operation.arrays[name]
        self._check(name, array, self._dtype(name))
        if array.ndim != described.rank and described.axes != ANY:
            raise ValueError(
                f"{name} must have {described.rank} axes [{described.axes}], not shape {array.shape}"
            )
        return tuple(array.shape)

    def size(self, name: str) -> int:
        """Check an array but for its extents, and return how many elements it has."""
        self.shape(name)
        return int(self.arrays[name].size)

    def precision_of(self, precision: str | None) -> str:
        """Check the precision of a product, and return it or that of the arrays.

        Raises:
            TypeError: The precision is no string.
            ValueError: The arrays or the device do not go with the precision.
        """
        allowed = ("bf16",) if self.element == bfloat16.BITS else ("fp32", "fp32x3", "tf32")
        self.precision = allowed[0] if precision is None else text("precision", precision)
        if self.precision not in allowed:
            raise ValueError(
                f"precision must be {' or '.join(allowed)} for arrays of {_name(self.element)}, "
                f"not {precision!r}"
            )
        require_precision(self.device, self.precision)
        return self.precision

    def run(self, problem: Any = None, *, out: Any = None, impl: str | None = None, **values: Any) -> Any:
        """Check all arrays, run the operation, and return its outputs.

        Args:
            problem: The problem of the call, a tuple if the operation has several, None if it has none.
            out: The array to write the operation's `out` to; None makes a new one.
            impl: The row of the selection table to run; None is the first that serves.
            **values: The operation's numbers and flags by name.

        Returns:
            The output, or a tuple of several, or None where arrays of the caller are updated.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: An argument has the wrong value. The text names it.
            RuntimeError: A stream is captured, and the operation needs a workspace.
        """
        target = None if out is None else self._adopt("out", out)
        if not self._borrowed:
            return self._returned(self._run(problem, target, impl, values), out)
        with self._library.stream(self.device.ordinal):
            returned = self._returned(self._run(problem, target, impl, values), out)
            if not self._library.knows_streams and not self.device.capturing():
                # The owner of the memory cannot be told to wait before it reuses it.
                self.device.synchronize()
            return returned

    def _returned(self, outputs: list[Array], out: Any) -> Any:
        """Return outputs as arrays of the call's library, and `out` as it was given."""
        if self._exchanged:
            operation, library = self.operation, self._library
            own = next(iter(self._bfloat16.values()), None)
            if own is None and self.element != bfloat16.BITS:
                own = library.bfloat16
            names = [output.name for output in operation.outputs if output.name not in operation.updated]
            for index, name in enumerate(names):
                array = outputs[index]
                if name == operation.out and out is not None:
                    outputs[index] = out
                elif library.namespace is not None or own is not None:
                    outputs[index] = library.give(array, own if array.dtype == bfloat16.BITS else None)
        return tuple(outputs) if len(outputs) > 1 else outputs[0] if outputs else None

    def _run(self, problem: Any, out: Any, impl: str | None, values: dict[str, Any]) -> list[Array]:
        """Run the operation and return its outputs as arrays of NumPy or CuPy."""
        operation = self.operation
        described = operation.arrays
        # Arrays of any shape have that of the first.
        free = next((array.shape for name, array in self.arrays.items() if described[name].axes == ANY), None)
        updated = {name: self.arrays.pop(name) for name in list(self.arrays) if name in operation.written}

        def shape(name: str) -> tuple[int, ...]:
            if free is not None and described[name].axes == ANY:
                return tuple(free)
            return described[name].shape_for(problem)

        for name in self.arrays:
            self._check_shape(name, shape(name), self._dtype(name))
        outputs = []
        for output in operation.outputs:
            if output.name in updated:
                self.output(updated[output.name], shape(output.name), name=output.name)
                continue
            given = out if output.name == operation.out else None
            dtype = self._output_dtype(output.name, given)
            places = tuple(name for name in operation.in_place if self._dtype(name) == dtype)
            outputs.append(self.output(given, shape(output.name), in_place=places, dtype=dtype))
        options = {}
        for name in operation.keywords:
            if name in updated:
                options[name] = self.output(updated[name], shape(name), name=name, dtype=self._dtype(name))
            elif name in values:
                options[name] = values[name]
        arguments = list(operation.problems(problem))
        for given in operation.inputs:
            name = given.name
            arguments.append(values[name] if name in values else self.arrays.get(name))
        arguments += outputs
        if operation.workspace is not None:
            chosen = [None if impl is None else text("impl", impl)] if operation.has_impls else []
            size = getattr(self.module, operation.workspace)(*operation.problems(problem), *chosen)
            arguments.append(self._workspace(size))
        arguments.append(self.device.stream)
        if operation.has_impls:
            arguments.append(impl)
        getattr(self.module, operation.name)(*arguments, **options)
        return outputs

    def _output_dtype(self, name: str, given: Any) -> Any:
        """Return the type of an output. Where no input has an element type, that of `given` counts."""
        if given is not None and not self._typed and self.operation.arrays[name].type is ELEMENT:
            return self._supported(given.dtype)
        return self._dtype(name)

    def _check_shape(self, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        array = self.arrays[name]
        self._check(name, array, dtype)
        if array.shape != tuple(shape):
            raise ValueError(f"{name} must have shape {tuple(shape)}, not {array.shape}")

    def _check(self, name: str, array: Array, dtype: Any) -> None:
        if name in self._checked:
            return
        self._checked.add(name)
        if self.device.kind == "cuda" and array.device.id != self.device.ordinal:
            raise ValueError(
                f"{name} is on GPU {array.device.id}, but {self.device.name} is GPU {self.device.ordinal}: "
                "copy one of them"
            )
        wide = self.device.kind == "reference" and dtype == np.float32 and array.dtype == np.float64
        if array.dtype != dtype and not wide:
            wanted = "bfloat16" if dtype == bfloat16.BITS and self._bfloat16 else _name(dtype)
            given = "bfloat16" if name in self._bfloat16 else array.dtype
            raise ValueError(f"{name} must be {wanted}, not {given}")
        if not array.flags.c_contiguous:
            dense = f"{name}.contiguous()" if self._library.namespace else f"ascontiguousarray({name})"
            raise ValueError(
                f"{name} must be C-contiguous; {dense} makes it so (shape {array.shape}, "
                f"strides {array.strides} in bytes)"
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
        """Check an array to write to, or make a new one.

        Args:
            out: The caller's array, or None.
            shape: The shape it must have.
            in_place: The inputs that it may be.
            name: Its name in errors.
            dtype: The type it must have.
        """
        if out is None:
            return self._new(shape, self.device.float_type if dtype == np.float32 else dtype)
        inputs = dict(self.arrays)
        self.arrays[name] = out
        if is_cupy(out) != (self.device.kind == "cuda"):
            raise ValueError(f"{name} must be on {self.device.name}")
        self._check_shape(name, shape, dtype)
        if not is_cupy(out) and not out.flags.writeable:
            raise ValueError(f"{name} must be writable")
        for other, array in inputs.items():
            if _overlap(out, array) and not (other in in_place and _spread(out) == _spread(array)):
                raise ValueError(f"{name} shares memory with {other}, which this operation still reads")
        return out

    def _workspace(self, size: int) -> Array | None:
        if not size:
            return None
        if self.device.capturing():
            raise RuntimeError(
                f"this operation needs a workspace of {size} bytes, which a captured graph would not keep: "
                "capture another impl, or call it outside the capture"
            )
        return self._new(size, np.uint8)

    def _new(self, shape: tuple[int, ...] | int, dtype: Any) -> Array:
        """Allocate an array that belongs to the caller's stream.

        CuPy reuses its memory behind that stream's work.
        """
        with self.device.selected():
            return self.device.xp.empty(shape, dtype)
