"""Convolutions, locally connected and linear layers."""

from __future__ import annotations

from functools import partial
from typing import Any

from cconvnet import ops
from cconvnet.devices import Device
from cconvnet.ops import Padding, Pair
from cconvnet.torch.function import product
from cconvnet.torch.layout import check_axis, floats, from_images, images, pair


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
        precision: "fp32", "fp32x3" or "tf32" for float32, as in ``cconvnet.ops.conv_fprop``.
        device: The device of CPU tensors.

    Raises:
        ValueError: A shape or an argument is wrong; the text names it.
    """
    sides = _padding(padding, pair(stride), pair(dilation), tuple(weight.shape[2:]))
    settings: dict[str, Any] = {
        "stride": stride, "padding": sides, "dilation": dilation, "groups": groups, "precision": precision,
        "device": device,
    }  # fmt: skip
    x, w = images("input", input), images("weight", weight)
    if groups > 0:
        check_axis("weight", weight, 1, input.shape[1] // groups, "[K,C/groups,R,S]")
    shape, window = x.shape, tuple(w.shape[1:3])
    y = product(
        x,
        w,
        floats(bias),
        partial(ops.conv_fprop, **settings),
        lambda dy, w: ops.conv_dgrad(dy, w, shape, **settings),
        lambda x, dy: ops.conv_wgrad(x, dy, window, **settings),
        partial(ops.bias_grad, device=device),
    )
    return from_images(y)


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
        precision: "fp32", "fp32x3" or "tf32" for float32.
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
    settings: dict[str, Any] = {
        "stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "precision": precision,
        "device": device,
    }  # fmt: skip
    shape, window = (len(x), *sides, w.shape[3] * groups), tuple(w.shape[1:3])

    def forward(x: Any, w: Any, bias: Any) -> Any:
        y = ops.conv_dgrad(x, w, shape, **settings)
        return y if bias is None else ops.bias_add(y, bias, device=device)

    y = product(
        x,
        w,
        floats(bias),
        forward,
        partial(ops.conv_fprop, **settings),
        lambda x, dy: ops.conv_wgrad(dy, x, window, **settings),
        partial(ops.bias_grad, device=device),
    )
    return from_images(y)


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
        precision: "fp32", "fp32x3" or "tf32" for float32.
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
    settings: dict[str, Any] = {
        "stride": stride, "padding": padding, "groups": groups, "precision": precision, "device": device,
    }  # fmt: skip
    shape, outputs, window = x.shape, w.shape[:3], tuple(w.shape[3:5])
    y = product(
        x,
        w,
        bias,
        partial(ops.local_fprop, **settings),
        lambda dy, w: ops.local_dgrad(dy, w, shape, **settings),
        lambda x, dy: ops.local_wgrad(x, dy, window, **settings),
        lambda dy: ops.bias_grad(dy.reshape(len(dy), -1), device=device).reshape(outputs),
    )
    return from_images(y)


def linear(
    input: Any, weight: Any, bias: Any = None, *, precision: str | None = None,
    device: str | Device | None = None,
) -> Any:  # fmt: skip
    """Return ``input[..., C] weight[K,C]^T + bias[K]``, as ``torch.nn.functional.linear``.

    Args:
        input: Rows of C numbers.
        weight: The weights [K,C].
        bias: A number for every result, [K], or None.
        precision: "fp32", "fp32x3" or "tf32" for float32.
        device: The device of CPU tensors.

    Raises:
        ValueError: A shape or an argument is wrong; the text names it.
    """
    check_axis("weight", weight, 1, input.shape[-1], "[K,C]")
    rows = input.reshape(-1, input.shape[-1]).contiguous()
    settings: dict[str, Any] = {"precision": precision, "device": device}
    y = product(
        rows,
        weight.contiguous(),
        floats(bias),
        partial(ops.fc_fprop, **settings),
        partial(ops.fc_dgrad, **settings),
        partial(ops.fc_wgrad, **settings),
        partial(ops.bias_grad, device=device),
    )
    return y.reshape(*input.shape[:-1], len(weight))
