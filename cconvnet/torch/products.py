"""Convolutions, locally connected and linear layers."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from cconvnet import ops
from cconvnet.devices import Device
from cconvnet.ops import Padding, Pair
from cconvnet.torch.layout import check_axis, floats, from_images, images, pair


class _Convolution(torch.autograd.Function):
    """conv_fprop of x[N,H,W,C] and w[K,R,S,C/groups], and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Any, w: Any, bias: Any, settings: dict[str, Any]) -> Any:
        ctx.save_for_backward(x, w)
        ctx.settings = settings
        return ops.conv_fprop(x.detach(), w.detach(), _detached(bias), **settings)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Any) -> Any:
        x, w = (tensor.detach() for tensor in ctx.saved_tensors)
        dy, settings, needed = dy.detach().contiguous(), ctx.settings, ctx.needs_input_grad
        device = settings["device"]
        return (
            ops.conv_dgrad(dy, w, x.shape, **settings) if needed[0] else None,
            ops.conv_wgrad(x, dy, tuple(w.shape[1:3]), **settings).to(w.dtype) if needed[1] else None,
            ops.bias_grad(dy, device=device) if needed[2] else None,
            None,
        )


class _TransposedConvolution(torch.autograd.Function):
    """conv_dgrad of x[N,P,Q,K] and w[K,R,S,C/groups], and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Any, w: Any, y_shape: tuple[int, ...], settings: dict[str, Any]) -> Any:
        ctx.save_for_backward(x, w)
        ctx.settings = settings
        return ops.conv_dgrad(x.detach(), w.detach(), y_shape, **settings)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Any) -> Any:
        x, w = (tensor.detach() for tensor in ctx.saved_tensors)
        dy, settings, needed = dy.detach().contiguous(), ctx.settings, ctx.needs_input_grad
        return (
            ops.conv_fprop(dy, w, **settings) if needed[0] else None,
            ops.conv_wgrad(dy, x, tuple(w.shape[1:3]), **settings).to(w.dtype) if needed[1] else None,
            None,
            None,
        )


class _Bias(torch.autograd.Function):
    """bias_add of x[..., K], and the gradient of the bias."""

    @staticmethod
    def forward(ctx: Any, x: Any, bias: Any, device: str | Device | None) -> Any:
        ctx.device = device
        return ops.bias_add(x.detach(), bias.detach(), device=device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Any) -> Any:
        dy = dy.detach().contiguous()
        return dy, ops.bias_grad(dy, device=ctx.device) if ctx.needs_input_grad[1] else None, None


class _Local(torch.autograd.Function):
    """local_fprop of x[N,H,W,C] and w[P,Q,K,R,S,C/groups], and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Any, w: Any, bias: Any, settings: dict[str, Any]) -> Any:
        ctx.save_for_backward(x, w)
        ctx.settings = settings
        return ops.local_fprop(x.detach(), w.detach(), _detached(bias), **settings)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Any) -> Any:
        x, w = (tensor.detach() for tensor in ctx.saved_tensors)
        dy, settings, needed = dy.detach().contiguous(), ctx.settings, ctx.needs_input_grad
        rows = dy.reshape(len(dy), -1)
        return (
            ops.local_dgrad(dy, w, x.shape, **settings) if needed[0] else None,
            ops.local_wgrad(x, dy, tuple(w.shape[3:5]), **settings).to(w.dtype) if needed[1] else None,
            ops.bias_grad(rows, device=settings["device"]).reshape(w.shape[:3]) if needed[2] else None,
            None,
        )


class _Linear(torch.autograd.Function):
    """fc_fprop of x[N,C] and w[K,C], and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Any, w: Any, bias: Any, settings: dict[str, Any]) -> Any:
        ctx.save_for_backward(x, w)
        ctx.settings = settings
        return ops.fc_fprop(x.detach(), w.detach(), _detached(bias), **settings)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Any) -> Any:
        x, w = (tensor.detach() for tensor in ctx.saved_tensors)
        dy, settings, needed = dy.detach().contiguous(), ctx.settings, ctx.needs_input_grad
        return (
            ops.fc_dgrad(dy, w, **settings) if needed[0] else None,
            ops.fc_wgrad(x, dy, **settings).to(w.dtype) if needed[1] else None,
            ops.bias_grad(dy, device=settings["device"]) if needed[2] else None,
            None,
        )


def _detached(tensor: Any) -> Any:
    return None if tensor is None else tensor.detach()


def conv2d(
    input: Any, weight: Any, bias: Any = None, stride: Pair = 1, padding: Pair | str = 0, dilation: Pair = 1,
    groups: int = 1, *, precision: str | None = None, device: str | Device | None = None,
) -> Any:  # fmt: skip
    """Return the convolution [N,K,P,Q] of images, as ``torch.nn.functional.conv2d``.

    Args:
        input: The images [N,C,H,W].
        weight: The filters [K,C/groups,R,S].
        bias: A number for every filter, [K], or None.
        stride: The distance of two windows: one number or (vertical, horizontal).
        padding: The pixels of zeros on either side, as `stride`; "valid" for none, "same" for as many as keep
            the image's size at stride 1.
        dilation: The distance of two taps of a filter, as `stride`.
        groups: The equal parts of the channels that are convolved apart.
        precision: "fp32" or "tf32" for float32, as in ``cconvnet.ops.conv_fprop``.
        device: The device of CPU tensors.

    Raises:
        ValueError: A shape or an argument is wrong; the text names it.
    """
    sides = _padding(padding, pair(stride), pair(dilation), tuple(weight.shape[2:]))
    settings = {
        "stride": stride, "padding": sides, "dilation": dilation, "groups": groups, "precision": precision,
        "device": device,
    }  # fmt: skip
    x, w = images("input", input), images("weight", weight)
    if groups > 0:
        check_axis("weight", weight, 1, input.shape[1] // groups, "[K,C/groups,R,S]")
    return from_images(_Convolution.apply(x, w, floats(bias), settings))


def _padding(padding: Pair | str, stride: Pair, dilation: Pair, window: tuple[int, ...]) -> Padding:
    if not isinstance(padding, str):
        return padding
    if padding == "valid":
        return 0
    if padding != "same":
        raise ValueError(f"padding must be a number, two, 'valid' or 'same', not {padding!r}")
    if stride != (1, 1):
        raise ValueError(f"padding='same' needs stride 1, not {stride}")
    whole = [step * (taps - 1) for step, taps in zip(pair(dilation), window, strict=True)]
    # PyTorch puts the odd pixel at the bottom and right.
    return (whole[0] // 2, whole[0] - whole[0] // 2), (whole[1] // 2, whole[1] - whole[1] // 2)


def conv_transpose2d(
    input: Any, weight: Any, bias: Any = None, stride: Pair = 1, padding: Pair = 0, output_padding: Pair = 0,
    groups: int = 1, dilation: Pair = 1, *, precision: str | None = None,
    device: str | Device | None = None,
) -> Any:  # fmt: skip
    """Return the transposed convolution of images, as ``torch.nn.functional.conv_transpose2d``.

    Its result is the gradient of a convolution by its images, [N,C,H,W] with
    ``H = (P - 1) stride - 2 padding + dilation (R - 1) + output_padding + 1``.

    Args:
        input: The images [N,K,P,Q].
        weight: The filters [K,C/groups,R,S].
        bias: A number for every channel, [C], or None.
        stride: The distance of two windows of the result: one number or (vertical, horizontal).
        padding: The pixels left out on either side of the result, as `stride`.
        output_padding: The pixels added at its bottom and right, as `stride`; below the stride.
        groups: The equal parts of the channels that are convolved apart.
        dilation: The distance of two taps of a filter, as `stride`.
        precision: "fp32" or "tf32" for float32.
        device: The device of CPU tensors.

    Raises:
        ValueError: A shape or an argument is wrong; the text names it.
    """
    x, w = images("input", input), images("weight", weight)
    check_axis("weight", weight, 0, input.shape[1], "[K,C/groups,R,S]")
    steps, extra = pair(stride), pair(output_padding)
    if not all(0 <= more < step for more, step in zip(extra, steps, strict=True)):
        raise ValueError(
            f"output_padding must be from 0 to below the stride, {steps}, not {output_padding!r}"
        )
    sides = (
        (count - 1) * step - 2 * pad + spread * (taps - 1) + more + 1
        for count, step, pad, spread, taps, more in zip(
            x.shape[1:3], steps, pair(padding), pair(dilation), w.shape[1:3], extra, strict=True
        )
    )
    settings = {
        "stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "precision": precision,
        "device": device,
    }  # fmt: skip
    y = _TransposedConvolution.apply(x, w, (len(x), *sides, w.shape[3] * groups), settings)
    return from_images(y if bias is None else _Bias.apply(y, floats(bias), device))


def local2d(
    input: Any, weight: Any, bias: Any = None, stride: Pair = 1, padding: Pair = 0, groups: int = 1, *,
    precision: str | None = None, device: str | Device | None = None,
) -> Any:  # fmt: skip
    """Return a convolution [N,K,P,Q] whose filters differ from position to position.

    Filters of the memory order [P,Q,K,R,S,C/groups], permuted to the shape below, are read without a copy.

    Args:
        input: The images [N,C,H,W].
        weight: The filters [P,Q,K,C/groups,R,S].
        bias: A number for every result, [K,P,Q], or None.
        stride: The distance of two windows: one number or (vertical, horizontal).
        padding: The pixels of zeros on either side, as `stride`.
        groups: The equal parts of the channels that are convolved apart.
        precision: "fp32" or "tf32" for float32.
        device: The device of CPU tensors.

    Raises:
        ValueError: A shape or an argument is wrong; the text names it.
    """
    if weight.dim() != 6:
        raise ValueError(f"weight must have 6 axes [P,Q,K,C/groups,R,S], not shape {tuple(weight.shape)}")
    x, w = images("input", input), weight.permute(0, 1, 2, 4, 5, 3).contiguous()
    if groups > 0:
        check_axis("weight", weight, 3, input.shape[1] // groups, "[P,Q,K,C/groups,R,S]")
    if bias is not None:
        bias = floats(bias).permute(1, 2, 0).contiguous()
    settings = {
        "stride": stride, "padding": padding, "groups": groups, "precision": precision, "device": device,
    }  # fmt: skip
    return from_images(_Local.apply(x, w, bias, settings))


def linear(
    input: Any, weight: Any, bias: Any = None, *, precision: str | None = None,
    device: str | Device | None = None,
) -> Any:  # fmt: skip
    """Return ``input[..., C] weight[K,C]^T + bias[K]``, as ``torch.nn.functional.linear``.

    Args:
        input: Rows of C numbers.
        weight: The weights [K,C].
        bias: A number for every result, [K], or None.
        precision: "fp32" or "tf32" for float32.
        device: The device of CPU tensors.

    Raises:
        ValueError: A shape or an argument is wrong; the text names it.
    """
    check_axis("weight", weight, 1, input.shape[-1], "[K,C]")
    rows = input.reshape(-1, input.shape[-1]).contiguous()
    settings = {"precision": precision, "device": device}
    y = _Linear.apply(rows, weight.contiguous(), floats(bias), settings)
    return y.reshape(*input.shape[:-1], len(weight))
