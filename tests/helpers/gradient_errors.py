"""Errors of gradients against float64, beside those of PyTorch in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Errors = dict[str, float]

MOST = 2.0  # times the error of PyTorch in float32


def errors(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> Errors:
    """Return the error of each gradient, relative to its norm; of none that is 0 but for rounding."""
    assert found.keys() == wanted.keys()
    norms = {name: float(np.linalg.norm(value)) for name, value in wanted.items()}
    least = 1e-9 * max(norms.values())
    return {
        name: float(np.linalg.norm(found[name] - value)) / norms[name]
        for name, value in wanted.items()
        if norms[name] > least
    }


def medians(several: Sequence[Errors]) -> Errors:
    """Return each gradient's median error over several batches.

    Where rounding gives an activation near 0 another sign, or makes two values of a pooling's window equal,
    gradients differ by far more than rounding. That happens to a batch now and then, on any side.
    """
    return {name: float(np.median([one[name] for one in several])) for name in several[0]}


def assert_errors(ours: Errors, theirs: Errors) -> None:
    """Assert that no gradient's error is more than MOST times PyTorch's.

    A short gradient may be right by chance: none is compared with less than the median of the network.
    """
    assert ours.keys() == theirs.keys()
    usual = float(np.median(list(theirs.values())))
    for name, own in ours.items():
        assert own <= MOST * max(theirs[name], usual), f"{name}: {own:.2e} beside {theirs[name]:.2e}"
