"""No command runs Python files from the working directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.made_pictures import make_folder

import cconvnet
from cconvnet.bench.processes import Worker
from cconvnet.data.workers import spawn
from cconvnet.system.interpreter import python_command

# Of the standard library, of the dependencies, of optional ones that may be missing, and what Python itself
# imports when it starts.
PLANTED = [
    *("json", "random", "tempfile", "subprocess", "mmap", "signal", "statistics", "csv", "decimal", "glob"),
    *("numpy", "PIL", "simplejpeg", "safetensors", "rich", "typer", "matplotlib", "torch", "cupy"),
    *("tensorboard", "sitecustomize", "usercustomize"),
]
PACKAGE_ROOT = str(Path(cconvnet.__file__).parents[1])


def plant(folder: Path, names: list[str]) -> Path:
    """Write modules that end the process if they are imported; each leaves a line in the returned file."""
    ran = folder / "ran.txt"
    body = f"open({str(ran)!r}, 'a').write(__name__ + '\\n')\nraise SystemExit(f'planted {{__name__}} ran')\n"
    for name in names:
        (folder / f"{name}.py").write_text(body)
    (folder / "cconvnet").mkdir()
    (folder / "cconvnet" / "__init__.py").write_text(body)
    return ran


def start(cwd: Path, program: list[str], *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *program, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )


# As the installed script begins: without the working directory.
SCRIPT = ["-P", "-c", f"import sys; sys.path.append({PACKAGE_ROOT!r}); from cconvnet.cli import main; main()"]


def test_commands_run_nothing_of_the_working_directory(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    make_folder(folder / "photos", sides=(32, 32))
    ran = plant(folder, PLANTED)
    run = ["train", "--size", 28, "--batch", 4, "--steps", 1, "--device", "cpu:0", "--out", "run"]
    picture = next((folder / "photos" / "test").rglob("*.jpeg"))
    few = ["--batch", 4, "--seconds", 0.1, "--device", "cpu:0"]
    commands: list[list[object]] = [
        ["data", "prepare", "photos", "shards", "--size", 28, "--workers", 1],
        [*run, "--data", "photos", "--workers", 1],
        ["predict", "--run", "run", picture],
        ["plot", "filters", "run"],
        ["report", "run"],
        ["doctor"],
        ["bench", "data", "--net", "lenet", "--data", "photos", "--size", 28, "--workers", 1, *few],
        ["bench", "step", "--net", "lenet", "--device", "cpu:0", "--batch", 2, "--steps", 1, "--warmup", 1],
    ]
    for arguments in commands:
        done = start(folder, SCRIPT, *arguments)
        assert done.returncode == 0, (arguments, done.stderr)
        assert not ran.exists(), (arguments, ran.read_text())


def test_python_m_takes_the_working_directory_out(tmp_path: Path) -> None:
    ran = plant(tmp_path, PLANTED)
    (tmp_path / "cconvnet" / "__init__.py").unlink()
    (tmp_path / "cconvnet").rmdir()  # `-m` itself looks the package up there first
    for arguments in (["doctor"], ["train", "--steps", 1, "--device", "cpu:0", "--out", "run"]):
        done = start(tmp_path, ["-m", "cconvnet"], *arguments)
        if "No module named cconvnet" in done.stderr:
            pytest.skip("the package is not installed")
        assert done.returncode == 0, done.stderr
        assert not ran.exists(), ran.read_text()


def test_a_checkout_that_is_not_installed_runs_from_its_own_folder(tmp_path: Path) -> None:
    """There the working directory is needed, and is searched last."""
    (tmp_path / "cconvnet").symlink_to(Path(cconvnet.__file__).parent)
    (tmp_path / "random.py").write_text("raise SystemExit('planted')")
    done = start(tmp_path, ["-m", "cconvnet"], "--version")
    assert done.returncode == 0 and done.stdout.startswith("cconvnet "), done.stderr


# ---- the children themselves -----------------------------------------------------------------------------


class Paths:
    """Side of a comparison that reports its search path."""

    def path(self) -> list[str]:
        return sys.path


def say_path(start: dict[str, str]) -> None:
    import random

    print(json.dumps([sys.path, random.__file__, np.__file__, start["word"]]))


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, at the front of this process's path, as if a script in it were running."""
    folder = tmp_path / "here"
    folder.mkdir()
    ran = plant(folder, PLANTED)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    front = ["", ".", str(folder), str(tmp_path / "elsewhere"), str(Path(__file__).parent)]
    monkeypatch.setattr(sys, "path", [*front, *sys.path])
    return ran


def test_a_decoding_process_takes_over_the_safe_part_of_the_path(planted: Path) -> None:
    with spawn("test_interpreter:say_path", {"word": "hello"}) as child:
        answer = child.communicate(timeout=60)[0]
    assert child.returncode == 0 and not planted.exists()
    path, random, numpy, word = json.loads(answer)
    assert word == "hello" and numpy == np.__file__ and Path(random).parent != planted.parent
    assert "" not in path and "." not in path and str(planted.parent) not in path
    assert path[0] == str(planted.parents[1] / "elsewhere")  # what a script added itself stays, in its place
    assert PACKAGE_ROOT in path


def test_a_side_of_a_measurement_keeps_its_own_path(planted: Path) -> None:
    folder = Path(__file__).parent
    tests = {"PYTHONPATH": f"{folder}:{folder.parent}"}
    with Worker("test_interpreter:Paths", environment=tests) as side:
        path = side.ask("path")
    assert not planted.exists()
    assert (
        path[:2] == [str(folder), str(folder.parent)] and str(planted.parent) not in path and "" not in path
    )


@pytest.mark.parametrize("flags", [[], ["-s"], ["-E"], ["-I"]])
def test_a_child_heeds_the_environment_as_its_parent_does(flags: list[str], tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.append({PACKAGE_ROOT!r}); "
        "from cconvnet.system.interpreter import python_command; "
        "print(python_command('sys:exit')[1:-3])"
    )
    done = start(tmp_path, [*flags, "-c", code])
    wanted = {"": ["-P"], "-s": ["-P", "-s"], "-E": ["-P", "-E"], "-I": ["-P", "-E", "-s"]}
    assert done.stdout.strip() == repr(wanted["".join(flags)]), done.stderr


def test_a_child_begins_in_a_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    done = subprocess.run(
        python_command("builtins:print", ["here"], sys.path), capture_output=True, check=False, timeout=60
    )
    assert done.stdout == b"here\n", done.stderr
