"""Steps that convolutions, locally connected and fully connected layers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cconvnet.checks import whole as _integer
from cconvnet.ops.call import Array, Padding, Pair, _Call, _padding, _pair, _row, _text


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
