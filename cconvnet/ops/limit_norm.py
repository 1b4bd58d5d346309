"""Limits of the norms of weights."""

from __future__ import annotations

from cconvnet._problem import NormLimitProblem
from cconvnet.checks import real
from cconvnet.devices import Device
from cconvnet.operations.limit_norm import LIMIT_NORM
from cconvnet.ops.arguments import Array
from cconvnet.ops.call import Call


def limit_norm(
    w: Array, limit: float, *, low: float = 0.0, centered: bool = False, device: str | Device | None = None
) -> None:
    """Scale each w[k] of w[K, ...] whose Euclidean norm is above `limit` or below `low`, but not 0.

    It is multiplied by limit / norm or low / norm. The others keep their bits. w is written.

    With `centered` the norm is that of w[k] minus its mean. The whole of w[k] is multiplied. A w[k] of equal
    values, or with one that is infinite or NaN, keeps its bits. Source: cuda-convnet's wball, and
    cuda-convnet2's wcNormMin and wcNormMax times the number of values.
    """
    call = Call(LIMIT_NORM, device, w=w)
    shape = call.arrays["w"].shape
    if len(shape) < 2 or 0 in shape:
        raise ValueError(f"w must have at least 2 axes [K, ...] and not be empty, not shape {shape}")
    rows = shape[0]
    columns = call.size("w") // rows
    call.run(NormLimitProblem(rows, columns, real("limit", limit), real("low", low), centered))
