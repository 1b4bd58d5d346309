"""The update of stochastic gradient descent with momentum and weight decay."""

from __future__ import annotations

import numpy as np

from cconvnet import bfloat16
from cconvnet._problem import SgdProblem
from cconvnet.operations.operation import ANY, Array, Operation

_G, _V, _W = (Array(name, ANY, "count", np.float32) for name in ("g", "v", "w"))

SGD_UPDATE = Operation(
    "sgd_update",
    (SgdProblem,),
    (_G, _V, _W),
    (_V, _W),
    (
        Array("w_bf16", ANY, "count", bfloat16.BITS, optional=True, written=True),
        Array("rates", "2", lambda problem: (2,), np.float32, optional=True),
        Array("halt", "1", lambda problem: (1,), np.int32, optional=True),
    ),
)
