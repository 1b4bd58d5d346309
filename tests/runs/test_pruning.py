"""Removal of what runs no longer need: each rule, and all that must stay."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.commands import run
from helpers.commands import succeed_here as succeed

from cconvnet import runs
from cconvnet.console import Silent
from cconvnet.runs import pruning
from cconvnet.runs.pruning import RULES, Kept, Removal, prune
from cconvnet.training.options import Options
from cconvnet.training.session import train

LATER = time.time() + 30 * 24 * 3600
OPTIONS = {"devices": ["cpu:0"], "batch": 200, "lr": 0.1, "keep": 9}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of three epochs with a checkpoint at every second step. Do not change it."""
    path = tmp_path_factory.mktemp("pruning") / "run"
    train(Options(**OPTIONS, epochs=3, checkpoint_every=2, out=path), Silent(io.StringIO()))
    return path


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "runs" / "run"))


def ended(path: Path, state: str, reason: str | None = None) -> Path:
    (path / "state.json").write_text(json.dumps({"state": state, "reason": reason}))
    return path


def tree(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name != "lock"
    }


def names(path: Path) -> list[str]:
    return sorted(file.name for file in (path / "checkpoints").iterdir())


def best_made(path: Path, step: int) -> None:
    """Let the newest checkpoint record that the one after `step` steps was the best."""
    file, content, _ = runs.find_checkpoint(path)
    content.progress["best"] = {"step": step, "epoch": 1, "test_error_top1": 0.1}
    runs.checkpoint.save(file, content)
    summary = json.loads((path / "summary.json").read_text())
    summary["best"]["step"] = step
    (path / "summary.json").write_text(json.dumps(summary))


# ---- checkpoints -----------------------------------------------------------------------------------------


def test_the_newest_and_the_best_checkpoints_stay(path: Path) -> None:
    best_made(path, 8)
    before = names(path)
    assert len(before) > 6
    newest = before[-1]
    found, kept = prune(path)
    assert [one.path.name for one in found] == [name for name in before[:-1] if "00008" not in name]
    assert {one.rule for one in found} == {"checkpoints"} and kept == []
    assert names(path) == before  # nothing was asked to be removed
    rest = {name: content for name, content in tree(path).items() if "checkpoints" not in name}
    size = sum(one.path.stat().st_size for one in found)
    assert sum(one.bytes for one in found) == size
    again, _ = prune(path, remove=True)
    assert again == found
    assert names(path) == ["step-00000008.safetensors", newest]
    assert {name: content for name, content in tree(path).items() if "checkpoints" not in name} == rest
    assert prune(path, remove=True) == ([], [])
    # The run is whole: it can be resumed, evaluated and listed.
    assert runs.find_checkpoint(path)[0].name == newest
    assert runs.find_checkpoint(path, best=True)[0].name == "step-00000008.safetensors"
    train(Options(devices=["cpu:0"], resume=path, epochs=4), Silent(io.StringIO()))


def test_a_damaged_newest_checkpoint_is_not_the_newest(path: Path) -> None:
    best_made(path, 8)
    *_, sound, newest = names(path)
    file = path / "checkpoints" / newest
    file.write_bytes(file.read_bytes()[:-1])
    prune(path, remove=True)
    assert set(names(path)) >= {"step-00000008.safetensors", sound, newest}
    assert runs.find_checkpoint(path)[0].name == sound


def test_without_a_sound_checkpoint_all_stay(path: Path) -> None:
    for file in (path / "checkpoints").iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    before = names(path)
    found, (kept,) = prune(path, remove=True)
    assert found == [] and names(path) == before
    assert "no checkpoint is sound" in kept.reason


def test_what_a_killed_process_left_is_removed(path: Path) -> None:
    (path / "checkpoints" / ".step-00000009.safetensors.partial").write_bytes(b"123")
    found, _ = prune(path, remove=True)
    assert (
        Removal(
            path / "checkpoints" / ".step-00000009.safetensors.partial",
            "checkpoints",
            3,
            "a killed process left it unfinished",
        )
        in found
    )
    assert not any(name.startswith(".") for name in names(path))


def test_files_of_others_and_links_among_checkpoints_stay(path: Path, tmp_path: Path) -> None:
    outside = tmp_path / "mine.safetensors"
    outside.write_bytes(b"mine")
    folder = path / "checkpoints"
    (folder / "step-00000001.safetensors").symlink_to(outside)
    for name in ("step-best.safetensors", "step-00000002.safetensors.bak", "notes.txt"):
        (folder / name).write_text("mine")
    prune(path, RULES, remove=True, now=LATER)
    assert outside.read_bytes() == b"mine"
    assert {"step-00000001.safetensors", "step-best.safetensors", "notes.txt"} <= set(names(path))
    assert "step-00000002.safetensors.bak" in names(path)


def test_a_folder_of_checkpoints_elsewhere_stays(path: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "scratch"
    shutil.move(path / "checkpoints", elsewhere)
    (path / "checkpoints").symlink_to(elsewhere)
    before = tree(elsewhere)
    found, (kept,) = prune(path, remove=True)
    assert (found, kept) == ([], Kept(path / "checkpoints", "it is a link or no folder"))
    found, kept_ = prune(ended(path, "failed"), ["failed"], remove=True, now=LATER)
    assert found == [] and "checkpoints is not of a run" in kept_[0].reason
    assert tree(elsewhere) == before and before


# ---- set-aside checkpoints -------------------------------------------------------------------------------


@pytest.fixture
def gone_back(path: Path) -> Path:
    """A run that was resumed from an earlier checkpoint, so that later ones were set aside."""
    step = names(path)[-3]
    train(Options(devices=["cpu:0"], resume=path / "checkpoints" / step, epochs=3), Silent(io.StringIO()))
    assert (path / "checkpoints" / "set-aside-1" / "log.jsonl").exists()
    return path


def test_set_aside_checkpoints_are_removed(gone_back: Path) -> None:
    aside = gone_back / "checkpoints" / "set-aside-1"
    size = sum(file.stat().st_size for file in aside.iterdir())
    others = {name: text for name, text in tree(gone_back).items() if "set-aside" not in name}
    (found,), kept = prune(gone_back, ["set-aside"], remove=True)
    assert (found.path, found.rule, found.bytes, kept) == (aside, "set-aside", size, [])
    assert tree(gone_back) == others and not aside.exists()


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_set_aside_folders_with_other_files_stay(kind: str, gone_back: Path, tmp_path: Path) -> None:
    aside = gone_back / "checkpoints" / "set-aside-1"
    if kind == "file":
        (aside / "why.txt").write_text("mine")
    elif kind == "folder":
        (aside / "more").mkdir()
    else:
        (tmp_path / "config.json").write_text("mine")
        (aside / "step-00000099.safetensors").symlink_to(tmp_path / "config.json")
    before = tree(gone_back)
    found, (kept,) = prune(gone_back, ["set-aside"], remove=True)
    assert found == [] and kept.path == aside and "is not of a run" in kept.reason
    assert tree(gone_back) == before


def test_a_linked_set_aside_folder_stays(path: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "step-00000001.safetensors").write_bytes(b"mine")
    (path / "checkpoints" / "set-aside-1").symlink_to(elsewhere)
    found, (kept,) = prune(path, ["set-aside"], remove=True)
    assert found == [] and "link" in kept.reason
    assert (elsewhere / "step-00000001.safetensors").exists()


# ---- whole runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "state"), [("failed", "failed"), ("incomplete", "stopped"), ("incomplete", "training")]
)
def test_whole_runs_are_removed_by_their_rule_alone(rule: str, state: str, path: Path) -> None:
    ended(path, state, "the loss is nan at step 3. Resume it")
    others = [one for one in RULES if one not in (rule, "checkpoints", "set-aside")]
    assert prune(path, others, remove=True, now=LATER) == ([], [])
    size = sum(map(len, tree(path).values()))
    (found,), kept = prune(path, [rule], now=LATER)
    assert (found.path, found.rule, found.bytes, kept) == (path, rule, size, [])
    assert "30 days ago" in found.reason
    assert ("the loss is nan at step 3" in found.reason) == (rule == "failed")
    assert path.exists()
    assert prune(path, [rule], remove=True, now=LATER) == ([found], [])
    assert not path.exists()


def test_runs_without_a_checkpoint_are_empty(path: Path) -> None:
    ended(path, "training")
    assert prune(path, ["empty"], remove=True, now=LATER) == ([], [])
    shutil.rmtree(path / "checkpoints")
    assert prune(path, ["incomplete"], remove=True, now=LATER) == ([], [])
    (found,), _ = prune(path, ["empty", "incomplete"], remove=True, now=LATER)
    assert found.rule == "empty" and not path.exists()


def test_complete_runs_stay(path: Path) -> None:
    before = tree(path)
    assert prune(path, ["empty", "failed", "incomplete"], remove=True, now=LATER) == ([], [])
    assert tree(path) == before


def test_young_runs_stay(path: Path) -> None:
    ended(path, "failed")
    found, (kept,) = prune(path, ["failed"], remove=True)
    assert found == [] and "0.0 days ago, less than 7" in kept.reason
    assert len(prune(path, ["failed"], days=0.0, remove=False)[0]) == 1
    # One file that was written lately is enough.
    now = time.time() + 6.5 * 24 * 3600
    for file in path.rglob("*"):
        os.utime(file, (1, 1))
    assert len(prune(path, ["failed"], now=now)[0]) == 1
    os.utime(path / "checkpoints" / names(path)[2])
    assert prune(path, ["failed"], remove=True, now=now)[0] == []
    assert path.exists()


def test_imported_runs_stay(path: Path) -> None:
    ended(path, "stopped")
    config = json.loads((path / "config.json").read_text())
    config["command"] = "cconvnet import ConvNet__2012/120.5 --net cifar-18pct"
    (path / "config.json").write_text(json.dumps(config))
    assert prune(path, ["incomplete"], remove=True, now=LATER) == ([], [Kept(path, "it was imported")])
    assert path.exists()


def test_damaged_runs_stay(path: Path) -> None:
    (path / "config.json").write_text("{")
    found, (kept,) = prune(path, RULES[2:], remove=True, now=LATER)
    assert found == [] and "config.json is damaged" in kept.reason and path.exists()


@pytest.mark.parametrize(
    "where", ["notes.txt", "checkpoints/notes.txt", "tensorboard/notes.txt", "more/a.txt"]
)
def test_runs_with_files_of_others_stay(where: str, path: Path) -> None:
    ended(path, "failed")
    (path / where).parent.mkdir(exist_ok=True)
    (path / where).write_text("mine")
    before = tree(path)
    found, (kept,) = prune(path, ["failed"], remove=True, now=LATER)
    assert found == [] and "is not of a run" in kept.reason
    assert where.split("/")[0] in kept.reason
    assert tree(path) == before


def test_all_that_a_run_can_contain_is_removed_with_it(gone_back: Path) -> None:
    (gone_back / "tensorboard").mkdir()
    (gone_back / "tensorboard" / "events.out.tfevents.0123.cconvnet.0000").write_bytes(b"")
    for name in (
        "report.html",
        "arrays.npz",
        "timeline.svg",
        "curve.png",
        ".config.json.partial",
        "data.json",
    ):
        (gone_back / name).write_bytes(b"")
    (found,), _ = prune(ended(gone_back, "failed"), ["failed"], remove=True, now=LATER)
    assert found.path == gone_back and not gone_back.exists() and gone_back.parent.exists()


def test_a_linked_run_stays(path: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(path)
    before = tree(path)
    assert prune(tmp_path / "link", RULES, remove=True, now=LATER) == (
        [],
        [Kept(tmp_path / "link", "it is a link")],
    )
    assert tree(path) == before


# ---- races -----------------------------------------------------------------------------------------------


def test_a_run_in_training_is_left_alone(gone_back: Path) -> None:
    ended(gone_back, "failed")
    before = tree(gone_back)
    with (gone_back / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for remove in (False, True):
            assert prune(gone_back, RULES, remove=remove, now=LATER) == (
                [],
                [Kept(gone_back, "it is in training")],
            )
    assert tree(gone_back) == before
    assert prune(gone_back, now=LATER)[0] != []


def test_training_that_begins_meanwhile_is_noticed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is taken after it was looked at, before its lock is."""
    ended(path, "failed")
    locks = []
    look = pruning.overview.read_overview

    def looked(where: Path) -> object:
        found = look(where)
        locks.append((where / "lock").open("r+b"))
        fcntl.flock(locks[0], fcntl.LOCK_EX)
        return found

    monkeypatch.setattr(pruning.overview, "read_overview", looked)
    assert prune(path, RULES, remove=True, now=LATER)[1] == [Kept(path, "it is in training")]
    locks[0].close()
    assert len(names(path)) > 3


def test_no_training_begins_while_files_are_removed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    unlink = os.unlink

    def removing(name: str, **where: int) -> None:
        if not tried:
            with pytest.raises(runs.RunError, match="another process is training"):
                runs.Run.open(path)
        tried.append(name)
        unlink(name, **where)

    monkeypatch.setattr(pruning.os, "unlink", removing)
    prune(path, remove=True)
    assert len(tried) > 3
    runs.Run.open(path).close()


def exchanged(folder: Path, elsewhere: Path) -> Callable[[], None]:
    def exchange() -> None:
        shutil.move(folder, folder.with_name("moved"))
        folder.symlink_to(elsewhere)

    return exchange


@pytest.mark.parametrize("which", ["checkpoints", "run"])
def test_a_folder_that_becomes_a_link_meanwhile(
    which: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are removed from the folder that was looked at, wherever its name leads now."""
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(path, elsewhere)
    folder, target = (path, elsewhere) if which == "run" else (path / which, elsewhere / which)
    before = tree(elsewhere)
    spare = pruning._spare

    def exchanging(where: Path, descriptor: int) -> object:
        found = spare(where, descriptor)
        exchanged(folder, target)()
        return found

    monkeypatch.setattr(pruning, "_spare", exchanging)
    found, _ = prune(path, ["checkpoints"], remove=True)
    assert len(found) > 3
    assert tree(elsewhere) == before


def test_a_file_that_comes_meanwhile_stays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(path, "failed")
    measured = pruning._measured

    def adding(folder: int, kind: pruning._Kind, where: Path) -> object:
        found = measured(folder, kind, where)
        (path / "notes.txt").write_text("mine")
        return found

    monkeypatch.setattr(pruning, "_measured", adding)
    found, (kept,) = prune(path, ["failed"], remove=True, now=LATER)
    assert found == [] and "notes.txt is not of a run" in kept.reason
    assert (path / "notes.txt").read_text() == "mine" and (path / "config.json").exists()


def test_a_removal_that_was_killed_can_be_repeated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any moment what remains is a run that the same rules remove."""
    ended(path, "failed")
    unlink, left = os.unlink, [0]

    def removing(name: str, **where: int) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        unlink(name, **where)

    monkeypatch.setattr(pruning.os, "unlink", removing)
    for _ in range(100):
        left[0] = 1
        try:
            prune(path, ["failed", "empty"], remove=True, now=LATER)
        except KeyboardInterrupt:
            # Without its configuration a folder is no run.
            if not (path / "config.json").exists():
                assert [file.name for file in path.iterdir()] == ["lock"]
                break
    else:
        raise AssertionError("it was never removed")


# ---- the command -----------------------------------------------------------------------------------------


def test_the_command_removes_only_when_told(path: Path) -> None:
    before = names(path)
    shown = succeed("runs", "prune", path.parent)
    assert "would remove: " in shown and "nothing was removed yet: --yes removes these" in shown
    assert names(path) == before
    found = json.loads(succeed("runs", "prune", path, "--json", "-"))
    assert found["removed"] is False and found["bytes"] == sum(one["bytes"] for one in found["found"])
    for one in found["found"]:
        assert one["path"] in shown
    assert names(path) == before
    assert "removed" in succeed("runs", "prune", path.parent, "--yes")
    assert len(names(path)) == len(before) - len(found["found"])
    assert "nothing to remove" in succeed("runs", "prune", path.parent)


def test_the_command_names_what_stays(path: Path) -> None:
    ended(path, "failed")
    shown = succeed("runs", "prune", path, "--failed", "--yes")
    assert f"kept: {path}: it was written 0.0 days ago, less than 7" in shown
    assert path.exists()
    succeed("runs", "prune", path, "--failed", "--older-than", 0, "--yes")
    assert not path.exists()
    with pytest.raises(runs.RunError, match="there is no folder"):
        succeed("runs", "prune", path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may remove every file")
def test_what_cannot_be_removed_is_an_error(path: Path) -> None:
    (path / "checkpoints").chmod(0o500)
    done = run("runs", "prune", path, "--yes")
    (path / "checkpoints").chmod(0o700)
    assert done.returncode == 1 and "Permission denied" in done.stderr
