"""Activation functions, dropout and the maximum of two tensors."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from cconvnet import ops
from cconvnet.devices import Device
from cconvnet.torch.function import unary
from cconvnet.torch.layout import flat, from_images, images


class _Maximum(torch.autograd.Function):
    """eltmax_forward, and its gradients."""

    @staticmethod
    def forward(ctx: Any, a: Any, b: Any, device: str | Device | None) -> Any:
        y = ops.eltmax_forward(a.detach(), b.detach(), device=device)
        ctx.save_for_backward(a, b, y)
        ctx.device = device
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Any) -> Any:
        a, b, y = (tensor.detach() for tensor in ctx.saved_tensors)
        dy = dy.detach().contiguous()
        gradients = (
            ops.eltmax_backward(x, y, dy, device=ctx.device) if needed else None
            for x, needed in zip((a, b), ctx.needs_input_grad, strict=False)
        )
        return *gradients, None


def _shaped(y: Any, permuted: bool) -> Any:
    return from_images(y) if permuted else y


def relu(input: Any, *, device: str | Device | None = None) -> Any:
    """Return ``max(0, input)`` of a tensor of any shape; its gradient at 0 is 0."""
    x, permuted = flat(input)
    forward, backward = partial(ops.relu_forward, device=device), partial(ops.relu_backward, device=device)
    return _shaped(unary(x, forward, backward, keeps="y"), permuted)


def neuron(
    input: Any, neuron: str, a: float = 1.0, b: float = 0.0, *, device: str | Device | None = None
) -> Any:
    """Return an activation function of a tensor of any shape.

    Args:
        input: The tensor.
        neuron: linear a*x+b, relu, tanh a*tanh(b*x), logistic, softrelu log(1+e^x), abs, square, sqrt,
            brelu min(a, max(0, x)) or silu x/(1+e^-x).
        a: The function's first parameter.
        b: Its second.
        device: The device of CPU tensors.

    Raises:
        ValueError: There is no such function.
    """
    x, permuted = flat(input)
    settings: dict[str, Any] = {"neuron": neuron, "a": a, "b": b, "device": device}
    forward, backward = partial(ops.neuron_forward, **settings), partial(ops.neuron_backward, **settings)
    return _shaped(unary(x, forward, backward, keeps="xy"), permuted)


def tanh(input: Any, *, device: str | Device | None = None) -> Any:
    """Return the hyperbolic tangent of a tensor of any shape."""
    return neuron(input, "tanh", 1.0, 1.0, device=device)


def sigmoid(input: Any, *, device: str | Device | None = None) -> Any:
    """Return ``1 / (1 + e^-input)`` of a tensor of any shape."""
    return neuron(input, "logistic", device=device)


def softplus(input: Any, *, device: str | Device | None = None) -> Any:
    """Return ``log(1 + e^input)`` of a tensor of any shape."""
    return neuron(input, "softrelu", device=device)


def dropout(
    input: Any, p: float = 0.5, training: bool = True, *, seed: int | None = None, subsequence: int = 0,
    device: str | Device | None = None,
) -> Any:  # fmt: skip
    """Return a tensor with elements set to 0 by chance and the others divided by 1 - p.

    It is ``torch.nn.functional.dropout``. The mask depends on `seed`, `subsequence` and the position of the
    element alone, the same on every device. Positions in images [N,C,H,W] count in the order [N,H,W,C].

    Args:
        input: A tensor of any shape.
        p: The probability with which an element becomes 0.
        training: False to return the tensor as it is.
        seed: The key of the random numbers, of 64 bits. None draws one from PyTorch's generator, which
            ``torch.manual_seed`` sets.
        subsequence: Their stream, of 64 bits, such as the number of the layer or the step.
        device: The device of CPU tensors.

    Raises:
        ValueError: p is not in [0, 1].
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p must be from 0 to 1, not {p}")
    if not training or p == 0:
        return input
    if p == 1:
        return input * 0
    if seed is None:
        seed = int(torch.randint(2**63 - 1, ()))
    x = images("input", input) if input.dim() == 4 else input.contiguous()
    masked = partial(
        ops.dropout, keep=1 - p, scale=1 / (1 - p), seed=seed, subsequence=subsequence, device=device
    )
    return _shaped(unary(x, masked, masked), input.dim() == 4)  # the gradient is the same call


def maximum(input: Any, other: Any, *, device: str | Device | None = None) -> Any:
    """Return the larger of two tensors of one shape, element by element; NaN wins.

    Equal elements both receive the gradient, where PyTorch gives each a half.
    """
    a, permuted = flat(input)
    b = images("other", other) if permuted else other.contiguous()
    return _shaped(_Maximum.apply(a, b, device), permuted)
