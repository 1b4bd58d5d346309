"""The summary of a GPU machine's report."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

sys.path.insert(0, str(ROOT / "benchmarks"))
summary = importlib.import_module("gpu_report.summary")


def test_the_summary_says_what_counts(tmp_path: Path) -> None:
    cells = [{"name": "smoke", "state": "failed", "seconds": 3.0, "why": ""}]
    (tmp_path / "summary.json").write_text(json.dumps({"parts": cells}))
    (tmp_path / "smoke.log").write_text(
        "$ python smoke.py\nok 0 conv_fprop P {} 3 ms\n"
        "FAILED 7 lrn_forward P {}\n    AssertionError: y is off\n"
        "LOST 7 an illegal address\nok 8 fc P {} 1 ms\n"
    )
    (tmp_path / "report.log").write_text(
        "========= Invalid __global__ write of size 4 bytes\n=========     at fc_fprop+0x10\n"
        "========= ERROR SUMMARY: 1 error\n========= RACECHECK SUMMARY: 0 hazards displayed\n"
    )
    (tmp_path / "tests.log").write_text(
        "tests/kernels/test_fc.py::test_a[cuda:0-fp32]\n"
        "[gw0] [ 50%] PASSED tests/kernels/test_fc.py::test_a[cuda:0-fp32]\n"
        "[gw1] [100%] FAILED tests/kernels/test_fc.py::test_b[cuda:0-bf16-1 x 2]\n"
        "FAILED tests/kernels/test_fc.py::test_b[cuda:0-bf16-1 x 2] - AssertionError: 3 of 4\n"
        "========= 1 failed, 1 passed in 3.21s =========\n"
    )
    machine = [
        {"what": "conformance", "check": "mma", "failure": ""},
        {"what": "conformance", "checks": 1, "failed": ["mma"]},
        {"what": "calibration", "measurements": [{"name": "copy", "value": 4300.0, "unit": "GB/s"}]},
    ]
    (tmp_path / "machine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in machine))
    proof = {"rows": {"conv_fprop_wgmma": 9}, "failed": {"conv_dgrad_wgmma": "plain : y[3] is 1, not 2"}}
    (tmp_path / "sm_90a.json").write_text(json.dumps(proof))
    forms = {"what": "step forms", "net": "alexnet", "precision": "bf16"}
    pinned = {"pinned": {"seconds": 2e-3, "images_per_second": 64000.0}}
    replay = {"replay": {"seconds": 1e-3, "images_per_second": 128000.0}}
    rows = [
        {"side": "cconvnet", "form": "", "seconds": 2e-3, "images_per_second": 64000.0},
        {"side": "PyTorch", "form": "graph", "seconds": 5e-3, "images_per_second": 25600.0}
        | {"times_as_fast": 2.5},
    ]
    rows = [row | {"precision": "bf16"} for row in rows]
    result = {"what": "step", "rows": rows, "peers": {"pytorch": {"failed": {"compiled": "no compiler"}}}}
    lines = [{**forms, "forms": pinned}, {**forms, "forms": pinned | replay}, result]
    (tmp_path / "step.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = summary.write(tmp_path)
    assert "parts: smoke failed 3 s" in text
    assert "smoke: 2 ok, 1 failed, 1 lost the device" in text
    assert "  FAILED 7 lrn_forward P {}\n    AssertionError: y is off" in text
    assert "tests: 1 failed, 1 passed in 3.21s (lines: 1 PASSED, 1 FAILED)" in text
    failure = "  FAILED tests/kernels/test_fc.py::test_b[cuda:0-bf16-1 x 2] - AssertionError: 3 of 4\n"
    assert text.count("FAILED tests/kernels/test_fc.py") == 1 and failure in text
    assert "conformance: 1 checks, 1 failed\n  FAILED mma" in text
    assert (
        "proof: 1 of 2 rows proven on sm_90a\n  FAILED conv_dgrad_wgmma: plain : y[3] is 1, not 2\n" in text
    )
    assert "compute-sanitizer: ERROR SUMMARY: 1 error\ncompute-sanitizer: RACECHECK SUMMARY: 0 haz" in text
    assert "  Invalid __global__ write of size 4 bytes\n" in text
    assert "calibration: 1 measurements\n  copy 4300 GB/s" in text
    ours = "our step, alexnet bf16: pinned 2.000 ms (64,000/s), replay 1.000 ms (128,000/s)"
    assert text.count("our step") == 1 and ours in text
    assert "bench step PyTorch graph bf16: 5.000 ms (25,600/s), ours 2.50 times as fast" in text
    assert "PyTorch compiled no compiler" in text
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["parts"] == cells and [r["what"] for r in found["results"]] == ["step forms", "step"]


def measured(side: str, layer: str, precision: str, seconds: float, column: str = "plan") -> dict[str, Any]:
    plan = {
        "kernel": f"conv_fprop_{side}",
        "seconds": seconds,
        "seconds_min": seconds,
        "seconds_max": seconds,
    }
    plan |= {"calls": 15, "how": "graph", "launch_seconds": 3e-5, "called_seconds": seconds}
    line = {"side": side, "net": "alexnet", "batch": 128, "precision": precision, "layer": layer}
    line |= {"operation": "conv_fprop", "products": True, "plans": {column: plan}}
    return line | ({"flops": 10**10, "bytes": 10**7} if side == "ours" else {})


def test_kernels_stand_beside_their_fastest_peer(tmp_path: Path) -> None:
    lines = [
        {
            "event": "begin",
            "side": "ours",
            "about": {"caches": "cold: 4 times"},
            "machine": {"device": "cuda:0"},
        },
        {"event": "begin", "side": "pytorch", "missing": "pip install torch"},
        {"event": "begin", "side": "cudnn", "about": {"columns": ["best", "strict"]}},
        *(measured("ours", f"conv{i}", "bf16", 2e-5) for i in range(60)),
        *(measured("cudnn", f"conv{i}", "bf16", 4e-5 if i else 1e-5, "best") for i in range(2)),
        measured("ours", "conv1", "fp32", 2e-5),
        measured("cudnn", "conv1", "fp32", 1e-5, "best"),
        measured("cudnn", "conv1", "fp32", 6e-5, "strict"),
        *(measured("ours", f"conv{i}", "tf32", 2e-5) for i in range(60)),
    ]
    lines[5]["plans"]["plan"]["how"] = "not captured: it may not"  # type: ignore[index]
    (tmp_path / "kernels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = summary.write(tmp_path)
    assert len(text) <= 9500 and text.rstrip().endswith("more in kernels.jsonl and summary.json")
    means = [line for line in text.splitlines() if line.startswith("geometric mean of peer / ours, ")]
    assert [mean.partition("ours, ")[2] for mean in means] == [
        "alexnet bf16, products: 1.000 (2 rows, 1 at least as fast)",
        # What rounds to TF32 is no peer of fp32.
        "alexnet fp32, products: 3.000 (1 rows, 1 at least as fast)",
    ]
    (row,) = [line for line in text.splitlines() if line.startswith("  conv1 ") and "cudnn best" in line]
    assert row.split()[:7] == ["conv1", "conv_fprop", "20.0", "30.0", "500.0", "0.50", "40.0"]
    assert "not captured: it may not" in text and "pytorch is not compared: pip install torch" in text
    assert len(json.loads((tmp_path / "summary.json").read_text())["results"]) == 3


def test_lines_that_are_none_are_said(tmp_path: Path) -> None:
    (tmp_path / "kernels.jsonl").write_text('{"side": "ours", "net": "alexnet"}\n')
    assert "cannot be merged: KeyError" in summary.write(tmp_path)
