"""Predictions for several ranks: `cconvnet bench scaling --ranks`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import mpi
from helpers.commands import refuse, succeed

from cconvnet.bench import rank_scaling as bench
from cconvnet.bench.rank_scaling import BACKWARD, Link, constant, measured_link, predict
from cconvnet.devices import get_device
from cconvnet.formats.netfiles import resolve
from cconvnet.network.buckets import Exchanged
from cconvnet.ranks.world import World

CCONVNET = [sys.executable, "-P", "-m", "cconvnet"]


def close(value: float) -> Any:
    return pytest.approx(value, rel=1e-9)


# ---- the formula -----------------------------------------------------------------------------------------


def test_a_step_of_four_ranks() -> None:
    """Each sends three quarters: 75 MB of gradients and 15 of factors early, 150 MB of weights late."""
    moved = Exchanged(gradients=100_000_000, weights=200_000_000, factors=20_000_000, products=0)
    found = predict(0.06, 4, moved, 0.05, constant("", "given", 1e9))
    assert found["product_seconds"] == close(3 * 0.05 * 0.06)
    assert found["exchange_seconds"] == close(0.24)
    assert found["seconds"] == close(0.06 + 0.009 + 0.24)
    assert found["exchange_seconds_overlapped"] == close(0.15 + 0.09 - BACKWARD * 0.06)
    assert found["seconds_overlapped"] == close(0.06 + 0.009 + 0.20)


def test_a_short_exchange_disappears_behind_the_backward_pass() -> None:
    moved = Exchanged(gradients=100_000_000, weights=0, factors=0, products=0)
    found = predict(1.0, 2, moved, 0.0, constant("", "given", 1e9))
    assert (found["exchange_seconds"], found["exchange_seconds_overlapped"]) == (close(0.05), 0.0)


def test_layers_that_ranks_compute_together_wait_for_their_exchange() -> None:
    moved = Exchanged(gradients=100_000_000, weights=0, factors=0, products=0, columns=20_000_000)
    found = predict(1.0, 2, moved, 0.0, constant("", "given", 1e9))
    assert (found["exchange_seconds"], found["exchange_seconds_overlapped"]) == (close(0.06), close(0.01))


def test_one_rank_takes_its_own_time() -> None:
    found = predict(0.5, 1, Exchanged(10**9, 10**9, 10**9, 10**9), 0.3, constant("", "given", 1.0))
    assert found["seconds"] == found["seconds_overlapped"] == 0.5


@pytest.mark.parametrize(("ranks", "batch"), [(2, 128), (8, 128), (8, 16)])
def test_bytes_are_those_of_the_network(ranks: int, batch: int) -> None:
    """Of AlexNet the convolutions and all biases; per image the inputs of fc6 to fc8 and their outputs."""
    spec, _ = resolve("alexnet").build_sized(None)
    device = get_device("cpu:0")
    factors = ranks * batch * (9216 + 4096 + 4096 + 4096 + 4096 + 1000)
    for wire, size in (("fp32", 4), ("bf16", 2)):
        moved, share = bench.exchanged(spec, batch, ranks, device, "fp32", wire, "auto")
        assert moved.factors == 4 * factors
        assert moved.weights == pytest.approx(9.373e6, rel=1e-3)
        assert moved.gradients * 4 == moved.weights * size
        assert share == pytest.approx(58.6 / (3 * 714), rel=0.02)
    moved, share = bench.exchanged(spec, batch, ranks, device, "fp32", "fp32", "gradients")
    assert (moved.factors, share) == (0, 0.0)
    assert moved.weights == pytest.approx(4 * 60_965_224, rel=1e-3)
    moved, share = bench.exchanged(spec, batch, ranks, device, "fp32", "fp32", "auto", "hybrid")
    assert (moved.factors, share) == (0, 0.0)
    of_image = 2 * (9216 + 4096 + 4096) + 2 * (4096 + 4096 + 1000) // ranks
    assert moved.columns == 4 * ranks * batch * of_image
    assert moved.weights == pytest.approx(9.373e6, rel=1e-3)


# ---- links -----------------------------------------------------------------------------------------------


def measured(**more: Any) -> dict[str, Any]:
    rows = [
        {"algorithm": name, "bytes": size, "bus_bytes_per_second": rate * times}
        for size, rate in ((10**8, 4e9), (10**6, 2e9))
        for name, times in (("tree", 1), ("MPI", 10))
    ]
    return {"what": "exchange", "ranks": 4, "rows": rows, **more}


def test_a_measured_link_is_as_fast_as_its_exchanges_of_that_size() -> None:
    link = measured_link(measured())
    assert str(link) == "4 ranks (measured)"
    sent = 1.5e6  # of 1 MB, 2 (N-1)/N
    assert [link.rate(sent * times) for times in (1, 100, 1e-3, 1e6)] == [
        close(r) for r in (2e9, 4e9, 2e9, 4e9)
    ]
    assert link.rate(10 * sent) == close(3e9)


@pytest.mark.parametrize("bad", [{}, {"what": "step"}, measured(rows=[])])
def test_other_files_are_no_links(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="--link must be"):
        measured_link(bad)


# ---- the whole -------------------------------------------------------------------------------------------


def predicted(monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, Any]:
    """Return predictions for steps that take 1 ms for each image."""

    def rows(spec: Any, batches: list[int], *_: Any) -> list[dict[str, Any]]:
        return [{"batch": batch, "seconds": 1e-3 * batch} for batch in batches]

    monkeypatch.setattr(bench, "step_rows", rows)
    return bench.rank_scaling("lenet", world=World.alone(), devices=["cpu:0"], **options)


def rows_of(result: dict[str, Any], link: str, scaling: str) -> list[dict[str, Any]]:
    return [row for row in result["rows"] if (row["link"], row["scaling"]) == (link, scaling)]


def test_nothing_is_lost_on_a_link_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    result = predicted(monkeypatch, batch=48, link=1e12, exchange="gradients")
    for scaling, ranks in (("weak", [1, 2, 4, 8, 16, 32, 64]), ("strong", [1, 2, 4, 8, 16])):
        rows = rows_of(result, "1e+12 GB/s", scaling)
        assert [row["ranks"] for row in rows] == ranks, "48 images are shared out equally among 16"
        for row in rows:
            assert row["source"] == "given"
            assert (row["efficiency"], row["efficiency_overlapped"]) == (close(1.0), close(1.0))
            assert row["images_per_second"] == pytest.approx(1000 * row["ranks"])
            assert row["batch"] * (1 if scaling == "weak" else row["ranks"]) == 48


def test_efficiency_is_the_formula_s(monkeypatch: pytest.MonkeyPatch) -> None:
    result = predicted(monkeypatch, batch=8, link=0.01, exchange="gradients", wire="bf16")
    moved = {(row["scaling"], row["ranks"]): row for row in result["exchanged"]}
    for scaling, step in (("weak", 8e-3), ("strong", 4e-3)):
        row = next(row for row in rows_of(result, "0.01 GB/s", scaling) if row["ranks"] == 2)
        about = moved[scaling, 2]
        assert about["gradient_bytes"] * 2 == about["weight_bytes"]
        sent = (about["gradient_bytes"] + about["weight_bytes"]) / 2
        seconds = step + sent / 1e7
        assert (row["sent_bytes"], row["seconds"]) == (sent, close(seconds))
        whole = 8e-3 / seconds if scaling == "weak" else 8e-3 / (2 * seconds)
        assert row["efficiency"] == close(whole)


def test_assumed_links_are_named_so(monkeypatch: pytest.MonkeyPatch) -> None:
    result = predicted(monkeypatch, batch=8)
    assert {row["source"] for row in result["rows"]} == {"assumed"}
    header, lines = bench.table(result)
    assert header[2:] == [f"{ranks} ranks" for ranks in (2, 4, 8, 16, 32, 64)]
    links = [line for line in lines if line[0] != "MB sent by a rank"]
    assert [line[:2] for line in links][::2] == [[f"{name} (assumed)", "weak"] for name in bench.ASSUMED]
    assert all(line[0].endswith("(assumed)") for line in links)
    text = "\n".join(bench.verdict(result))
    assert text.startswith("predicted efficiency")
    assert all(line in text for line in (*bench.FORMULA, *bench.ASSUMPTIONS))


def test_a_range_is_of_both_kinds() -> None:
    row = {"efficiency": 0.523, "efficiency_overlapped": 0.871}
    assert bench._percent(row) == "52 to 87%"
    assert bench._percent(row | {"efficiency_overlapped": 0.5231}) == "52%"


def test_the_command_predicts_from_a_file(tmp_path: Path) -> None:
    link, file, picture = tmp_path / "exchange.json", tmp_path / "ranks.json", tmp_path / "ranks.png"
    link.write_text(json.dumps(measured()))
    text = succeed(
        *("bench", "scaling", "--ranks", "--net", "lenet", "--batch", 2, "--device", "cpu:0"),
        *("--seconds", 0.1, "--link", link, "--json", file, "--plot", picture),
    )
    assert "4 ranks (measured)" in text and "predicted efficiency" in text
    result = json.loads(file.read_text())
    assert (result["what"], result["net"], result["batch"]) == ("ranks", "lenet", 2)
    assert [row["batch"] for row in result["steps"]] == [1, 2]
    assert {"commit", "versions", "date"} <= set(result["machine"])
    assert result["formula"] == list(bench.FORMULA)
    assert {link["source"] for link in result["links"]} == {"measured", "assumed"}
    assert len(result["rows"]) == 5 * (7 + 2)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_bad_options_are_refused(tmp_path: Path) -> None:
    start = ("bench", "scaling")
    assert "--link cannot be given without --ranks" in refuse(*start, "--link", 1)
    assert "--sizes cannot be given with --ranks" in refuse(*start, "--ranks", "--sizes", "8")
    assert "--link must be above 0" in refuse(*start, "--ranks", "--link", 0)
    assert "nowhere.json: No such file" in refuse(*start, "--ranks", "--link", "nowhere.json", code=1)
    assert "--wire must be fp32 or bf16" in refuse(*start, "--ranks", "--wire", "fp8")
    (tmp_path / "bad.json").write_text("[1")
    assert "contains no JSON" in refuse(*start, "--ranks", "--link", tmp_path / "bad.json")


def test_ranks_measure_their_link(tmp_path: Path) -> None:
    file = tmp_path / "ranks.json"
    done = mpi.run(
        *(2, *CCONVNET, "bench", "scaling", "--ranks", "--net", "lenet", "--batch", "2"),
        *("--device", "cpu:0", "--seconds", "0.1", "--json", str(file)),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("MB sent by a rank") == 2  # one table, weak and strong
    result = json.loads(file.read_text())
    assert {row["algorithm"] for row in result["link"]["rows"]} == {"tree"}
    first = result["links"][0]
    assert (first["name"], first["source"]) == ("2 ranks", "measured")
    assert first["rates"] == [[row["bytes"], row["bus_bytes_per_second"]] for row in result["link"]["rows"]]


def test_a_link_between_sizes() -> None:
    assert Link("", "given", ((1.0, 1.0), (100.0, 3.0))).rate(10.0) == close(2.0)
