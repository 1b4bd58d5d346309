"""Errors of the CPU's 3x3 convolutions against float64, beside those of plain float sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet._problem import ConvProblem
from cconvnet.devices import Device
from cconvnet.testing import reference
from cconvnet.testing.check import make_inputs, run

# 16 images: a filters' gradient has 1,024 terms, an output 1,152.
PROBLEM = ConvProblem(16, 8, 8, 128, 16, 3, 3, padding=(1, 1))


def rms(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> float:
    return float(np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean()))


def chain(operation: str, inputs: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Return the result of one running sum of floats for each output, term by term."""
    x, filters = np.pad(inputs["x"], ((0, 0), (1, 1), (1, 1), (0, 0))), PROBLEM.k
    taps = [x[:, r : r + 8, s : s + 8] for r in range(3) for s in range(3)]
    columns = np.stack(taps, axis=3).reshape(-1, 9 * PROBLEM.c)  # [pixel, tap and channel]
    if operation == "conv_fprop":
        left, right = columns.T, inputs["w"].reshape(filters, -1).T
    else:
        left, right = inputs["dy"].reshape(-1, filters), columns
    total = np.zeros((left.shape[1], right.shape[1]), np.float32)
    for a, b in zip(left, right, strict=True):
        total += np.multiply.outer(a, b)
    return total


def test_errors_beside_one_chain_of_sums(device: Device) -> None:
    """Outputs are as accurate as one chain of floats; gradients summed in slices are more so."""
    for operation, most in (("conv_fprop", 1.2), ("conv_wgrad", 0.6)):
        inputs = make_inputs(operation, PROBLEM, "real")
        inputs = {name: inputs[name] for name in ("x", "w" if operation == "conv_fprop" else "dy")}
        wide = {name: value.astype(np.float64) for name, value in inputs.items()}
        options = {"bias": None, "relu": False} if operation == "conv_fprop" else {}
        (found,) = run(operation, PROBLEM, device, inputs | options).values()
        wanted = getattr(reference, operation)(PROBLEM, *wide.values())
        plain = chain(operation, inputs).reshape(wanted.shape)
        assert 0 < rms(found, wanted) <= most * rms(plain, wanted), operation
