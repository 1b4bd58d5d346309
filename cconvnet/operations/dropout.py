"""Dropout, whose backward pass is the same operation on the gradient."""

from __future__ import annotations

import numpy as np

from cconvnet._problem import DropoutProblem
from cconvnet.operations.operation import ANY, Array, Operation

DROPOUT = Operation(
    "dropout",
    (DropoutProblem,),
    (Array("x", ANY, "count"),),
    (Array("y", ANY, "count"),),
    (Array("step", "1", lambda problem: (1,), np.int64, optional=True),),
    out="y",
    in_place=("x",),
    elementwise=True,
)
