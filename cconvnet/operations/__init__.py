"""Descriptions of the operations: names, arguments, shapes, types, workspaces, work.

What is said here is said nowhere else. The checks of :mod:`cconvnet.ops`, the NumPy module of
:mod:`cconvnet.devices`, the inputs of :mod:`cconvnet.testing` and the floors of :mod:`cconvnet.bench` follow.
Formulas and sources stand in ``kernels/api.h``.

The modules, in the order of reading:

    operation: what a description consists of.
    products: what conv, local and fc share.
    conv, local, fc, bias, neuron, lrn, lrn_maxpool, contrast_norm, pool, eltmax, dropout, softmax, sgd,
    limit_norm, input_transform, elementwise: the operations of a family each.

A module put into this folder is found: ``OPERATIONS`` is collected from all of them.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import numpy as np

from cconvnet.operations.operation import ANY, ELEMENT, Array, Operation, Value

__all__ = [
    "ANY",
    "COUNTS",
    "ELEMENT",
    "OPERATIONS",
    "Array",
    "Operation",
    "Value",
    "element_of",
    "workspace_size",
]

OPERATIONS: dict[str, Operation] = {
    described.name: described
    for module in pkgutil.iter_modules(__path__, f"{__name__}.")
    for described in vars(importlib.import_module(module.name)).values()
    if isinstance(described, Operation)
}

# The outputs that are counts: integers, which tests compare exactly.
COUNTS = {
    output.name
    for described in OPERATIONS.values()
    for output in described.outputs
    if output.type is np.int32
}


def element_of(problem: Any, element: str) -> str:
    """Return the element type of a call: a product's problem has its own, other calls have `element`."""
    if (precision := getattr(problem, "precision", None)) is not None:
        return "bf16" if precision == "bf16" else "fp32"
    return element


def workspace_size(module: Any, operation: str, problem: Any, impl: str | None = None) -> int:
    """Return the bytes of workspace that a call on a module needs."""
    described = OPERATIONS[operation]
    if described.workspace is None:
        return 0
    size = getattr(module, described.workspace)
    return int(size(*described.problems(problem), *((impl,) if described.has_impls else ())))
