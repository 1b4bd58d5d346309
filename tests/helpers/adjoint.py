"""The three passes of a product as each other's adjoints."""

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet.devices import Device
from cconvnet.testing.check import make_inputs, repro, run


def assert_adjoint(family: str, problem: Any, device: Device) -> None:
    """Assert <dy, fprop(x, w)> = <dgrad(dy, w), x> = <wgrad(x, dy), w>, exactly in integers.

    Each pass is computed by its first choice: what a network would run.

    Args:
        family: "conv", "local" or "fc".
        problem: of the product.
        device: that computes it.
    """
    fprop = f"{family}_fprop"
    inputs = make_inputs(fprop, problem, bias=False) | make_inputs(f"{family}_dgrad", problem)
    x, w, dy = inputs["x"], inputs["w"], inputs["dy"]
    y = run(fprop, problem, device, {"x": x, "w": w, "bias": None, "relu": False})["y"]
    dx = run(f"{family}_dgrad", problem, device, {"dy": dy, "w": w})["dx"]
    dw = run(f"{family}_wgrad", problem, device, {"x": x, "dy": dy})["dw"]
    products = [int(np.sum(a.astype(np.int64) * b.astype(np.int64))) for a, b in ((dy, y), (dx, x), (dw, w))]
    assert products[0] == products[1] == products[2], repro(fprop, problem, device)
