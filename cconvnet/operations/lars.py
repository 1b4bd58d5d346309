"""The rate of a tensor by LARS."""

from __future__ import annotations

import numpy as np

from cconvnet._problem import LarsProblem
from cconvnet.operations.operation import ANY, Array, Operation

_W, _G = (Array(name, ANY, "count", np.float32) for name in ("w", "g"))
_RATES, _RATES_OUT = (Array(name, "2", lambda problem: (2,), np.float32) for name in ("rates", "rates_out"))

LARS_RATE = Operation(
    "lars_rate",
    (LarsProblem,),
    (_W, _G, _RATES),
    (_RATES_OUT,),
    out="rates_out",
    in_place=("rates",),
    workspace="lars_rate_workspace",
    elementwise=True,
)
