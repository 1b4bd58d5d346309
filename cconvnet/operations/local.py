"""Locally connected layers: convolutions with filters of their own at every position."""

from __future__ import annotations

from cconvnet._problem import LocalProblem
from cconvnet.operations.products import passes

LOCAL_FPROP, LOCAL_DGRAD, LOCAL_WGRAD = passes(
    "local",
    LocalProblem,
    x="N,H,W,C",
    w="P,Q,K,R,S,C/groups",
    y="N,P,Q,K",
    bias="P,Q,K",
    bias_shape="bias_shape",
)
