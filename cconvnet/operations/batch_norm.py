"""Batch normalisation."""

from __future__ import annotations

import numpy as np

from cconvnet._problem import BatchNormProblem
from cconvnet.operations.operation import ANY, Array, Operation, Value

_X, _DY, _DX = (Array(name, ANY, "rows,k") for name in ("x", "dy", "dx"))
_Y = Array("y", ANY, "rows,k")
_MASK, _SHORTCUT = (Array(name, ANY, "rows,k", optional=True) for name in ("y", "shortcut"))
_DSHORTCUT = Array("dshortcut", ANY, "rows,k", optional=True, written=True)
_MEAN, _VARIANCE, _UNBIASED, _GAMMA, _BETA, _DGAMMA, _DBETA = (
    Array(name, "K", "k", np.float32)
    for name in ("mean", "variance", "unbiased", "gamma", "beta", "dgamma", "dbeta")
)

BATCH_NORM_STATISTICS = Operation(
    "batch_norm_statistics",
    (BatchNormProblem,),
    (_X,),
    (_MEAN, _VARIANCE, _UNBIASED),
    workspace="batch_norm_statistics_workspace",
)

BATCH_NORM_FORWARD = Operation(
    "batch_norm_forward",
    (BatchNormProblem,),
    (_X, _MEAN, _VARIANCE, _GAMMA, _BETA, _SHORTCUT, Value("relu")),
    (_Y,),
    out="y",
    in_place=("x", "shortcut"),
)

BATCH_NORM_BACKWARD = Operation(
    "batch_norm_backward",
    (BatchNormProblem,),
    (_X, _MASK, _DY, _MEAN, _VARIANCE, _GAMMA),
    (_DX, _DGAMMA, _DBETA),
    (_DSHORTCUT,),
    out="dx",
    in_place=("dy",),
    workspace="batch_norm_backward_workspace",
)
