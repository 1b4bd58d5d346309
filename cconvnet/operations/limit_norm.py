"""Limits of the norms of rows of weights."""

from __future__ import annotations

import numpy as np

from cconvnet._problem import NormLimitProblem
from cconvnet.operations.operation import ANY, Array, Operation

_W = Array("w", ANY, "rows,columns", np.float32)

LIMIT_NORM = Operation("limit_norm", (NormLimitProblem,), (_W,), (_W,), elementwise=True)
