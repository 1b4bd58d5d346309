"""Steps that convolutions, locally connected and fully connected layers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cconvnet.checks import whole
from cconvnet.ops.call import Array, Call, Padding, Pair, impl_name, padding_pairs, pair_of, text


def windowed(
    call: Call, kind: Callable[..., Any], x_shape: Sequence[int], krs: Sequence[int],
    stride: Pair, padding: Padding, groups: int, rounding: str, outputs: Pair | None, dilation: Pair = 1,
) -> Any:  # fmt: skip
    """The problem of a convolution or a locally connected layer; `kind` is ConvProblem or LocalProblem."""
    return kind(
        *x_shape, *krs, stride=pair_of("stride", stride), padding=padding_pairs(padding),
        groups=whole("groups", groups, 1), rounding=text("rounding", rounding), precision=call.precision,
        outputs=None if outputs is None else pair_of("outputs", outputs),
        dilation=pair_of("dilation", dilation),
    )  # fmt: skip


def run_pass(family: str, name: str, call: Call, problem: Any, impl: str | None, *arguments: Any) -> None:
    space = call.workspace(getattr(call.module, f"{family}_{name}_workspace")(problem, impl_name(impl)))
    getattr(call.module, f"{family}_{name}")(problem, *arguments, space, call.stream, impl)


def fprop(
    family: str,
    call: Call,
    problem: Any,
    bias_shape: tuple[int, ...],
    relu: bool,
    out: Any,
    impl: str | None,
) -> Array:
    x, w = call.arrays["x"], call.shaped("w", problem.w_shape, call.element)
    bias = call.optional("bias", bias_shape)
    y = call.output(out, problem.y_shape, dtype=call.element)
    run_pass(family, "fprop", call, problem, impl, x, w, bias, bool(relu), y)
    return y


def dgrad(family: str, call: Call, problem: Any, out: Any, impl: str | None) -> Array:
    w = call.shaped("w", problem.w_shape, call.element)
    dy = call.shaped("dy", problem.y_shape, call.element)
    dx = call.output(out, problem.x_shape, dtype=call.element)
    run_pass(family, "dgrad", call, problem, impl, dy, w, dx)
    return dx


def wgrad(family: str, call: Call, problem: Any, out: Any, impl: str | None) -> Array:
    x, dy = call.arrays["x"], call.shaped("dy", problem.y_shape, call.element)
    dw = call.output(out, problem.w_shape)
    run_pass(family, "wgrad", call, problem, impl, x, dy, dw)
    return dw
