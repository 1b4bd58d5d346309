"""The operations as functions: arrays in, arrays out.

Arrays are NumPy's or CuPy's; anything else that speaks DLPack (PyTorch's tensors, JAX's arrays) is taken
without a copy on the device it lies on (those of bfloat16 as ``tensor.view(torch.uint16)``). The result is a
NumPy or CuPy array on the same device. Host arrays are served by ``cpu:0`` unless ``device="emulator:0"``
(the CUDA kernels, emulated) or ``"reference:0"`` (float64 NumPy) is asked for.

Rules that hold for every function
- Layout is NHWC: ``x[N,H,W,C]``, ``y[N,P,Q,K]``, filters ``w[K,R,S,C/groups]``; FC is ``x[N,C]``, ``w[K,C]``.
- Arrays are C-contiguous; nothing is converted silently. Those of numbers are float32 or bfloat16, all of a
  call the same unless the function says otherwise (biases, gradients of weights and losses are always
  float32). An array of bfloat16 is one of uint16 that holds its bits, since neither NumPy nor CuPy has the
  type: ``cconvnet.bfloat16.pack`` and ``unpack`` make and read it on the host, ``to_bf16`` and ``from_bf16``
  on a device. Labels are int32, images uint8.
- Products of float32 arrays are strict (``fp32``) unless ``precision="tf32"`` rounds what is multiplied to 10
  bits of fraction; those of bfloat16 arrays are ``bf16``. All sums are of floats, rounded once at the end. A
  device that cannot do a precision raises ``ValueError`` naming the devices that can.
- ``out`` is written and returned; without it a new array is made. It may share memory with an input only
  where the function says "in place", and then must be that input exactly.
- ``impl`` names a row of the operation's selection table; ``CCONVNET_LOG_KERNELS=1`` prints the choices.
- Results are bitwise the same at every call on the same device.
- On a GPU an operation runs on the device's own stream (``Device.stream``), behind all work of CuPy's current
  stream of that GPU. Later work of the current stream waits for it, so CuPy code and other DLPack consumers
  need no synchronization. All arrays of a call must be on the device's GPU. A stream that is being captured
  takes an operation into its graph, if it is given `out` and needs no workspace (else ``RuntimeError``).
- Bad arguments raise ``ValueError`` or ``TypeError`` naming the argument before anything is launched; a
  device that cannot be used raises ``DeviceUnavailable``; a CUDA failure raises ``CudaError``.
- Formulas and sources stand in ``kernels/api.h``, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cconvnet import bfloat16
from cconvnet._problem import (
    BiasProblem,
    ContrastNormProblem,
    ConvProblem,
    DropoutProblem,
    FcProblem,
    FilterBlocksProblem,
    InputProblem,
    LocalProblem,
    LrnProblem,
    NeuronProblem,
    NormLimitProblem,
    PoolProblem,
    SgdProblem,
    SoftmaxProblem,
)
from cconvnet.checks import real as _real
from cconvnet.checks import whole as _integer
from cconvnet.devices import Device, cuda_device_on, get_device, import_cupy

Array = Any  # numpy.ndarray or cupy.ndarray
Pair = int | tuple[int, int]
Padding = int | tuple[int | tuple[int, int], int | tuple[int, int]]

_DLPACK_CPU, _DLPACK_CUDA = 1, 2

# The arrays that may be None.
_OPTIONAL = ("bias", "mean", "shift", "w_bf16")


# ---- arguments ---------------------------------------------------------------------------------------------


def _is_cupy(array: Any) -> bool:
    return type(array).__module__.partition(".")[0] == "cupy"


def _adopt(name: str, value: Any) -> Array:
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


class _OrderedModule:
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


class _Call:
    """One call of an operation: its device, and its arrays checked one by one."""

    def __init__(self, device: str | Device | None, **arrays: Any) -> None:
        self.arrays = {
            name: _adopt(name, value)
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
        self.module: Any = _OrderedModule(self.device) if on_gpu[first] else self.device.module
        self.element: Any = np.float32  # of the arrays that may be of bfloat16s
        self.precision = "fp32"
        self.stream = self.device.stream

    def numbers(self, name: str, layout: str) -> Array:
        """The array called `name`, as of `get`, whose element type, float32 or bfloat16, is the call's."""
        array = self.arrays[name]
        if array.dtype == bfloat16.BITS:
            self.device.require("bf16")
            self.element = bfloat16.BITS
        return self.get(name, layout, self.element)

    def factor(self, name: str, layout: str, precision: str | None) -> Array:
        """The array called `name`, as of `numbers`, which is multiplied in a precision."""
        array = self.numbers(name, layout)
        allowed = ("bf16",) if self.element == bfloat16.BITS else ("fp32", "tf32")
        self.precision = allowed[0] if precision is None else _text("precision", precision)
        if self.precision not in allowed:
            raise ValueError(
                f"precision must be {' or '.join(allowed)} for arrays of {_name(self.element)}, "
                f"not {precision!r}"
            )
        self.device.require(self.precision)
        return array

    def element_of(self, name: str, out: Any) -> Any:
        """The element type of an output that may be of either."""
        if out is None or _adopt(name, out).dtype != bfloat16.BITS:
            return np.float32
        self.device.require("bf16")
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
        out = _adopt(name, out)
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


def _pair(name: str, value: Pair, low: int = 1) -> tuple[int, int]:
    """A vertical and a horizontal number, or one number for both."""
    pair = value if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"{name} must be an integer or a pair of integers, not {value!r}")
    return _integer(name, pair[0], low), _integer(name, pair[1], low)


def _padding(value: Padding, low: int = 0) -> tuple[tuple[int, int], tuple[int, int]]:
    """((above, below), (left, right)) of a number for all of them, or of two for the axes, each of which may
    be a pair itself."""
    axes = value if isinstance(value, tuple | list) else (value, value)
    if len(axes) != 2:
        raise ValueError(f"padding must be an integer or two integers or pairs of integers, not {value!r}")
    vertical, horizontal = (_pair("padding", axis, low) for axis in axes)
    return vertical, horizontal


def _image_shape(name: str, value: Sequence[int], layout: str = "N,H,W,C") -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or len(value) != 4:
        raise ValueError(f"{name} must be 4 integers [{layout}], not {value!r}")
    return tuple(_integer(name, extent, 1) for extent in value)


def _text(name: str, value: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {value!r}")
    return value


def _row(impl: str | None) -> str | None:
    return impl if impl is None else _text("impl", impl)


def _windows(
    call: _Call, kind: Callable[..., Any], x_shape: Sequence[int], krs: Sequence[int],
    stride: Pair, padding: Padding, groups: int, rounding: str, outputs: Pair | None, dilation: Pair = 1,
) -> Any:  # fmt: skip
    """The problem of a convolution or a locally connected layer; `kind` is ConvProblem or LocalProblem."""
    return kind(
        *x_shape, *krs, stride=_pair("stride", stride), padding=_padding(padding),
        groups=_integer("groups", groups, 1), rounding=_text("rounding", rounding), precision=call.precision,
        outputs=None if outputs is None else _pair("outputs", outputs), dilation=_pair("dilation", dilation),
    )  # fmt: skip


# ---- what convolution, local and FC layers share -----------------------------------------------------------


def _run_pass(family: str, name: str, call: _Call, problem: Any, impl: str | None, *arguments: Any) -> None:
    space = call.workspace(getattr(call.module, f"{family}_{name}_workspace")(problem, _row(impl)))
    getattr(call.module, f"{family}_{name}")(problem, *arguments, space, call.stream, impl)


def _fprop(
    family: str,
    call: _Call,
    problem: Any,
    bias_shape: tuple[int, ...],
    relu: bool,
    out: Any,
    impl: str | None,
) -> Array:
    x, w = call.arrays["x"], call.shaped("w", problem.w_shape, call.element)
    bias = call.optional("bias", bias_shape)
    y = call.output(out, problem.y_shape, dtype=call.element)
    _run_pass(family, "fprop", call, problem, impl, x, w, bias, bool(relu), y)
    return y


def _dgrad(family: str, call: _Call, problem: Any, out: Any, impl: str | None) -> Array:
    w = call.shaped("w", problem.w_shape, call.element)
    dy = call.shaped("dy", problem.y_shape, call.element)
    dx = call.output(out, problem.x_shape, dtype=call.element)
    _run_pass(family, "dgrad", call, problem, impl, dy, w, dx)
    return dx


def _wgrad(family: str, call: _Call, problem: Any, out: Any, impl: str | None) -> Array:
    x, dy = call.arrays["x"], call.shaped("dy", problem.y_shape, call.element)
    dw = call.output(out, problem.w_shape)
    _run_pass(family, "wgrad", call, problem, impl, x, dy, dw)
    return dw


# ---- convolution -------------------------------------------------------------------------------------------


def conv_fprop(
    x: Array, w: Array, bias: Array | None = None, *, stride: Pair = 1, padding: Padding = 0,
    dilation: Pair = 1, groups: int = 1, rounding: str = "floor", outputs: Pair | None = None,
    relu: bool = False, precision: str | None = None, out: Array | None = None, impl: str | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``y[N,P,Q,K]`` = x[N,H,W,C] * w[K,R,S,C/groups] + bias[K], then max(0, .) if `relu`.

    `stride`, `padding` and `dilation`, the distance between two taps, are in pixels, one number or (vertical,
    horizontal); the padding of an axis may be a pair, too: ``((top, bottom), (left, right))``. P is
    ``floor((H + top + bottom - (R - 1) dilation - 1) / stride) + 1``. With ``rounding="ceil"`` the quotient
    is rounded up and the last window reads zeros beyond the padding. `outputs` (P, Q) takes the place of
    `rounding` and of the padding at the bottom and right: what the windows read there is zero.
    """
    call = _Call(device, x=x, w=w, bias=bias)
    x, w = call.factor("x", "N,H,W,C", precision), call.get("w", "K,R,S,C/groups", call.element)
    problem = _windows(
        call, ConvProblem, x.shape, w.shape[:3], stride, padding, groups, rounding, outputs, dilation
    )
    return _fprop("conv", call, problem, (problem.k,), relu, out, impl)


def conv_dgrad(
    dy: Array, w: Array, x_shape: Sequence[int], *, stride: Pair = 1, padding: Padding = 0,
    dilation: Pair = 1, groups: int = 1, rounding: str = "floor", outputs: Pair | None = None,
    precision: str | None = None, out: Array | None = None, impl: str | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dx[N,H,W,C]``, the gradient by x of the sum of dy[N,P,Q,K] times ``conv_fprop(x, w)``; `x_shape` is
    [N,H,W,C]. The transposed convolution of dy is the same, `x_shape` being that of its result."""
    call = _Call(device, dy=dy, w=w)
    dy, w = call.factor("dy", "N,P,Q,K", precision), call.get("w", "K,R,S,C/groups", call.element)
    shape = _image_shape("x_shape", x_shape)
    problem = _windows(
        call, ConvProblem, shape, w.shape[:3], stride, padding, groups, rounding, outputs, dilation
    )
    return _dgrad("conv", call, problem, out, impl)


def conv_wgrad(
    x: Array, dy: Array, filter_size: Pair, *, stride: Pair = 1, padding: Padding = 0,
    dilation: Pair = 1, groups: int = 1, rounding: str = "floor", outputs: Pair | None = None,
    precision: str | None = None, out: Array | None = None, impl: str | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dw[K,R,S,C/groups]``, the gradient by w of the sum of dy[N,P,Q,K] times ``conv_fprop(x, w)``.

    `filter_size` is (R, S), or one number for both.
    """
    call = _Call(device, x=x, dy=dy)
    x, dy = call.factor("x", "N,H,W,C", precision), call.get("dy", "N,P,Q,K", call.element)
    r, s = _pair("filter_size", filter_size)
    problem = _windows(
        call, ConvProblem, x.shape, (dy.shape[3], r, s), stride, padding, groups, rounding, outputs, dilation
    )
    return _wgrad("conv", call, problem, out, impl)


# ---- locally connected -------------------------------------------------------------------------------------


def local_fprop(
    x: Array, w: Array, bias: Array | None = None, *, stride: Pair = 1, padding: Padding = 0,
    groups: int = 1, rounding: str = "floor", outputs: Pair | None = None, relu: bool = False,
    precision: str | None = None, out: Array | None = None, impl: str | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``y[N,P,Q,K]``: a convolution of x[N,H,W,C] with filters w[P,Q,K,R,S,C/groups] and a bias[P,Q,K] of its
    own for every output position, then max(0, .) if `relu`.

    The rest is as in conv_fprop, but there is no dilation. The bias's gradient is
    ``bias_grad(dy.reshape(N, -1))``.
    """
    call = _Call(device, x=x, w=w, bias=bias)
    x, w = call.factor("x", "N,H,W,C", precision), call.get("w", "P,Q,K,R,S,C/groups", call.element)
    problem = _windows(call, LocalProblem, x.shape, w.shape[2:5], stride, padding, groups, rounding, outputs)
    return _fprop("local", call, problem, problem.bias_shape, relu, out, impl)


def local_dgrad(
    dy: Array, w: Array, x_shape: Sequence[int], *, stride: Pair = 1, padding: Padding = 0,
    groups: int = 1, rounding: str = "floor", outputs: Pair | None = None, precision: str | None = None,
    out: Array | None = None, impl: str | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dx[N,H,W,C]``, the gradient by x of the sum of dy[N,P,Q,K] times ``local_fprop(x, w)``; `x_shape` is
    [N,H,W,C]."""
    call = _Call(device, dy=dy, w=w)
    dy, w = call.factor("dy", "N,P,Q,K", precision), call.get("w", "P,Q,K,R,S,C/groups", call.element)
    shape = _image_shape("x_shape", x_shape)
    problem = _windows(call, LocalProblem, shape, w.shape[2:5], stride, padding, groups, rounding, outputs)
    return _dgrad("local", call, problem, out, impl)


def local_wgrad(
    x: Array, dy: Array, filter_size: Pair, *, stride: Pair = 1, padding: Padding = 0,
    groups: int = 1, rounding: str = "floor", outputs: Pair | None = None, precision: str | None = None,
    out: Array | None = None, impl: str | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dw[P,Q,K,R,S,C/groups]``, the gradient by w of the sum of dy[N,P,Q,K] times ``local_fprop(x, w)``.

    `filter_size` is (R, S), or one number for both.
    """
    call = _Call(device, x=x, dy=dy)
    x, dy = call.factor("x", "N,H,W,C", precision), call.get("dy", "N,P,Q,K", call.element)
    r, s = _pair("filter_size", filter_size)
    problem = _windows(
        call, LocalProblem, x.shape, (dy.shape[3], r, s), stride, padding, groups, rounding, outputs
    )
    return _wgrad("local", call, problem, out, impl)


# ---- fully connected ---------------------------------------------------------------------------------------


def fc_fprop(
    x: Array, w: Array, bias: Array | None = None, *, relu: bool = False, precision: str | None = None,
    out: Array | None = None, impl: str | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``y[N,K]`` = x[N,C] w[K,C]^T + bias[K], then max(0, .) if `relu`."""
    call = _Call(device, x=x, w=w, bias=bias)
    x, w = call.factor("x", "N,C", precision), call.get("w", "K,C", call.element)
    problem = FcProblem(x.shape[0], x.shape[1], w.shape[0], call.precision)
    return _fprop("fc", call, problem, (problem.k,), relu, out, impl)


def fc_dgrad(
    dy: Array, w: Array, *, precision: str | None = None, out: Array | None = None, impl: str | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dx[N,C]`` = dy[N,K] w[K,C]."""
    call = _Call(device, dy=dy, w=w)
    dy, w = call.factor("dy", "N,K", precision), call.get("w", "K,C", call.element)
    problem = FcProblem(dy.shape[0], w.shape[1], w.shape[0], call.precision)
    return _dgrad("fc", call, problem, out, impl)


def fc_wgrad(
    x: Array, dy: Array, *, precision: str | None = None, out: Array | None = None, impl: str | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dw[K,C]`` = dy[N,K]^T x[N,C]."""
    call = _Call(device, x=x, dy=dy)
    x, dy = call.factor("x", "N,C", precision), call.get("dy", "N,K", call.element)
    problem = FcProblem(x.shape[0], x.shape[1], dy.shape[1], call.precision)
    return _wgrad("fc", call, problem, out, impl)


# ---- bias --------------------------------------------------------------------------------------------------


def _bias_problem(name: str, rows: Array) -> BiasProblem:
    if rows.ndim < 2:
        raise ValueError(f"{name} must have at least 2 axes [..., K], not shape {rows.shape}")
    return BiasProblem(rows.size // rows.shape[-1], rows.shape[-1])


def bias_add(
    x: Array, bias: Array, *, relu: bool = False, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``y`` = x[..., K] + bias[K], then max(0, .) if `relu`; in place allowed (``out=x``)."""
    call = _Call(device, x=x, bias=_adopt("bias", bias))
    x = call.numbers("x", "any")
    problem = _bias_problem("x", x)
    bias = call.shaped("bias", (problem.k,))
    y = call.output(out, x.shape, dtype=call.element, in_place=("x",))
    call.module.bias_add(problem, x, bias, bool(relu), y, call.stream)
    return y


def bias_grad(dy: Array, *, out: Array | None = None, device: str | Device | None = None) -> Array:
    """``db[K]``, the sum of dy[..., K] over all axes but the last."""
    call = _Call(device, dy=dy)
    dy = call.numbers("dy", "any")
    problem = _bias_problem("dy", dy)
    db = call.output(out, (problem.k,))
    space = call.workspace(call.module.bias_grad_workspace(problem))
    call.module.bias_grad(problem, dy, db, space, call.stream)
    return db


def relu_bias_backward(
    y: Array, dy: Array, *, scale: float = 1.0, out: Array | None = None, device: str | Device | None = None
) -> tuple[Array, Array]:
    """``dx`` = scale * dy where y[..., K] is positive, else 0, and ``db[K]``, its sum over all axes but the
    last, in one pass; in place allowed (``out=dy``).

    `scale` is that of a dropout between: y, its output, is positive just where the ReLU's was and was kept.
    """
    call = _Call(device, y=y, dy=dy)
    y = call.numbers("y", "any")
    problem = _bias_problem("y", y)
    dy = call.shaped("dy", y.shape, call.element)
    dx = call.output(out, y.shape, dtype=call.element, in_place=("dy",))
    db = call.output(None, (problem.k,))
    space = call.workspace(call.module.bias_grad_workspace(problem))
    call.module.relu_bias_backward(problem, y, dy, _real("scale", scale), dx, db, space, call.stream)
    return dx, db


# ---- neurons -----------------------------------------------------------------------------------------------


def relu_forward(x: Array, *, out: Array | None = None, device: str | Device | None = None) -> Array:
    """``max(0, x)`` of an array of any shape; in place allowed (``out=x``)."""
    call = _Call(device, x=x)
    x = call.numbers("x", "any")
    y = call.output(out, x.shape, dtype=call.element, in_place=("x",))
    call.module.relu_forward(x, y, call.stream)
    return y


def relu_backward(
    y: Array, dy: Array, *, out: Array | None = None, device: str | Device | None = None
) -> Array:
    """``dx`` = dy where the output y is positive, else 0; in place allowed (``out=dy``)."""
    call = _Call(device, y=y, dy=dy)
    y = call.numbers("y", "any")
    dy = call.shaped("dy", y.shape, call.element)
    dx = call.output(out, y.shape, dtype=call.element, in_place=("dy",))
    call.module.relu_backward(y, dy, dx, call.stream)
    return dx


def neuron_forward(
    x: Array, neuron: str, a: float = 1.0, b: float = 0.0, *, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """f(x) for cuda-convnet's neurons: linear a*x+b, relu, tanh a*tanh(b*x), logistic, softrelu log(1+e^x),
    abs, square, sqrt, brelu min(a, max(0, x)). Any shape; in place allowed (``out=x``)."""
    call = _Call(device, x=x)
    x = call.numbers("x", "any")
    problem = NeuronProblem(x.size, _text("neuron", neuron), _real("a", a), _real("b", b))
    y = call.output(out, x.shape, dtype=call.element, in_place=("x",))
    call.module.neuron_forward(problem, x, y, call.stream)
    return y


def neuron_backward(
    x: Array, y: Array, dy: Array, neuron: str, a: float = 1.0, b: float = 0.0, *,
    out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dx`` = dy * f'(x), with y = f(x); in place allowed (``out=dy``)."""
    call = _Call(device, x=x, y=y, dy=dy)
    x = call.numbers("x", "any")
    y, dy = call.shaped("y", x.shape, call.element), call.shaped("dy", x.shape, call.element)
    problem = NeuronProblem(x.size, _text("neuron", neuron), _real("a", a), _real("b", b))
    dx = call.output(out, x.shape, dtype=call.element, in_place=("dy",))
    call.module.neuron_backward(problem, x, y, dy, dx, call.stream)
    return dx


# ---- local response normalisation --------------------------------------------------------------------------


def _lrn_problem(
    shape: Sequence[int],
    size: int,
    alpha: float,
    beta: float,
    k: float,
    groups: int,
    region: str,
    average: bool,
) -> LrnProblem:
    size, alpha, region = _integer("size", size, 1), _real("alpha", alpha), _text("region", region)
    if average:
        alpha /= size * size if region == "same_map" else size
    n, h, w, c = shape
    return LrnProblem(
        n, h, w, c, size, alpha, _real("beta", beta), _real("k", k), _integer("groups", groups, 1), region
    )


def lrn_forward(
    x: Array, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0, groups: int = 1,
    region: str = "across_channels", average: bool = False, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``y`` = x * (k + alpha * sum of x^2 over a window)^-beta for x[N,H,W,C].

    `region` is ``"across_channels"`` (`size` channels, within each of `groups` equal parts) or ``"same_map"``
    (size x size pixels of one channel). With ``average=True`` alpha is cuda-convnet's and PyTorch's `scale`,
    which divides by the window's full size (`size`, or size^2 in the same map); otherwise it is the 2012
    paper's.
    """
    call = _Call(device, x=x)
    x = call.numbers("x", "N,H,W,C")
    problem = _lrn_problem(x.shape, size, alpha, beta, k, groups, region, average)
    y = call.output(out, x.shape, dtype=call.element)
    call.module.lrn_forward(problem, x, y, call.stream)
    return y


def lrn_backward(
    x: Array, dy: Array, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0,
    groups: int = 1, region: str = "across_channels", average: bool = False, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dx[N,H,W,C]``, the gradient by x of the sum of dy times ``lrn_forward(x)``."""
    call = _Call(device, x=x, dy=dy)
    x = call.numbers("x", "N,H,W,C")
    dy = call.shaped("dy", x.shape, call.element)
    problem = _lrn_problem(x.shape, size, alpha, beta, k, groups, region, average)
    dx = call.output(out, x.shape, dtype=call.element)
    space = call.workspace(call.module.lrn_backward_workspace(problem))
    call.module.lrn_backward(problem, x, dy, dx, space, call.stream)
    return dx


def lrn_maxpool_forward(
    x: Array, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0, groups: int = 1,
    average: bool = False, window: Pair = 3, stride: Pair = 2, padding: Padding = 0, rounding: str = "floor",
    outputs: Pair | None = None, out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``y[N,P,Q,C]`` = maxpool_forward(lrn_forward(x)) for x[N,H,W,C], across channels, without what lies
    between."""
    call = _Call(device, x=x)
    x = call.numbers("x", "N,H,W,C")
    lrn = _lrn_problem(x.shape, size, alpha, beta, k, groups, "across_channels", average)
    pool = _pool_problem(x.shape, window, stride, padding, rounding, outputs)
    y = call.output(out, pool.y_shape, dtype=call.element)
    call.module.lrn_maxpool_forward(lrn, pool, x, y, call.stream)
    return y


def lrn_maxpool_backward(
    x: Array, y: Array, dy: Array, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0,
    groups: int = 1, average: bool = False, window: Pair = 3, stride: Pair = 2, padding: Padding = 0,
    rounding: str = "floor", outputs: Pair | None = None, relu: bool = False, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dx[N,H,W,C]``, the gradient by x of the sum of dy[N,P,Q,C] times ``y = lrn_maxpool_forward(x)``; with
    `relu`, that of the layer before x, 0 where x is not positive.

    Maxima are known by their bits, so y must be of the same device.
    """
    call = _Call(device, x=x, y=y, dy=dy)
    x = call.numbers("x", "N,H,W,C")
    lrn = _lrn_problem(x.shape, size, alpha, beta, k, groups, "across_channels", average)
    pool = _pool_problem(x.shape, window, stride, padding, rounding, outputs)
    y, dy = (call.shaped(name, pool.y_shape, call.element) for name in ("y", "dy"))
    dx = call.output(out, x.shape, dtype=call.element)
    space = call.workspace(call.module.lrn_maxpool_backward_workspace(lrn, pool))
    call.module.lrn_maxpool_backward(lrn, pool, x, y, dy, bool(relu), dx, space, call.stream)
    return dx


# ---- contrast normalisation --------------------------------------------------------------------------------


def _contrast_problem(
    shape: Sequence[int], size: int, alpha: float, beta: float, k: float
) -> ContrastNormProblem:
    n, h, w, c = shape
    return ContrastNormProblem(
        n, h, w, c, _integer("size", size, 1), _real("alpha", alpha), _real("beta", beta), _real("k", k)
    )


def contrast_norm_forward(
    x: Array, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0,
    out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``y`` = x * (k + alpha * sum of u^2)^-beta with u = x - mean, for x[N,H,W,C].

    Sum and mean go over size x size pixels of one channel, clipped to the image. cuda-convnet's `scale` is
    alpha * size^2.
    """
    call = _Call(device, x=x)
    x = call.numbers("x", "N,H,W,C")
    problem = _contrast_problem(x.shape, size, alpha, beta, k)
    y = call.output(out, x.shape, dtype=call.element)
    space = call.workspace(call.module.contrast_norm_forward_workspace(problem))
    call.module.contrast_norm_forward(problem, x, y, space, call.stream)
    return y


def contrast_norm_backward(
    x: Array, dy: Array, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0,
    out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dx[N,H,W,C]``, the gradient by x of the sum of dy times ``contrast_norm_forward(x)``, the
    mean's part included."""
    call = _Call(device, x=x, dy=dy)
    x = call.numbers("x", "N,H,W,C")
    dy = call.shaped("dy", x.shape, call.element)
    problem = _contrast_problem(x.shape, size, alpha, beta, k)
    dx = call.output(out, x.shape, dtype=call.element)
    space = call.workspace(call.module.contrast_norm_backward_workspace(problem))
    call.module.contrast_norm_backward(problem, x, dy, dx, space, call.stream)
    return dx


# ---- pooling -----------------------------------------------------------------------------------------------


def _pool_problem(
    shape: Sequence[int], window: Pair, stride: Pair, padding: Padding, rounding: str, outputs: Pair | None,
    count_padding: bool = False,
) -> PoolProblem:  # fmt: skip
    n, h, w, c = shape
    return PoolProblem(
        n,
        h,
        w,
        c,
        window=_pair("window", window),
        stride=_pair("stride", stride),
        padding=_padding(padding, 1 - 2**31),
        rounding=_text("rounding", rounding),
        outputs=None if outputs is None else _pair("outputs", outputs),
        count_padding=bool(count_padding),
    )


def maxpool_forward(
    x: Array, *, window: Pair = 3, stride: Pair = 2, padding: Padding = 0, rounding: str = "floor",
    outputs: Pair | None = None, out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``y[N,P,Q,C]``, the largest value of each window of x[N,H,W,C], clipped to the image; NaN wins.

    For all pools, window p begins at pixel ``p * stride - padding``; a negative padding begins inside the
    image. `padding` may be ``((top, bottom), (left, right))``. `outputs` (P, Q) says how many windows there
    are, in place of `rounding`; each must hold a pixel.
    """
    call = _Call(device, x=x)
    x = call.numbers("x", "N,H,W,C")
    problem = _pool_problem(x.shape, window, stride, padding, rounding, outputs)
    y = call.output(out, problem.y_shape, dtype=call.element)
    call.module.maxpool_forward(problem, x, y, call.stream)
    return y


def maxpool_backward(
    x: Array, y: Array, dy: Array, *, window: Pair = 3, stride: Pair = 2, padding: Padding = 0,
    rounding: str = "floor", outputs: Pair | None = None, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dx[N,H,W,C]``: each window's dy goes to every element that equals its maximum, as in cuda-convnet."""
    call = _Call(device, x=x, y=y, dy=dy)
    x = call.numbers("x", "N,H,W,C")
    problem = _pool_problem(x.shape, window, stride, padding, rounding, outputs)
    y, dy = call.shaped("y", problem.y_shape, call.element), call.shaped("dy", problem.y_shape, call.element)
    dx = call.output(out, x.shape, dtype=call.element)
    call.module.maxpool_backward(problem, x, y, dy, dx, call.stream)
    return dx


def avgpool_forward(
    x: Array, *, window: Pair = 3, stride: Pair = 2, padding: Padding = 0, rounding: str = "floor",
    outputs: Pair | None = None, count_padding: bool = False, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``y[N,P,Q,C]``, the mean of each window of x[N,H,W,C], over the part inside the image; with
    `count_padding` over that inside the padded image, whose padding counts as zeros.

    What lies beyond the padding, in the last windows of ``rounding="ceil"``, never counts. PyTorch's and
    ONNX's ``count_include_pad`` is the same.
    """
    call = _Call(device, x=x)
    x = call.numbers("x", "N,H,W,C")
    problem = _pool_problem(x.shape, window, stride, padding, rounding, outputs, count_padding)
    y = call.output(out, problem.y_shape, dtype=call.element)
    call.module.avgpool_forward(problem, x, y, call.stream)
    return y


def avgpool_backward(
    dy: Array, x_shape: Sequence[int], *, window: Pair = 3, stride: Pair = 2, padding: Padding = 0,
    rounding: str = "floor", outputs: Pair | None = None, count_padding: bool = False,
    out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dx[N,H,W,C]``: each window's dy, divided by what its mean is, goes to all its elements."""
    call = _Call(device, dy=dy)
    dy = call.numbers("dy", "N,P,Q,C")
    shape = _image_shape("x_shape", x_shape)
    problem = _pool_problem(shape, window, stride, padding, rounding, outputs, count_padding)
    call.shaped("dy", problem.y_shape, call.element)
    dx = call.output(out, problem.x_shape, dtype=call.element)
    call.module.avgpool_backward(problem, dy, dx, call.stream)
    return dx


# ---- elementwise maximum -----------------------------------------------------------------------------------


def eltmax_forward(
    a: Array, b: Array, *, out: Array | None = None, device: str | Device | None = None
) -> Array:
    """The larger of a and b, arrays of one shape; NaN wins. In place allowed (``out=a`` or ``out=b``)."""
    call = _Call(device, a=a, b=b)
    a = call.numbers("a", "any")
    b = call.shaped("b", a.shape, call.element)
    y = call.output(out, a.shape, dtype=call.element, in_place=("a", "b"))
    call.module.eltmax_forward(a, b, y, call.stream)
    return y


def eltmax_backward(
    x: Array, y: Array, dy: Array, *, out: Array | None = None, device: str | Device | None = None
) -> Array:
    """``dx`` = dy where the input x equals the maximum y, else 0: ties get all of it, as in cuda-convnet. In
    place allowed (``out=dy``)."""
    call = _Call(device, x=x, y=y, dy=dy)
    x = call.numbers("x", "any")
    y, dy = call.shaped("y", x.shape, call.element), call.shaped("dy", x.shape, call.element)
    dx = call.output(out, x.shape, dtype=call.element, in_place=("dy",))
    call.module.eltmax_backward(x, y, dy, dx, call.stream)
    return dx


# ---- dropout -----------------------------------------------------------------------------------------------


def dropout(
    x: Array, *, keep: float, seed: int, subsequence: int = 0, scale: float = 1.0, columns: int = 0,
    row_stride: int = 0, first: int = 0, out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """x * scale where kept, else 0; each element is kept with probability `keep`. In place allowed
    (``out=x``).

    The mask is a function of `seed`, `subsequence` and the element's position alone, the same on every
    device; the backward pass is the same call on the gradient.

    A part of a tensor draws what it would in the whole: with ``x = whole[:, first : first + columns]`` of a
    whole with rows of `row_stride` elements, the result is that slice of ``dropout(whole)``.
    """
    call = _Call(device, x=x)
    x = call.numbers("x", "any")
    problem = DropoutProblem(
        x.size,
        _real("keep", keep),
        _real("scale", scale),
        _integer("seed", seed, high=2**64 - 1),
        _integer("subsequence", subsequence, high=2**64 - 1),
        _integer("columns", columns),
        _integer("row_stride", row_stride),
        _integer("first", first),
    )
    y = call.output(out, x.shape, dtype=call.element, in_place=("x",))
    call.module.dropout(problem, x, y, call.stream)
    return y


# ---- softmax and cross-entropy -----------------------------------------------------------------------------


def softmax_forward(logits: Array, *, out: Array | None = None, device: str | Device | None = None) -> Array:
    """Probabilities[N,K], float32, of logits[N,K]; in place allowed (``out=logits``) where those are, too."""
    call = _Call(device, logits=logits)
    logits = call.numbers("logits", "N,K")
    problem = SoftmaxProblem(*logits.shape)
    in_place = ("logits",) if call.element == np.float32 else ()
    probabilities = call.output(out, logits.shape, in_place=in_place)
    call.module.softmax_forward(problem, logits, probabilities, call.stream)
    return probabilities


def softmax_cross_entropy_forward(
    logits: Array, labels: Array, *, device: str | Device | None = None
) -> tuple[Array, Array, Array]:
    """Probabilities[N,K], loss[N] = -log(probability of the label) and rank[N] (int32) of logits[N,K]; the
    first two are float32.

    `labels` are int32[N]. A row's rank is the number of classes before its label by falling logit (ties: by
    rising class); the row is wrong at top-t when rank >= t. A label outside [0, K) gives NaN and rank K.
    """
    call = _Call(device, logits=logits, labels=labels)
    logits = call.numbers("logits", "N,K")
    problem = SoftmaxProblem(*logits.shape)
    labels = call.shaped("labels", (problem.n,), np.int32)
    probabilities = call.output(None, logits.shape)
    loss = call.output(None, (problem.n,))
    rank = call.output(None, (problem.n,), dtype=np.int32)
    call.module.softmax_cross_entropy_forward(problem, logits, labels, probabilities, loss, rank, call.stream)
    return probabilities, loss, rank


def softmax_cross_entropy_backward(
    probabilities: Array, labels: Array, scale: float = 1.0, *, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dlogits[N,K]`` = scale * (probabilities - onehot(labels)), of float32 probabilities; in place allowed
    (``out=probabilities``). Another `out` may be of bfloat16."""
    call = _Call(device, probabilities=probabilities, labels=labels)
    probabilities = call.get("probabilities", "N,K")
    problem = SoftmaxProblem(*probabilities.shape)
    labels = call.shaped("labels", (problem.n,), np.int32)
    dtype = call.element_of("out", out)
    dlogits = call.output(out, probabilities.shape, in_place=("probabilities",), dtype=dtype)
    call.module.softmax_cross_entropy_backward(
        problem, probabilities, labels, _real("scale", scale), dlogits, call.stream
    )
    return dlogits


def softmax_cross_entropy(
    logits: Array, labels: Array, scale: float = 1.0, *, out: Array | None = None,
    device: str | Device | None = None,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """Probabilities, loss and rank of softmax_cross_entropy_forward, and ``dlogits`` (`out`) of the backward
    pass, of the logits' type, in one."""
    call = _Call(device, logits=logits, labels=labels)
    logits = call.numbers("logits", "N,K")
    problem = SoftmaxProblem(*logits.shape)
    labels = call.shaped("labels", (problem.n,), np.int32)
    probabilities = call.output(None, logits.shape)
    loss = call.output(None, (problem.n,))
    rank = call.output(None, (problem.n,), dtype=np.int32)
    dlogits = call.output(out, logits.shape, dtype=call.element)
    call.module.softmax_cross_entropy(
        problem, logits, labels, _real("scale", scale), probabilities, loss, rank, dlogits, call.stream
    )
    return probabilities, loss, rank, dlogits


def watch_losses(loss: Array, *, device: str | Device | None = None) -> Array:
    """``halt`` (int32[1]): 1 if any of the losses is infinite or NaN, else 0."""
    call = _Call(device, loss=loss)
    loss = call.get("loss", "any")
    halt = call.output(None, (1,), dtype=np.int32)
    call.module.watch_losses(loss, halt, call.stream)
    return halt


def top_k_error(rank: Array, k: int = 1) -> float:
    """The share of rows whose label is not among the first `k` classes, from softmax_cross_entropy_forward's
    rank."""
    return float((rank >= _integer("k", k, 1)).mean())


# ---- update ------------------------------------------------------------------------------------------------


def sgd_update(
    g: Array, v: Array, w: Array, *, lr: float, momentum: float = 0.0, weight_decay: float = 0.0,
    w_bf16: Array | None = None, device: str | Device | None = None,
) -> None:  # fmt: skip
    """v = momentum*v - lr*(g + weight_decay*w), then w = w + v: both are written. Any shape, the same for
    all; all float32. `w_bf16`, if given, receives the new w as bfloat16s."""
    call = _Call(device, g=g, v=v, w=w, w_bf16=w_bf16)
    g = call.get("g", "any")
    problem = SgdProblem(
        g.size, _real("lr", lr), _real("momentum", momentum), _real("weight_decay", weight_decay)
    )
    # Checked as outputs: writable, and none of the three over another.
    arrays = {name: call.arrays.pop(name) for name in ("v", "w", "w_bf16") if name in call.arrays}
    v = call.output(arrays["v"], g.shape, name="v")
    w = call.output(arrays["w"], g.shape, name="w")
    if w_bf16 is not None:
        w_bf16 = call.output(arrays["w_bf16"], g.shape, name="w_bf16", dtype=bfloat16.BITS)
    call.module.sgd_update(problem, g, v, w, call.stream, w_bf16=w_bf16)


def limit_norm(
    w: Array, limit: float, *, low: float = 0.0, centered: bool = False, device: str | Device | None = None
) -> None:
    """Multiplies each w[k] of w[K, ...] whose Euclidean norm is above `limit` by limit / norm, and each whose
    norm is below `low`, but not 0, by low / norm; the others keep their bits. w is written.

    With `centered` the norm is that of w[k] minus its mean; the whole of w[k] is multiplied. Where its values
    are equal, or one is infinite or NaN, it keeps its bits. Source: cuda-convnet's wball, and
    cuda-convnet2's wcNormMin and wcNormMax times the number of values."""
    call = _Call(device, w=w)
    w = call.arrays.pop("w")
    if w.ndim < 2 or w.size == 0:
        raise ValueError(f"w must have at least 2 axes [K, ...] and not be empty, not shape {w.shape}")
    w = call.output(w, w.shape, name="w")
    problem = NormLimitProblem(
        w.shape[0], w.size // w.shape[0], _real("limit", limit), _real("low", low), centered
    )
    call.module.limit_norm(problem, w, call.stream)


# ---- input -------------------------------------------------------------------------------------------------


def input_transform(
    images: Array, size: Pair, *, top: Array, left: Array, mirror: Array, mean: Array | None = None,
    shift: Array | None = None, scale: float = 1.0, center_mean: bool = False, block: int = 1, pad: int = 0,
    out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """A float batch ``y[N,P,Q,C]`` of crops of uint8 images[N,H,W,C]: scale * (pixel - mean + shift).

    `size` is (P, Q); `top` and `left` (int32[N]) place each crop, clamped to the image; `mirror` (uint8[N])
    flips it from left to right where not 0; `mean` is float32[H,W,C], taken at the pixel's place in the whole
    image, or with `center_mean` at the output's place in the centre crop; `shift` is float32[N,C], a colour
    shift per image. An `out` of bfloat16 receives the batch rounded.

    With `block` above 1 the crop, in a border of `pad` zeros and as many more at the bottom and right as make
    its sides multiples of `block`, is cut into squares: y is [N, P', Q', block*block*C], one pixel for each.
    """
    call = _Call(device, images=images, top=top, left=left, mirror=mirror, mean=mean, shift=shift)
    images = call.get("images", "N,H,W,C", np.uint8)
    n, h, w, c = images.shape
    p, q = _pair("size", size)
    if p > h or q > w:
        raise ValueError(f"size must be at most that of the images, ({h}, {w}), not ({p}, {q})")
    cut = {"block": _integer("block", block, 1), "pad": _integer("pad", pad)}
    problem = InputProblem(n, h, w, c, p, q, bool(center_mean), **cut)
    top, left = call.shaped("top", (n,), np.int32), call.shaped("left", (n,), np.int32)
    mirror = call.shaped("mirror", (n,), np.uint8)
    mean, shift = call.optional("mean", (h, w, c)), call.optional("shift", (n, c))
    y = call.output(out, problem.y_shape, dtype=call.element_of("out", out))
    call.module.input_transform(
        problem, images, top, left, mirror, mean, shift, _real("scale", scale), y, call.stream
    )
    return y


def filters_to_blocks(
    w: Array, block: int, *, out: Array | None = None, device: str | Device | None = None
) -> Array:
    """``blocks[K, R', S', block*block*C]`` of float32 filters w[K,R,S,C]: those for images in blocks.

    A convolution of stride `block` is one of stride 1 over images that input_transform cut into blocks, with
    these filters. An `out` of bfloat16 receives them rounded.
    """
    call = _Call(device, w=w)
    w = call.get("w", "K,R,S,C")
    k, r, s, c = w.shape
    problem = FilterBlocksProblem(k, r, s, c, _integer("block", block, 1))
    blocks = call.output(out, problem.blocks_shape, dtype=call.element_of("out", out))
    call.module.filters_to_blocks(problem, w, blocks, call.stream)
    return blocks


def filters_from_blocks(
    dblocks: Array, w_shape: Sequence[int], block: int, *, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dw[K,R,S,C]``, the gradient by w of the sum of float32 dblocks times ``filters_to_blocks(w)``;
    `w_shape` is [K,R,S,C]."""
    call = _Call(device, dblocks=dblocks)
    call.get("dblocks", "K,R,S,C")
    k, r, s, c = _image_shape("w_shape", w_shape, "K,R,S,C")
    problem = FilterBlocksProblem(k, r, s, c, _integer("block", block, 1))
    dblocks = call.shaped("dblocks", problem.blocks_shape)
    dw = call.output(out, problem.w_shape)
    call.module.filters_from_blocks(problem, dblocks, dw, call.stream)
    return dw


# ---- plain -------------------------------------------------------------------------------------------------


def add(
    a: Array, b: Array, alpha: float = 1.0, beta: float = 1.0, *, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """alpha * a + beta * b for arrays of one shape; in place allowed (``out=a`` or ``out=b``)."""
    call = _Call(device, a=a, b=b)
    a = call.numbers("a", "any")
    b = call.shaped("b", a.shape, call.element)
    y = call.output(out, a.shape, dtype=call.element, in_place=("a", "b"))
    call.module.add(a, b, y, call.stream, _real("alpha", alpha), _real("beta", beta))
    return y


def to_bf16(x: Array, *, out: Array | None = None, device: str | Device | None = None) -> Array:
    """float32 numbers of any shape rounded to bfloat16s, to the nearest, ties to even."""
    call = _Call(device, x=x)
    x = call.get("x", "any")
    y = call.output(out, x.shape, dtype=bfloat16.BITS)
    call.module.to_bf16(x, y, call.stream)
    return y


def from_bf16(x: Array, *, out: Array | None = None, device: str | Device | None = None) -> Array:
    """The float32 numbers that an array of bfloat16s holds."""
    call = _Call(device, x=x)
    x = call.get("x", "any", bfloat16.BITS)
    y = call.output(out, x.shape)
    call.module.from_bf16(x, y, call.stream)
    return y
