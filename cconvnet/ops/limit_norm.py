"""Limits of the norms of weights."""

from __future__ import annotations

from cconvnet._problem import NormLimitProblem
from cconvnet.checks import real
from cconvnet.devices import Device
from cconvnet.ops.call import Array, Call


def limit_norm(
    w: Array, limit: float, *, low: float = 0.0, centered: bool = False, device: str | Device | None = None
) -> None:
    """Multiplies each w[k] of w[K, ...] whose Euclidean norm is above `limit` by limit / norm, and each whose
    norm is below `low`, but not 0, by low / norm; the others keep their bits. w is written.

    With `centered` the norm is that of w[k] minus its mean; the whole of w[k] is multiplied. Where its values
    are equal, or one is infinite or NaN, it keeps its bits. Source: cuda-convnet's wball, and
    cuda-convnet2's wcNormMin and wcNormMax times the number of values."""
    call = Call(device, w=w)
    w = call.arrays.pop("w")
    if w.ndim < 2 or w.size == 0:
        raise ValueError(f"w must have at least 2 axes [K, ...] and not be empty, not shape {w.shape}")
    w = call.output(w, w.shape, name="w")
    problem = NormLimitProblem(
        w.shape[0], w.size // w.shape[0], real("limit", limit), real("low", low), centered
    )
    call.module.limit_norm(problem, w, call.stream)
