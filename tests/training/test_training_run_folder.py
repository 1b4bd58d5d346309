"""The folder of a run: refused folders and settings, and the record of machine and software."""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.commands import Listener
from helpers.training import resume, run_training

from cconvnet import runs
from cconvnet.devices import Device, machine
from cconvnet.errors import CheckpointError
from cconvnet.runs import Run, RunError
from cconvnet.runs.checkpoint import Folder
from cconvnet.training.trainer import Outcome


def test_a_run_is_not_written_over(unbroken: Path) -> None:
    with pytest.raises(RunError, match=f"contains a run already; resume it with --resume {unbroken}"):
        run_training(out=unbroken)


def test_runs_that_begin_in_the_same_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "cconvnet.runs.folder.time", SimpleNamespace(strftime=lambda form: "now", time=time.time)
    )
    assert [str(runs.new_folder("lenet", "digits")) for _ in range(3)] == [
        "runs/lenet-digits-now",
        "runs/lenet-digits-now-2",
        "runs/lenet-digits-now-3",
    ]
    assert run_training(steps=1).path == Path("runs/lenet-digits-now-4")


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="is not empty"):
        run_training(out=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_two_processes_cannot_train_one_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_training(out=out, steps=1)
    with Run.open(out), pytest.raises(RunError, match="another process is training in"):
        resume(out)
    resume(out, steps=2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch": 16}, "--batch 16 differs from the run's, 32"),
        ({"seed": 6}, "--seed 6 differs from the run's, 5"),
        ({"size": 16}, "--size 16 differs from the run's, None"),
        ({"net": "cifar-quick"}, "is of another network"),
        ({"net": "lenett"}, "did you mean 'lenet'"),
        ({"out": Path("elsewhere")}, "leave out --out elsewhere"),
    ],
)
def test_a_resumed_run_keeps_its_settings(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_training(out=out, steps=1)
    before = (out / "config.json").read_bytes()
    with pytest.raises(ValueError, match=words):
        resume(out, **change)
    assert (out / "config.json").read_bytes() == before
    resume(out, steps=2)  # nothing is left locked


def test_a_run_says_with_what_it_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record has the first software, and others with their steps; a resume drops what it undoes."""
    out, describe = tmp_path / "run", machine.describe

    def go_on(numpy: str, **options: Any) -> dict[str, str]:
        def described(device: Device, clocks: bool) -> dict[str, Any]:
            found = describe(device, clocks)
            return {**found, "commit": "abc", "versions": {**found["versions"], "numpy": numpy}}

        monkeypatch.setattr(machine, "describe", described)
        begun = out.exists()
        resume(keep=9, **options) if begun else run_training(out=out, **options)
        return runs.surroundings(runs.read_config(out))

    found = go_on("1.0", steps=10)
    assert (found["commit"], found["version of numpy"]) == ("abc", "1.0")
    assert found["version of python"] == platform.python_version()
    assert "oneDNN" in found["module"]
    assert found["host"] == platform.node()
    command = runs.read_config(out)["command"]
    monkeypatch.setattr(sys, "argv", ["cconvnet", "train", "--resume", "run"])
    assert go_on("1.0", path=out, steps=20) == found
    assert go_on("2.0", path=out, steps=30)["version of numpy"] == "1.0, from step 20 on 2.0"
    assert go_on("2.0", path=out, steps=31)["version of numpy"] == "1.0, from step 20 on 2.0"
    changed = go_on("1.0", path=out, steps=32)
    assert changed["version of numpy"] == "1.0, from step 20 on 2.0, from step 31 on 1.0"
    assert (
        go_on("3.0", path=Folder(out / "checkpoints").file(10), steps=15)["version of numpy"]
        == "1.0, from step 10 on 3.0"
    )
    assert changed | {"version of numpy": "1.0"} == found
    assert runs.read_config(out)["command"] == command


def test_the_first_tensor_of_another_network_is_named(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_training(out=out, steps=1)
    with pytest.raises(CheckpointError, match=r"conv1\.weight is 20x5x5x1 there and 32x5x5x1 here"):
        resume(out, net="cifar-quick")


def test_other_data_is_refused(tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "test"):
        for name in "01":
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(folder / "a.png")
    out = tmp_path / "run"
    run_training(out=out, steps=1)
    with pytest.raises(RunError, match=r"is not what .* was trained on: classes 0, 1 here, 0, 1, 2"):
        resume(out, data=str(tmp_path / "pictures"))


def test_the_recipes_batch_is_lowered_to_the_data(tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "test"):
        for name in ("dark", "light"):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for index in range(5):
                Image.new("RGB", (12, 12), (index * 9 + (200 if name == "light" else 0),) * 3).save(
                    folder / f"{index}.png"
                )
    listener = Listener()
    outcome = run_training(
        listener, data=str(tmp_path / "pictures"), out=tmp_path / "run", batch=None, epochs=20
    )
    assert "batch: 10, all training images, instead of lenet's 64" in listener.lines
    assert outcome.summary["test_error_top1"] == 0.0
    with pytest.raises(ValueError, match=r"--batch 11 is larger than the 10 training images"):
        run_training(data=str(tmp_path / "pictures"), out=tmp_path / "run2", batch=11)
    assert not (tmp_path / "run2").exists()


@pytest.mark.parametrize(
    ("classes", "shown"),
    [(6, "test error 50.00%, top 5 25.00%, 9 images/s"), (5, "test error 50.00%, 9 images/s")],
)
def test_the_last_line_has_a_top5_error_if_more_than_five_classes_make_one(classes: int, shown: str) -> None:
    errors = {"test_error_top1": 0.5, "test_error_top5": 0.25}
    summary = {
        **errors,
        "images_per_second": 9,
        "device": "cpu:0",
        "steps": 2,
        "seconds": 1,
        "complete": True,
    }
    assert Outcome(Path("r"), summary, classes).lines("")[0].startswith(shown)
