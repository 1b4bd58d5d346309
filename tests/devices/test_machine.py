"""Facts about the machine that results record."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cconvnet.devices import get_device, machine


def test_what_every_result_says() -> None:
    found = machine.describe(get_device("cpu:0"))
    assert {"date", "command", "device", "chip", "cores", "module", "versions"} <= found.keys()
    assert found["device"] == "cpu:0" and found["cores"] >= 1
    assert {"cconvnet", "python", "numpy"} <= found["versions"].keys()


def test_without_a_history_the_commit_is_given_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_output", lambda *command, folder=None: None)
    monkeypatch.setenv("CCONVNET_COMMIT", "abc1234")
    assert machine.describe(get_device("cpu:0"))["commit"] == "abc1234"


def test_a_gpus_clocks_are_only_asked_for_where_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def output(program: str, *arguments: str, folder: Any = None) -> str | None:
        asked.append(program)
        return "1980, 2619, 1980, 2619, 700.00\n" if program == "nvidia-smi" else None

    monkeypatch.setattr(machine, "_output", output)
    properties = {"name": b"H200", "major": 9, "minor": 0, "multiProcessorCount": 132}
    properties |= {"totalGlobalMem": 1 << 37, "l2CacheSize": 1 << 26}
    runtime = SimpleNamespace(
        getDeviceProperties=lambda ordinal: properties,
        driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 13000,
    )
    xp = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))
    gpu: Any = SimpleNamespace(kind="cuda", name="cuda:0", reason="fake", ordinal=0, xp=xp)
    found = machine.describe(gpu)
    assert (found["chip"], found["clocks"]["clocks.mem"], found["clocks"]["power.limit"]) == (
        "H200",
        "2619",
        "700.00",
    )
    asked.clear()
    assert "clocks" not in machine.describe(gpu, clocks=False) and "nvidia-smi" not in asked


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["bin/cconvnet", "bench", "step"], "cconvnet bench step"),
        (["a/__main__.py", "bench", "--json", "x", "--net", "lenet"], "cconvnet bench --net lenet"),
        (
            ["cconvnet", "bench", "--plot=x.png", "--stack", "y", "--only", "conv*"],
            "cconvnet bench --only 'conv*'",
        ),
    ],
)
def test_the_command_is_told_without_the_files_it_wrote(
    monkeypatch: pytest.MonkeyPatch, typed: list[str], told: str
) -> None:
    monkeypatch.setattr("sys.argv", typed)
    assert machine.describe(get_device("cpu:0"))["command"] == told
