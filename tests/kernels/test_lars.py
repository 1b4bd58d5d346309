"""The rate of a tensor by LARS: the formula, its special cases, and sums that nothing changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cconvnet import ops
from cconvnet._problem import LarsProblem
from cconvnet.devices import Device
from cconvnet.testing import compare
from cconvnet.testing.check import check, make_inputs, run
from cconvnet.testing.inputs import Array

RATES = np.array([0.1, 0.9], np.float32)


def rates_out(device: Device, w: Array, g: Array, eta: float = 0.25, **options: Any) -> list[float]:
    """Return the two rates."""
    problem = LarsProblem(w.size, eta, options.pop("weight_decay", 0.0), options.pop("eps", 0.0))
    inputs = {"w": w.astype(np.float32), "g": g.astype(np.float32), "rates": RATES}
    found: list[float] = run("lars_rate", problem, device, inputs, **options)["rates_out"].tolist()
    return found


def test_by_hand(device: Device) -> None:
    """Norms of 5 and 13."""
    w, g = np.array([3.0, 0, -4]), np.array([0.0, -5, 12])
    for eta, decay, eps in ((0.25, 0.0, 0.0), (0.001, 0.5, 0.0), (4.0, 0.5, 2.5)):
        expected = np.float32(float(RATES[0]) * np.float32(eta) * 5 / (13 + decay * 5 + eps))
        found = rates_out(device, w, g, eta, weight_decay=decay, eps=eps)
        np.testing.assert_allclose(found, [expected, RATES[1]], rtol=1e-7)


@pytest.mark.parametrize("count", [1, 3, 4, 1023, 4096, 4097, 20_000])
def test_sizes(device: Device, count: int) -> None:
    problem = LarsProblem(count, 0.001, 0.0005, 1e-8)
    for options in ({}, {"offset": 4}, {"in_place": "rates"}):
        check("lars_rate", problem, device, data="real", **options)


def test_more_than_every_block_reads_at_once(device: Device) -> None:
    """The last element counts, and so does each in the middle: all others are 0."""
    count = 4 * 2**20 + 1029
    w, g = np.zeros(count), np.zeros(count)
    for places in ([count - 1, 0], [2**20, 2**22 - 1], [2**22, 4096]):
        w[:], g[:] = 0, 0
        w[places], g[places[0]] = (3, 4), 2
        np.testing.assert_allclose(rates_out(device, w, g)[0], 0.1 * 0.25 * 5 / 2, rtol=1e-6)


def test_alignment_does_not_change_the_order(device: Device) -> None:
    problem = LarsProblem(9001, 0.001, 0.0005)
    inputs = make_inputs("lars_rate", problem, "real", 3)
    aligned, other = (run("lars_rate", problem, device, inputs, offset=offset) for offset in (0, 4))
    compare.assert_same_bits("rates_out", aligned["rates_out"], other["rates_out"])


@pytest.mark.parametrize("size", [2.0**-140, 2.0**-100, 2.0**100, 2.0**127])
def test_squares_neither_overflow_nor_underflow(device: Device, size: float) -> None:
    ones = np.ones(100)
    plain = rates_out(device, ones, 0.5 * ones)
    assert rates_out(device, size * ones, 0.5 * size * ones) == plain
    assert plain[0] == pytest.approx(0.1 * 0.25 / 0.5)
    with np.errstate(over="ignore"):
        small_or_large = np.float32(0.1 * 0.25 / size)
    np.testing.assert_allclose(rates_out(device, ones, size * ones)[0], small_or_large, rtol=1e-6)


def test_without_a_norm_the_rate_stays(device: Device) -> None:
    one, zero, nan, inf = (np.full(5, value) for value in (1.0, 0.0, np.nan, np.inf))
    for w, g in ((zero, one), (one, zero), (zero, zero), (nan, one), (one, nan)):
        assert rates_out(device, w, g, weight_decay=0.5) == RATES.tolist()
    assert rates_out(device, one, inf) == [0, float(RATES[1])]


def test_the_update_takes_the_rates(device: Device) -> None:
    """A step is eta times the weights, whatever the size of the gradient."""
    random = np.random.default_rng(0)
    w, g = (random.standard_normal(1000, dtype=np.float32) for _ in range(2))
    for size in (1e-3, 1e3):
        gradient, weights, velocity = (device.array(a) for a in (g * np.float32(size), w, 0 * w))
        own = ops.lars_rate(
            weights, gradient, device.array(np.array([1, 0], np.float32)), eta=0.01, device=device
        )
        lr = float(device.host(own)[0])
        ops.sgd_update(gradient, velocity, weights, lr=lr, device=device)
        step = np.linalg.norm(device.host(weights) - w) / np.linalg.norm(w)
        assert step == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0, 0.1), "count must be at least 1, not 0"),
        ((4, 0.0), "eta must be positive"),
        ((4, float("nan")), "eta must be positive"),
        ((4, 0.1, -1.0), "weight_decay must not be negative"),
        ((4, 0.1, 0.0, -1.0), "eps must not be negative"),
    ],
)
def test_bad_numbers_are_refused(given: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LarsProblem(*given)


def test_repr_rebuilds_the_problem() -> None:
    problem = LarsProblem(12, 0.001, 0.0005, 1e-8)
    assert eval(repr(problem)) == problem  # noqa: S307
    assert problem != LarsProblem(12, 0.001, 0.0005)
