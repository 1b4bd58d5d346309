"""A training that is stopped or killed is resumed to the same bits."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.commands import Listener
from helpers.training import (
    assert_same_run,
    colored_pictures,
    fake_tests,
    resume,
    run_training,
    steps_in_log,
    tensors_of,
)

from cconvnet import data, nets, runs
from cconvnet.data.color_noise import color_components
from cconvnet.errors import CheckpointError
from cconvnet.formats import cuda_convnet_writer
from cconvnet.nets import alexnet, alexnet_2012
from cconvnet.network import Network
from cconvnet.runs import Run, RunError, checkpoint
from cconvnet.runs.checkpoint import COLORS, Folder
from cconvnet.system.outputs import side_file
from cconvnet.training.log import Log
from cconvnet.training.options import Options
from cconvnet.training.settings import Settings
from cconvnet.training.start import begin, go_back
from cconvnet.training.stopping import TrainingStopped
from cconvnet.training.trainer import Trainer


@pytest.mark.parametrize("stop", [1, 44, 45, 46, 89])
def test_stop_and_resume(stop: int, unbroken: Path, tmp_path: Path) -> None:
    """Also at an epoch's last step, which a test and a checkpoint follow."""
    out = tmp_path / "run"
    assert run_training(out=out, steps=stop).summary["steps"] == stop
    assert not json.loads((out / "summary.json").read_text())["complete"]
    resume(out)
    assert_same_run(unbroken, out)


def test_stop_many_times(unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_training(out=out, steps=7)
    for steps in (20, 21, 50, 88):
        resume(out, steps=steps)
    resume(out)
    assert_same_run(unbroken, out)


def test_resume_from_an_earlier_checkpoint(unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_training(out=out, steps=60, checkpoint_every=10)
    first, last = Folder(out / "checkpoints").files()[-2:]
    assert (first.name, last.name) == ("step-00000050.safetensors", "step-00000060.safetensors")
    resume(first, steps=55)
    # What came after the checkpoint gone back to is of no use any more.
    assert Folder(out / "checkpoints").files()[-1].name == "step-00000055.safetensors"
    resume(out)
    assert_same_run(unbroken, out)


def killed_before_its_first_checkpoint(path: Path, patch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Resume a run and kill it after some steps."""

    def killed(log: Log, *arguments: Any) -> None:
        raise KeyboardInterrupt

    with patch.context() as until, pytest.raises(KeyboardInterrupt):
        until.setattr(Log, "write_window", killed)
        resume(path, **changes)


def test_what_was_asked_for_once_outlives_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, changes = tmp_path / "run", {"lr": 0.01, "epochs": 3}
    run_training(out=tmp_path / "whole", steps=20)
    resume(tmp_path / "whole", **changes)
    run_training(out=out, steps=20)
    killed_before_its_first_checkpoint(out, monkeypatch, **changes)
    resume(out)
    assert_same_run(tmp_path / "whole", out)


def test_a_course_that_was_left_is_not_gone_back_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, whole = tmp_path / "run", tmp_path / "whole"
    for path in (out, whole):
        run_training(out=path, steps=60, checkpoint_every=10)
    resume(Folder(whole / "checkpoints").file(50))
    killed_before_its_first_checkpoint(out / "checkpoints/step-00000050.safetensors", monkeypatch)
    assert Folder(out / "checkpoints").files()[-1].name == "step-00000050.safetensors"
    resume(out)
    assert_same_run(whole, out)


def test_a_finished_run_has_nothing_left(unbroken: Path) -> None:
    listener = Listener()
    resume(unbroken, listener)
    assert "nothing left to train: 90 of 90 steps are done" in listener.lines


def test_steps_that_are_done_are_not_exceeded(tmp_path: Path) -> None:
    """In the middle of an epoch a resumed run must not train a step more than it is asked for."""
    out, listener = tmp_path / "run", Listener()
    run_training(out=out, steps=7)
    resume(out, listener, steps=5)
    assert "nothing left to train: 7 of 5 steps are done" in listener.lines
    assert Folder(out / "checkpoints").files()[-1].name == "step-00000007.safetensors"


def test_more_epochs_go_on(tmp_path: Path) -> None:
    run_training(out=tmp_path / "long", epochs=3)
    run_training(out=tmp_path / "run", epochs=1)
    resume(tmp_path / "run", epochs=3)
    assert_same_run(tmp_path / "long", tmp_path / "run")


def test_stopped_in_a_test_and_killed_after_it(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The epoch's line is in the log but not in the checkpoint, and must not be written twice."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:

        def interrupted(network: Network, batches: Any, stopped: Any, world: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr("cconvnet.training.trainer.evaluate", interrupted)
        assert run_training(out=out).signal == signal.SIGTERM
    progress = runs.find_checkpoint(out)[1].progress
    assert (progress["step"], progress["epoch"], progress["step_in_epoch"]) == (45, 0, 45)
    with monkeypatch.context() as patch:

        def killed(folder: Folder, content: checkpoint.Checkpoint, best_step: int | None = None) -> Path:
            raise KeyboardInterrupt

        patch.setattr(Folder, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            resume(out)
    assert "test_loss" in runs.read_log(out)[-1]
    resume(out)
    assert_same_run(unbroken, out)


def test_a_test_after_the_checkpoint_is_saved_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the end of the epoch alone would not be worth a checkpoint."""
    monkeypatch.setattr("cconvnet.training.saver._TRAINING_PER_STALL", 1e9)
    out = tmp_path / "run"
    fake_tests(monkeypatch, [50])
    run_training(out=out, epochs=1)

    def interrupted(network: Network, batches: Any, stopped: Any, world: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("cconvnet.training.trainer.evaluate", interrupted)
    resume(out, epochs=2)
    assert runs.find_checkpoint(out)[1].progress["epoch"] == 1
    fake_tests(monkeypatch, [60])
    resume(out)
    progress = runs.find_checkpoint(out)[1].progress
    assert (progress["epoch"], progress["last_test"]["test_error_top1"]) == (2, 0.6)


def test_data_that_can_no_longer_be_read(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk fails: the error names the last checkpoint, and the run resumes once the disk works again."""
    out, finish = tmp_path / "run", data.Loader._finish
    read = 0

    def failing(loader: data.Loader, *begun: Any) -> Any:
        nonlocal read
        read += 1
        if read == 20:
            raise data.DataError("/data/train/ant/7.jpg cannot be read: Input/output error")
        return finish(loader, *begun)

    monkeypatch.setattr(data.Loader, "_finish", failing)
    with pytest.raises(TrainingStopped, match=r"7\.jpg cannot be read: Input") as caught:
        run_training(out=out, checkpoint_every=5)
    assert str(caught.value).endswith(f"to resume from it: cconvnet train --resume {out}")
    monkeypatch.undo()
    resume(out)
    assert_same_run(out, unbroken)


def test_killed_before_the_first_checkpoint(unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_training(out=out, steps=3)
    for file in Folder(out / "checkpoints").files():
        file.unlink()
    listener = Listener()
    resume(out, listener)
    assert any("from the beginning" in line for line in listener.lines)
    assert_same_run(unbroken, out)


def test_killed_before_the_configuration(tmp_path: Path) -> None:
    with Run.create(tmp_path / "killed", {"settings": {}}):
        pass
    for file in (tmp_path / "killed").rglob("*.json"):
        file.rename(side_file(file))
    (tmp_path / "killed" / "checkpoints").rmdir()
    assert run_training(out=tmp_path / "killed", steps=1).summary["steps"] == 1


def test_auto_begins_and_then_goes_on(unbroken: Path, tmp_path: Path) -> None:
    """One command, repeated as by a batch system."""
    out, listener = tmp_path / "run", Listener()
    again = {"out": out, "resume": Path("auto"), "checkpoint_every": 10}
    run_training(listener, steps=33, **again)
    assert f"{out} contains no run yet: a new one begins" in listener.lines
    newest = Folder(out / "checkpoints").files()[-1]
    newest.write_bytes(newest.read_bytes()[:-9])
    run_training(listener, **again)
    assert any(line.startswith("skipped: ") and newest.name in line for line in listener.lines)
    assert f"resuming {out} from step 30" in listener.lines
    assert_same_run(unbroken, out)
    run_training(listener, **again)
    assert "nothing left to train: 90 of 90 steps are done" in listener.lines


def test_auto_takes_a_network_from_files_each_time(tmp_path: Path) -> None:
    """From the second time on the run's own network is used."""
    files, out = (tmp_path / "layers.cfg", tmp_path / "layer-params.cfg"), tmp_path / "run"
    spec = nets.build("cifar-18pct", image_shape=(32, 32, 3), classes=3)
    cuda_convnet_writer.write(spec, *files, towers=1)
    pictures = str(colored_pictures(tmp_path / "pictures", 48, 32))
    settings = {"layer_def": files[0], "layer_params": files[1], "data": pictures}
    settings |= {"size": 32, "lr": 0.001, "batch": 8}
    for steps in (2, 4):
        run_training(out=out, resume=Path("auto"), steps=steps, **settings)
    assert runs.find_checkpoint(out)[1].step == 4


def test_auto_takes_the_newest_run_that_is_not_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=r"runs/ contains no run to resume; --resume RUN names one"):
        resume(Path("auto"))
    for name, settings in (("old", {"steps": 3}), ("new", {"steps": 5}), ("done", {"epochs": 1})):
        run_training(out=Path("runs") / name, **settings)
    (tmp_path / "runs" / "damaged").mkdir()
    (tmp_path / "runs" / "damaged" / "config.json").write_text("{")
    listener = Listener()
    resume(Path("auto"), listener)
    assert f"resuming {Path('runs/new')} from step 5" in listener.lines
    # Complete, until it was told to go on for longer and stopped on the way.
    resume(Path("runs/done"), epochs=2, steps=50)
    resume(Path("auto"), listener, steps=51)
    assert f"resuming {Path('runs/done')} from step 50" in listener.lines
    resume(Path("runs/done"))
    resume(Path("auto"), listener, steps=4)
    assert f"resuming {Path('runs/old')} from step 3" in listener.lines
    resume(Path("auto"))
    with pytest.raises(RunError, match="contains no run to resume"):
        resume(Path("auto"))


def test_as_many_checkpoints_stay_as_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_training(out=out, steps=30, checkpoint_every=5, keep=4)
    steps = [checkpoint.load(file).step for file in Folder(out / "checkpoints").files()]
    assert steps == [15, 20, 25, 30]
    with pytest.raises(ValueError, match="--keep must be at least 1, not 0"):
        resume(out, keep=0)


def test_a_damaged_checkpoint_is_skipped(unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_training(out=out, steps=30, checkpoint_every=10)
    newest = Folder(out / "checkpoints").files()[-1]
    damaged = bytearray(newest.read_bytes())
    damaged[-100] ^= 4
    newest.write_bytes(damaged)
    listener = Listener()
    resume(out, listener)
    assert any(line.startswith("skipped: ") and newest.name in line for line in listener.lines)
    assert any("from step 20" in line for line in listener.lines)
    assert_same_run(unbroken, out)


def test_a_named_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_training(out=out, steps=30, checkpoint_every=10)
    before, newest = Folder(out / "checkpoints").files()[-2:]
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"damaged.*the one before it is sound") as caught:
        resume(newest)
    assert str(before) in str(caught.value)


def test_no_sound_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_training(out=out, steps=1)
    for file in Folder(out / "checkpoints").files():
        file.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no sound checkpoint.*damaged"):
        resume(out)


def test_a_torn_line_of_the_log_is_dropped(unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_training(out=out, steps=41)
    with (out / "log.jsonl").open("a") as log:
        log.write('{"step": 44, "epoch": 0.97, "lo')
    resume(out)
    assert_same_run(unbroken, out)


def narrow(name: str, path: Path, devices: list[str]) -> Trainer:
    """Make a run of an AlexNet a sixteenth as wide, on the digits: a network with all kinds of randomness."""
    source = data.open_source(size=72)
    builder = {"alexnet": alexnet.build, "alexnet-2012": alexnet_2012.build}[name]
    spec = builder((72, 72, 1), 10, width=1 / 16)
    settings = Settings.chosen(Options(batch=4, epochs=1, seed=1, towers=len(devices)), spec, source)
    network = Network(spec, batch=4, devices=devices, seed=1)
    config = {"settings": dataclasses.asdict(settings), "spec": {}}
    return Trainer(Run.create(path, config), settings, network, source, Listener())


def narrow_steps(part: Trainer, last: int, options: Options) -> None:
    """Train without tests, which would take longer than the steps."""
    begin(part, options)
    with part.train_loader(options) as batches, part.test_loader(options) as tests:
        part.train_epoch(batches, tests, last, options)
    part.checkpoints.save()
    part.checkpoints.wait()


def test_colour_noise_may_be_turned_on_and_off_by_hand(tmp_path: Path) -> None:
    out, listener = tmp_path / "run", Listener()
    run_training(out=out, steps=10)
    assert COLORS not in tensors_of(out)
    resume(out, listener, steps=20, color_noise=0.5)
    assert "colour noise: 0.5 from here on" in listener.lines
    components = color_components(data.open_source().train)
    assert tensors_of(out)[COLORS].tobytes() == components.tobytes()
    resume(out, steps=30)
    resume(out, listener, color_noise=0.0)
    assert "colour noise: 0 from here on" in listener.lines
    # Another course than without: the noise was there.
    run_training(out=tmp_path / "plain", steps=20)
    noisy, plain = (steps_in_log(path)[:5] for path in (out, tmp_path / "plain"))
    assert [a["loss"] == b["loss"] for a, b in zip(noisy, plain, strict=True)] == [True] * 2 + [False] * 3


@pytest.mark.parametrize("name", ["alexnet", "alexnet-2012"])
def test_dropout_crops_and_colour_noise_go_on_too(name: str, tmp_path: Path) -> None:
    def states(stops: tuple[int, ...], path: Path) -> dict[str, np.ndarray[Any, Any]]:
        content = None
        for stop in stops:
            part = narrow(name, path / f"run-{stop}", ["cpu:0"])
            with part.run, part.saver:
                if content is not None:
                    go_back(part, content, Path())
                narrow_steps(part, stop, Options())
            _, content, _ = runs.find_checkpoint(path / f"run-{stop}")
        assert content is not None
        return content.tensors

    whole = states((6,), tmp_path / "whole")
    parts = states((2, 6), tmp_path / "parts")
    for key, tensor in whole.items():
        assert tensor.tobytes() == parts[key].tobytes(), key


def test_towers_log_what_they_copy(tmp_path: Path) -> None:
    """The 2012 network on two devices copies as much in a step as its description lists."""
    part = narrow("alexnet-2012", tmp_path / "run", ["cpu:0", "cpu:1"])
    with part.run, part.saver:
        narrow_steps(part, 6, Options(log_every=2))
    per_step = part.network.describe()["copied_bytes_per_step"]
    lines = steps_in_log(tmp_path / "run")
    assert [line["copied_bytes"] for line in lines] == [2 * per_step] * 3
    assert all(line["copy_seconds"] > 0 for line in lines)
    assert part.progress.copied_bytes == 6 * per_step > 0
