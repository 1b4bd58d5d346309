"""Weighted sums and conversions, element by element."""

from __future__ import annotations

import numpy as np

from cconvnet import bfloat16
from cconvnet.operations.operation import ANY, Array, Operation, Value

ADD = Operation(
    "add",
    (),
    (Array("a", ANY, "count"), Array("b", ANY, "count")),
    (Array("y", ANY, "count"),),
    (Value("alpha"), Value("beta"), Value("relu")),
    out="y",
    in_place=("a", "b"),
    elementwise=True,
)

TO_BF16 = Operation(
    "to_bf16",
    (),
    (Array("x", ANY, "count", np.float32),),
    (Array("y", ANY, "count", bfloat16.BITS),),
    out="y",
    elementwise=True,
)

FROM_BF16 = Operation(
    "from_bf16",
    (),
    (Array("x", ANY, "count", bfloat16.BITS),),
    (Array("y", ANY, "count", np.float32),),
    out="y",
    elementwise=True,
)
