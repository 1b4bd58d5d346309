"""Every operation as the tests call it: its inputs, drawn at random, its outputs, its element types.

``OPERATIONS`` says of each, in the order of kernels/api.h, what a call looks like; ``make_inputs`` draws what
it reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cconvnet import bfloat16
from cconvnet._problem import (
    BiasProblem,
    DropoutProblem,
    InputProblem,
    LrnProblem,
    NeuronProblem,
    NormLimitProblem,
    PoolProblem,
    SgdProblem,
    SoftmaxProblem,
)
from cconvnet.testing import reference

Array = np.ndarray[Any, Any]
Shapes = dict[str, tuple[int, ...]]


class Draw:
    """Random inputs of one kind: ``"exact"``, ``"integers"``, ``"real"`` or ``"unrounded"``."""

    def __init__(self, data: str, seed: int) -> None:
        if data not in ("exact", "integers", "real", "unrounded"):
            raise ValueError(f"data must be exact, integers, real or unrounded, not {data!r}")
        self.exact = data in ("exact", "integers")
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


def round_to(values: Array, precision: str) -> Array:
    """float32: the values as products of a precision multiply them."""
    match precision:
        case "bf16":
            return bfloat16.unpack(bfloat16.pack(values))
        case "tf32":
            # 10 bits of fraction, to the nearest, ties away from 0.
            bits = values.astype(np.float32).view(np.uint32)
            return np.asarray((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    return values


# ---- the inputs of each operation, in the order of kernels/api.h ------------------------------------


# What a finished product drops: all of y; y as columns of a wider one; and the same where the first column is
# no multiple of the four elements that one Philox call serves.
_DROPPED = {"whole": None, "part": 0, "odd_part": 3}


def _fprop(
    o: Any, draw: Draw, bias: bool = True, relu: bool = False, dropout: str | None = None
) -> dict[str, Any]:
    inputs: dict[str, Any] = {
        "x": draw(o.x_shape),
        "w": draw(o.w_shape),
        "bias": draw(getattr(o, "bias_shape", o.k)) if bias else None,
        "relu": relu,
    }
    if dropout is not None:
        part: dict[str, int] = {}
        if (odd := _DROPPED[dropout]) is not None:
            part = {"columns": o.k, "row_stride": 2 * o.k + 4, "first": o.k + odd}
        count = int(np.prod(o.y_shape))
        inputs["dropout"] = DropoutProblem(count, 0.5, 2.0, seed=7, subsequence=2**32 - 2, **part)
        inputs["step"] = np.array([5], np.int64)
    return inputs


def _dgrad(o: Any, draw: Draw) -> dict[str, Any]:
    return {"dy": draw(o.y_shape), "w": draw(o.w_shape)}


def _wgrad(o: Any, draw: Draw, update: str | None = None) -> dict[str, Any]:
    inputs: dict[str, Any] = {"x": draw(o.x_shape), "dy": draw(o.y_shape)}
    if update is not None:
        # Powers of two, as in random_case.
        inputs["update"] = SgdProblem(int(np.prod(o.w_shape)), 0.25, 0.5, 0.125)
        inputs |= {"v": draw(o.w_shape), "w": draw(o.w_shape), **_update_options(update)(o.w_shape)}
    return inputs


def _update_options(update: str) -> Callable[[Any], dict[str, Any]]:
    """The arrays that an update takes besides v and w, of a shape.

    "plain": none; "full": w_bf16 and the rates, going on; "halted": the same, but nothing is to be written.
    """
    if update == "plain":
        return lambda shape: {}
    return lambda shape: {
        "w_bf16": np.full(shape, 0x4321, bfloat16.BITS),
        "rates": np.array([0.5, 0.25], np.float32),
        "halt": np.array([update == "halted"], np.int32),
    }


def _sgd_update(o: SgdProblem, draw: Draw, update: str = "plain") -> dict[str, Any]:
    return {name: draw(o.count) for name in "gvw"} | _update_options(update)(o.count)


def _relu_bias_backward(o: BiasProblem, draw: Draw, scale: float = 2.0) -> dict[str, Any]:
    return {"y": draw((o.rows, o.k)), "dy": draw((o.rows, o.k)), "scale": scale}


Pair = tuple[LrnProblem, PoolProblem]


def _lrn_maxpool_backward(o: Pair, draw: Draw, relu: bool = False) -> dict[str, Any]:
    lrn, pool = o
    x = draw(lrn.x_shape)
    y = _rounded(reference.lrn_maxpool_forward(lrn, pool, x))
    return {"x": x, "y": y, "dy": draw(pool.y_shape), "relu": relu}


def _softmax_cross_entropy(o: SoftmaxProblem, draw: Draw, scale: float = 0.25) -> dict[str, Any]:
    labels = draw.integers(0, o.k, o.n, np.int32)
    return {"logits": _logits(o, draw), "labels": labels, "scale": scale}


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


def _dropout(o: DropoutProblem, draw: Draw, step: int | None = None) -> dict[str, Any]:
    steps = {} if step is None else {"step": np.array([step], np.int64)}
    return {"x": draw(o.count), **steps}


def _logits(o: SoftmaxProblem, draw: Draw) -> Array:
    return 3 * draw((o.n, o.k))


def _cross_entropy_backward(o: SoftmaxProblem, draw: Draw, scale: float = 0.25) -> dict[str, Any]:
    return {
        "probabilities": _rounded(reference.softmax_forward(o, _logits(o, draw))),
        "labels": draw.integers(0, o.k, o.n, np.int32),
        "scale": scale,
    }


def _watch_losses(o: NeuronProblem, draw: Draw, bad: float | None = None) -> dict[str, Any]:
    """`bad`: what stands in the place of one of the losses."""
    loss = np.abs(draw(o.count))
    if bad is not None:
        loss[draw.integers(0, o.count, 1, np.intp)] = bad
    return {"loss": loss}


def _limit_norm(o: NormLimitProblem, draw: Draw) -> dict[str, Any]:
    if not draw.exact:
        return {"w": draw((o.rows, o.columns)) + np.float32(0.5 * o.centered)}
    # 4^m values of 2^e have the norm 2^(m+e): exact, and so is the quotient of two such norms.
    ones = 4 ** int(np.log2(o.columns) / 2)
    signs = 2 * draw.integers(0, 2, (o.rows, o.columns), np.float32) - 1
    if o.centered:  # as many of either sign, so that their mean is 0, unless there is one alone
        signs[:] = np.where(np.arange(o.columns) % 2, 1, -1) * (ones > 1)
    w = draw.random.permuted(signs * (np.arange(o.columns) < ones), axis=1)
    if o.centered:
        w = w + draw.integers(1, 4, (o.rows, 1), np.float32)
    return {"w": _rounded(w * 2.0 ** draw.integers(-3, 3, (o.rows, 1), np.float32))}


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
        in_place: the inputs that the first output may be.
        keywords: the inputs that are passed by name.
        floats, bits: the arrays that are float32, or bfloat16's bits, whatever the element type.
        elementwise: errors are counted in units of each element (compare.assert_close).
        has_problem: whether the problem is an argument; otherwise a NeuronProblem says the size. A tuple is
            as many arguments.
        has_elements: whether the other arrays may be bfloat16's.
    """

    inputs: Callable[..., dict[str, Any]]
    outputs: Callable[[Any], Shapes]
    in_place: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    floats: tuple[str, ...] = ()
    bits: tuple[str, ...] = ()
    elementwise: bool = False
    has_problem: bool = True
    has_elements: bool = True
    has_workspace: bool = False
    has_impls: bool = False

    def dtype(self, name: str, element: str) -> Any:
        """What an array of numbers (not of labels, bytes, counts) is an array of."""
        if name in self.bits:
            return bfloat16.BITS
        rounds = element == "bf16" and self.has_elements and name not in self.floats
        return bfloat16.BITS if rounds else np.float32

    def problems(self, problem: Any) -> tuple[Any, ...]:
        """The problem as the call's first arguments."""
        if not self.has_problem:
            return ()
        return problem if isinstance(problem, tuple) else (problem,)


def _shape(**shapes: str) -> Callable[[Any], Shapes]:
    """Output shapes that are attributes of the problem."""

    def outputs(o: Any) -> Shapes:
        values = {name: getattr(o, attribute) for name, attribute in shapes.items()}
        return {name: v if isinstance(v, tuple) else (v,) for name, v in values.items()}

    return outputs


_GEMM: dict[str, Any] = {"has_workspace": True, "has_impls": True}
_FPROP: dict[str, Any] = {"floats": ("bias",), "keywords": ("dropout", "step"), **_GEMM}
_UPDATE: dict[str, Any] = {"keywords": ("w_bf16", "rates", "halt"), "bits": ("w_bf16",)}
_WGRAD: dict[str, Any] = {
    "floats": ("dw", "v", "w", "rates"),
    "keywords": ("update", "v", "w", *_UPDATE["keywords"]),
    "bits": ("w_bf16",),
    **_GEMM,
}
_ELEMENTS: dict[str, Any] = {"outputs": _shape(y="count"), "elementwise": True}

OPERATIONS: dict[str, Operation] = {
    "conv_fprop": Operation(_fprop, _shape(y="y_shape"), **_FPROP),
    "conv_dgrad": Operation(_dgrad, _shape(dx="x_shape"), **_GEMM),
    "conv_wgrad": Operation(_wgrad, _shape(dw="w_shape"), **_WGRAD),
    "local_fprop": Operation(_fprop, _shape(y="y_shape"), **_FPROP),
    "local_dgrad": Operation(_dgrad, _shape(dx="x_shape"), **_GEMM),
    "local_wgrad": Operation(_wgrad, _shape(dw="w_shape"), **_WGRAD),
    "fc_fprop": Operation(_fprop, _shape(y="y_shape"), **_FPROP),
    "fc_dgrad": Operation(_dgrad, _shape(dx="x_shape"), **_GEMM),
    "fc_wgrad": Operation(_wgrad, _shape(dw="w_shape"), **_WGRAD),
    "bias_add": Operation(
        _bias_add, lambda o: {"y": (o.rows, o.k)}, in_place=("x",), floats=("bias",), elementwise=True
    ),
    "bias_grad": Operation(
        lambda o, draw: {"dy": draw((o.rows, o.k))}, _shape(db="k"), floats=("db",), has_workspace=True
    ),
    "relu_bias_backward": Operation(
        _relu_bias_backward,
        lambda o: {"dx": (o.rows, o.k), "db": (o.k,)},
        in_place=("dy",),
        floats=("db",),
        has_workspace=True,
    ),
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
    "lrn_maxpool_forward": Operation(
        lambda o, draw: {"x": draw(o[0].x_shape)}, lambda o: {"y": o[1].y_shape}, elementwise=True
    ),
    "lrn_maxpool_backward": Operation(
        _lrn_maxpool_backward, lambda o: {"dx": o[0].x_shape}, has_workspace=True
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
    "dropout": Operation(_dropout, in_place=("x",), keywords=("step",), **_ELEMENTS),
    "softmax_forward": Operation(
        lambda o, draw: {"logits": _logits(o, draw)},
        lambda o: {"probabilities": (o.n, o.k)},
        in_place=("logits",),
        floats=("probabilities",),
        elementwise=True,
    ),
    "softmax_cross_entropy_forward": Operation(
        lambda o, draw: {
            "logits": _logits(o, draw),
            "labels": draw.integers(0, o.k, o.n, np.int32),
        },
        lambda o: {"probabilities": (o.n, o.k), "loss": (o.n,), "rank": (o.n,)},
        floats=("probabilities", "loss"),
    ),
    "softmax_cross_entropy_backward": Operation(
        _cross_entropy_backward,
        lambda o: {"dlogits": (o.n, o.k)},
        in_place=("probabilities",),
        floats=("probabilities",),
    ),
    "softmax_cross_entropy": Operation(
        _softmax_cross_entropy,
        lambda o: {"probabilities": (o.n, o.k), "loss": (o.n,), "rank": (o.n,), "dlogits": (o.n, o.k)},
        floats=("probabilities", "loss"),
    ),
    "watch_losses": Operation(_watch_losses, lambda o: {"halt": (1,)}, has_problem=False, has_elements=False),
    "sgd_update": Operation(_sgd_update, _shape(v="count", w="count"), has_elements=False, **_UPDATE),
    "limit_norm": Operation(
        _limit_norm, lambda o: {"w": (o.rows, o.columns)}, elementwise=True, has_elements=False
    ),
    "input_transform": Operation(_input_transform, _shape(y="y_shape"), floats=("mean", "shift")),
    "filters_to_blocks": Operation(
        lambda o, draw: {"w": draw(o.w_shape)}, _shape(blocks="blocks_shape"), floats=("w",)
    ),
    "filters_from_blocks": Operation(
        lambda o, draw: {"dblocks": draw(o.blocks_shape)}, _shape(dw="w_shape"), has_elements=False
    ),
    "to_bf16": Operation(
        lambda o, draw: {"x": draw(o.count)}, bits=("y",), has_problem=False, has_elements=False, **_ELEMENTS
    ),
    "from_bf16": Operation(
        lambda o, draw: {"x": draw(o.count)}, bits=("x",), has_problem=False, has_elements=False, **_ELEMENTS
    ),
    "add": Operation(_add, in_place=("a", "b"), keywords=("alpha", "beta"), has_problem=False, **_ELEMENTS),
}

# The outputs that are counts.
COUNTS = ("rank", "halt")


def element_of(problem: Any, element: str) -> str:
    """What arrays of a call are made of: a product's problem says it itself."""
    if (precision := getattr(problem, "precision", None)) is not None:
        return "bf16" if precision == "bf16" else "fp32"
    return element


def make_inputs(
    operation: str, problem: Any, data: str = "exact", seed: int = 0, element: str = "fp32", **options: Any
) -> dict[str, Any]:
    """The inputs of an operation by name, a function of the arguments alone.

    All are float32, whatever `element`, but of values that the call's arrays hold exactly.
    """
    spec = OPERATIONS[operation]
    inputs = spec.inputs(problem, Draw(data, seed), **options)
    element = element_of(problem, element)
    tf32 = getattr(problem, "precision", None) == "tf32" and data != "unrounded"
    for name, value in inputs.items():
        if isinstance(value, np.ndarray) and value.dtype == np.float32:
            if spec.dtype(name, element) == bfloat16.BITS:
                inputs[name] = round_to(value, "bf16")
            elif tf32 and name not in spec.floats:
                inputs[name] = round_to(value, "tf32")
    return inputs


# Operations that need the workspace of another.
_WORKSPACES = {"relu_bias_backward": "bias_grad"}


def workspace_size(module: Any, operation: str, problem: Any, impl: str | None = None) -> int:
    """How many bytes of workspace a call needs."""
    spec = OPERATIONS[operation]
    if not spec.has_workspace:
        return 0
    size = getattr(module, f"{_WORKSPACES.get(operation, operation)}_workspace")
    return int(size(*spec.problems(problem), *((impl,) if spec.has_impls else ())))
