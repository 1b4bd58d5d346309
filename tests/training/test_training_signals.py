"""Signals stop a training and save it; kills lose nothing."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import pty
import random
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from helpers.training import FLAGS, assert_same_run, colored_pictures, resume, run_training, start, wait_for

from cconvnet import runs
from cconvnet.runs import checkpoint
from cconvnet.runs.checkpoint import Folder

# Small data is decoded once and kept; this decodes it whenever it is read, as large data is.
_STREAMING = """
import sys
from cconvnet import cli
from cconvnet.data import sources
sources.open_source.__kwdefaults__["cache_bytes"] = 0
sys.argv[0] = "cconvnet"
cli.main()
"""


# Runs the command while a timer's signal comes ten thousand times a second.
_SIGNALS = """
import signal, sys
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
from cconvnet import cli
sys.argv[0] = "cconvnet"
try:
    cli.main()
finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 0), (signal.SIGHUP, 0)]
)
def test_signals_save_and_say_how_to_go_on(number: int, code: int, tmp_path: Path) -> None:
    out = tmp_path / "a run"  # a blank, which the command it prints must quote
    process = start(*FLAGS, "--epochs", "1000", "--out", str(out))
    wait_for(lambda: len(runs.read_log(out)) > 3, process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (code, "")
    assert output.endswith(f"to resume: cconvnet train --resume '{out}'\n")
    step = json.loads((out / "summary.json").read_text())["steps"]
    assert step > 0
    resumed = start("--resume", str(out), "--steps", str(step + 10), "--device", "cpu:0", "--log-every", "4")
    _, errors = resumed.communicate(timeout=60)
    assert (resumed.returncode, errors) == (0, "")
    run_training(out=tmp_path / "whole", epochs=1000, steps=step + 10)
    assert_same_run(tmp_path / "whole", out)


def test_asking_again_and_again_changes_nothing(tmp_path: Path) -> None:
    """SIGTERM comes every few milliseconds, until the process has ended."""
    out = tmp_path / "run"
    process = start(*FLAGS, "--epochs", "1000", "--out", str(out), "--checkpoint-every", "1")
    wait_for(lambda: len(runs.read_log(out)) > 9, process)
    asked = 0
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        asked += 1
        time.sleep(0.003)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "") and asked > 3
    assert "to resume: cconvnet train --resume" in output
    step = json.loads((out / "summary.json").read_text())["steps"]
    assert runs.find_checkpoint(out)[1].step == step


def test_nohup_is_heard(tmp_path: Path) -> None:
    out = tmp_path / "run"
    ignoring = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); from cconvnet import cli; cli.main()"
    )
    process = start(*FLAGS, "--steps", "40", "--out", str(out), "--log-every", "1", program=ignoring)
    wait_for(out.exists, process)
    while process.poll() is None:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.003)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert json.loads((out / "summary.json").read_text())["steps"] == 40


def test_a_closed_terminal_stops_and_saves(tmp_path: Path) -> None:
    """As when a connection breaks, the process loses its terminal, and writing to it fails."""
    out = tmp_path / "run"
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "cconvnet", "train", *FLAGS, "--epochs", "1000", "--out", str(out)],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    wait_for(lambda: len(runs.read_log(out)) > 3, process)
    os.close(ours)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert json.loads((out / "state.json").read_text())["state"] == "stopped"
    step = json.loads((out / "summary.json").read_text())["steps"]
    assert runs.find_checkpoint(out)[1].step == step > 0


def _gone_reader() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize(
    "listener",
    [_gone_reader, lambda: os.open("/dev/full", os.O_WRONLY)],
    ids=["a reader that has gone", "a file on a full disk"],
)
def test_training_goes_on_where_nobody_listens(listener: Callable[[], int], tmp_path: Path) -> None:
    out, descriptor = tmp_path / "run", listener()
    command = [sys.executable, "-m", "cconvnet", "train", *FLAGS, "--steps", "8", "--out", str(out)]
    process = subprocess.run(command, stdout=descriptor, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(descriptor)
    assert (process.returncode, process.stderr) == (0, "")
    assert json.loads((out / "summary.json").read_text())["steps"] == 8


def test_training_without_standard_output(tmp_path: Path) -> None:
    command = f"{sys.executable} -m cconvnet train {' '.join(FLAGS)} --steps 8 --out {tmp_path}/run >&-"
    process = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, timeout=60)
    assert (process.returncode, process.stderr) == (0, "")
    assert json.loads((tmp_path / "run/summary.json").read_text())["steps"] == 8


def test_signals_write_over_nothing(tmp_path: Path) -> None:
    """Signal handlers keep their own stack, as oneDNN's products keep the stack pointer in the heap."""
    process = start(*FLAGS, "--steps", "300", "--out", str(tmp_path / "run"), program=_SIGNALS)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    run_training(out=tmp_path / "whole", steps=300)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


# Stands for a mean image of many pictures.
_SLOW_BEGINNING = """
import sys, time
from cconvnet import cli
from cconvnet.training import start
def slow(*arguments, **more):
    print("gathering", flush=True)
    time.sleep(60)
start.gather = slow
sys.argv[0] = "cconvnet"
cli.main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 0)])
def test_signals_before_the_first_step(number: int, code: int, unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW_BEGINNING, "train", *FLAGS, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while process.stdout.readline() != "gathering\n":
        assert process.poll() is None
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (code, "")
    if number == signal.SIGTERM:
        assert output == f"stopped before the first step; to resume: cconvnet train --resume {out}\n"
    resume(out)
    assert_same_run(unbroken, out)


def test_stopped_while_a_checkpoint_is_written(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, save, stopped = tmp_path / "run", Folder.save, threading.Event()

    def interrupted(folder: Folder, content: checkpoint.Checkpoint, best_step: int | None = None) -> Path:
        if content.step == 20:
            os.kill(os.getpid(), signal.SIGTERM)
            stopped.wait(0.2)  # by then training has found out
        return save(folder, content, best_step)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "save", interrupted)
        outcome = run_training(out=out, checkpoint_every=20)
    assert outcome.signal == signal.SIGTERM
    steps = [checkpoint.load(file).step for file in Folder(out / "checkpoints").files()]
    assert steps == [20, outcome.summary["steps"]]
    assert not list(out.rglob(".*"))
    resume(out)
    assert_same_run(unbroken, out)


def _changed_at(file: Path) -> int:
    return file.stat().st_mtime_ns if file.exists() else 0


def _changed(file: Path, before: int) -> bool:
    return _changed_at(file) != before


@dataclasses.dataclass
class Kills:
    """Numbers of processes that were killed, and of those among them that were writing a file."""

    all: int = 0
    writing: int = 0


def kill_until_done(flags: list[str], out: Path, times: int, seed: int) -> Kills:
    """Repeat one command until the training is done, and kill `times` of its processes at random."""
    chance, kills = random.Random(seed), Kills()
    while True:
        again = ["--out", str(out), "--resume", "auto", "--checkpoint-every", "1"]
        process = start(*flags, *again, program=_STREAMING)
        if kills.all < times:
            # From the moment the run's folder is touched, saving, logging and testing are all in reach.
            log = out / "log.jsonl"
            before = _changed_at(log)
            wait_for(partial(_changed, log, before), process)
            time.sleep(chance.uniform(0.0, 0.15))
            process.kill()
        _, errors = process.communicate(timeout=120)
        if process.returncode == 0:
            return kills
        assert process.returncode == -signal.SIGKILL, errors
        kills.all += 1
        kills.writing += bool(list(out.rglob(".*.partial")))


@dataclasses.dataclass
class Victim:
    """A training to be killed: its flags, and the folder of the same training without kills."""

    flags: list[str]
    whole: Path


@pytest.fixture(params=["digits", "pictures", "shards", "normalised"], scope="module")
def victim(
    request: pytest.FixtureRequest, unbroken: Path, tmp_path_factory: pytest.TempPathFactory
) -> Victim:
    """Digits in memory, images, shards of raw pixels, or images for a network with running statistics.

    Two processes decode the images and shards, which are cropped, mirrored and get colour noise.
    """
    if request.param == "digits":
        return Victim(FLAGS, unbroken)
    folder = tmp_path_factory.mktemp("victim")
    where = colored_pictures(folder / "pictures", count=96, side=36)
    if request.param == "shards":
        where = folder / "shards"
        command = ["data", "prepare", str(folder / "pictures"), str(where), "--size", "32"]
        subprocess.run([sys.executable, "-m", "cconvnet", *command, "--raw"], check=True, timeout=200)
    net = "resnet20" if request.param == "normalised" else "cifar-13pct"
    flags = ["--net", net, "--data", str(where), "--size", "32", "--workers", "2"]
    flags += ["--batch", "16", "--epochs", "4", "--color-noise", "0.1", "--seed", "3", "--device", "cpu:0"]
    flags += ["--log-every", "2", "--lr", "0.001"]
    done = start(*flags, "--out", str(folder / "whole"), program=_STREAMING)
    _, errors = done.communicate(timeout=120)
    assert done.returncode == 0, errors
    return Victim(flags, folder / "whole")


def test_kills_lose_nothing(victim: Victim, tmp_path: Path) -> None:
    kills = kill_until_done(victim.flags, tmp_path / "run", times=5, seed=1)
    assert kills.all == 5
    assert_same_run(victim.whole, tmp_path / "run")


@pytest.mark.long
def test_two_hundred_kills_lose_nothing(victim: Victim, tmp_path: Path) -> None:
    """67 kills of each kind of training, more than 200 in all, in rounds that each train to the end."""
    kills = Kills()
    for seed, times in enumerate([14, 14, 13, 13, 13]):
        found = kill_until_done(victim.flags, tmp_path / f"run-{seed}", times=times, seed=seed)
        assert_same_run(victim.whole, tmp_path / f"run-{seed}")
        kills.all += found.all
        kills.writing += found.writing
    print(f"{kills.all} kills, {kills.writing} of them in the middle of a file")
    assert kills.all == 67
    assert kills.writing > 0  # or they never met what is hardest
