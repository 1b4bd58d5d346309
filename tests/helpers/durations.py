"""Recorded durations of the tests: how long a run will take, and which tests a quick run leaves out.

`make test-times` records them into durations.json. A test that is not recorded there is quick.
"""

from __future__ import annotations

import collections
import json
import sys
import time
from pathlib import Path

import pytest

RECORD = Path(__file__).with_name("durations.json")
QUICK_SECONDS = 0.04  # for each case of a test
SHORTEST_RECORDED = 0.02


def recorded() -> dict[str, float]:
    """Return the mean seconds of a case, by test: "tests/kernels/test_fc.py::test_real_layers"."""
    tests: dict[str, float] = json.loads(RECORD.read_text())["tests"]
    return tests


def announcement(processes: int) -> str:
    """Return how long all tests take with this many processes, each on a core of its own."""
    record = json.loads(RECORD.read_text())
    minutes = record["seconds"] / processes / 60
    return f"{record['count']:,} tests, about {minutes:.0f} minutes with {processes} processes"


def leave_out_slow(items: list[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Part tests into quick and slow ones."""
    seconds = recorded()
    quick, slow = [], []
    for item in items:
        (slow if seconds.get(_function(item.nodeid), 0) > QUICK_SECONDS else quick).append(item)
    return quick, slow


class Recorder:
    """Collects the durations of a run and writes them to durations.json; a plugin of pytest."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self.begin = time.monotonic()
        self.cases: dict[str, dict[str, float]] = collections.defaultdict(
            lambda: collections.defaultdict(float)
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add the time of a test's set-up, call or end."""
        self.cases[_function(report.nodeid)][report.nodeid] += report.duration

    def pytest_sessionfinish(self) -> None:
        """Write the file."""
        means = {name: sum(cases.values()) / len(cases) for name, cases in self.cases.items()}
        record = {
            "seconds": round(self.processes * (time.monotonic() - self.begin)),
            "count": sum(map(len, self.cases.values())),
            "tests": {
                name: round(means[name], 2) for name in sorted(means) if means[name] > SHORTEST_RECORDED
            },
        }
        RECORD.write_text(json.dumps(record, indent=1) + "\n")


def _function(nodeid: str) -> str:
    return nodeid.split("[")[0]


if __name__ == "__main__":
    print(announcement(int(sys.argv[1])))
