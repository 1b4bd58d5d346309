"""Descriptions of the operations: names, arguments, shapes, types, workspaces and work.

The checks of :mod:`cconvnet.ops`, the NumPy module of :mod:`cconvnet.devices`, the inputs of
:mod:`cconvnet.testing` and the floors of :mod:`cconvnet.bench` derive from these descriptions, and repeat
nothing of them. Formulas and sources are in ``kernels/api.h``.

The modules, in the order of reading:

    operation: the parts of a description.
    input_epilogue: options of backward passes.
    products: descriptions that conv, local and fc share.

Every other module describes a family of operations. ``OPERATIONS`` collects them from all modules of this
folder.
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


def workspace_size(
    module: Any, operation: str, problem: Any, impl: str | None = None, *, sums: bool = False
) -> int:
    """Return the bytes of workspace that a call on a module needs; `sums`: whether it has that option."""
    described = OPERATIONS[operation]
    if described.workspace is None:
        return 0
    size = getattr(module, described.workspace)
    options = {"sums": True} if sums else {}
    return int(size(*described.problems(problem), *((impl,) if described.has_impls else ()), **options))
