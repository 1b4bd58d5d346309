"""The proof of rows: in processes of their own, that may fail in any way."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from cconvnet.devices import DeviceUnavailable, get_device, proofs

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
proving = importlib.import_module("gpu_report.proving")


@pytest.fixture(scope="module")
def device() -> Any:
    try:
        return get_device("emulator:0")
    except DeviceUnavailable as error:
        pytest.skip(str(error))


def test_every_row_to_prove_has_tests_of_all_kinds(device: Any) -> None:
    rows = proofs.rows_to_prove(device.module)
    assert len(rows) > 10
    for row in rows:
        cases = list(proving.cases(row, device))
        assert sum(not arguments for *_, arguments in cases) >= 3, row
        assert any(arguments for *_, arguments in cases), row
        assert len({name for name, *_ in cases if "proof" in name}) >= 2, row


def test_a_row_is_proven_in_a_process_of_its_own(
    device: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = proofs.rows_to_prove(device.module)[-1]
    assert proving.main(["emulator:0", "--only", row, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "emulator.json").read_text())
    assert list(found["rows"]) == [row] and found["rows"][row] >= 4 and found["failed"] == {}
    assert found["kernels"] == device.module.kernel_digest() != "" and found["architecture"] == "emulator"
    assert found["machine"]["date"] and found["machine"]["versions"]["cconvnet"]
    assert f"ok {row}: " in capsys.readouterr().out


def test_a_wrong_row_is_named_with_its_first_difference(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def check(operation: str, problem: Any, device: Any, **options: Any) -> None:
        calls.append(options)
        if len(calls) == 3:
            raise AssertionError("y: 1 of 9 differ; y[0, 3] is 1, not 2\nrepeat: python ...\nmore")

    monkeypatch.setattr(proving, "check", check)
    row = proofs.rows_to_prove(device.module)[0]
    found = proving.prove(row, device)
    assert found["checks"] == 2 and all(options["impl"] == row for options in calls)
    assert "AssertionError: y: 1 of 9 differ; y[0, 3] is 1, not 2 | repeat" in found["failure"]


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("import os; os.abort()", "exit code -6: no output"),
        ("import sys; sys.exit('an illegal instruction')", "exit code 1: an illegal instruction"),
        ("import time; time.sleep(60)", "still running after 1 s"),
    ],
)
def test_a_process_that_is_lost_fails_its_row_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, failure: str
) -> None:
    program = tmp_path / "program.py"
    program.write_text(code)
    monkeypatch.setattr(proving, "__file__", str(program))
    monkeypatch.setattr(proving, "SECONDS", 1.0)
    assert proving.prove_apart("row", "cuda:0") == {"checks": 0, "failure": failure}


def test_instructions_must_be_those_of_the_emulator(tmp_path: Path) -> None:
    lines = tmp_path / "machine.jsonl"
    assert "has not compared the instructions of sm_90a" in proving.trouble_of(None, "sm_90a")
    assert "has not compared" in proving.trouble_of(lines, "sm_90a")
    good = {"check": "load_box", "of": "sm_90a", "exact": True, "mismatches": 0, "failure": ""}
    others = [
        {"check": "expf", "of": "", "exact": True, "mismatches": 3, "failure": ""},
        {"check": "rounded", "of": "sm_90a", "exact": False, "mismatches": 3, "failure": ""},
        {"what": "conformance", "checks": 3, "failed": []},
    ]
    lines.write_text("".join(json.dumps(line) + "\n" for line in [good, *others]))
    assert proving.trouble_of(lines, "sm_90a") == ""
    for bad in (good | {"mismatches": 1}, good | {"failure": "it traps"}):
        lines.write_text("".join(json.dumps(line) + "\n" for line in [bad, *others]))
        assert proving.trouble_of(lines, "sm_90a") == "conformance.py found other results of load_box"
