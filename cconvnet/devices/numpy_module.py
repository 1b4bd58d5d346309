"""Functions of ``kernels/api.h`` with a compiled module's signatures, computed by the NumPy reference.

They serve ``reference:0`` in float64, and the CPU device in float32 where the package was built without
oneDNN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cconvnet import bfloat16
from cconvnet.operations import OPERATIONS, Operation
from cconvnet.testing import reference


def _write(target: np.ndarray[Any, Any], value: np.ndarray[Any, Any]) -> None:
    value = value.reshape(target.shape)
    target[...] = bfloat16.pack(value) if target.dtype == bfloat16.BITS else value


def _target(name: str, array: np.ndarray[Any, Any], problem: Any) -> np.ndarray[Any, Any]:
    """Return the part of an output that is written: all of it, or the channels where a y is placed."""
    if name != "y" or not getattr(problem, "y_pitch", 0):
        return array
    pixels = array.reshape(*problem.y_shape[:3], problem.y_pitch)
    return pixels[..., problem.y_first : problem.y_first + problem.k]


def _read(operation: Operation, name: str, value: Any) -> Any:
    """Return an input as the reference takes it: bfloat16s as the floats that they are."""
    array = operation.arrays.get(name)
    return bfloat16.unpack(value) if array and array.type == bfloat16.BITS else value


def _function(operation: Operation) -> Callable[..., None]:
    """Return a function with the signature of an operation that calls the reference."""
    compute = getattr(reference, operation.name)
    inputs = [given.name for given in operation.inputs]
    outputs = [output.name for output in operation.outputs]

    def call(*arguments: Any, **keywords: Any) -> None:
        problems, values = operation.bind(arguments, keywords)
        update = values.pop("update", None)
        options = {name: values[name] for name in operation.keywords if name in values}
        written = [_target(name, values[name], problems[0] if problems else None) for name in outputs]
        for name in operation.further:
            if (asked := options.get(name)) is not None:
                options[name] = True
                written.append(asked)
        # Overflow and invalid values are the caller's to see in the results, as on every other device.
        with np.errstate(all="ignore"):
            results = compute(
                *problems, *(_read(operation, name, values[name]) for name in inputs), **options
            )
            for target, value in zip(written, results if len(written) > 1 else [results], strict=True):
                if target is not None:
                    _write(target, value)
        if update is not None:
            sgd, v, w, w_bf16, rates, halt = update
            NumpyModule.sgd_update(sgd, values[outputs[0]], v, w, w_bf16=w_bf16, rates=rates, halt=halt)

    call.__name__ = operation.name
    return call


def _no_workspace(*problems: Any, sums: bool = False) -> int:
    return 0


def _gemm_workspace(problem: Any, impl: str | None = None, sums: bool = False) -> int:
    if impl not in (None, "numpy"):
        raise ValueError(f"impl must be numpy, the only row there is, not {impl!r}")
    return 0


class NumpyModule:
    """A module in the place of a compiled one; every pass has one row, ``numpy``, and needs no workspace."""

    def __init__(self) -> None:
        for name, operation in OPERATIONS.items():
            if not hasattr(type(self), name):
                setattr(self, name, _function(operation))
            if operation.has_impls:
                setattr(self, f"{name}_impls", lambda problem: ["numpy"])
            if operation.workspace is not None:
                workspace = _gemm_workspace if operation.has_impls else _no_workspace
                setattr(self, operation.workspace, workspace)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    @staticmethod
    def sgd_update(
        problem: Any,
        g: Any,
        v: Any,
        w: Any,
        stream: int = 0,
        w_bf16: Any = None,
        rates: Any = None,
        halt: Any = None,
    ) -> None:
        """Update v and w unless halted, and round the new w into `w_bf16`."""
        if halt is not None and halt.item() != 0:
            return
        with np.errstate(all="ignore"):
            for target, value in zip((v, w), reference.sgd_update(problem, g, v, w, rates), strict=True):
                _write(target, value)
        if w_bf16 is not None:
            _write(w_bf16, w)

    @staticmethod
    def copy(target: Any, target_device: int, source: Any, source_device: int, stream: int = 0) -> None:
        """Copy an array to another device of the same memory."""
        target[...] = source.reshape(target.shape)

    @staticmethod
    def serves(precision: str, device: int = 0) -> bool:
        """Return True for floats alone: NumPy has no bfloat16 to compute with."""
        if precision not in ("fp32", "fp32x3", "tf32", "bf16"):
            raise ValueError(f"precision must be one of fp32, fp32x3, tf32, bf16, not {precision!r}")
        return precision == "fp32"

    @staticmethod
    def build_kind() -> str:
        """Return the kind of this module."""
        return "numpy"

    @staticmethod
    def build_info() -> str:
        """Return one line about this module."""
        return f"NumPy {np.__version__}"
