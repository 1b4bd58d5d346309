"""Sums of parts in a fixed tree."""

from __future__ import annotations

import numpy as np

from cconvnet._problem import TreeSumProblem
from cconvnet.operations.operation import Array, Operation

TREE_SUM = Operation(
    "tree_sum",
    (TreeSumProblem,),
    (Array("x", "PARTS,COUNT", "parts,count"),),
    (Array("y", "COUNT", "count", np.float32),),
    out="y",
)
