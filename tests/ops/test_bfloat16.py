"""bfloat16 on the host."""

from __future__ import annotations

import numpy as np
import pytest

from cconvnet.bfloat16 import pack, unpack


def test_every_bfloat16_comes_back() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    nan = np.isnan(unpack(bits))
    assert np.count_nonzero(nan) == 2 * 127
    np.testing.assert_array_equal(pack(unpack(bits)), np.where(nan, 0x7FFF, bits))


def test_rounding_is_to_the_nearest() -> None:
    random = np.random.default_rng(0)
    values = random.integers(0, 2**32, 100_000, np.uint32).view(np.float32)
    values = values[np.abs(values) < 3e38]
    bits = pack(values)
    rounded = unpack(bits).astype(np.float64)
    below, above = unpack(bits - np.uint16(1)), unpack(bits + np.uint16(1))
    for other in (below, above):
        closer = np.abs(other.astype(np.float64) - values) < np.abs(rounded - values)
        assert not (closer & np.isfinite(other)).any()


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (1.0, 0x3F80),
        (-0.0, 0x8000),
        (1 + 2.0**-8, 0x3F80),  # a tie, to even
        (1 + 3 * 2.0**-8, 0x3F82),
        (1 + 2.0**-8 + 2.0**-23, 0x3F81),
        (3.4e38, 0x7F80),
        (-1e300, 0xFF80),
        (np.inf, 0x7F80),
        (np.nan, 0x7FFF),
        (2.0**-133, 0x0001),
        (2.0**-134, 0x0000),
    ],
)
def test_single_values(value: float, bits: int) -> None:
    assert pack(value) == bits
    assert pack([[value]]).shape == (1, 1) and pack([value]).dtype == np.uint16


def test_only_bits_are_unpacked() -> None:
    with pytest.raises(TypeError, match="bits must be uint16, not float32"):
        unpack(np.ones(3, np.float32))
