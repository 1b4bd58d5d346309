"""Peak rates of a device, measured in each precision by calls of that precision."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from cconvnet.bench import peaks
from cconvnet.devices import PRECISIONS, get_device


class Watched:
    """A module that notes the precisions of the products it is asked for, and what they are made of."""

    def __init__(self, module: Any, seen: set[tuple[str, str, Any]]) -> None:
        self._module, self._seen = module, seen

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        if not name.endswith("_fprop"):
            return value

        def call(problem: Any, x: Any, *arguments: Any) -> None:
            self._seen.add((name, problem.precision, x.dtype))
            value(problem, x, *arguments)

        return call


@pytest.mark.parametrize("precision", PRECISIONS)
def test_products_of_the_precision_are_measured(precision: str) -> None:
    seen: set[tuple[str, str, Any]] = set()
    device = copy.copy(get_device("emulator:0"))
    device.module = Watched(device.module, seen)
    found = peaks.measure(device, precision)
    assert found.bytes_per_second > 0 and found.flops_per_second > 0
    element = np.dtype(np.uint16 if precision == "bf16" else np.float32)
    assert seen == {(name, precision, element) for name in ("conv_fprop", "fc_fprop")}


def test_a_precision_that_the_device_does_not_serve() -> None:
    with pytest.raises(ValueError, match="tf32 is not for cpu:0"):
        peaks.measure(get_device("cpu:0"), "tf32")
    with pytest.raises(ValueError, match="precision must be one of"):
        peaks.measure(get_device("cpu:0"), "fp8")
