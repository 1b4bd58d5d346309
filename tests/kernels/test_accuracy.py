"""Errors against float64 beside those of plain float sums: the CPU's 3x3 convolutions, and fp32x3."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cconvnet._problem import ConvProblem, FcProblem
from cconvnet.devices import Device
from cconvnet.testing import reference
from cconvnet.testing.check import make_inputs, own_impls, run
from cconvnet.testing.inputs import round_to
from cconvnet.testing.networks import layers
from cconvnet.testing.problems import with_precision

Array = np.ndarray[Any, Any]

# 16 images: a filters' gradient has 1,024 terms, an output 1,152.
PROBLEM = ConvProblem(16, 8, 8, 128, 16, 3, 3, padding=(1, 1))


def rms(found: Array, wanted: Array) -> float:
    return float(np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean()))


def chain(operation: str, inputs: dict[str, Any]) -> Array:
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


# ---- fp32x3 ----------------------------------------------------------------------------------------------

PRODUCTS = {
    f"{layer.name} {direction}": (f"{layer.kind}_{direction}", layer.small(1_000_000, n=8))
    for layer in layers("alexnet").values()
    if layer.kind in ("conv", "fc")
    for direction in ("fprop", "dgrad", "wgrad")
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_fp32x3_is_as_accurate_as_fp32(device: Device, name: str) -> None:
    if not device.serves("fp32x3"):
        pytest.skip(f"{device.name} has no fp32x3")
    operation, problem = PRODUCTS[name]
    inputs = make_inputs(operation, problem, "real")
    if operation.endswith("fprop"):
        inputs |= {"bias": None, "relu": False}
    wide = [value.astype(np.float64) for value in inputs.values() if isinstance(value, np.ndarray)]
    wanted = getattr(reference, operation)(problem, *wide)
    errors = {}
    for precision in ("fp32", "fp32x3"):
        exact = with_precision(problem, precision)
        for impl in own_impls(operation, exact, device):
            (found,) = run(operation, exact, device, inputs, impl=impl).values()
            errors.setdefault(precision, []).append(rms(found, wanted))
    assert 0 < max(errors["fp32x3"]) <= 2 * min(errors["fp32"])


def truncated(values: Array, units: Array) -> Array:
    """Return multiples of the units, cut off towards 0."""
    return np.trunc(values / units) * units


def by_parts(x: Array, w: Array, add: Any) -> Array:
    """Return x w^T as fp32x3 does; `add` is a tensor core's sum of a number and of 8 products."""
    total = np.zeros((len(x), len(w)), np.float32)
    big_x, big_w = round_to(x, "tf32"), round_to(w, "tf32")
    small_x, small_w = (
        ((whole - big).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
        for whole, big in ((x, big_x), (w, big_w))
    )
    for first in range(0, x.shape[1], 8):
        part = np.zeros_like(total)
        for left, right in ((small_x, big_w), (big_x, small_w), (big_x, big_w)):
            columns = slice(first, first + 8)
            part = add(part, left[:, None, columns] * right[None, :, columns])
        total += part
    return total


def one_by_one(part: Array, products: Array) -> Array:
    """Add as the emulator does."""
    for product in np.moveaxis(products, 2, 0):
        part = part + product
    return part


def cut_off(part: Array, products: Array) -> Array:
    """Add numbers of 24 bits that are shifted to the exponent of the largest, and cut off what is below."""
    terms = np.concatenate([part[..., None], products], 2).astype(np.float64)
    _, exponents = np.frexp(np.abs(terms).max(2, keepdims=True))
    total = truncated(terms, np.exp2(exponents - 24.0)).sum(2)
    _, exponents = np.frexp(total)
    return np.asarray(truncated(total, np.exp2(exponents - 24.0)), np.float32)


@pytest.mark.parametrize("c", [8, 192])
def test_fp32x3_adds_in_one_order_and_may_lose_the_low_bits(device: Device, c: int) -> None:
    """Sums are the model's to the bit in the emulator, and accurate even if tensor cores cut off."""
    if device.kind != "emulator":
        pytest.skip("how a GPU adds within an instruction is not known")
    problem = FcProblem(32, c, 64, precision="fp32x3")
    inputs = make_inputs("fc_fprop", problem, "real") | {"bias": None, "relu": False}
    x, w = inputs["x"], inputs["w"]
    for impl in own_impls("fc_fprop", problem, device):
        (found,) = run("fc_fprop", problem, device, inputs, impl=impl).values()
        np.testing.assert_array_equal(found, by_parts(x, w, one_by_one))
    wanted = x.astype(np.float64) @ w.T.astype(np.float64)
    plain = np.zeros_like(found)
    for k in range(c):
        plain += np.multiply.outer(x[:, k], w[:, k])
    assert 0 < rms(by_parts(x, w, cut_off), wanted) <= (3 if c == 8 else 1) * rms(plain, wanted)
