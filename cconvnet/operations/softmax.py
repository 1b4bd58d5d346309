"""Softmax, cross-entropy, and the watch over infinite losses."""

from __future__ import annotations

import numpy as np

from cconvnet._problem import SoftmaxProblem
from cconvnet.operations.operation import ANY, Array, Operation, Value

_LOGITS, _DLOGITS = Array("logits", "N,K", "n,k"), Array("dlogits", "N,K", "n,k")
_PROBABILITIES = Array("probabilities", "N,K", "n,k", np.float32)
_LABELS, _RANK = Array("labels", "N", "n", np.int32), Array("rank", "N", "n", np.int32)
_LOSS = Array("loss", "N", "n", np.float32)

SOFTMAX_FORWARD = Operation(
    "softmax_forward",
    (SoftmaxProblem,),
    (_LOGITS,),
    (_PROBABILITIES,),
    out="probabilities",
    in_place=("logits",),
    elementwise=True,
)

SOFTMAX_CROSS_ENTROPY_FORWARD = Operation(
    "softmax_cross_entropy_forward",
    (SoftmaxProblem,),
    (_LOGITS, _LABELS),
    (_PROBABILITIES, _LOSS, _RANK),
)

SOFTMAX_CROSS_ENTROPY_BACKWARD = Operation(
    "softmax_cross_entropy_backward",
    (SoftmaxProblem,),
    (_PROBABILITIES, _LABELS, Value("scale")),
    (_DLOGITS,),
    out="dlogits",
    in_place=("probabilities",),
)

SOFTMAX_CROSS_ENTROPY = Operation(
    "softmax_cross_entropy",
    (SoftmaxProblem,),
    (_LOGITS, _LABELS, Value("scale")),
    (_PROBABILITIES, _LOSS, _RANK, _DLOGITS),
    out="dlogits",
)

WATCH_LOSSES = Operation(
    "watch_losses",
    (),
    (Array("loss", ANY, "count", np.float32),),
    (Array("halt", "1", lambda problem: (1,), np.int32),),
)
