"""Convolution: images, filters, and both gradients."""

from __future__ import annotations

from cconvnet._problem import ConvProblem
from cconvnet.operations.products import passes

CONV_FPROP, CONV_DGRAD, CONV_WGRAD = passes(
    "conv", ConvProblem, x="N,H,W,C", w="K,R,S,C/groups", y="N,P,Q,K", bias="K", measured=True
)
