"""Cross-entropy."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from cconvnet import ops
from cconvnet.devices import Device


class _CrossEntropy(torch.autograd.Function):
    """The losses [N] of softmax_cross_entropy_forward of logits[N,K], and the gradient by the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Any, labels: Any, smoothing: float, device: str | Device | None) -> Any:
        ctx.options = {"smoothing": smoothing, "device": device}
        probabilities, losses, _ = ops.softmax_cross_entropy_forward(logits.detach(), labels, **ctx.options)
        ctx.save_for_backward(probabilities, labels)
        ctx.dtype = logits.dtype
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Any) -> Any:
        probabilities, labels = ctx.saved_tensors
        gradient = ops.softmax_cross_entropy_backward(probabilities, labels, **ctx.options)
        return (gradient * dloss.detach()[:, None]).to(ctx.dtype), None, None, None


def cross_entropy(
    input: Any, target: Any, *, ignore_index: int = -100, reduction: str = "mean",
    label_smoothing: float = 0.0, device: str | Device | None = None,
) -> Any:  # fmt: skip
    """Return -log(softmax(input)) at the target classes, as ``torch.nn.functional.cross_entropy``.

    Losses are float32, of bfloat16 logits too.

    Args:
        input: The logits [N,K], or [N,K,...] with further axes.
        target: The classes [N], or [N,...], integers. One that is no class gives a loss of NaN.
        ignore_index: The target of rows that do not count.
        reduction: "mean" over the rows that count, "sum", or "none".
        label_smoothing: The part of the target that all classes share alike, from 0 to 1.
        device: The device of CPU tensors.

    Raises:
        TypeError: The targets are no integers.
        ValueError: A shape or the reduction is wrong.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be mean, sum or none, not {reduction!r}")
    if target.is_floating_point():
        raise TypeError(f"target must contain classes as integers, not {target.dtype}")
    if input.dim() < 2 or target.shape != input.shape[:1] + input.shape[2:]:
        raise ValueError(
            f"target must have the shape of input {tuple(input.shape)} without axis 1, not "
            f"{tuple(target.shape)}"
        )
    logits = input.movedim(1, -1).reshape(-1, input.shape[1]).contiguous()
    labels = target.reshape(-1)
    counts = labels != ignore_index
    labels = torch.where(counts, labels, 0).to(torch.int32)
    losses = _CrossEntropy.apply(logits, labels, label_smoothing, device)
    losses = torch.where(counts, losses, 0)
    if reduction == "none":
        return losses.reshape(target.shape)
    return losses.sum() / counts.sum() if reduction == "mean" else losses.sum()
