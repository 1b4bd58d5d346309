"""The elementwise product, and its gradients by two more calls."""

from __future__ import annotations

import numpy as np
import pytest

from cconvnet import ops
from cconvnet._problem import NeuronProblem
from cconvnet.devices import Device
from cconvnet.testing import compare
from cconvnet.testing.check import check, run


@pytest.mark.parametrize("data", ["exact", "real"])
@pytest.mark.parametrize("count", [1, 3, 4, 31, 256, 1027])
def test_eltmul(device: Device, element: str, count: int, data: str) -> None:
    problem = NeuronProblem(count)
    # Of a few elements all may be 0.
    least = 0.25 if count > 31 else 0
    check("eltmul", problem, device, element=element, data=data, nonzero=least)
    check("eltmul", problem, device, element=element, data=data, offset=4, nonzero=least)


@pytest.mark.parametrize("operand", ["a", "b"])
@pytest.mark.parametrize("offset", [0, 12])
def test_eltmul_in_place(device: Device, element: str, operand: str, offset: int) -> None:
    check("eltmul", NeuronProblem(1027), device, element=element, in_place=operand, offset=offset)


def test_products_of_extremes(device: Device, element: str) -> None:
    inf, nan = np.inf, np.nan
    a = np.array([inf, inf, 0, nan, -inf, 2.0**100, 2.0**-100], np.float32)
    b = np.array([2, 0, inf, 0, -inf, 2.0**100, 2.0**-100], np.float32)
    y = run("eltmul", NeuronProblem(7), device, {"a": a, "b": b}, element=element)["y"]
    np.testing.assert_array_equal(compare.values(y), [inf, nan, nan, nan, inf, inf, 0])


def test_gradients_are_products_too(device: Device) -> None:
    """Adjoint: <dy, da * b> = <dy * b, da>, and the same for b; integers make it exact."""
    random = np.random.default_rng(0)
    a, b, dy, da, db = (device.array(random.integers(-4, 5, 1003).astype(np.float32)) for _ in range(5))
    by_a, by_b = ops.eltmul(dy, b, device=device), ops.eltmul(dy, a, device=device)
    change = ops.add(ops.eltmul(da, b, device=device), ops.eltmul(a, db, device=device), device=device)
    total = np.dot(device.host(dy).astype(np.float64), device.host(change))
    parts = np.dot(device.host(by_a).astype(np.float64), device.host(da))
    parts += np.dot(device.host(by_b).astype(np.float64), device.host(db))
    assert total == parts != 0
