"""Lists and comparisons of runs, from the files of complete, stopped, killed and damaged ones."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import commands

from cconvnet import runs
from cconvnet.console import Silent
from cconvnet.errors import CheckpointError
from cconvnet.runs import Run, RunError, comparison, overview
from cconvnet.runs.overview import overviews, read_overview
from cconvnet.training.options import Options
from cconvnet.training.session import train
from cconvnet.training.stopping import TrainingStopped


def trained(out: Path, **options: Any) -> Path:
    where = {"resume" if out.exists() else "out": out}
    train(Options(**{"devices": ["cpu:0"], "epochs": 2, **where, **options}), Silent(io.StringIO()))
    return out


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of two epochs, which no test may change."""
    return trained(tmp_path_factory.mktemp("runs") / "digits")


def made(path: Path, digits: Path, errors: list[float], **settings: Any) -> Path:
    """Make the files of a run without training: settings of `digits` but for some, and these test errors."""
    path.mkdir(parents=True)
    config = runs.read_config(digits)
    config["settings"] |= {"epochs": len(errors), **settings}
    (path / "config.json").write_text(json.dumps(config))
    lines = []
    for epoch, error in enumerate(errors, 1):
        step = {"step": 10 * epoch, "epoch": float(epoch), "loss": 1 / epoch, "train_error_top1": error / 2}
        lines.append({**step, "lr": 0.1, "images_per_second": 1000.0 * epoch})
        test = {"test_loss": error, "test_error_top1": error, "test_error_top5": 0.0}
        lines.append({"step": 10 * epoch, "epoch": epoch, "train_loss": 1.0, "train_error_top1": 0.1, **test})
    (path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


# ---- states ----------------------------------------------------------------------------------------------


def test_a_complete_run(digits: Path) -> None:
    run = read_overview(digits)
    summary = json.loads((digits / "summary.json").read_text())
    assert (run.state, run.reason) == ("complete", None)
    assert (run.net, run.data, run.device, run.precision) == ("lenet", "digits", "cpu:0", "fp32")
    assert (run.epochs, run.of_epochs, run.steps) == (2, 2, 44)
    assert run.best_error == summary["best"]["test_error_top1"]
    assert run.best_epoch == summary["best"]["epoch"]
    assert run.last_error == summary["test_error_top1"]
    assert run.seconds == summary["seconds"]
    assert run.images_per_second is not None
    assert run.images_per_second > 0


def test_a_stopped_run_that_goes_on(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", steps=10)
    assert read_overview(run).state == "stopped"
    assert (read_overview(run).epochs, read_overview(run).best_error) == (0, None)
    trained(run)
    assert read_overview(run).state == "complete"


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped):
        trained(tmp_path / "run", lr=1e12)
    run = read_overview(tmp_path / "run")
    assert run.state == "failed"
    assert run.reason is not None
    assert run.reason.startswith("the loss is ")


def start(out: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cconvnet", "train", "--quiet", "--device", "cpu:0"]
    where = ["--resume", str(out)] if out.exists() else ["--out", str(out)]
    return subprocess.Popen([*command, *where, "--epochs", "100000", *arguments])


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("resumed", [False, True])
def test_a_killed_run(tmp_path: Path, resumed: bool) -> None:
    """Also a run that was stopped before and has a summary."""
    out = tmp_path / "run"
    if resumed:
        trained(out, steps=3)
        assert read_overview(out).state == "stopped"
    process = start(out)
    try:
        wait_for(lambda: out.exists() and read_overview(out).state == "training")
        wait_for(lambda: (read_overview(out).steps or 0) > 20)
        with pytest.raises(RunError, match="another process is training"):
            Run.open(out)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=200)
    assert read_overview(out).state == "killed"
    assert (read_overview(out).steps or 0) > 20


def test_a_terminated_run_is_stopped(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(out)
    wait_for(lambda: (out / "log.jsonl").exists() and len(runs.read_log(out)) > 1)
    process.terminate()
    assert process.wait(timeout=200) == 0
    assert read_overview(out).state == "stopped"


def test_looking_does_not_keep_a_run_from_being_trained(digits: Path) -> None:
    assert not runs.in_use(digits)
    with Run.open(digits):
        assert runs.in_use(digits)
        assert runs.in_use(digits)  # and it does not take the lock away
    assert not runs.in_use(digits)


def test_the_lock_is_of_a_kind_that_other_machines_see(digits: Path) -> None:
    """Over a network only locks of files that are open for writing are seen (flock(2))."""
    import fcntl

    with Run.open(digits) as run:
        assert stat.S_ISREG(os.fstat(run._lock).st_mode)
        assert fcntl.fcntl(run._lock, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR


def test_who_looks_is_waited_for(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    descriptor = os.open(digits / "lock", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    monkeypatch.setattr("cconvnet.runs.folder.time.sleep", lambda seconds: os.close(descriptor))
    Run.open(digits).close()


def test_a_run_of_before_states_were_written(digits: Path, tmp_path: Path) -> None:
    run = made(tmp_path / "run", digits, [0.5])
    assert read_overview(run).state == "killed"
    (run / "summary.json").write_text(json.dumps({"complete": True, "steps": 10, "seconds": 7.0}))
    assert (read_overview(run).state, read_overview(run).seconds) == ("complete", 7.0)
    (run / "summary.json").write_text(json.dumps({"complete": False, "steps": 5, "seconds": 7.0}))
    assert read_overview(run).state == "stopped"


def test_seconds_without_a_summary_come_from_the_log(digits: Path, tmp_path: Path) -> None:
    run = read_overview(made(tmp_path / "run", digits, [0.5, 0.4], batch=100))
    assert run.seconds == pytest.approx(10 * 100 / 1000 + 10 * 100 / 2000)
    assert run.images_per_second == 1500


def test_a_run_too_short_for_a_line_of_its_log_has_its_mean_speed(digits: Path, tmp_path: Path) -> None:
    run = made(tmp_path / "run", digits, [])
    summary = {"complete": True, "steps": 5, "seconds": 7.0, "images_per_second": 90.0}
    (run / "summary.json").write_text(json.dumps(summary))
    assert read_overview(run).images_per_second == 90


# ---- damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b""),
        ("config.json", b"[]"),
        ("config.json", b'{"settings": 5}'),
        ("config.json", b'{"settings": {}}'),
        ("config.json", b"\xff\xfe{"),
        ("log.jsonl", b"5\n"),
        ("log.jsonl", b'{"loss": 1.0}\n'),
        ("log.jsonl", b'{"step": 1, "epoch": 1, "test_loss": null, "test_error_top1": null}\n'),
        ("summary.json", b"{"),
        ("summary.json", b"[]"),
        ("summary.json", b"{}"),
        ("summary.json", b'{"steps": "many", "complete": true}'),
        ("state.json", b'{"state": "asleep"}'),
        ("state.json", b"\x00"),
        ("state.json", b'"training"'),
    ],
)
def test_a_damaged_run_is_listed(digits: Path, tmp_path: Path, file: str, content: bytes) -> None:
    run = made(tmp_path / "run", digits, [0.5])
    (run / file).write_bytes(content)
    (found,) = overviews(tmp_path)
    assert found.path == run
    if content == b"{}":  # an empty summary is as good as none
        assert found.state == "killed"
        return
    assert found.state == "damaged"
    assert found.reason


def test_a_log_cut_short_is_no_damage(digits: Path, tmp_path: Path) -> None:
    run = made(tmp_path / "run", digits, [0.5, 0.4])
    text = (run / "log.jsonl").read_text()
    (run / "log.jsonl").write_text(text[:-10])
    assert (read_overview(run).state, read_overview(run).epochs) == ("killed", 1)


def test_a_part_of_a_long_log_tells_the_same(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(tmp_path / "run", digits, [0.5, 0.2, *[0.4] * 100])
    log_file = run / "log.jsonl"
    log_file.write_text(
        re.sub(r'"images_per_second": [\d.]+', '"images_per_second": 1000.0', log_file.read_text())
    )
    whole = read_overview(run)
    with log_file.open("a") as log:
        log.write('{"step": 2000, "epoch": 102, "checkpoint": "step-00002000.safetensors"}\n{"step": 2')
    third = log_file.stat().st_size // 3
    monkeypatch.setattr(overview, "_MOST_OF_LOG", third)
    assert len(runs.read_log(run, third)) < 160 < len(runs.read_log(run))
    part = read_overview(run)
    assert (part.epochs, part.best_error, part.best_epoch, part.last_error) == (102, 0.2, 2, 0.4)
    assert (whole.steps, part.steps) == (1020, 2000)
    assert part.seconds == pytest.approx(whole.seconds, rel=0.1)
    assert part.images_per_second == pytest.approx(whole.images_per_second, rel=0.1)


def test_what_is_no_run_is_not_listed(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "a.txt").write_text("")
    assert overviews(tmp_path) == []
    (tmp_path / "gone" / "checkpoints").mkdir(parents=True)
    (found,) = overviews(tmp_path)
    assert (found.path.name, found.state) == ("gone", "damaged")
    assert [run.path for run in overviews(digits)] == [digits]
    with pytest.raises(RunError, match="there is no folder"):
        overviews(tmp_path / "nowhere")


# ---- order -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("when", ["b", "c", "a"]),
        ("name", ["a", "b", "c"]),
        ("error", ["c", "a", "b"]),
        ("speed", ["c", "a", "b"]),
        ("net", ["b", "c", "a"]),
        ("state", ["b", "c", "a"]),
    ],
)
def test_order(digits: Path, tmp_path: Path, sort: str, order: list[str]) -> None:
    made(tmp_path / "a", digits, [0.3, 0.4], net="lenet")
    made(tmp_path / "b", digits, [], net="alexnet")
    made(tmp_path / "c", digits, [0.5, 0.4, 0.2], net="lenet")
    for name, when in (("a", 1000), ("b", 3000), ("c", 2000)):
        os.utime(tmp_path / name / "log.jsonl", (when, when))
    assert set(overview.SORTS) == {"when", "name", "error", "speed", "net", "state"}
    assert [run.path.name for run in overviews(tmp_path, sort)] == order


# ---- comparison ------------------------------------------------------------------------------------------


def test_compare_shows_what_differs(digits: Path, tmp_path: Path) -> None:
    one = made(tmp_path / "one", digits, [0.5, 0.4, 0.2], lr=0.1)
    other = made(tmp_path / "other", digits, [0.4, 0.3], lr=0.2, batch=32)
    found = comparison.compare([one, other])
    assert found["runs"] == [str(one), str(other)]
    assert found["settings"] == {"batch": [64, 32], "epochs": [3, 2], "lr": [0.1, 0.2]}
    assert found["networks"] == [[]]
    results = found["results"]
    assert results["best_error"] == [0.2, 0.3]
    assert results["best_epoch"] == [3, 2]
    assert results["test_loss"] == [0.2, 0.3]
    assert results["parameters"] == [131080, 131080]
    assert found["better"] == {"run": str(other), "epoch": 1, "of_epochs": 2}


@pytest.mark.parametrize(
    ("errors", "better"),
    [
        ([[0.5, 0.2, 0.3, 0.2], [0.4, 0.3, 0.2, 0.3]], ("0", 4)),
        ([[0.5, 0.2, 0.2, 0.2], [0.4, 0.3, 0.3, 0.3]], ("0", 2)),
        ([[0.5, 0.2, 0.2], [0.4, 0.2, 0.3]], ("0", 3)),
        ([[0.5, 0.2], [0.4, 0.2]], None),
        ([[0.5], []], None),
        ([[0.5, 0.4, 0.3], [0.6, 0.3, 0.1], [0.4, 0.35, 0.2]], ("1", 2)),
    ],
)
def test_who_is_better_for_good(
    digits: Path, tmp_path: Path, errors: list[list[float]], better: tuple[str, int] | None
) -> None:
    paths = [made(tmp_path / str(index), digits, values) for index, values in enumerate(errors)]
    found = comparison.compare(paths)
    if better is None:
        assert found["better"] is None
        assert comparison.verdict(found).startswith("no run is better")
    else:
        assert (Path(found["better"]["run"]).name, found["better"]["epoch"]) == better
        assert comparison.verdict(found).startswith(f"{better[0]} is better ")


def test_compare_shows_how_networks_differ(digits: Path, tmp_path: Path) -> None:
    other = made(tmp_path / "other", digits, [0.5])
    config = runs.read_config(other)
    config["spec"]["layers"][0]["filters"] += 1
    (other / "config.json").write_text(json.dumps(config))
    (rows,) = comparison.compare([digits, other])["networks"]
    assert [row[:2] for row in rows] == [["conv1", "filters"]]
    titles = [title for title, _, _ in comparison.tables(comparison.compare([digits, other]))]
    assert titles == ["", "settings", "networks"]


def test_runs_of_one_name_are_told_apart(digits: Path, tmp_path: Path) -> None:
    paths = [made(tmp_path / folder / "run", digits, [error]) for folder, error in (("a", 0.5), ("b", 0.4))]
    found = comparison.compare(paths)
    assert comparison.tables(found)[0][1] == ["", *map(str, paths)]
    assert str(paths[1]) in comparison.verdict(found)


def test_what_cannot_be_compared(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="two runs or more"):
        comparison.compare([digits])
    with pytest.raises(RunError, match="is not a run"):
        comparison.compare([digits, tmp_path])
    broken = made(tmp_path / "broken", digits, [0.5])
    (broken / "log.jsonl").write_text("5\n")
    with pytest.raises(RunError, match="broken"):
        comparison.compare([digits, broken])
    with pytest.raises((RunError, CheckpointError)):
        comparison.compare([digits, tmp_path / "nowhere"])


# ---- the commands ----------------------------------------------------------------------------------------


def test_the_table_of_runs(digits: Path, tmp_path: Path) -> None:
    made(tmp_path / "good", digits, [0.5, 0.25])
    (made(tmp_path / "bad", digits, []) / "config.json").write_text("{")
    done = commands.run("runs", tmp_path, "--sort", "error")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line
    ]
    assert rows[0][:6] == ["good", "lenet", "digits", "2/2", "25.00%", "2"]
    assert (rows[1][0], rows[1][9]) == ("bad", "damaged")
    assert "bad damaged: " in done.stdout
    values = json.loads(commands.run("runs", tmp_path, "--sort", "error", "--json", "-").stdout)
    assert [(run["name"], run["state"], run["best_error"]) for run in values] == [
        ("good", "killed", 0.25),
        ("bad", "damaged", None),
    ]


def test_refused(digits: Path, tmp_path: Path) -> None:
    done = commands.run("runs", tmp_path, "--sort", "eror")
    assert (done.returncode, "did you mean 'error'?" in done.stderr) == (2, True)
    done = commands.run("runs", tmp_path / "no")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: there is no folder {tmp_path / 'no'}")
    assert commands.run("runs", tmp_path).stdout == f"no runs in {tmp_path}\n"
    done = commands.run("compare", digits)
    assert (done.returncode, done.stderr) == (2, "error: two runs or more are compared\n")


def test_the_tables_of_a_comparison(digits: Path, tmp_path: Path) -> None:
    one, other = made(tmp_path / "one", digits, [0.5], lr=0.25), made(tmp_path / "other", digits, [0.4])
    done = commands.run("compare", one, other)
    assert (done.returncode, done.stderr) == (0, "")
    assert "best test error" in done.stdout
    assert "0.25" in done.stdout
    assert done.stdout.endswith("other is better at epoch 1, the last that all have tested\n")
    assert json.loads(commands.run("compare", one, other, "--json", "-").stdout) == comparison.compare(
        [one, other]
    )


@pytest.mark.parametrize(
    "end", ["", "\n", '\n{"step": 12, "epo', '\n{"step": 12, "epo\n{"step": 13, "epoch": 2}\n']
)
def test_a_log_goes_back_to_a_step(tmp_path: Path, end: str) -> None:
    """The log's last line is cut short in any way; the other lines stay as they were."""
    run = Run.create(tmp_path / "run", {"settings": {}})
    run.close()
    lines = [
        '{"step": 10, "epoch": 1, "loss": 2.50}',
        '{"step": 10, "epoch": 1, "test_loss": 2.0}',
        '{"step": 10, "epoch": 2, "test_loss": 2.0}',
        '{"step": 12, "epoch": 2, "loss": 1.5}',
        '{"step": 11, "epoch": 2, "loss": 1.5}',
    ]
    log = tmp_path / "run" / "log.jsonl"
    log.write_text("\n".join(lines) + end)
    with Run.open(tmp_path / "run") as run:
        run.rewind_log(11, 1)
    assert log.read_text().splitlines() == [lines[0], lines[1], lines[4]] and log.read_text().endswith("\n")
