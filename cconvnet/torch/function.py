"""Operations as functions that PyTorch differentiates: one class for each number of operands.

Operations take detached tensors. They refuse tensors that require gradients, which they would not record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable


class _Unary(torch.autograd.Function):
    """An operation of one tensor, and its gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Any, compute: Callable[..., Any], gradient: Callable[..., Any], keeps: str
    ) -> Any:
        y = compute(x.detach())
        ctx.save_for_backward(*({"x": x, "y": y}[name] for name in keeps))
        ctx.gradient = gradient
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Any) -> Any:
        kept = (tensor.detach() for tensor in ctx.saved_tensors)
        return ctx.gradient(*kept, dy.detach().contiguous()), None, None, None


class _Product(torch.autograd.Function):
    """A product of images or rows with weights, plus a bias, and its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Any,
        w: Any,
        bias: Any,
        compute: Callable[..., Any],
        gradients: tuple[Callable[..., Any], ...],
    ) -> Any:
        ctx.save_for_backward(x, w)
        ctx.gradients = gradients
        return compute(x.detach(), w.detach(), None if bias is None else bias.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Any) -> Any:
        x, w = (tensor.detach() for tensor in ctx.saved_tensors)
        dy, needed = dy.detach().contiguous(), ctx.needs_input_grad
        by_x, by_w, by_bias = ctx.gradients
        return (
            by_x(dy, w) if needed[0] else None,
            by_w(x, dy).to(w.dtype) if needed[1] else None,
            by_bias(dy) if needed[2] else None,
            None,
            None,
        )


def unary(x: Any, compute: Callable[..., Any], gradient: Callable[..., Any], keeps: str = "") -> Any:
    """Return ``compute(x)`` as a function that PyTorch differentiates.

    Args:
        x: A dense tensor.
        compute: The operation, of a detached tensor.
        gradient: Returns the gradient of x; called with the tensors that `keeps` names, and dy.
        keeps: The tensors that stay in memory for it: "x", "y" for the result, "xy" or none.
    """
    return _Unary.apply(x, compute, gradient, keeps)


def product(
    x: Any,
    w: Any,
    bias: Any,
    compute: Callable[..., Any],
    by_x: Callable[..., Any],
    by_w: Callable[..., Any],
    by_bias: Callable[..., Any],
) -> Any:
    """Return ``compute(x, w, bias)`` as a function that PyTorch differentiates.

    Args:
        x: Dense images or rows.
        w: Dense weights.
        bias: The bias, or None.
        compute: The operation, of detached tensors.
        by_x: Returns the gradient of x; called with dy and w.
        by_w: Returns the gradient of w in float32; called with x and dy.
        by_bias: Returns the gradient of the bias; called with dy.
    """
    return _Product.apply(x, w, bias, compute, (by_x, by_w, by_bias))
