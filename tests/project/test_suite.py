"""Tests of the tests: none hangs, depends on how pytest was started, or reads unwritten memory."""

from __future__ import annotations

import ast
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import run
from helpers.forks import Server

from cconvnet.devices import Device
from cconvnet.operations import OPERATIONS
from cconvnet.ops.call import Call

TESTS = Path(__file__).parents[1]
IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def _ignore() -> None:
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)


def _pytest(folder: Path, *arguments: str, ignoring: bool = False) -> subprocess.CompletedProcess[str]:
    """Run pytest over a folder's tests with this suite's conftest.py and settings."""
    for file in (TESTS / "conftest.py", TESTS.parent / "pyproject.toml"):
        shutil.copy(file, folder)
    shutil.copytree(TESTS / "helpers", folder / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments, str(folder)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=folder,
        preexec_fn=_ignore if ignoring else None,
    )


@pytest.mark.parametrize("workers", ["0", "1"])
def test_children_have_default_signals_however_the_tests_are_started(tmp_path: Path, workers: str) -> None:
    """`nohup make test &` in a script ignores SIGINT, SIGQUIT and SIGHUP."""
    (tmp_path / "test_children.py").write_text(
        f"""
import signal, subprocess, sys
import pytest
@pytest.mark.parametrize("number", {[int(number) for number in IGNORED]})
def test_child(number):
    code = "import signal, sys; sys.exit(signal.getsignal(int(sys.argv[1])) is signal.SIG_IGN)"
    assert subprocess.run([sys.executable, "-c", code, str(number)], timeout=20).returncode == 0
    with subprocess.Popen(["sleep", "60"]) as process:
        process.send_signal(number)
        assert process.wait(timeout=20) == -number
def test_itself():
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
"""
    )
    done = _pytest(tmp_path, "-n", workers, ignoring=True)
    assert "4 passed" in done.stdout, done.stdout + done.stderr


def test_a_hanging_test_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    """Compiled code that keeps the interpreter is included: no signal handler can run there."""
    (tmp_path / "test_hang.py").write_text(
        """
import ctypes
def test_that_hangs():
    ctypes.PyDLL(None).sleep(60)
def test_after_it():
    pass
"""
    )
    begin = time.monotonic()
    done = _pytest(tmp_path, "-n", "1", "--override-ini", "faulthandler_timeout=2")
    assert time.monotonic() - begin < 50
    assert "crashed while running 'test_hang.py::test_that_hangs'" in done.stdout, done.stdout
    assert re.search("1 failed, [12] passed", done.stdout)
    assert "in test_that_hangs" in done.stderr  # the stacks


STARTERS = ("run", "call", "check_call", "check_output")
WAITED_FOR = re.compile("process|thread|child|resumed")


def waits_without_end(source: str) -> Iterator[int]:
    """Yield the lines that wait for a process or a thread without a time limit."""
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        of, called = ast.unparse(node.func.value), node.func.attr
        starts = of == "subprocess" and called in STARTERS
        waits = WAITED_FOR.search(of) and called in ("wait", "communicate", "join") and not node.args
        if (starts or waits) and not any(keyword.arg == "timeout" for keyword in node.keywords):
            yield node.lineno


@pytest.mark.parametrize("file", sorted(TESTS.rglob("*.py")), ids=lambda file: file.name)
def test_no_wait_is_without_an_end(file: Path) -> None:
    assert list(waits_without_end(file.read_text(encoding="utf-8"))) == []


def test_waits_without_an_end_are_noticed() -> None:
    source = """
subprocess.run(command, check=True)
subprocess.run(command, timeout=9)
process.wait()
process.wait(9)
thread.join()
output, _ = process.communicate()
", ".join(names)
"""
    assert list(waits_without_end(source)) == [2, 4, 6, 7]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("describe", "--device", "cpu:0"), 0),
        (("train", "--batch", 0), 2),
        (("train", "--device", "cpu:0", "--out", "file"), 1),
    ],
)
def test_a_fork_behaves_as_an_interpreter_of_its_own(
    arguments: tuple[object, ...], code: int, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    forked, own = run(*arguments, cwd=tmp_path), run(*arguments, cwd=tmp_path, NO_FORK="1")
    assert (forked.returncode, own.returncode) == (code, code)
    assert (forked.stdout, forked.stderr) == (own.stdout, own.stderr)


def test_a_fork_is_not_asked_for_in_another_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    assert server.serves({}) and not server.serves({"CCONVNET_DEBUG": "1"})
    monkeypatch.setenv("CCONVNET_DEBUG", "1")
    assert not server.serves({})
    server.close()


@pytest.mark.parametrize("dtype", [np.float32, np.uint16, np.int32])
def test_fresh_memory_of_a_device_holds_no_number(device: Device, dtype: type[np.generic]) -> None:
    """So that what reads it is found."""
    for array in (device.empty((2, 3), dtype), device.staging((2, 3), dtype)):
        assert device.host(array).tobytes() == b"\xff" * (6 * np.dtype(dtype).itemsize)
    assert np.isnan(device.host(device.empty(4))).all()
    # The outputs of an operation, too.
    call = Call(OPERATIONS["relu_forward"], device, x=device.zeros(4))
    assert np.isnan(device.host(call.output(None, (2, 3)))).all()
