"""Tests of the recorded durations: the quick run, and what `make test` announces."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import durations

ROOT = Path(__file__).parents[2]


def items(*names: str) -> Any:
    return [SimpleNamespace(nodeid=name) for name in names]


def test_a_quick_run_leaves_out_what_is_recorded_as_slow(tmp_path: Path, monkeypatch: Any) -> None:
    record = tmp_path / "durations.json"
    record.write_text(
        json.dumps(
            {"seconds": 90, "count": 3, "tests": {"a.py::slow": 0.5, "a.py::fair": durations.QUICK_SECONDS}}
        )
    )
    monkeypatch.setattr(durations, "RECORD", record)
    given = items("a.py::slow[cpu:0]", "a.py::fair[1]", "b.py::unknown", "a.py::slow")
    quick, slow = durations.leave_out_slow(given)
    assert [item.nodeid for item in quick] == ["a.py::fair[1]", "b.py::unknown"]
    assert [item.nodeid for item in slow] == ["a.py::slow[cpu:0]", "a.py::slow"]


def test_a_run_is_recorded_by_test_with_the_mean_of_its_cases(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(durations, "RECORD", tmp_path / "durations.json")
    recorder = durations.Recorder(processes=2)
    for name, seconds in [("t.py::a[x]", 0.2), ("t.py::a[x]", 0.2), ("t.py::a[y]", 0.2), ("t.py::b", 0.001)]:
        recorder.pytest_runtest_logreport(SimpleNamespace(nodeid=name, duration=seconds))  # type: ignore[arg-type]
    recorder.pytest_sessionfinish()
    record = json.loads((tmp_path / "durations.json").read_text())
    assert record["count"] == 3 and record["tests"] == {"t.py::a": 0.3}


def test_the_length_of_all_tests_is_announced() -> None:
    assert re.fullmatch(
        r"[\d,]{5,} tests, about [1-9]\d* minutes with 2 processes", durations.announcement(2)
    )


def test_recorded_tests_exist() -> None:
    """A test that was renamed is unknown, and so would run in the quick tests however slow it is."""
    missing = []
    for name in durations.recorded():
        path, *_, function = name.split("::")
        file = ROOT / path
        if not file.exists() or not re.search(rf"^\s*def {function}\(", file.read_text(), re.MULTILINE):
            missing.append(name)
    assert missing == []


def test_slow_tests_are_few_of_all(pytestconfig: pytest.Config) -> None:
    slow = [name for name, seconds in durations.recorded().items() if seconds > durations.QUICK_SECONDS]
    files = {name.split("::")[0] for name in slow}
    kernels = {str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "kernels").glob("test_*.py")}
    assert len(slow) < 600 and kernels - files  # the quick run still tests kernels
