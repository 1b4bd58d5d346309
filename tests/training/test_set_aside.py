"""Resuming a run from an earlier step: what came after it is set aside and reported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import Listener

from cconvnet import runs
from cconvnet.runs.checkpoint import Folder
from cconvnet.training.options import Options
from cconvnet.training.session import train

OPTIONS = {"devices": ["cpu:0"], "log_every": 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of steps 0, 4, ..., 16."""
    path = tmp_path_factory.mktemp("trained") / "run"
    train(Options(out=path, batch=32, steps=16, checkpoint_every=4, keep=9, **OPTIONS), Listener())  # type: ignore[arg-type]
    return path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def resume(path: Path, **changes: Any) -> list[str]:
    listener = Listener()
    train(Options(resume=path, **{**OPTIONS, **changes}), listener)
    return listener.lines


def steps(folder: Path) -> list[int]:
    return [int(file.stem.removeprefix("step-")) for file in Folder(folder).files()]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (folder / "log.jsonl").read_text().splitlines()]


def test_going_back_sets_later_checkpoints_aside(run: Path) -> None:
    folder, before = run / "checkpoints", lines(run)
    contents = {file.name: file.read_bytes() for file in Folder(folder).files()}
    config, summary = ((run / name).read_bytes() for name in ("config.json", "summary.json"))
    said = resume(Folder(folder).file(8), steps=9, lr=0.02)
    aside = folder / "set-aside-1"
    cut = [line for line in before if line["step"] > 8]
    assert (
        f"set aside in {aside}: 2 later checkpoints (step-00000012, step-00000016) and {len(cut)} lines "
        "of the log; they stay until you remove them"
    ) in said
    assert steps(folder) == [0, 4, 8, 9] and steps(aside) == [12, 16]
    for file in Folder(aside).files():
        assert file.read_bytes() == contents[file.name]
    assert lines(aside) == cut
    assert json.loads((aside / "config.json").read_bytes()) == json.loads(config)
    assert (aside / "summary.json").read_bytes() == summary
    # They can be gone on from, and a second time back does not touch the first.
    said = resume(Folder(aside).file(16), steps=17)
    assert f"resuming {run} from step 16" in said
    assert steps(folder) == [0, 4, 8, 9, 16, 17] and steps(aside) == [12, 16]
    resume(Folder(folder).file(4), steps=5)
    assert steps(folder) == [0, 4, 5] and steps(folder / "set-aside-2") == [8, 9, 16, 17]
    assert steps(aside) == [12, 16]


def test_what_was_set_aside_is_never_resumed_from_unasked(run: Path) -> None:
    resume(Folder(run / "checkpoints").file(4), steps=5)
    file, content, skipped = runs.find_checkpoint(run)
    assert (content.step, skipped) == (5, []) and file.parent == run / "checkpoints"
    assert f"resuming {run} from step 5" in resume(run, steps=6)
    assert runs.folder_of(run / "checkpoints/set-aside-1/step-00000008.safetensors") == run


def test_damaged_newer_checkpoints_are_set_aside(run: Path) -> None:
    folder = run / "checkpoints"
    damaged = Folder(folder).file(16)
    damaged.write_bytes(damaged.read_bytes()[:-5])
    content = damaged.read_bytes()
    said = resume(run, steps=13)
    assert any(line.startswith("skipped: ") and "step-00000016" in line for line in said)
    assert any("set aside" in line and "1 later checkpoint (step-00000016)" in line for line in said)
    assert (folder / "set-aside-1" / damaged.name).read_bytes() == content
    assert steps(folder) == [0, 4, 8, 12, 13]


def test_lines_that_are_written_again_are_counted(run: Path) -> None:
    Folder(run / "checkpoints").file(16).unlink()  # as if it had been killed before that
    count = sum(line["step"] > 12 for line in lines(run))
    said = resume(run, steps=16)
    assert f"{count} lines of the log after step 12 dropped; those steps are done again" in said
    assert not (run / "checkpoints/set-aside-1").exists()


def test_a_log_without_checkpoints_is_set_aside(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    before = [line for line in lines(run) if line["step"] > 0]
    said = resume(run, steps=2)
    aside = run / "checkpoints/set-aside-1"
    assert f"set aside in {aside}: {len(before)} lines of the log" in said and lines(aside) == before


def test_a_damaged_line_ends_no_log(run: Path) -> None:
    log = run / "log.jsonl"
    whole = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*whole[:2], b"\0\0\0\n", b"[1]\n", *whole[2:], b'{"step": 1']))
    said = resume(run, steps=16)
    assert b"".join(whole) == log.read_bytes()[: sum(map(len, whole))]
    assert any(line.startswith("2 lines of the log") for line in said)


def test_a_resumed_run_keeps_its_number_of_checkpoints(run: Path) -> None:
    folder = run / "checkpoints"
    resume(run, steps=18, checkpoint_every=1)
    assert steps(folder) == [0, 4, 8, 12, 16, 17, 18]
    said = resume(run, steps=19, keep=2)
    assert "--keep 2: of the 7 checkpoints there, older ones are removed as new ones are written" in said
    assert steps(folder) == [18, 19]
    resume(run, steps=22, checkpoint_every=1)
    assert steps(folder) == [21, 22]


def test_a_link_to_the_log_stays(run: Path, tmp_path: Path) -> None:
    log, other = run / "log.jsonl", tmp_path / "elsewhere.jsonl"
    log.rename(other)
    log.symlink_to(other)
    before = other.stat().st_size
    resume(run, steps=18)
    assert log.is_symlink() and other.stat().st_size > before
