"""Ablations from their options to the folder of runs, and their continuation."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import Listener, refuse, succeed, succeed_here

from cconvnet import nets
from cconvnet.runs import RunError, find_checkpoint, read_config
from cconvnet.training import ablation
from cconvnet.training.ablation import AblationOutcome, ablate
from cconvnet.training.options import Options
from cconvnet.training.session import train
from cconvnet.training.stopping import TrainingStopped

WORDS = ["relu", "augmentation"]


def options(out: Path, **more: Any) -> Options:
    values = {"devices": ["cpu:0"], "epochs": 1, "batch": 128, "mirror": True, "freeze": ("fc2",)}
    return Options(**values | {"out": out} | more)


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete ablation of lenet on the digits. Do not change it."""
    out = tmp_path_factory.mktemp("ablation") / "of"
    assert ablate(options(out), WORDS, Listener()) == AblationOutcome(out)
    return out


@pytest.fixture
def copied(complete: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(complete, tmp_path / "copy"))


def settings(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_config(run)["settings"]
    return found


def last_tensors(run: Path) -> dict[str, bytes]:
    _, checkpoint, _ = find_checkpoint(run)
    return {name: tensor.tobytes() for name, tensor in checkpoint.tensors.items()}


def test_runs_differ_in_the_part_alone(complete: Path) -> None:
    full, tanh, plain = (complete / name for name in ("full", "tanh", "no-augmentation"))
    assert settings(tanh) | {"net": "lenet", "size": None} == settings(full)
    assert settings(plain) | {"net": "lenet", "size": None, "mirror": True} == settings(full)
    assert (settings(tanh)["mirror"], settings(plain)["mirror"]) == (True, False)
    kinds = [
        [layer["neuron"]["kind"] for layer in read_config(run)["spec"]["layers"] if layer.get("neuron")]
        for run in (full, tanh, plain)
    ]
    assert kinds == [["relu"], ["tanh"], ["relu"]]
    assert (complete / "ablation.md").read_text().count("\n| ") == 4
    for run in (full, tanh, plain):
        assert json.loads((run / "state.json").read_text())["state"] == "complete"


def test_the_same_call_repeats_nothing(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "train", lambda *_: pytest.fail("a complete run was trained"))
    table = (copied / "ablation.md").read_text()
    (copied / "ablation.md").unlink()
    listener = Listener()
    assert not ablate(options(copied), WORDS, listener).failed
    assert listener.lines[1::2] == [
        f"{copied / name} is complete" for name in ("full", "tanh", "no-augmentation")
    ]
    assert (copied / "ablation.md").read_text() == table


def test_an_ablation_that_was_stopped_goes_on_to_the_same_bits(
    complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "stopped"

    def stopping(own: Options, reporter: Any, stop: Any) -> Any:
        if own.out == out / "tanh":
            stop.signal = signal.SIGINT  # ends training after the first step
        return train(own, reporter, stop)

    with monkeypatch.context() as patch:
        patch.setattr(ablation, "train", stopping)
        assert ablate(options(out), WORDS, Listener()) == AblationOutcome(out, signal.SIGINT)
    assert json.loads((out / "tanh" / "state.json").read_text())["state"] == "stopped"
    assert not (out / "no-augmentation").exists() and not (out / "ablation.md").exists()
    listener = Listener()
    # The options are those that it began with.
    assert ablate(Options(out=out, devices=["cpu:0"]), WORDS, listener) == AblationOutcome(out)
    assert any(line.startswith(f"resuming {out / 'tanh'} from step 1") for line in listener.lines)
    for name in ("tanh", "no-augmentation"):
        assert last_tensors(out / name) == last_tensors(complete / name)


def test_a_run_that_fails_does_not_keep_others_from_running(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tanh", "no-augmentation"):
        shutil.rmtree(copied / name)

    def failing(own: Options, *more: Any) -> Any:
        if own.out == copied / "tanh":
            raise TrainingStopped("the loss is nan after step 3")
        return train(own, *more)

    monkeypatch.setattr(ablation, "train", failing)
    listener = Listener()
    assert ablate(options(copied), WORDS, listener).failed == ("tanh",)
    assert "tanh failed: the loss is nan after step 3" in listener.lines
    assert "no-augmentation" in (copied / "ablation.md").read_text()


def test_tanh_has_a_rate_of_its_own(copied: Path) -> None:
    shutil.rmtree(copied / "tanh")
    ablate(options(copied), ["relu"], Listener(), tanh_lr=0.01)
    assert (settings(copied / "full")["lr"], settings(copied / "tanh")["lr"]) == (0.02, 0.01)
    assert "Their rates are 0.02 and 0.01." in (copied / "ablation.md").read_text()
    with pytest.raises(RunError, match=r"^--tanh-lr 0.5 differs from the rate of .*tanh, 0.01$"):
        ablate(options(copied), ["relu"], Listener(), tanh_lr=0.5)
    with pytest.raises(ValueError, match=r"^--tanh-lr goes with --what relu$"):
        ablate(options(copied), ["augmentation"], Listener(), tanh_lr=0.5)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"epochs": 2}, r"--epochs differs from that of .*full"),
        ({"mirror": False}, r"--mirror differs from that of .*full"),
        ({"freeze": ("fc1",)}, r"--lr-scale differs from that of .*full"),
        ({"net": "lenet-5"}, r".*full trains lenet, not lenet-5"),
        ({"net": "cifar-quick"}, r".*full trains lenet, not cifar-quick"),
    ],
)
def test_other_options_than_those_that_it_began_with_are_refused(
    complete: Path, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(RunError, match=text):
        ablate(options(complete, **changes), WORDS, Listener())


def test_the_same_network_and_options_are_taken(complete: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "_write", lambda *_: None)
    for net in ("lenet", nets.build("lenet")):
        ablate(options(complete, net=net, workers=1), WORDS, Listener())


def test_refusals_leave_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^--what lrn: lenet has no LRN$"):
        ablate(options(tmp_path / "new"), ["relu", "lrn"], Listener())
    with pytest.raises(ValueError, match=r"^--what augmentation: lenet has no augmentation"):
        ablate(options(tmp_path / "new", mirror=None), ["augmentation"], Listener())
    with pytest.raises(ValueError, match=r"^--weights is not for ablations"):
        ablate(options(tmp_path / "new", weights=tmp_path), ["relu"], Listener())
    assert not (tmp_path / "new").exists()
    (tmp_path / "other.txt").touch()
    with pytest.raises(RunError, match="is not empty, and contains no ablation"):
        ablate(options(tmp_path), ["relu"], Listener())
    assert [path.name for path in tmp_path.iterdir()] == ["other.txt"]


def test_the_command(copied: Path) -> None:
    text = succeed("ablate", "--out", copied, "--what", "relu")
    assert text.splitlines()[0] == "full, 1 of 2"
    assert "reaches 25% training" in text and text.endswith(f"files: {copied}\n")
    file = copied / "found.json"
    assert succeed("ablate", "--out", copied, "--quiet", "--json", file) == ""
    assert [run["name"] for run in json.loads(file.read_text())["runs"]] == [
        "full",
        "tanh",
        "no-augmentation",
    ]
    assert "lenet has no dropout" in refuse("ablate", "--what", "dropout", "--out", copied)


def test_the_command_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = AblationOutcome(Path("my runs"), signal.SIGTERM)
    monkeypatch.setattr(ablation, "ablate", lambda *_: stopped)
    text = succeed_here("ablate", "--what", "relu", "--tanh-lr", "0.01")
    assert text == "stopped; to go on: cconvnet ablate --out 'my runs' --what relu --tanh-lr 0.01\n"


def test_the_command_names_runs_that_failed(
    complete: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ablation, "ablate", lambda *_: AblationOutcome(complete, failed=("tanh",)))
    assert "│ tanh" in succeed_here("ablate")
    assert capsys.readouterr().err == "error: could not be trained to the end: tanh\n"


def test_options_of_a_session_may_differ() -> None:
    names = {one.name for one in dataclasses.fields(Options)}
    assert names.issuperset((*ablation._SESSION, *ablation._OF_NET))
