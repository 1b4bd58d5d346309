"""What a result says of the machine it was measured on."""

from __future__ import annotations

import pytest

from cconvnet import machine
from cconvnet.backends import get_device


def test_what_every_result_says() -> None:
    found = machine.describe(get_device("cpu:0"))
    assert {"date", "command", "device", "chip", "cores", "module", "versions"} <= found.keys()
    assert found["device"] == "cpu:0" and found["cores"] >= 1
    assert {"cconvnet", "python", "numpy"} <= found["versions"].keys()


def test_without_a_history_the_commit_is_given_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_output", lambda *command, folder=None: None)
    monkeypatch.setenv("CCONVNET_COMMIT", "abc1234")
    assert machine.describe(get_device("cpu:0"))["commit"] == "abc1234"


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
