"""The operations of ``kernels/api.h`` with a compiled module's signatures, computed by the NumPy reference.

It serves ``reference:0`` in float64, and the CPU device in float32 where the package was built without
oneDNN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cconvnet.testing import reference

# How many arguments each operation reads (the problem among them) and, after them, how many arrays it writes.
_OPERATIONS = {
    "conv_fprop": (5, 1),
    "conv_dgrad": (3, 1),
    "conv_wgrad": (3, 1),
    "local_fprop": (5, 1),
    "local_dgrad": (3, 1),
    "local_wgrad": (3, 1),
    "fc_fprop": (5, 1),
    "fc_dgrad": (3, 1),
    "fc_wgrad": (3, 1),
    "bias_add": (4, 1),
    "bias_grad": (2, 1),
    "relu_forward": (1, 1),
    "relu_backward": (2, 1),
    "neuron_forward": (2, 1),
    "neuron_backward": (4, 1),
    "lrn_forward": (2, 1),
    "lrn_backward": (3, 1),
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
    "input_transform": (8, 1),
}


def _write(target: np.ndarray[Any, Any], value: np.ndarray[Any, Any]) -> None:
    target[...] = value.reshape(target.shape)


def _operation(name: str, inputs: int, outputs: int) -> Callable[..., None]:
    compute = getattr(reference, name)

    def call(*arguments: Any, **_: Any) -> None:
        # Overflow and invalid values are the caller's to see in the results, as on every other device.
        with np.errstate(all="ignore"):
            results = compute(*arguments[:inputs])
            targets = arguments[inputs : inputs + outputs]
            for target, value in zip(targets, results if outputs > 1 else [results], strict=True):
                _write(target, value)

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
            for direction in ("fprop", "dgrad", "wgrad"):
                setattr(self, f"{family}_{direction}_impls", lambda problem: ["numpy"])
                setattr(self, f"{family}_{direction}_workspace", _gemm_workspace)
        for name in ("bias_grad", "lrn_backward", "contrast_norm_forward", "contrast_norm_backward"):
            setattr(self, f"{name}_workspace", lambda problem: 0)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    @staticmethod
    def sgd_update(problem: Any, g: Any, v: Any, w: Any, stream: int = 0) -> None:
        with np.errstate(all="ignore"):
            for target, value in zip((v, w), reference.sgd_update(problem, g, v, w), strict=True):
                _write(target, value)

    @staticmethod
    def limit_norm(problem: Any, w: Any, stream: int = 0) -> None:
        with np.errstate(all="ignore"):
            _write(w, reference.limit_norm(problem, w))

    @staticmethod
    def add(a: Any, b: Any, y: Any, stream: int = 0, alpha: float = 1.0, beta: float = 1.0) -> None:
        with np.errstate(all="ignore"):
            _write(y, reference.add(a, b, alpha, beta))

    @staticmethod
    def copy(target: Any, target_device: int, source: Any, source_device: int, stream: int = 0) -> None:
        _write(target, source)

    @staticmethod
    def build_kind() -> str:
        return "numpy"

    @staticmethod
    def build_info() -> str:
        return f"NumPy {np.__version__}"
