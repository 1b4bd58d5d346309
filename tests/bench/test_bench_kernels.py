"""Tests of ``cconvnet bench kernels``: its measurement, table and chart, and wrong, slow or missing sides."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.fake_sides import FailingPeer, FakePeer, MissingPeer, peer

from cconvnet.bench import kernels as bench
from cconvnet.bench.cases import find
from cconvnet.bench.kernels import Table, kernels, peers_for
from cconvnet.devices import get_device
from cconvnet.plots import PlotError

Array = np.ndarray[Any, Any]

# Its limits are measured in no time.
DEVICE = "emulator:0"


def test_a_layer_counts_once_among_the_means() -> None:
    def line(layer: str, ratio: float) -> dict[str, Any]:
        return {"layer": layer, "products": True, "peers": {"cudnn best": {"ratio": ratio}}}

    untrained = line("conv1", 8.0) | {"trained": False}
    found = bench.summarize([untrained, line("conv1_blocks", 2.0), line("conv2", 2.0)])
    assert found["products"] == {"cudnn best": {"ratio": pytest.approx(2.0), "rows": 2}}


def test_the_table_shows_launches_on_a_gpu() -> None:
    row = {
        "layer": "fc", "operation": "fc_fprop", "products": True, "kernel": "k", "seconds": 1e-5,
        "seconds_min": 1e-5, "flops_per_second": 1e12, "bytes_per_second": 1e9, "share": 0.5,
        "how": "not captured: no", "launch_seconds": 4e-5,
        "peers": {"cudnn": {"ratio": 1.5, "how": "not captured: neither"}},
    }  # fmt: skip
    result = {"machine": {"device": "cuda:0"}, "peers": {"cudnn": {"columns": ["plan"]}}, "summary": {}}
    lines = list(Table(result, ["fc"]).row(row))
    assert lines[0].split()[-3:] == ["40.0", "1.50", "k"]
    assert lines[1:] == ["    not captured: no", "    cudnn: not captured: neither"]
    (marked, *_) = Table(result, ["fc"]).row(row | {"unproven": True})
    assert marked.split()[-2:] == ["k", "(unproven)"]


def test_rows_that_a_gpu_is_to_prove_are_marked() -> None:
    """They are in lists of rows, and in the result if one was chosen."""
    chosen: dict[str, Any] = {
        "net": "cifar-quick", "device": DEVICE, "batch": 1, "precision": "bf16", "only": "conv3 conv_fprop",
        "seconds": 1e-9, "peers": [], "verify": "finite",
    }  # fmt: skip
    (refused,) = kernels(**chosen, impl="winograd")["rows"]
    row = "conv_fprop_wgmma_bf16_256x96x64_slabs_of_16"
    assert f"{row} (unproven)" in refused["refused"]
    assert "conv_fprop_implicit_gemm_bf16_32x32x32 (" not in refused["refused"]
    (own,) = kernels(**chosen)["rows"]
    assert "unproven" not in own and "wgmma" not in own["kernel"]
    (forced,) = kernels(**chosen, impl=row)["rows"]
    assert forced["unproven"] is True and forced["kernel"] == row


# ---- the measurement -------------------------------------------------------------------------------------


def test_side_by_side() -> None:
    seen: list[int] = []
    result = kernels(
        "cifar-quick",
        device=DEVICE,
        batch=2,
        only="fc10",
        seconds=1e-3,
        peers=[peer(FakePeer), peer(MissingPeer)],
        measured=lambda result, row: seen.append(len(result["rows"])),
    )
    assert seen == [1, 2, 3]
    assert json.loads(json.dumps(result)) == result
    assert (result["what"], result["net"], result["batch"]) == ("kernels", "cifar-quick", 2)
    assert result["machine"]["device"] == DEVICE
    assert result["peers"]["MissingPeer"] == {"missing": "it is missing: pip install it"}
    assert result["peers"]["FakePeer"]["version"] == "1.0"
    fprop, dgrad, wgrad = result["rows"]
    for row in (fprop, dgrad):
        assert row["seconds_min"] <= row["seconds"]
        assert row["flops_per_second"] == pytest.approx(2 * 2 * 64 * 10 / row["seconds"])
        assert row["bytes_per_second"] == pytest.approx(4 * (2 * 64 + 64 * 10 + 2 * 10) / row["seconds"])
        best, strict = row["peers"]["FakePeer best"], row["peers"]["FakePeer strict"]
        assert (best["seconds"], best["kernel"]) == (2.0, "2s")
        assert best["ratio"] == pytest.approx(2 / row["seconds"])
        assert strict["ratio"] == pytest.approx(3 / row["seconds"])
        assert list(best["wrong"]) == ["1s wrong"]
    assert wgrad["peers"] == {"FakePeer": {"refused": "it has no such thing", "wrong": {}, "unusable": {}}}
    mean = result["summary"]["products"]["FakePeer best"]
    assert mean["rows"] == 2
    assert mean["ratio"] == pytest.approx(2 / np.sqrt(fprop["seconds"] * dgrad["seconds"]))
    assert result["summary"]["others"] == {}
    assert not bench.failed(result)

    table = Table(result, ["fc10"])
    head = list(table.head())
    assert "MissingPeer is not compared: it is missing: pip install it" in head
    lines = [line for row in result["rows"] for line in table.row(row)]
    assert lines[0].startswith("fc10   fprop ")
    assert "    FakePeer best: 1s wrong is left out: y is wrong" in "\n".join(lines)
    (foot,) = [line for line in table.foot() if "FakePeer strict" in line]
    assert foot.startswith("geometric mean, convolutions and fully connected layers: ")
    assert foot.endswith(" x FakePeer strict (2 rows)")


def test_a_peer_that_breaks_down_is_started_again() -> None:
    result = kernels(
        "cifar-quick", device=DEVICE, batch=2, only="fc10", seconds=1e-3, peers=[peer(FailingPeer)]
    )
    assert len(result["rows"]) == 3
    for row in result["rows"]:
        assert row["seconds"] > 0
        assert "FailingPeer ended with status 3" in row["peers"]["FailingPeer"]["failed"]


def _altered(folder: Path, operation: str, what: str) -> None:
    """Write the emulator's module with one operation altered, for CCONVNET_MODULE_PATH."""
    real = get_device(DEVICE).module.__file__
    (folder / "_emulator.py").write_text(
        textwrap.dedent(f"""
            import importlib.util, time
            spec = importlib.util.spec_from_file_location("cconvnet._emulator", {real!r})
            real = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(real)
            globals().update({{n: getattr(real, n) for n in dir(real) if not n.startswith("__")}})

            def {operation}(*arguments):
                real.{operation}(*arguments)
                {what}
        """)
    )


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["-m", "cconvnet", "bench", "kernels", "--net", "cifar-quick", "--batch", "2", "--no-peer"]
    return subprocess.run(
        [sys.executable, *command, "--device", DEVICE, "--seconds", "0.002", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env=os.environ | {"CCONVNET_MODULE_PATH": str(folder)},
    )


def test_a_planted_error_stops_its_row_alone(tmp_path: Path) -> None:
    # One element of the result: fc_dgrad's arguments end with dx, workspace, stream, impl.
    _altered(tmp_path, "fc_dgrad", "arguments[3][-1, -1] += 1")
    done = _run(tmp_path, "--only", "fc10", "--json", str(tmp_path / "result.json"))
    assert done.returncode == 1, done.stderr
    assert "fc10   dgrad                wrong: dx is wrong: " in done.stdout
    assert done.stdout.rstrip().endswith("1 of our results is wrong")
    result = json.loads((tmp_path / "result.json").read_text())
    assert ["wrong" in row for row in result["rows"]] == [False, True, False]
    assert ["seconds" in row for row in result["rows"]] == [True, False, True]


def test_a_planted_delay_is_seen(tmp_path: Path) -> None:
    _altered(tmp_path, "fc_dgrad", "time.sleep(0.02)")
    done = _run(tmp_path, "--only", "fc10", "--json", "-")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    times = {row["operation"]: row["seconds_min"] for row in result["rows"]}
    # A sleep is never shorter.
    assert times["fc_dgrad"] >= 0.02
    slow = next(row for row in result["rows"] if row["operation"] == "fc_dgrad")
    assert slow["share"] == pytest.approx(slow["floor_seconds"] / slow["seconds"])
    assert "geometric" not in done.stderr


def test_an_exception_of_ours_stops_its_row_alone(tmp_path: Path) -> None:
    _altered(tmp_path, "fc_dgrad", "raise RuntimeError('it broke')")
    done = _run(tmp_path, "--only", "fc10")
    assert done.returncode == 1
    assert "wrong: RuntimeError: it broke" in done.stdout
    assert "fc10   wgrad" in done.stdout


def test_results_are_written_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file contains all rows measured before an interruption."""
    from cconvnet.cli.bench import bench_kernels

    def interrupted(*arguments: Any) -> dict[str, Any]:
        line = measure(*arguments)
        if line["operation"] == "fc_wgrad":
            raise KeyboardInterrupt
        return line

    measure = bench._measure
    monkeypatch.setattr(bench, "_measure", interrupted)
    file = tmp_path / "result.json"
    with pytest.raises(KeyboardInterrupt):
        bench_kernels(
            net="cifar-quick", device=DEVICE, batch=1, only="fc10", no_peer=True, seconds=1e-3,
            to_json=str(file),
        )  # fmt: skip
    result = json.loads(file.read_text())
    assert [row["operation"] for row in result["rows"]] == ["fc_fprop", "fc_dgrad"]
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_peers_of_a_device() -> None:
    gpu = {peer.name: peer for peer in peers_for("cuda")}
    fprop, lrn = find("alexnet", 1, "conv2", "conv_fprop"), find("alexnet", 1, "lrn1", "lrn_forward")
    assert [gpu["cudnn"].takes(row) for row in (fprop, lrn)] == [True, False]
    assert [gpu["pytorch"].takes(row) for row in (fprop, lrn)] == [False, True]
    (cpu,) = peers_for("cpu")
    assert cpu.takes(fprop) and cpu.takes(lrn)
    assert "MALLOC_TRIM_THRESHOLD_" in cpu.environment
    assert peers_for("cpu", []) == []
    with pytest.raises(ValueError, match="--peers must be of pytorch on a cpu device, not 'cudnn'"):
        peers_for("cpu", ["cudnn"])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"net": "resnet51"}, "net must be one of "),
        ({"batch": 0}, "--batch must be at least 1, not 0"),
        ({"seconds": 0.0}, "--seconds must be above 0, not 0.0"),
        ({"verify": "half"}, "--verify must be full or finite, not 'half'"),
        ({"precision": "fp8"}, "--precision must be one of fp32, fp32x3, tf32, bf16, not 'fp8'"),
        ({"precision": "tf32"}, "precision tf32 is not for cpu:0"),
        ({"only": "conv77"}, "--only must name layers or passes"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        kernels(**{"net": "cifar-quick", "device": "cpu:0", **arguments})


# ---- the picture -----------------------------------------------------------------------------------------


def _result(count: int, peers: dict[str, float]) -> dict[str, Any]:
    ratios = {name: {"ratio": ratio} for name, ratio in peers.items()}
    row = {"layer": "conv", "operation": "conv_fprop", "seconds": 1e-3, "share": 0.5, "peers": ratios}
    lines = [row | {"layer": f"conv{i}"} for i in range(count)] + [{"layer": "fc", "wrong": "all of it"}]
    return {"net": "n", "batch": 1, "precision": "fp32", "machine": {"device": "cpu:0"}, "rows": lines}


@pytest.mark.parametrize("count", [1, 130])
def test_a_picture_shows_every_row(tmp_path: Path, count: int) -> None:
    pytest.importorskip("matplotlib")
    from cconvnet.bench.charts import kernel_bars

    kernel_bars(_result(count, {"cudnn best": 1.25, "cudnn strict": 0.5}), tmp_path / "bars.svg")
    # Matplotlib names each text that it draws.
    texts = re.findall("<!-- (.*) -->", (tmp_path / "bars.svg").read_text())
    assert [text for text in texts if "fprop" in text] == [f"conv{i} fprop" for i in range(count)]
    assert texts.count("1.25") == count
    assert "cudnn strict" in texts
    assert not any("fc" in text for text in texts)


def test_a_picture_without_peers_and_without_rows(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from cconvnet.bench.charts import kernel_bars

    kernel_bars(_result(3, {}), tmp_path / "bars.svg")
    assert "share of the limit" in (tmp_path / "bars.svg").read_text()
    with pytest.raises(PlotError, match="nothing to draw"):
        kernel_bars(_result(0, {}), tmp_path / "bars.svg")
