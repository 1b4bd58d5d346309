"""Fully connected layers: products of matrices."""

from __future__ import annotations

from cconvnet._problem import FcProblem
from cconvnet.operations.products import passes

FC_FPROP, FC_DGRAD, FC_WGRAD = passes("fc", FcProblem, x="N,C", w="K,C", y="N,K", bias="K")
