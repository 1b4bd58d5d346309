"""The embedded digits as an origin."""

from __future__ import annotations

from cconvnet.data import digits
from cconvnet.data.datasets.dataset import Origin, every_fifth, of_arrays


def find() -> Origin:
    train, test = every_fifth(of_arrays("digits", *digits.load()))
    return Origin("digits", "digits", [str(digit) for digit in range(10)], train, test)
