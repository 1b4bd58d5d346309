"""One call that tests one operation on one problem and device, and a line that repeats it.

    >>> check("conv_fprop", ConvProblem(n=1, h=5, w=5, c=3, k=4, r=3, s=3), "emulator:0")

makes the inputs from a seed, puts every array between guard bands and fills outputs and workspace with
NaN, runs the operation, and asserts that

- the result is the reference's: bit for bit with ``data="exact"`` (integers from -4 to 4, whose sums
  float32 holds exactly), within twice the error of plain float32 with ``data="real"`` (normally
  distributed numbers) and ``data="integers"`` (those of "exact" where the operation rounds);
- nothing outside the outputs was written, inputs included;
- further runs give the same bits; on the emulator they run under its other two schedules.

A failure ends with the line of shell that repeats it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cconvnet._problem import (
    BiasProblem,
    ContrastNormProblem,
    ConvProblem,
    DropoutProblem,
    FcProblem,
    InputProblem,
    LocalProblem,
    LrnProblem,
    NeuronProblem,
    NormLimitProblem,
    PoolProblem,
    SgdProblem,
    SoftmaxProblem,
)
from cconvnet.backends import Device, get_device
from cconvnet.testing import compare, reference
from cconvnet.testing.buffers import Buffer

__all__ = [
    "OPERATIONS",
    "BiasProblem",
    "ContrastNormProblem",
    "ConvProblem",
    "DropoutProblem",
    "FcProblem",
    "InputProblem",
    "LocalProblem",
    "LrnProblem",
    "NeuronProblem",
    "NormLimitProblem",
    "PoolProblem",
    "SgdProblem",
    "SoftmaxProblem",
    "check",
    "impls",
    "make_inputs",
    "repro",
    "run",
]

Array = np.ndarray[Any, Any]
Shapes = dict[str, tuple[int, ...]]


class Draw:
    """Random inputs of one kind: ``"exact"``, ``"integers"`` or ``"real"``."""

    def __init__(self, data: str, seed: int) -> None:
        if data not in ("exact", "integers", "real"):
            raise ValueError(f"data must be exact, integers or real, not {data!r}")
        self.exact = data != "real"
        self.random = np.random.default_rng(seed)

    def __call__(self, shape: int | tuple[int, ...]) -> Array:
        """float32: integers from -4 to 4, or normally distributed numbers."""
        if self.exact:
            return self.random.integers(-4, 5, shape).astype(np.float32)
        return self.random.standard_normal(shape, dtype=np.float32)

    def integers(self, low: int, high: int, shape: int | tuple[int, ...], dtype: Any) -> Array:
        """Integers from low to high - 1."""
        return self.random.integers(low, high, shape).astype(dtype)


def _rounded(values: Array) -> Array:
    return values.astype(np.float32)


# ---- the inputs of each operation, in the order of kernels/api.h ------------------------------------


def _fprop(o: Any, draw: Draw, bias: bool = True, relu: bool = False) -> dict[str, Any]:
    return {
        "x": draw(o.x_shape),
        "w": draw(o.w_shape),
        "bias": draw(getattr(o, "bias_shape", o.k)) if bias else None,
        "relu": relu,
    }


def _dgrad(o: Any, draw: Draw) -> dict[str, Any]:
    return {"dy": draw(o.y_shape), "w": draw(o.w_shape)}


def _wgrad(o: Any, draw: Draw) -> dict[str, Any]:
    return {"x": draw(o.x_shape), "dy": draw(o.y_shape)}


def _bias_add(o: BiasProblem, draw: Draw, relu: bool = False) -> dict[str, Any]:
    return {"x": draw((o.rows, o.k)), "bias": draw(o.k), "relu": relu}


def _neuron_x(o: NeuronProblem, draw: Draw) -> Array:
    if o.neuron != "sqrt":
        return draw(o.count)
    # The squares of positive integers have exact roots.
    return draw(o.count) ** 2 if draw.exact else np.abs(draw(o.count))


def _neuron_backward(o: NeuronProblem, draw: Draw) -> dict[str, Any]:
    x = _neuron_x(o, draw)
    if o.neuron == "sqrt":
        x = np.maximum(x, np.float32(1) if draw.exact else np.float32(1e-6))
    return {"x": x, "y": _rounded(reference.neuron_forward(o, x)), "dy": draw(o.count)}


def _maxpool_backward(o: PoolProblem, draw: Draw) -> dict[str, Any]:
    x = draw(o.x_shape)
    return {"x": x, "y": _rounded(reference.maxpool_forward(o, x)), "dy": draw(o.y_shape)}


def _eltmax_backward(o: NeuronProblem, draw: Draw) -> dict[str, Any]:
    x, other = draw(o.count), draw(o.count)
    return {"x": x, "y": _rounded(reference.eltmax_forward(x, other)), "dy": draw(o.count)}


def _logits(o: SoftmaxProblem, draw: Draw) -> Array:
    return 3 * draw((o.n, o.k))


def _cross_entropy_backward(o: SoftmaxProblem, draw: Draw, scale: float = 0.25) -> dict[str, Any]:
    return {
        "probabilities": _rounded(reference.softmax_forward(o, _logits(o, draw))),
        "labels": draw.integers(0, o.k, o.n, np.int32),
        "scale": scale,
    }


def _limit_norm(o: NormLimitProblem, draw: Draw) -> dict[str, Any]:
    if not draw.exact:
        return {"w": draw((o.rows, o.columns))}
    # 4^m values of 2^e have the norm 2^(m+e): exact, and so is the quotient of two such norms.
    ones = 4 ** int(np.log2(o.columns) / 2)
    signs = (np.arange(o.columns) < ones) * (2 * draw.integers(0, 2, (o.rows, o.columns), np.float32) - 1)
    w = draw.random.permuted(signs, axis=1) * 2.0 ** draw.integers(-3, 3, (o.rows, 1), np.float32)
    return {"w": _rounded(w)}


def _input_transform(
    o: InputProblem, draw: Draw, mean: bool = True, shift: bool = True, scale: float = 0.5
) -> dict[str, Any]:
    # Some crops are asked for outside the image: they are clamped.
    return {
        "images": draw.integers(0, 256, (o.n, o.h, o.w, o.c), np.uint8),
        "top": draw.integers(-1, o.h - o.p + 2, o.n, np.int32),
        "left": draw.integers(-1, o.w - o.q + 2, o.n, np.int32),
        "mirror": draw.integers(0, 2, o.n, np.uint8),
        "mean": draw.integers(0, 256, (o.h, o.w, o.c), np.float32) if mean else None,
        "shift": 8 * draw((o.n, o.c)) if shift else None,
        "scale": scale,
    }


def _add(o: NeuronProblem, draw: Draw, alpha: float = 1.0, beta: float = 1.0) -> dict[str, Any]:
    scales = {} if alpha == beta == 1 else {"alpha": alpha, "beta": beta}
    return {"a": draw(o.count), "b": draw(o.count), **scales}


@dataclass(frozen=True)
class Operation:
    """What a call of one operation looks like: ``f([problem,] inputs, outputs[, workspace])``.

    Attributes
        inputs: makes the inputs (arrays, None, numbers) by name.
        outputs: the shape of each output; an output that is also an input is updated.
        in_place: the inputs that the output may be.
        keywords: the inputs that are passed by name.
        elementwise: errors are counted in units of each element (compare.assert_close).
        has_problem: whether the problem is an argument; otherwise a NeuronProblem says the size.
    """

    inputs: Callable[..., dict[str, Any]]
    outputs: Callable[[Any], Shapes]
    in_place: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    elementwise: bool = False
    has_problem: bool = True
    has_workspace: bool = False
    has_impls: bool = False


def _shape(**shapes: str) -> Callable[[Any], Shapes]:
    """Output shapes that are attributes of the problem."""

    def outputs(o: Any) -> Shapes:
        values = {name: getattr(o, attribute) for name, attribute in shapes.items()}
        return {name: v if isinstance(v, tuple) else (v,) for name, v in values.items()}

    return outputs


_GEMM: dict[str, Any] = {"has_workspace": True, "has_impls": True}
_ELEMENTS: dict[str, Any] = {"outputs": _shape(y="count"), "elementwise": True}

OPERATIONS: dict[str, Operation] = {
    "conv_fprop": Operation(_fprop, _shape(y="y_shape"), **_GEMM),
    "conv_dgrad": Operation(_dgrad, _shape(dx="x_shape"), **_GEMM),
    "conv_wgrad": Operation(_wgrad, _shape(dw="w_shape"), **_GEMM),
    "local_fprop": Operation(_fprop, _shape(y="y_shape"), **_GEMM),
    "local_dgrad": Operation(_dgrad, _shape(dx="x_shape"), **_GEMM),
    "local_wgrad": Operation(_wgrad, _shape(dw="w_shape"), **_GEMM),
    "fc_fprop": Operation(_fprop, _shape(y="y_shape"), **_GEMM),
    "fc_dgrad": Operation(_dgrad, _shape(dx="x_shape"), **_GEMM),
    "fc_wgrad": Operation(_wgrad, _shape(dw="w_shape"), **_GEMM),
    "bias_add": Operation(_bias_add, lambda o: {"y": (o.rows, o.k)}, in_place=("x",), elementwise=True),
    "bias_grad": Operation(lambda o, draw: {"dy": draw((o.rows, o.k))}, _shape(db="k"), has_workspace=True),
    "relu_forward": Operation(
        lambda o, draw: {"x": draw(o.count)}, in_place=("x",), has_problem=False, **_ELEMENTS
    ),
    "relu_backward": Operation(
        lambda o, draw: {"y": draw(o.count), "dy": draw(o.count)},
        _shape(dx="count"),
        in_place=("dy",),
        elementwise=True,
        has_problem=False,
    ),
    "neuron_forward": Operation(lambda o, draw: {"x": _neuron_x(o, draw)}, in_place=("x",), **_ELEMENTS),
    "neuron_backward": Operation(_neuron_backward, _shape(dx="count"), in_place=("dy",), elementwise=True),
    "lrn_forward": Operation(lambda o, draw: {"x": draw(o.x_shape)}, _shape(y="x_shape"), elementwise=True),
    "lrn_backward": Operation(
        lambda o, draw: {"x": draw(o.x_shape), "dy": draw(o.x_shape)},
        _shape(dx="x_shape"),
        has_workspace=True,
    ),
    "contrast_norm_forward": Operation(
        lambda o, draw: {"x": draw(o.x_shape)}, _shape(y="x_shape"), elementwise=True, has_workspace=True
    ),
    "contrast_norm_backward": Operation(
        lambda o, draw: {"x": draw(o.x_shape), "dy": draw(o.x_shape)},
        _shape(dx="x_shape"),
        has_workspace=True,
    ),
    "maxpool_forward": Operation(lambda o, draw: {"x": draw(o.x_shape)}, _shape(y="y_shape")),
    "maxpool_backward": Operation(_maxpool_backward, _shape(dx="x_shape")),
    "avgpool_forward": Operation(lambda o, draw: {"x": draw(o.x_shape)}, _shape(y="y_shape")),
    "avgpool_backward": Operation(lambda o, draw: {"dy": draw(o.y_shape)}, _shape(dx="x_shape")),
    "eltmax_forward": Operation(
        lambda o, draw: {"a": draw(o.count), "b": draw(o.count)},
        in_place=("a", "b"),
        has_problem=False,
        **_ELEMENTS,
    ),
    "eltmax_backward": Operation(
        _eltmax_backward, _shape(dx="count"), in_place=("dy",), elementwise=True, has_problem=False
    ),
    "dropout": Operation(lambda o, draw: {"x": draw(o.count)}, in_place=("x",), **_ELEMENTS),
    "softmax_forward": Operation(
        lambda o, draw: {"logits": _logits(o, draw)},
        lambda o: {"probabilities": (o.n, o.k)},
        in_place=("logits",),
        elementwise=True,
    ),
    "softmax_cross_entropy_forward": Operation(
        lambda o, draw: {
            "logits": _logits(o, draw),
            "labels": draw.integers(0, o.k, o.n, np.int32),
        },
        lambda o: {"probabilities": (o.n, o.k), "loss": (o.n,), "rank": (o.n,)},
    ),
    "softmax_cross_entropy_backward": Operation(
        _cross_entropy_backward, lambda o: {"dlogits": (o.n, o.k)}, in_place=("probabilities",)
    ),
    "sgd_update": Operation(
        lambda o, draw: {name: draw(o.count) for name in "gvw"}, _shape(v="count", w="count")
    ),
    "limit_norm": Operation(_limit_norm, lambda o: {"w": (o.rows, o.columns)}, elementwise=True),
    "input_transform": Operation(_input_transform, lambda o: {"y": (o.n, o.p, o.q, o.c)}),
    "add": Operation(_add, in_place=("a", "b"), keywords=("alpha", "beta"), has_problem=False, **_ELEMENTS),
}

_OUTPUT_TYPES = {"rank": np.int32}


def make_inputs(
    operation: str, problem: Any, data: str = "exact", seed: int = 0, **options: Any
) -> dict[str, Any]:
    """The inputs of an operation by name, a function of the arguments alone."""
    return OPERATIONS[operation].inputs(problem, Draw(data, seed), **options)


@functools.lru_cache(maxsize=32)
def _expected(
    operation: str, problem: Any, data: str, seed: int, options: tuple[tuple[str, Any], ...]
) -> tuple[dict[str, Any], list[Array], list[Array]]:
    """Inputs, the reference's outputs and those of the float32 baseline: the same for every device."""
    inputs = make_inputs(operation, problem, data, seed, **dict(options))
    spec = OPERATIONS[operation]
    arguments = ([problem] if spec.has_problem else []) + list(inputs.values())

    def compute() -> list[Array]:
        results = getattr(reference, operation)(*arguments)
        results = results if isinstance(results, tuple) else (results,)
        shapes = spec.outputs(problem).values()
        return [result.reshape(shape) for result, shape in zip(results, shapes, strict=True)]

    expected = compute()
    if data == "exact":
        return inputs, expected, expected
    with reference.precision(np.float32):
        return inputs, expected, compute()


def impls(operation: str, problem: Any, device: str | Device) -> list[str | None]:
    """The rows of the operation's selection table that serve the problem; [None] if it has no table."""
    if not OPERATIONS[operation].has_impls:
        return [None]
    return list(getattr(get_device(device).module, f"{operation}_impls")(problem))


def run(
    operation: str,
    problem: Any,
    device: str | Device,
    inputs: dict[str, Any],
    *,
    impl: str | None = None,
    offset: int = 0,
    in_place: str | None = None,
) -> dict[str, Array]:
    """The outputs of one call between guard bands, on the host.

    `offset` moves every array that many bytes off its alignment; `in_place` names the input that is
    also the output.
    """
    spec, device = OPERATIONS[operation], get_device(device)
    buffers: dict[str, Buffer] = {}
    for name, value in inputs.items():
        if isinstance(value, np.ndarray):
            shift = offset if value.dtype.itemsize == 4 else offset % 4
            buffers[name] = Buffer(device, value.shape, value.dtype, values=value, offset=shift)
    outputs: dict[str, Buffer] = {}
    for name, shape in spec.outputs(problem).items():
        if in_place is not None:
            outputs[name] = buffers[in_place]
        elif name in buffers:
            outputs[name] = buffers[name]
        else:
            dtype = _OUTPUT_TYPES.get(name, np.float32)
            outputs[name] = Buffer(device, shape, dtype, offset=offset)

    arguments: list[Any] = [problem] if spec.has_problem else []
    positional = [name for name in inputs if name not in spec.keywords]
    arguments += [buffers[name].array if name in buffers else inputs[name] for name in positional]
    arguments += [buffer.array for name, buffer in outputs.items() if name not in inputs]
    workspace = None
    if spec.has_workspace:
        chosen = (impl,) if spec.has_impls else ()
        size = getattr(device.module, f"{operation}_workspace")(problem, *chosen)
        if size:
            # A workspace promises no more than the alignment of device memory, an input even less.
            workspace = Buffer(device, (size,), np.uint8)
        arguments.append(workspace.array if workspace else None)
    arguments.append(device.stream)
    if spec.has_impls:
        arguments.append(impl)

    with device:
        getattr(device.module, operation)(*arguments, **{n: inputs[n] for n in spec.keywords if n in inputs})
    device.synchronize()

    for name, buffer in {**buffers, **outputs}.items():
        buffer.assert_guarded(name)
    if workspace:
        workspace.assert_guarded("workspace")
    for name, buffer in buffers.items():
        if all(buffer is not output for output in outputs.values()):
            compare.assert_same_bits(name, buffer.host(), inputs[name])
    return {name: buffer.host().reshape(spec.outputs(problem)[name]) for name, buffer in outputs.items()}


def repro(operation: str, problem: Any, device: str | Device, **arguments: Any) -> str:
    """One line of shell that repeats a check."""
    given = "".join(f", {name}={value!r}" for name, value in arguments.items())
    name = get_device(device).name
    return (
        f'python -c "from cconvnet.testing.check import *; '
        f"check('{operation}', {problem!r}, '{name}'{given})\""
    )


def _schedules(device: Device) -> list[str]:
    return ["forward", "reverse", "random"] if device.kind == "emulator" else ["", ""]


def check(
    operation: str,
    problem: Any,
    device: str | Device,
    *,
    data: str = "exact",
    seed: int = 0,
    impl: str | None = None,
    offset: int = 0,
    in_place: str | None = None,
    nonzero: float = 0.25,
    floor: float = 2.0,
    **options: Any,
) -> None:
    """Tests one operation as the module's text says; AssertionError if it fails.

    `options` are the operation's own: ``bias``, ``relu`` (fprop, bias_add), ``mean``, ``shift``
    (input_transform), ``scale``, ``alpha``, ``beta`` (add). `nonzero` and `floor` are those of
    compare.assert_exact and compare.assert_close.
    """
    device = get_device(device)
    spec = OPERATIONS[operation]
    settings = {
        "data": data, "seed": seed, "impl": impl, "offset": offset, "in_place": in_place,
        "nonzero": nonzero, "floor": floor,
    }  # fmt: skip
    defaults = check.__kwdefaults__ or {}
    given = {name: value for name, value in settings.items() if value != defaults[name]} | options
    try:
        inputs, expected, baseline = _expected(operation, problem, data, seed, tuple(sorted(options.items())))
        first: dict[str, Array] | None = None
        for schedule in _schedules(device):
            if schedule:
                device.module.set_schedule(schedule, seed)
            actual = run(operation, problem, device, inputs, impl=impl, offset=offset, in_place=in_place)
            if first is not None:
                for name in first:
                    compare.assert_same_bits(name, actual[name], first[name])
                continue
            first = actual
            for (name, value), wanted, plain in zip(actual.items(), expected, baseline, strict=True):
                if name in _OUTPUT_TYPES:
                    compare.assert_exact(name, value, wanted, nonzero=0, dtype=_OUTPUT_TYPES[name])
                elif data == "exact":
                    compare.assert_exact(name, value, wanted, nonzero=nonzero)
                else:
                    compare.assert_close(
                        name, value, wanted, plain, elementwise=spec.elementwise, floor=floor
                    )
    except Exception as error:
        line = repro(operation, problem, device, **given)
        if isinstance(error, AssertionError):
            raise AssertionError(f"{error}\nrepeat with: {line}") from None
        error.add_note(f"repeat with: {line}")
        raise
    finally:
        if device.kind == "emulator":
            device.module.set_schedule("forward")
