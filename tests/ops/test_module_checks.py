"""Compiled modules check the arrays of a call themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.good_calls import (
    wider,
)

from cconvnet import bfloat16
from cconvnet.devices import Device
from cconvnet.operations import OPERATIONS, element_of, workspace_size
from cconvnet.testing.inputs import make_inputs
from cconvnet.testing.random_problems import random_case

BROKEN: dict[str, Callable[[Device, Any], Any]] = {
    "of a wider type": lambda d, a: d.xp.zeros(a.shape, wider(np.zeros(1, a.dtype)).dtype),
    "with an element too many": lambda d, a: d.xp.zeros(a.size + 1, a.dtype),
    "with an element too few": lambda d, a: d.xp.zeros(a.size - 1, a.dtype),
    "not contiguous": lambda d, a: d.xp.zeros(2 * a.size, a.dtype)[::2],
    "a list": lambda d, a: [0.0] * a.size,
    "a number": lambda d, a: 0.0,
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_module_never_leaves_its_buffers(device: Device, operation: str, what: str) -> None:
    """Even called directly, a compiled module checks type, contiguity and size of every array."""
    if device.module.build_kind() == "numpy":
        pytest.skip("NumPy has no pointers to check")
    spec = OPERATIONS[operation]
    for seed in range(10_000):
        drawn, problem, _ = random_case(seed, OPERATIONS)
        if drawn != operation or element_of(problem, "fp32") == "bf16":
            continue
        inputs = make_inputs(operation, problem)
        sizes = [value.size for value in inputs.values() if isinstance(value, np.ndarray)]
        sizes += [int(np.prod(shape)) for n, shape in spec.output_shapes(problem).items() if n != "halt"]
        if min(sizes) > 1:
            break
    arrays = {n: device.array(v) if isinstance(v, np.ndarray) else v for n, v in inputs.items()}
    if operation == "from_bf16":
        arrays["x"] = device.array(bfloat16.pack(inputs["x"]))
    for name, shape in spec.output_shapes(problem).items():
        dtype = spec.dtype(name, "fp32")
        arrays.setdefault(name, device.zeros(shape, dtype))
    tail: list[Any] = []
    if spec.has_workspace:
        tail.append(device.zeros(workspace_size(device.module, operation, problem) + 1, np.uint8))
    # Without a problem the first array may have any size.
    free = None if spec.has_problem else spec.inputs[0].name
    for name, array in arrays.items():
        if not hasattr(array, "shape"):
            continue
        # Any number of losses is allowed, and a single element is always contiguous.
        if operation == "watch_losses" and name in {"with": ["loss"], "not ": ["halt"]}.get(what[:4], []):
            continue
        with device:
            broken = {**arrays, name: BROKEN[what](device, array)}
        named = r"\w+" if name == free else name
        with device, pytest.raises((ValueError, TypeError), match=rf"(?<![a-z]){named} (must|has)"):
            getattr(device.module, operation)(*spec.problems(problem), *broken.values(), *tail)


@pytest.mark.parametrize("operation", [n for n, o in OPERATIONS.items() if o.has_workspace])
def test_a_module_refuses_a_workspace_that_is_too_small(device: Device, operation: str) -> None:
    tried = 0
    for seed in range(3000):
        name, problem, _ = random_case(seed, OPERATIONS)
        if name != operation:
            continue
        if not device.serves(getattr(problem, "precision", "fp32")):
            continue
        needed = workspace_size(device.module, operation, problem)
        if needed == 0:
            continue
        spec, element = OPERATIONS[operation], element_of(problem, "fp32")
        arrays = [
            device.zeros(value.shape, spec.dtype(name, element)) if isinstance(value, np.ndarray) else value
            for name, value in make_inputs(operation, problem).items()
        ]
        arrays += [
            device.zeros(shape, spec.dtype(n, element)) for n, shape in spec.output_shapes(problem).items()
        ]
        for space in (None, device.zeros(needed - 1, np.uint8)):
            with device, pytest.raises(ValueError, match="workspace must"):
                getattr(device.module, operation)(*spec.problems(problem), *arrays, space)
        tried += 1
        if tried == 3:
            return
    if not tried:
        pytest.skip("no problem needs a workspace here")
