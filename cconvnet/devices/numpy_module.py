"""The operations of ``kernels/api.h`` with a compiled module's signatures, computed by the NumPy reference.

It serves ``reference:0`` in float64, and the CPU device in float32 where the package was built without
oneDNN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cconvnet import bfloat16
from cconvnet.testing import reference

# How many arguments each operation reads (the problem among them) and, after them, how many arrays it writes.
_OPERATIONS = {
    "conv_fprop": (5, 1),
    "conv_dgrad": (3, 1),
    "local_fprop": (5, 1),
    "local_dgrad": (3, 1),
    "fc_fprop": (5, 1),
    "fc_dgrad": (3, 1),
    "bias_add": (4, 1),
    "bias_grad": (2, 1),
    "relu_bias_backward": (4, 2),
    "relu_forward": (1, 1),
    "relu_backward": (2, 1),
    "neuron_forward": (2, 1),
    "neuron_backward": (4, 1),
    "lrn_forward": (2, 1),
    "lrn_backward": (3, 1),
    "lrn_maxpool_forward": (3, 1),
    "lrn_maxpool_backward": (6, 1),
    "contrast_norm_forward": (2, 1),
    "contrast_norm_backward": (3, 1),
    "maxpool_forward": (2, 1),
    "maxpool_backward": (4, 1),
    "avgpool_forward": (2, 1),
    "avgpool_backward": (2, 1),
    "eltmax_forward": (2, 1),
    "eltmax_backward": (3, 1),
    "dropout": (2, 1),
    "softmax_forward": (2, 1),
    "softmax_cross_entropy_forward": (3, 3),
    "softmax_cross_entropy_backward": (4, 1),
    "softmax_cross_entropy": (4, 4),
    "watch_losses": (1, 1),
    "input_transform": (8, 1),
    "filters_to_blocks": (2, 1),
    "filters_from_blocks": (2, 1),
    "to_bf16": (1, 1),
}


def _write(target: np.ndarray[Any, Any], value: np.ndarray[Any, Any]) -> None:
    value = value.reshape(target.shape)
    target[...] = bfloat16.pack(value) if target.dtype == bfloat16.BITS else value


def _operation(name: str, inputs: int, outputs: int) -> Callable[..., None]:
    compute = getattr(reference, name)

    def call(*arguments: Any, **keywords: Any) -> None:
        given = {key: keywords[key] for key in ("dropout", "step") if key in keywords}
        # Overflow and invalid values are the caller's to see in the results, as on every other device.
        with np.errstate(all="ignore"):
            results = compute(*arguments[:inputs], **given)
            targets = arguments[inputs : inputs + outputs]
            for target, value in zip(targets, results if outputs > 1 else [results], strict=True):
                _write(target, value)

    call.__name__ = name
    return call


def _wgrad(name: str) -> Callable[..., None]:
    compute = getattr(reference, name)

    def call(problem: Any, x: Any, dy: Any, dw: Any, *_: Any, update: Any = None, **__: Any) -> None:
        with np.errstate(all="ignore"):
            _write(dw, compute(problem, x, dy))
        if update is not None:
            sgd, v, w, w_bf16, rates, halt = update
            NumpyModule.sgd_update(sgd, dw, v, w, w_bf16=w_bf16, rates=rates, halt=halt)

    call.__name__ = name
    return call


def _gemm_workspace(problem: Any, impl: str | None = None) -> int:
    if impl not in (None, "numpy"):
        raise ValueError(f"impl must be numpy, the only row there is, not {impl!r}")
    return 0


class NumpyModule:
    """Stands where a compiled module stands; every pass has one row, ``numpy``, and needs no workspace."""

    def __init__(self) -> None:
        for name, (inputs, outputs) in _OPERATIONS.items():
            setattr(self, name, _operation(name, inputs, outputs))
        for family in ("conv", "local", "fc"):
            setattr(self, f"{family}_wgrad", _wgrad(f"{family}_wgrad"))
            for direction in ("fprop", "dgrad", "wgrad"):
                setattr(self, f"{family}_{direction}_impls", lambda problem: ["numpy"])
                setattr(self, f"{family}_{direction}_workspace", _gemm_workspace)
        for name in ("bias_grad", "lrn_backward", "contrast_norm_forward", "contrast_norm_backward"):
            setattr(self, f"{name}_workspace", lambda problem: 0)
        self.lrn_maxpool_backward_workspace = lambda lrn, pool: 0

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
        if halt is not None and halt.item() != 0:
            return
        with np.errstate(all="ignore"):
            for target, value in zip((v, w), reference.sgd_update(problem, g, v, w, rates), strict=True):
                _write(target, value)
        if w_bf16 is not None:
            _write(w_bf16, w)

    @staticmethod
    def limit_norm(problem: Any, w: Any, stream: int = 0) -> None:
        with np.errstate(all="ignore"):
            _write(w, reference.limit_norm(problem, w))

    @staticmethod
    def add(a: Any, b: Any, y: Any, stream: int = 0, alpha: float = 1.0, beta: float = 1.0) -> None:
        with np.errstate(all="ignore"):
            _write(y, reference.add(a, b, alpha, beta))

    @staticmethod
    def from_bf16(x: Any, y: Any, stream: int = 0) -> None:
        _write(y, bfloat16.unpack(x))

    @staticmethod
    def copy(target: Any, target_device: int, source: Any, source_device: int, stream: int = 0) -> None:
        target[...] = source.reshape(target.shape)

    @staticmethod
    def serves(precision: str, device: int = 0) -> bool:
        """Floats alone: there is no bfloat16 in NumPy to compute with."""
        if precision not in ("fp32", "tf32", "bf16"):
            raise ValueError(f"precision must be fp32, tf32 or bf16, not {precision!r}")
        return precision == "fp32"

    @staticmethod
    def build_kind() -> str:
        return "numpy"

    @staticmethod
    def build_info() -> str:
        return f"NumPy {np.__version__}"
