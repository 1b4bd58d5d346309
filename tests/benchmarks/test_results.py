"""The tables of docs/performance.md are exactly those that the result files give."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def _load() -> ModuleType:
    path = ROOT / "benchmarks" / "results.py"
    spec = importlib.util.spec_from_file_location("cconvnet_results", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["cconvnet_results"] = module
    spec.loader.exec_module(module)
    return module


results = _load()

MACHINE = {
    "date": "2026-11-20",
    "commit": "abc1234",
    "command": "cconvnet bench --net alexnet",
    "device": "cpu:0",
    "chip": "Some CPU",
    "cores": 2,
    "versions": {"cconvnet": "0.1.0", "torch": "2.13.0"},
}


def result(what: str, rows: list[dict[str, Any]], machine: dict[str, Any] | None = None, **rest: Any) -> Any:
    value = {"what": what, "net": "alexnet", "batch": 128, "precision": "fp32", "rows": rows}
    return {**value, "machine": MACHINE | (machine or {}), **rest}


def timed(seconds: float) -> dict[str, Any]:
    return {"seconds": seconds, "seconds_min": seconds / 2, "seconds_max": 3 * seconds, "calls": 5}


def kernel(layer: str, operation: str, seconds: float, products: bool = True, **ratios: float) -> Any:
    peers = {name: timed(ratio * seconds) | {"ratio": ratio, "kernel": "k"} for name, ratio in ratios.items()}
    rates = {"flops_per_second": 2.5e12, "bytes_per_second": 3.456e9, "share": 0.345, "kernel": "onednn"}
    return {
        "layer": layer,
        "operation": operation,
        "products": products,
        **timed(seconds),
        **rates,
        "peers": peers,
    }


KERNELS = result(
    "kernels",
    [
        kernel("conv1", "conv_fprop", 0.0123, pytorch=1.5),
        kernel("conv2", "conv_dgrad", 0.5, pytorch=0.75),
        kernel("pool1", "maxpool_forward", 2e-5, products=False, pytorch=4.0),
        {"layer": "fc6", "operation": "fc_wgrad", "products": True, "wrong": "dw[3] is 1, not 2"},
    ],
    summary={
        "products": {"pytorch": {"ratio": 1.06, "rows": 2}},
        "others": {"pytorch": {"ratio": 4.0, "rows": 1}},
    },
    peers={"pytorch": {"version": "2.13"}, "cudnn": {"missing": "pip install nvidia-cudnn-frontend"}},
)
STEP = result(
    "step",
    [
        {"side": "cconvnet", "form": "", "images_per_second": 86.51, "peak_rss_bytes": 2**31, **timed(1.48)},
        {
            "side": "PyTorch",
            "form": "channels_last",
            "images_per_second": 41.9,
            "peak_rss_bytes": 2**32,
            "times_as_fast": 2.064,
            "times_the_memory": 0.5,
            **timed(3.05),
        },
    ],
    peers={"pytorch": {"environment": {"MALLOC_TRIM_THRESHOLD_": "1"}}},
)


def as_results(*values: Any) -> list[Any]:
    return [results.Result("some.json", value) for value in values]


def filled(mark: str, *values: Any) -> str:
    """Return the text between a mark and its end."""
    text = f"before\n<!-- results: {mark} -->\nold\n<!-- end -->\nbehind\n"
    new = results.fill(text, as_results(*values))
    head, tail = f"before\n<!-- results: {mark} -->\n\n", "\n\n<!-- end -->\nbehind\n"
    assert new.startswith(head) and new.endswith(tail)
    assert results.fill(new, as_results(*values)) == new, "made twice is made once"
    return str(new[len(head) : -len(tail)])


def test_the_page_is_what_its_results_say() -> None:
    page = results.PAGE.read_text(encoding="utf-8")
    found = results.load(results.FOLDER)
    assert results.fill(page, found) == page, "run `make results`"
    assert len(results.regions(page)) >= 8
    for region, _, _ in results.regions(page):
        if region.net and results.newest(region, found):
            for _, begin, _ in results.PICTURES[region.what]:
                assert (results.PAGE.parent / region.picture(begin)).exists(), "run `make results`"


def test_every_result_says_where_and_when_it_was_measured() -> None:
    for found in results.load(results.FOLDER):
        assert "+" not in found.machine["commit"], f"{found.file} was measured on changed files"
        assert found.value["rows"]


def test_kernels_of_a_network() -> None:
    text = filled("kernels alexnet cpu", KERNELS)
    lines = text.splitlines()
    assert lines[0].endswith("| share of the limit | times as fast as pytorch |")
    assert lines[2] == "| conv1 | conv_fprop | `onednn` | 12.3 ms | 6.15 ms | 2,500 | 3.46 | 34% | 1.50 |"
    assert lines[4] == "| pool1 | maxpool_forward | `onednn` | 20.0 µs | 10.0 µs |  | 3.46 | 34% | 4.00 |"
    assert lines[5] == "| fc6 | fc_wgrad | wrong: dw[3] is 1, not 2 |  |  |  |  |  |  |"
    assert lines[6] == "| geometric mean | sums of products |  |  |  |  |  |  | 1.06 |"
    assert len({line.count("|") for line in lines[:8]}) == 1, "a row has too many cells"
    assert "![Times of each kernel beside its peers'](images/kernels-alexnet-cpu.png)" in lines
    assert lines[-2] == (
        "Some CPU, 2 cores; fp32; cconvnet 0.1.0, torch 2.13.0; 2026-11-20, commit abc1234; "
        "not installed there: cudnn:"
    )
    assert lines[-1] == "`cconvnet bench --net alexnet` ([some.json](../benchmarks/results/some.json))"


def test_kernels_of_all_networks() -> None:
    other = copy.deepcopy(KERNELS) | {"net": "vgg16", "batch": 8}
    text = filled("kernels cpu", KERNELS, other)
    assert (
        "| alexnet | 128 | pytorch | 1.06 | 4.00 | conv2 conv_dgrad 0.75 | pool1 maxpool_forward 4.00 |"
        in text
    )
    assert "| vgg16 | 8 | pytorch |" in text
    assert "images/" not in text and text.count("Some CPU") == 1


def test_steps() -> None:
    lines = filled("step alexnet cpu", STEP).splitlines()
    assert lines[2] == "| cconvnet | 86.5 | 1.48 s | 740 ms | 4.44 s | 2,147 MB |  |  |"
    assert lines[3] == "| PyTorch channels_last | 41.9 | 3.05 s | 1.52 s | 9.15 s | 4,295 MB | 2.06 | 0.50 |"
    assert "pytorch ran with `MALLOC_TRIM_THRESHOLD_=1`." in lines


def test_rooflines_show_where_most_time_is_lost() -> None:
    rows = [
        {"layer": f"conv{i}", "operation": "conv_fprop", "seconds": i * 1e-3, "floor_seconds": 0.5e-3}
        for i in range(1, 13)
    ]
    rows.append({"layer": "fc6", "operation": "fc_fprop", "wrong": "y[0] is NaN"})
    value = result("roofline", rows, step={"seconds": 0.08, "floor_seconds": 6e-3})
    lines = filled("roofline alexnet cpu", value).splitlines()
    assert lines[2] == "| conv12 | conv_fprop | 12.0 ms | 500 µs | 4% | 11.5 ms |"
    assert lines[11].startswith("| conv3 |")
    assert lines[12] == "| all kernels |  | 78.0 ms | 6.00 ms | 8% | 72.0 ms |"
    assert lines[13] == "| whole step |  | 80.0 ms | 6.00 ms | 8% | 74.0 ms |"
    assert "images/roofline-alexnet-cpu.png" in lines[15] and "images/step-stack-alexnet-cpu.png" in lines[17]


def test_data() -> None:
    def row(side: str, stage: str, rate: float, **rest: Any) -> dict[str, Any]:
        rates = {
            "images_per_second": rate,
            "images_per_second_min": rate / 2,
            "images_per_second_max": 2 * rate,
        }
        return {"side": side, "stage": stage, **rates, **rest}

    value = result(
        "data",
        [
            row("cconvnet", "crops", 1400.0, share=0.07, read_bytes_per_second=1.5e8),
            row("cconvnet", "step", 100.0, share=0.99),
            row("PyTorch", "crops", 700.0, workers=2),
        ],
        limit={"stage": "step", "text": "computing limits: 100 images/s"},
        ratios={"crops": 2.0, "load": 2.5},
    )
    lines = filled("data alexnet cpu", value).splitlines()
    assert "| crops | 1,400 | 700 | 2,800 | 150.0 |" in lines[2] and "| 7% |" in lines[2]
    assert "| PyTorch crops | 700 |" in lines[4] and "with 2 workers" in lines[4]
    assert "- computing limits: 100 images/s" in lines
    assert any("2.00 times as many crops" in line for line in lines)
    assert any("images/data-alexnet-cpu.png" in line for line in lines)


def test_scaling() -> None:
    row = {"series": "batch", "batch": 1, "size": 256, "seconds": 0.02, "images_per_second": 50.0}
    value = result(
        "scaling",
        [row | {"memory_bytes": 1, "peak_rss_bytes": 2**30}],
        memory_key="peak_rss_bytes",
        left_out=[{"series": "batch", "batch": 512, "why": "no time is left"}],
        fits={
            "batch": {
                "over": [1, 256],
                "seconds": {"exponent": 0.987, "fixed": 0.005, "per_image": 0.0125},
                "memory_bytes": {"exponent": 0.5, "fixed": 3e8, "per_image": 2e6},
            },
            "size": None,
        },
    )
    lines = filled("scaling alexnet cpu", value).splitlines()
    assert lines[2] == "| batch | 1 | 256 | 20.0 ms | 50.0 | 1,074 MB |"
    assert lines[4].startswith("- time ~ batch^0.99, memory ~ batch^0.50 over 1 to 256")
    assert lines[5].startswith(
        "- a step takes 5.00 ms and 12.500 ms for each image; the network 300.0 MB and 2.000 MB"
    )
    assert lines[6] == "- batch 512 is left out: no time is left"


EXCHANGE = {
    "what": "exchange",
    "precision": "fp32",
    "device": "cpu:0",
    "ranks": 2,
    "hosts": ["a", "b"],
    "cores": [1, 2],
    "machine": MACHINE | {"mpi": "MPICH 5"},
    "rows": [
        {
            "algorithm": name,
            "bytes": 2**20,
            "bus_bytes_per_second": 2**20 / seconds,
            "times_mpi": seconds / 1e-3,
            "noisy": False,
            **timed(seconds),
        }
        for name, seconds in (("tree", 1.5e-3), ("MPI", 1e-3))
    ],
}


def test_exchanges_have_no_network() -> None:
    lines = filled("exchange cpu", EXCHANGE, STEP).splitlines()
    assert lines[0] == "| gradients | tree | MPI |"
    assert lines[2] == "| 1 MiB | 1.50 ms, 0.699 GB/s, 1.50x | 1.00 ms, 1.05 GB/s |"
    assert "- 2 ranks on 2 hosts, cores of each: 1 to 2; cpu:0: Some CPU; MPICH 5" in lines
    assert not any("images/" in line for line in lines)


def test_predictions_are_named_so() -> None:
    rows = [
        {"link": "NVLink", "source": "assumed", "scaling": scaling, "ranks": ranks, "batch": 128 // ranks}
        | {"sent_bytes": 1e8 * (ranks - 1), "efficiency": 1 / ranks, "efficiency_overlapped": 1.5 / ranks}
        for scaling in ("weak", "strong")
        for ranks in (1, 2)
    ]
    value = result(
        "ranks",
        rows,
        links=[{"name": "NVLink", "source": "assumed"}],
        steps=[{"batch": 128, "seconds": 2.0}],
        wire="fp32",
        exchange="auto",
        parallel="data",
        device="cpu:0",
        formula=["T = t + E"],
        assumptions=["ranks are alike"],
    )
    lines = filled("ranks alexnet cpu batch=128", value).splitlines()
    assert lines[:2] == ["| link | scaling | 2 ranks |", "| --- | --- | --: |"]
    assert lines[2:4] == [
        "| NVLink (assumed) | weak | 50 to 75% |",
        "| NVLink (assumed) | strong | 50 to 75% |",
    ]
    assert lines[4] == "| MB sent by a rank | weak | 100.0 |"
    assert any(line.startswith("- predicted efficiency") for line in lines)
    assert {"- formula: T = t + E", "- assumed: ranks are alike"} <= set(lines)
    assert "![Predicted efficiency of several ranks](images/ranks-alexnet-cpu-batch128.png)" in lines


def test_what_was_never_measured_is_marked_so() -> None:
    for mark in ("kernels alexnet cuda", "kernels cuda", "step alexnet cuda", "scaling alexnet cuda"):
        assert filled(mark, KERNELS, STEP) == "GPU: not yet measured."
    assert filled("roofline alexnet cpu", KERNELS) == "CPU: not yet measured."
    assert filled("exchange cpu", STEP) == "CPU: not yet measured."
    assert filled("step vgg16 cpu", STEP) == "CPU: not yet measured."
    assert filled("step alexnet cpu precision=bf16", STEP) == "CPU: not yet measured."
    assert filled("step alexnet cpu batch=64", STEP) == "CPU: not yet measured."


def test_the_newest_result_that_fits_is_taken(tmp_path: Path) -> None:
    def write(name: str, value: Any) -> None:
        (tmp_path / name).write_text(json.dumps(value))

    def dated(date: str, command: str, **rest: Any) -> Any:
        return result("step", STEP["rows"], {"date": date, "command": command}) | rest

    write("a.json", dated("2026-11-20", "newest"))
    write("b.json", dated("2026-11-19", "older"))
    write("c.json", {"results": [dated("2026-11-21", "bf16", precision="bf16"), KERNELS]})
    write("other.json", {"what": "something else", "results": []})
    found = results.load(tmp_path)
    assert [r.value["machine"]["command"] for r in found] == ["older", "newest", MACHINE["command"], "bf16"]
    chosen = results.newest(results.parse("step alexnet cpu"), found)
    assert (chosen.machine["command"], chosen.file) == ("newest", "a.json")
    chosen = results.newest(results.parse("step alexnet cpu batch=128 precision=bf16"), found)
    assert chosen.machine["command"] == "bf16"


@pytest.mark.parametrize("key", ["what", "net", "rows", "machine.date", "machine.commit", "machine.versions"])
def test_a_result_that_lacks_something_is_refused(tmp_path: Path, key: str) -> None:
    value = copy.deepcopy(STEP)
    holder = value["machine"] if "." in key else value
    del holder[key.split(".")[-1]]
    (tmp_path / "some.json").write_text(json.dumps(value))
    if key == "what":  # then it is no result of ours
        assert results.load(tmp_path) == []
        return
    with pytest.raises(ValueError, match=rf"some\.json: a result lacks {key}"):
        results.load(tmp_path)


@pytest.mark.parametrize("mark", ["alexnet cpu", "step", "step alexnet cpu size=3", "speed alexnet cpu"])
def test_a_mark_that_names_nothing_is_refused(mark: str) -> None:
    with pytest.raises(ValueError, match="a mark must be like <!-- results: step alexnet cpu"):
        filled(mark)


def test_a_mark_without_end_is_refused() -> None:
    for text in (
        "<!-- results: step alexnet cpu -->\n",
        "<!-- results: kernels cpu -->\n" * 2 + "<!-- end -->",
    ):
        with pytest.raises(ValueError, match="has no <!-- end -->"):
            results.fill(text, [])
    assert results.fill("<!-- end -->", []) == "<!-- end -->"


def test_make_results_writes_tables_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = []
    pictures = SimpleNamespace(step_bars=lambda value, path: drawn.append((value["what"], path)))
    monkeypatch.setitem(sys.modules, "cconvnet.bench.charts", pictures)
    import cconvnet.bench

    monkeypatch.setattr(cconvnet.bench, "charts", pictures, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    page, folder = tmp_path / "performance.md", tmp_path / "results"
    folder.mkdir()
    (folder / "step.json").write_text(json.dumps(STEP))
    marks = ["step alexnet cpu", "step alexnet cuda", "step cpu"]
    page.write_text("".join(f"<!-- results: {mark} -->\n<!-- end -->\n" for mark in marks))
    arguments = ["--page", str(page), "--results", str(folder)]
    assert results.main([*arguments, "--check"]) == 1 and not drawn
    assert results.main(arguments) == 0
    assert drawn == [("step", tmp_path / "images" / "step-alexnet-cpu.png")]
    assert results.main([*arguments, "--check"]) == 0
    assert "GPU: not yet measured." in page.read_text()
    assert "run `make results`" in capsys.readouterr().out
