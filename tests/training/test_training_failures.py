"""Values that are not finite, disks that fail and processes that die stop a training and cost nothing."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.training import FLAGS, assert_same_run, colored_pictures, resume, run_training, start

from cconvnet import data
from cconvnet.data.workers import DecodePool
from cconvnet.layers import ConvLayer
from cconvnet.network import Network
from cconvnet.network.step import Runner
from cconvnet.runs import Run, checkpoint
from cconvnet.runs.checkpoint import Folder
from cconvnet.training.saver import Saver, Snapshot
from cconvnet.training.stopping import TrainingStopped


def test_nan_is_not_trained_on(tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped) as caught, np.errstate(all="ignore"):
        run_training(out=tmp_path / "run", lr=1e30)
    text = str(caught.value)
    assert "the loss is nan at step" in text or "the loss is inf at step" in text
    assert "not finite: conv" in text
    assert "The last good checkpoint is " in text
    for file in Folder(tmp_path / "run" / "checkpoints").files():
        assert all(np.isfinite(tensor).all() for tensor in checkpoint.load(file).tensors.values())


def test_detecting_anomalies_trains_the_same_and_finds_them_sooner(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gradient of step 30 is not a number; without the option the next step's loss shows it."""
    run_training(out=tmp_path / "same", detect_anomaly=True)
    assert_same_run(unbroken, tmp_path / "same")
    backward = ConvLayer.backward
    step = -1

    def planted(layer: ConvLayer, updates: Any = None) -> None:
        backward(layer, updates)
        if layer.name == "conv2" and step == 30:
            weight = layer.pieces[0]
            weight.gradient[2, 1, 0, 3] = np.nan
            if updates is not None:
                updates.apply(weight)

    begin = Runner.begin

    def noting(runner: Runner, train: bool, number: int) -> None:
        nonlocal step
        step = number if train else -1
        begin(runner, train, number)

    monkeypatch.setattr(Runner, "begin", noting)
    monkeypatch.setattr(ConvLayer, "backward", planted)
    with pytest.raises(TrainingStopped) as caught:
        run_training(out=tmp_path / "late")
    text = str(caught.value)
    assert "the loss is nan at step 31 (epoch 1); first not finite: conv2, forward pass, conv2.weight" in text
    assert "An earlier step made it: with --detect-anomaly it would be found there." in text
    with pytest.raises(TrainingStopped) as caught:
        resume(tmp_path / "late", detect_anomaly=True)
    text = str(caught.value)
    assert "stopped at step 30 (epoch 1); first not finite: conv2, backward pass, the gradient of " in text
    assert "conv2.weight: 1 of 25,000 values, the first nan at [2, 1, 0, 3]" in text
    assert "The last good checkpoint is " in text
    monkeypatch.setattr(ConvLayer, "backward", backward)
    resume(tmp_path / "late")
    assert_same_run(unbroken, tmp_path / "late")


def test_weights_that_broke_in_the_last_step_are_found_by_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_step = Network.train_step

    def breaking(network: Network, step: int, *arguments: Any) -> None:
        train_step(network, step, *arguments)
        if step == 44:
            network.parameters["fc1.bias"].pieces[0].value[7] = np.nan

    monkeypatch.setattr(Network, "train_step", breaking)
    with pytest.raises(TrainingStopped, match=r"the test's loss is nan after step 45 .*fc1\.bias"):
        run_training(out=tmp_path / "run")
    assert all("NaN" not in line for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines())


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    get = Snapshot.__getitem__

    def poisoned(snapshot: Snapshot, name: str) -> np.ndarray[Any, Any]:
        tensor = get(snapshot, name)
        if name == "fc1.weight" and (tmp_path / "run/checkpoints/step-00000000.safetensors").exists():
            tensor[3, 4] = np.inf
        return tensor

    monkeypatch.setattr(Snapshot, "__getitem__", poisoned)
    with pytest.raises(
        TrainingStopped, match=r"fc1\.weight contains values that are not finite after step 45"
    ):
        run_training(out=tmp_path / "run")
    assert [file.name for file in (tmp_path / "run" / "checkpoints").iterdir()] == [
        "step-00000000.safetensors"
    ]


def test_full_disk_stops_and_says_what_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    write = os.write

    def fail(descriptor: int, piece: bytes) -> int:
        if Folder(out / "checkpoints").file(20).exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, piece)

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(TrainingStopped) as caught:
        run_training(out=out, checkpoint_every=10)
    monkeypatch.undo()
    text = str(caught.value)
    assert "cannot write" in text
    assert "step-00000030.safetensors: No space left on device" in text
    assert f"The last good checkpoint is {Folder(out / 'checkpoints').file(20)}" in text
    assert f"cconvnet train --resume {out}" in text
    assert not list(out.rglob(".*"))


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("number", [1, 2, 3, 5, 8, 13, 21])
def test_a_failing_disk_costs_nothing_that_was_saved(
    call: str, number: int, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From some call on the disk fails, for any file."""
    out, do, calls = tmp_path / "run", getattr(os, call), itertools.count(1)

    def fail(*arguments: Any) -> Any:
        if next(calls) >= number:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return do(*arguments)

    monkeypatch.setattr(os, call, fail)
    with pytest.raises((TrainingStopped, OSError), match="Input/output error") as caught:
        run_training(out=out, checkpoint_every=10)
    assert str(out) in str(caught.value)
    monkeypatch.undo()
    assert not list(out.rglob(".*"))
    run_training(out=out, resume=Path("auto"))
    assert_same_run(unbroken, out)


def stopped_by_the_disk(out: Path, words: str, **changes: Any) -> str:
    with pytest.raises(TrainingStopped, match=words) as caught:
        run_training(out=out, checkpoint_every=10, **changes)
    assert not list(out.rglob(".*"))
    return str(caught.value)


def test_a_log_that_cannot_be_written(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rewind = tmp_path / "run", Run.rewind_log

    def full(run: Run, *arguments: Any) -> int:
        dropped = rewind(run, *arguments)
        run._log.close()
        run._log = Path("/dev/full").open("a")  # noqa: SIM115
        return dropped

    with monkeypatch.context() as patch:
        patch.setattr(Run, "rewind_log", full)
        text = stopped_by_the_disk(out, "cannot write /dev/full: No space left on device")
    assert "The last good checkpoint is " in text
    resume(out)
    assert_same_run(unbroken, out)


def test_a_summary_that_cannot_be_written(unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_training(out=out, steps=10)
    (out / "summary.json").unlink()
    (out / "summary.json").mkdir()
    process = start("--resume", str(out), "--device", "cpu:0", "--log-every", "4")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith(f"error: cannot write {out / 'summary.json'}: Is a directory. The last good")
    assert "Traceback" not in errors
    (out / "summary.json").rmdir()
    resume(out)
    assert_same_run(unbroken, out)


@pytest.fixture
def written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training waits for each checkpoint, so that a test knows which files there are."""
    begin = Saver.begin

    def begin_and_wait(saver: Saver, *arguments: Any) -> None:
        begin(saver, *arguments)
        saver.settle()

    monkeypatch.setattr(Saver, "begin", begin_and_wait)


def at_step(number: int, do: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call a function before a step."""
    train_step = Network.train_step

    def stepping(network: Network, step: int, *arguments: Any) -> None:
        if step == number:
            do()
        train_step(network, step, *arguments)

    monkeypatch.setattr(Network, "train_step", stepping)


@pytest.mark.usefixtures("written_at_once")
@pytest.mark.parametrize(("failing", "steps"), [(0, 1), (20, 21), (90, 90)])
def test_a_disk_that_fails_stops_training_at_the_next_step(
    failing: int, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or at the end, if there is no next step."""
    save, train_step, done = Folder.save, Network.train_step, []

    def fail(folder: Folder, content: checkpoint.Checkpoint, best_step: int | None = None) -> Path:
        if content.step == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO), "a file")
        return save(folder, content, best_step)

    def noting(network: Network, step: int, *arguments: Any) -> None:
        train_step(network, step, *arguments)
        done.append(step)

    monkeypatch.setattr(Folder, "save", fail)
    monkeypatch.setattr(Network, "train_step", noting)
    with pytest.raises(TrainingStopped, match="cannot write a file: Input/output error"):
        run_training(out=tmp_path / "run", checkpoint_every=20)
    assert done == list(range(steps))
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.usefixtures("written_at_once")
def test_a_folder_that_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    at_step(35, partial(shutil.rmtree, out), monkeypatch)
    text = stopped_by_the_disk(out, r"cannot write .*step-00000040\.safetensors: No such file or directory")
    assert text.endswith(f"The run's folder {out} is gone")
    assert not out.exists()


@pytest.mark.usefixtures("written_at_once")
@pytest.mark.parametrize("small_disk", ["20m"], indirect=True)
def test_a_folder_that_becomes_read_only(
    small_disk: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = small_disk / "run"
    folder = out / "checkpoints"

    def protect() -> None:
        subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True, timeout=200)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True, timeout=200)

    at_step(35, protect, monkeypatch)
    try:
        text = stopped_by_the_disk(out, r"step-00000040\.safetensors: Read-only file system")
        assert f"The last good checkpoint is {folder / 'step-00000030.safetensors'}" in text
        assert [checkpoint.load(file).step for file in Folder(folder).files()] == [20, 30]
    finally:
        subprocess.run(["umount", str(folder)], check=True, timeout=200)
    monkeypatch.undo()
    resume(out)
    assert_same_run(unbroken, out)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True, timeout=200)
    process = start(*FLAGS, "--out", str(small_disk / "other"))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == f"error: {small_disk / 'other'}: Read-only file system\n"


def test_a_worker_that_dies_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the worker and the last checkpoint; the resumed run ends like one without a death."""
    settings = {"data": str(colored_pictures(tmp_path / "data", 96, 36)), "size": 32, "net": "cifar-13pct"}
    settings |= {"batch": 8, "epochs": 2, "workers": 2, "checkpoint_every": 3, "lr": 0.001}
    # Small data is decoded once and kept; now it is decoded whenever it is read, as large data is.
    monkeypatch.setitem(data.open_source.__kwdefaults__, "cache_bytes", 0)
    run_training(out=tmp_path / "whole", **settings)
    pools: list[DecodePool] = []
    make = DecodePool.__init__

    def noting(pool: DecodePool, *arguments: Any) -> None:
        make(pool, *arguments)
        pools.append(pool)

    def kill() -> None:
        for pool in pools:
            for pid in pool.pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(DecodePool, "__init__", noting)
        at_step(8, kill, patch)
        with pytest.raises(TrainingStopped) as caught:
            run_training(out=tmp_path / "run", **settings)
    assert re.search(r"decoding worker \d .*was killed by SIGKILL", str(caught.value))
    standing = Folder(tmp_path / "run" / "checkpoints").files()[-1]
    assert f"The last good checkpoint is {standing}; to resume from it: cconvnet" in str(caught.value)
    resume(tmp_path / "run", workers=2)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


# Room for two checkpoints of lenet, not for three.
@pytest.mark.parametrize("small_disk", ["3m"], indirect=True)
def test_a_truly_full_disk(small_disk: Path, unbroken: Path) -> None:
    out = small_disk / "run"
    process = start(*FLAGS, "--out", str(out), "--checkpoint-every", "10")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith("error: cannot write ")
    assert "No space left on device (1.1 MB needed, " in errors
    assert "Traceback" not in errors
    kept = Folder(out / "checkpoints").files()
    assert [checkpoint.load(file).step for file in kept] == [0, 10]
    assert not list(out.rglob(".*"))
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True, timeout=200)
    resume(out)
    assert_same_run(unbroken, out)
