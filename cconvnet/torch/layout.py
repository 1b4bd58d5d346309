"""Shapes and memory of tensors: PyTorch's [N,C,H,W] as the kernels' [N,H,W,C], and back.

The conversions are PyTorch's own differentiable functions, so gradients pass through them.
"""

from __future__ import annotations

from typing import Any

import torch

from cconvnet.ops import Pair


def images(name: str, tensor: Any) -> Any:
    """Return a tensor [N,C,H,W] as one [N,H,W,C], without a copy if it is channels-last.

    Raises:
        ValueError: It does not have four axes.
    """
    if tensor.dim() != 4:
        raise ValueError(f"{name} must have 4 axes [N,C,H,W], not shape {tuple(tensor.shape)}")
    return tensor.permute(0, 2, 3, 1).contiguous()


def check_axis(name: str, tensor: Any, axis: int, size: int, axes: str) -> None:
    """Refuse a tensor whose axis does not fit another tensor.

    Args:
        name: The tensor's name, for the error.
        tensor: The tensor.
        axis: The axis that must fit.
        size: The size that it must have.
        axes: The names of all axes, such as ``[K,C/groups,R,S]``.

    Raises:
        ValueError: It has another size; the text has PyTorch's order of axes, unlike that of an operation.
    """
    if tensor.shape[axis] != size:
        raise ValueError(f"{name} must have {size} in axis {axis} of {axes}, not shape {tuple(tensor.shape)}")


def from_images(tensor: Any) -> Any:
    """Return a tensor [N,H,W,C] as one [N,C,H,W] over the same memory, which is channels-last."""
    return tensor.permute(0, 3, 1, 2)


def flat(tensor: Any) -> tuple[Any, bool]:
    """Return a tensor in the order of its memory, copied only if that is not dense, for elementwise work.

    Returns:
        The tensor, and True if it must pass through `from_images` afterwards.
    """
    channels_last = tensor.dim() == 4 and not tensor.is_contiguous()
    return (images("input", tensor), True) if channels_last else (tensor.contiguous(), False)


def floats(tensor: Any) -> Any:
    """Return a bias with the type that the operations take: bfloat16 becomes float32."""
    return tensor.float() if tensor is not None and tensor.dtype == torch.bfloat16 else tensor


def pair(value: Pair) -> tuple[int, int]:
    """Return one number, or two, as two."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])
