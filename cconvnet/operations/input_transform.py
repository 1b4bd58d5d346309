"""Batches of crops of images, and filters for images that are cut into blocks."""

from __future__ import annotations

import numpy as np

from cconvnet._problem import FilterBlocksProblem, InputProblem
from cconvnet.operations.operation import Array, Operation, Value


def _crop_bytes(problem: InputProblem) -> int:
    return problem.n * problem.p * problem.q * problem.c


INPUT_TRANSFORM = Operation(
    "input_transform",
    (InputProblem,),
    (
        # Only the crop is read, a byte for each of its values.
        Array("images", "N,H,W,C", "n,h,w,c", np.uint8, bytes_read=_crop_bytes),
        Array("top", "N", "n", np.int32),
        Array("left", "N", "n", np.int32),
        Array("mirror", "N", "n", np.uint8),
        Array("mean", "H,W,C", "h,w,c", np.float32, optional=True),
        Array("shift", "N,C", "n,c", np.float32, optional=True),
        Value("scale"),
        Array("factors", "C", "c", np.float32, optional=True),
    ),
    (Array("y", "N,P,Q,C", "y_shape"),),
    out="y",
)

FILTERS_TO_BLOCKS = Operation(
    "filters_to_blocks",
    (FilterBlocksProblem,),
    (Array("w", "K,R,S,C", "w_shape", np.float32),),
    (Array("blocks", "K,R,S,C", "blocks_shape"),),
    out="blocks",
)

FILTERS_FROM_BLOCKS = Operation(
    "filters_from_blocks",
    (FilterBlocksProblem,),
    (Array("dblocks", "K,R,S,C", "blocks_shape", np.float32),),
    (Array("dw", "K,R,S,C", "w_shape", np.float32),),
    out="dw",
)
