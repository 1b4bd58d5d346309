"""Inputs of every operation, drawn at random for tests and benchmarks.

``make_inputs`` draws what an operation reads by its description: arrays of random numbers. Operations that
need more, such as labels, or the output of their forward pass, have a function of their own here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from cconvnet import bfloat16
from cconvnet._problem import DropoutProblem, SgdProblem
from cconvnet.operations import ELEMENT, OPERATIONS, element_of
from cconvnet.testing import reference

Array = np.ndarray[Any, Any]


class Draw:
    """Source of random inputs of one kind: ``"exact"``, ``"integers"``, ``"real"`` or ``"unrounded"``.

    Attributes:
        exact: True for integers, whose sums float32 represents exactly.
        random: NumPy's generator.
    """

    def __init__(self, data: str, seed: int) -> None:
        if data not in ("exact", "integers", "real", "unrounded"):
            raise ValueError(f"data must be exact, integers, real or unrounded, not {data!r}")
        self.exact = data in ("exact", "integers")
        self.random = np.random.default_rng(seed)

    def __call__(self, shape: int | tuple[int, ...]) -> Array:
        """Draw float32 numbers: integers from -4 to 4, or normally distributed ones."""
        if self.exact:
            return self.random.integers(-4, 5, shape).astype(np.float32)
        return self.random.standard_normal(shape, dtype=np.float32)

    def integers(self, low: int, high: int, shape: int | tuple[int, ...], dtype: Any) -> Array:
        """Draw integers from low to high - 1."""
        return self.random.integers(low, high, shape).astype(dtype)


def _rounded(values: Array) -> Array:
    return values.astype(np.float32)


def round_to(values: Array, precision: str) -> Array:
    """Return the values in float32 as products of a precision multiply them."""
    match precision:
        case "bf16":
            return bfloat16.unpack(bfloat16.pack(values))
        case "tf32":
            # 10 bits of fraction, to the nearest, ties away from 0.
            bits = values.astype(np.float32).view(np.uint32)
            return np.asarray((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    return values


# ---- operations that need more than random numbers -------------------------------------------------


class Case:
    """One problem of an operation, and the arrays that are drawn for it.

    Attributes:
        problem: The problem, a tuple if the operation has several.
        draw: The source of random numbers.
    """

    def __init__(self, operation: str, problem: Any, draw: Draw) -> None:
        self.problem, self.draw = problem, draw
        self._arrays = OPERATIONS[operation].arrays

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the described shape of an array."""
        return self._arrays[name].shape_for(self.problem)

    def __call__(self, name: str) -> Array:
        """Draw the floats of an array."""
        return self.draw(self.shape(name))

    def integers(self, name: str, low: int, high: int) -> Array:
        """Draw the integers of an array, from low to high - 1, of its described type."""
        return self.draw.integers(low, high, self.shape(name), self._arrays[name].type)


# The part of a mask that a product of k channels applies: all of it; rows of a longer one; columns of such
# rows in a wider one; and the same with a first column that is no multiple of a Philox call's four elements.
_DROPPED: dict[str, Callable[[int], dict[str, int]]] = {
    "whole": lambda k: {},
    "rows": lambda k: {"columns": k, "row_stride": k, "first_row": 4},
    "part": lambda k: {"columns": k, "row_stride": 2 * k + 4, "first": k, "first_row": 6},
    "odd_part": lambda k: {"columns": k, "row_stride": 2 * k + 4, "first": k + 3, "first_row": 6},
}


def _fprop(
    case: Case,
    bias: bool = True,
    relu: bool = False,
    dropout: str | None = None,
    counted: int | None = None,
) -> dict[str, Any]:
    """Return the inputs of a forward pass; of its output `counted` pixels are measured, unless it is None."""
    inputs: dict[str, Any] = {
        "x": case("x"),
        "w": case("w"),
        "bias": case("bias") if bias else None,
        "relu": relu,
    }
    if dropout is not None:
        count = math.prod(case.shape("y"))
        inputs["dropout"] = DropoutProblem(
            count, 0.5, 2.0, seed=7, subsequence=2**32 - 2, **_DROPPED[dropout](case.problem.k)
        )
        inputs["step"] = np.array([5], np.int64)
    if counted is not None:
        inputs |= {"mean": True, "variance": True, "unbiased": True, "counted": counted}
    return inputs


def _input_epilogue(case: Case, db: bool, masked: bool, scale: float) -> dict[str, Any]:
    """Return the options of a backward pass with an epilogue; the value of `db` only marks it as wanted."""
    mask = {"masked_by": case("masked_by"), "scale": scale} if masked else {}
    return {**mask, "db": True} if db else {}


def _dgrad(case: Case, db: bool = False, masked: bool = False, scale: float = 2.0) -> dict[str, Any]:
    return {"dy": case("dy"), "w": case("w"), **_input_epilogue(case, db, masked, scale)}


def _wgrad(case: Case, update: str | None = None, nesterov: bool = False) -> dict[str, Any]:
    inputs: dict[str, Any] = {"x": case("x"), "dy": case("dy")}
    if update is not None:
        # Powers of two, as in random_case.
        inputs["update"] = SgdProblem(math.prod(case.shape("w")), 0.25, 0.5, 0.125, nesterov)
        inputs |= {"v": case("v"), "w": case("w"), **_update_options(case, update)}
    return inputs


def _update_options(case: Case, update: str) -> dict[str, Any]:
    """Return the arrays that an update takes besides v and w.

    Args:
        case: The case of an operation that updates w.
        update: "plain" for none; "full" for w_bf16, rates and a halt that is 0; "halted" for the same with a
            halt that forbids to write.
    """
    if update == "plain":
        return {}
    return {
        "w_bf16": np.full(case.shape("w_bf16"), 0x4321, bfloat16.BITS),
        "rates": np.array([0.5, 0.25], np.float32),
        "halt": np.array([update == "halted"], np.int32),
    }


def _sgd_update(case: Case, update: str = "plain") -> dict[str, Any]:
    return {name: case(name) for name in "gvw"} | _update_options(case, update)


def _relu_bias_backward(case: Case, scale: float = 2.0) -> dict[str, Any]:
    return {"y": case("y"), "dy": case("dy"), "scale": scale}


def _lrn_maxpool_backward(case: Case, relu: bool = False, db: bool = False) -> dict[str, Any]:
    x = case("x")
    lrn, pool = case.problem
    y = _rounded(reference.lrn_maxpool_forward(lrn, pool, x))
    return {"x": x, "y": y, "dy": case("dy"), "relu": relu, **({"db": True} if db else {})}


def _softmax_cross_entropy(case: Case, scale: float = 0.25) -> dict[str, Any]:
    labels = _labels(case)
    return {"logits": _logits(case), "labels": labels, "scale": scale}


def _l2_cost_backward(case: Case, scale: float = 0.25) -> dict[str, Any]:
    return {"x": case("x"), "target": case("target"), "scale": scale}


def _moments(case: Case, x: Array) -> tuple[Array, Array]:
    """Return the mean and the variance of x, or numbers for which normalisation is exact."""
    if not case.draw.exact:
        mean, variance, _ = reference.batch_norm_statistics(case.problem, x)
        return _rounded(mean), _rounded(variance)
    variance = 4.0 ** case.draw.integers(-1, 2, case.shape("variance"), np.float32)
    return case("mean"), _rounded(variance - case.problem.eps)


def _batch_norm_forward(case: Case, shortcut: bool = False, relu: bool = False) -> dict[str, Any]:
    x = case("x")
    mean, variance = _moments(case, x)
    return {
        "x": x, "mean": mean, "variance": variance, "gamma": case("gamma"), "beta": case("beta"),
        "shortcut": case("shortcut") if shortcut else None, "relu": relu,
    }  # fmt: skip


def _batch_norm_backward(case: Case, relu: bool = False, dshortcut: bool = False) -> dict[str, Any]:
    """Draw inputs; the value of `dshortcut` only marks it as wanted."""
    x = case("x")
    mean, variance = _moments(case, x)
    return {
        "x": x, "y": case("y") if relu else None, "dy": case("dy"), "mean": mean, "variance": variance,
        "gamma": case("gamma"), **({"dshortcut": True} if dshortcut else {}),
    }  # fmt: skip


def _bias_add(case: Case, relu: bool = False) -> dict[str, Any]:
    return {"x": case("x"), "bias": case("bias"), "relu": relu}


def _neuron_x(case: Case) -> Array:
    if case.problem.neuron != "sqrt":
        return case("x")
    # The squares of positive integers have exact roots.
    return case("x") ** 2 if case.draw.exact else np.abs(case("x"))


def _neuron_forward(case: Case) -> dict[str, Any]:
    return {"x": _neuron_x(case)}


def _neuron_backward(case: Case) -> dict[str, Any]:
    x = _neuron_x(case)
    if case.problem.neuron == "sqrt":
        x = np.maximum(x, np.float32(1) if case.draw.exact else np.float32(1e-6))
    return {"x": x, "y": _rounded(reference.neuron_forward(case.problem, x)), "dy": case("dy")}


def _maxpool_backward(
    case: Case, db: bool = False, masked: bool = False, scale: float = 2.0
) -> dict[str, Any]:
    x = case("x")
    y = _rounded(reference.maxpool_forward(case.problem, x))
    return {"x": x, "y": y, "dy": case("dy"), **_input_epilogue(case, db, masked, scale)}


def _avgpool_backward(
    case: Case, db: bool = False, masked: bool = False, scale: float = 2.0
) -> dict[str, Any]:
    return {"dy": case("dy"), **_input_epilogue(case, db, masked, scale)}


def _eltmax_backward(case: Case) -> dict[str, Any]:
    x, other = case("x"), case("x")
    return {"x": x, "y": _rounded(reference.eltmax_forward(x, other)), "dy": case("dy")}


def _dropout(case: Case, step: int | None = None) -> dict[str, Any]:
    steps = {} if step is None else {"step": np.array([step], np.int64)}
    return {"x": case("x"), **steps}


def _logits(case: Case) -> Array:
    return 3 * case.draw((case.problem.n, case.problem.k))


def _labels(case: Case) -> Array:
    labels = case.integers("labels", 0, case.problem.k)
    if (ignored := case.problem.ignore) is not None:
        labels[case.draw.random.random(labels.shape) < 0.25] = ignored
    return labels


def _softmax_forward(case: Case) -> dict[str, Any]:
    return {"logits": _logits(case)}


def _cross_entropy_forward(case: Case) -> dict[str, Any]:
    return {"logits": _logits(case), "labels": _labels(case)}


def _cross_entropy_backward(case: Case, scale: float = 0.25) -> dict[str, Any]:
    return {
        "probabilities": _rounded(reference.softmax_forward(case.problem, _logits(case))),
        "labels": _labels(case),
        "scale": scale,
    }


def _watch_losses(case: Case, bad: float | None = None) -> dict[str, Any]:
    """Draw losses; `bad`, if given, replaces one of them."""
    loss = np.abs(case("loss"))
    if bad is not None:
        loss[case.draw.integers(0, loss.size, 1, np.intp)] = bad
    return {"loss": loss}


def _lars_rate(case: Case) -> dict[str, Any]:
    return {"w": case("w"), "g": case("g"), "rates": np.array([0.1, 0.9], np.float32)}


def _limit_norm(case: Case) -> dict[str, Any]:
    problem, draw = case.problem, case.draw
    rows, columns = shape = case.shape("w")
    if not draw.exact:
        return {"w": case("w") + np.float32(0.5 * problem.centered)}
    # 4^m values of 2^e have the norm 2^(m+e): exact, and so is the quotient of two such norms.
    ones = 4 ** int(np.log2(columns) / 2)
    signs = 2 * draw.integers(0, 2, shape, np.float32) - 1
    if problem.centered:  # as many of either sign, so that their mean is 0, unless there is one alone
        signs[:] = np.where(np.arange(columns) % 2, 1, -1) * (ones > 1)
    w = draw.random.permuted(signs * (np.arange(columns) < ones), axis=1)
    if problem.centered:
        w = w + draw.integers(1, 4, (rows, 1), np.float32)
    return {"w": _rounded(w * 2.0 ** draw.integers(-3, 3, (rows, 1), np.float32))}


def _input_transform(
    case: Case, mean: bool = True, shift: bool = True, scale: float = 0.5, factors: bool = False
) -> dict[str, Any]:
    problem = case.problem
    # Some crops begin outside the image and its margin: they are clamped.
    margin = problem.margin
    return {
        "images": case.integers("images", 0, 256),
        "top": case.integers("top", -margin - 1, problem.h - problem.p + margin + 2),
        "left": case.integers("left", -margin - 1, problem.w - problem.q + margin + 2),
        "mirror": case.integers("mirror", 0, 2),
        "mean": case.integers("mean", 0, 256) if mean else None,
        "shift": 8 * case("shift") if shift else None,
        "scale": scale,
        # Powers of two, so that products are exact.
        "factors": 2.0 ** case.integers("factors", -2, 2) if factors else None,
    }


def _add(case: Case, alpha: float = 1.0, beta: float = 1.0, relu: bool = False) -> dict[str, Any]:
    scales = {} if alpha == beta == 1 and not relu else {"alpha": alpha, "beta": beta}
    return {"a": case("a"), "b": case("b"), **scales, **({"relu": True} if relu else {})}


_OWN: dict[str, Callable[..., dict[str, Any]]] = {
    **dict.fromkeys(("conv_fprop", "local_fprop", "fc_fprop"), _fprop),
    **dict.fromkeys(("conv_dgrad", "local_dgrad", "fc_dgrad"), _dgrad),
    **dict.fromkeys(("conv_wgrad", "local_wgrad", "fc_wgrad"), _wgrad),
    "batch_norm_forward": _batch_norm_forward,
    "batch_norm_backward": _batch_norm_backward,
    "bias_add": _bias_add,
    "relu_bias_backward": _relu_bias_backward,
    "neuron_forward": _neuron_forward,
    "neuron_backward": _neuron_backward,
    "lrn_maxpool_backward": _lrn_maxpool_backward,
    "maxpool_backward": _maxpool_backward,
    "avgpool_backward": _avgpool_backward,
    "eltmax_backward": _eltmax_backward,
    "dropout": _dropout,
    "l2_cost_backward": _l2_cost_backward,
    "softmax_forward": _softmax_forward,
    "softmax_cross_entropy_forward": _cross_entropy_forward,
    "softmax_cross_entropy_backward": _cross_entropy_backward,
    "softmax_cross_entropy": _softmax_cross_entropy,
    "watch_losses": _watch_losses,
    "sgd_update": _sgd_update,
    "lars_rate": _lars_rate,
    "limit_norm": _limit_norm,
    "input_transform": _input_transform,
    "add": _add,
}


# ---- all operations --------------------------------------------------------------------------------


def draw_inputs(operation: str, problem: Any, draw: Draw, **options: Any) -> dict[str, Any]:
    """Draw the inputs of an operation by name, in the order of a call.

    Args:
        operation: The name of the operation.
        problem: Its problem, a tuple if it has several, or a NeuronProblem of the size if it has none.
        draw: The source of random numbers.
        **options: Arguments of the operation's own function above, such as ``relu=True``.
    """
    case = Case(operation, problem, draw)
    if own := _OWN.get(operation):
        return own(case, **options)
    if options:
        raise TypeError(f"{operation} has no {', '.join(options)}")
    return {given.name: case(given.name) for given in OPERATIONS[operation].inputs}


def make_inputs(
    operation: str, problem: Any, data: str = "exact", seed: int = 0, element: str = "fp32", **options: Any
) -> dict[str, Any]:
    """Return the inputs of an operation by name, a function of the arguments alone.

    All numbers are float32, whatever `element`, but values that the call's arrays represent exactly.
    """
    described = OPERATIONS[operation]
    inputs = draw_inputs(operation, problem, Draw(data, seed), **options)
    element = element_of(problem, element)
    tf32 = getattr(problem, "precision", None) == "tf32" and data != "unrounded"
    for name, value in inputs.items():
        if isinstance(value, np.ndarray) and value.dtype == np.float32:
            if described.dtype(name, element) == bfloat16.BITS:
                inputs[name] = round_to(value, "bf16")
            elif tf32 and described.arrays[name].type == ELEMENT:
                inputs[name] = round_to(value, "tf32")
    return inputs
