"""The basic shapes, which the smoke test and the sanitizers run."""

from __future__ import annotations

import pytest
from helpers import basic_shapes

from cconvnet.devices import PRECISIONS, Device
from cconvnet.operations import OPERATIONS
from cconvnet.testing.check import own_impls
from cconvnet.testing.problems import with_precision


def test_the_basic_shapes_are_those_of_every_operation_and_row(device: Device) -> None:
    cases = list(basic_shapes.basic_cases(device))
    assert {operation for operation, _, _ in cases} == set(OPERATIONS)
    seen = {(operation, arguments.get("impl")) for operation, _, arguments in cases}
    elements = {
        (operation, getattr(problem, "precision", arguments.get("element", "fp32")))
        for operation, problem, arguments in cases
    }
    for operation, spec in OPERATIONS.items():
        for precision in PRECISIONS if spec.has_impls else ("fp32", "bf16") if spec.has_elements else ():
            assert (operation, precision) in elements or not device.serves(precision)
    tables = {"conv": basic_shapes.CONV, "local": basic_shapes.LOCAL, "fc": basic_shapes.FC}
    for operation in OPERATIONS:
        for problem in tables.get(operation.split("_")[0], {}).values():
            # A CPU's rows can want shapes that need not be watched: no sanitizer runs there.
            if device.kind != "cpu":
                for precision in filter(device.serves, PRECISIONS):
                    rows = own_impls(operation, with_precision(problem, precision), device)
                    assert {(operation, impl) for impl in rows} <= seen


def test_the_basic_shapes_pass(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    if device.kind == "cuda":
        pytest.skip("would change the allocator of all tests; `make sanitize` runs them")
    basic_shapes.main(device.name)
    assert f"basic shapes on {device.name}" in capsys.readouterr().out
