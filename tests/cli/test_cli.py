"""The command as a user types it: help, output, closed streams and Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.commands import run, succeed, succeed_here

from cconvnet import nets

COMMANDS = [
    "train",
    "evaluate",
    "predict",
    "runs list",
    "runs log",
    "runs prune",
    "compare",
    "describe",
    "gradcheck",
    "export",
    "plot curve",
    "plot filters",
    "plot predictions",
    "plot activations",
    "report",
    "plot timeline",
    "augment",
    "doctor",
    "import",
    "data get",
    "bench",
    "bench checkpoint",
    "bench kernels",
    "bench step",
    "bench roofline",
    "bench scaling",
    "bench exchange",
    "data prepare",
    "data inspect",
    "data verify",
    "bench data",
]


@pytest.mark.parametrize(("output", "said"), [("pipe", ""), ("/dev/full", "No space left on device")])
def test_output_that_nobody_takes(output: str, said: str) -> None:
    if output == "pipe":
        ours, theirs = os.pipe()
        os.close(ours)
    else:
        theirs = os.open(output, os.O_WRONLY)
    for command in (["doctor"], ["describe"], ["train", "--help"]):
        done = subprocess.run(
            [sys.executable, "-m", "cconvnet", *command],
            stdout=theirs,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=200,
        )
        assert done.returncode == 1
        assert done.stderr == (said and f"error: standard output: {said}\n")
    os.close(theirs)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed(tmp_path: Path, closed: str) -> None:
    (tmp_path / "a" / "checkpoints").mkdir(parents=True)
    out = tmp_path / "run"
    for command in (["runs", tmp_path], ["train", "--device", "cpu:0", "--steps", "3", "--out", out]):
        line = shlex.join([sys.executable, "-m", "cconvnet", *map(str, command)])
        done = subprocess.run(
            ["sh", "-c", f"{line} {closed}"], capture_output=True, text=True, check=False, timeout=200
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_names_that_a_terminal_has_no_letters_for(tmp_path: Path) -> None:
    (tmp_path / "über" / "checkpoints").mkdir(parents=True)
    done = run("runs", tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\xfcber" in done.stdout


def test_a_reader_that_has_gone() -> None:
    """`cconvnet describe | head -1` ends without a message."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cconvnet", "describe", "--device", "cpu:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    time.sleep(0.1)
    assert process.stderr.read() == b""
    process.wait(timeout=200)
    process.stderr.close()


def test_ctrl_c_ends_a_script_too() -> None:
    """A shell continues a script unless the signal itself ended the command."""
    program = """
import sys
from cconvnet import cli, doctor
def examine():
    print("examining", flush=True)
    while True: pass
doctor.examine = examine
sys.argv[:] = ["cconvnet", "doctor"]
cli.main()
"""
    script = f"for number in 1 2; do {sys.executable} -c '{program}'; echo went on with $?; done"
    with subprocess.Popen(
        ["bash", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "examining\n"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
        try:
            rest, errors = process.communicate(timeout=60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode, rest, errors) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_what_and_how(command: str) -> None:
    text = succeed_here(*command.split(), "--help")
    assert f"Usage: cconvnet {command}" in text
    if command != "bench":
        assert "Example" in text
        assert f"cconvnet {command}" in text.split("Example")[1]


def test_help_lists_every_network() -> None:
    text = succeed("train", "--help")
    assert all(name in text for name in nets.NAMES)


def test_without_a_command_there_is_help() -> None:
    text = succeed()
    assert all(command.split()[0] in text for command in COMMANDS)


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; import cconvnet.cli; print(*sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200
    )
    assert not {"numpy", "PIL", "matplotlib", "cupy", "safetensors"} & set(done.stdout.split())


def test_version() -> None:
    assert re.fullmatch(r"cconvnet \d+\.\d+\.\d+\n", succeed("--version"))
