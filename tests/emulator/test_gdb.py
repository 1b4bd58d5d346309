"""A debugger shows a kernel's arguments, variables and threads in the emulator."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parents[1]
COMPILER = os.environ.get("CXX", "g++").split()
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def has_python(gdb: str | None) -> bool:
    if gdb is None:
        return False
    ask = [gdb, "-nx", "-batch", "-ex", "python print(40 + 2)"]
    return "42" in subprocess.run(ask, capture_output=True, text=True, timeout=60, check=False).stdout


GDB = shutil.which("gdb")
pytestmark = [
    pytest.mark.skipif(not has_python(GDB), reason="needs gdb with Python"),
    pytest.mark.skipif(shutil.which(COMPILER[0]) is None, reason=f"no host compiler ({COMPILER[0]})"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile kernels/lrn.cu with the flags of `make emulator-debug`, and a program around it."""
    folder = tmp_path_factory.mktemp("debugged")
    (flags,) = re.findall(r"^DEBUG_FLAGS := (.*)$", MAKEFILE, re.M)
    shared = [*COMPILER, "-std=c++17", "-Wno-unknown-pragmas", "-pthread", f"-I{ROOT / 'kernels'}"]
    sources = [ROOT / "kernels" / "lrn.cu", TESTS / "debugged.cu", ROOT / "kernels" / "core" / "select.cpp"]

    def compiled(source: Path) -> str:
        target = folder / f"{source.stem}.o"
        command = [*shared, *flags.split(), "-x", "c++", "-c", source.relative_to(ROOT), "-o", target]
        # Sources are named as the Makefile names them.
        subprocess.run(command, cwd=ROOT, check=True, timeout=200)
        return str(target)

    with ThreadPoolExecutor() as pool:
        objects = list(pool.map(compiled, sources))
    subprocess.run([*shared, *objects, "-o", folder / "debugged"], check=True, timeout=200)
    return folder / "debugged"


def session(program: Path, *commands: str) -> list[str]:
    """Return what gdb prints for each command."""
    script = program.with_suffix(".gdb")
    marked = [line for command in commands for line in ("echo \\n--- \\n", command)]
    script.write_text("\n".join(["set width 0", "set print elements 4", *marked]) + "\n")
    ours = ROOT / "tools" / "cuda_gdb.py"
    done = subprocess.run(
        [str(GDB), "-nx", "-batch", "-iex", "set debuginfod enabled off", "-x", ours, "-x", script, program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if re.search(r"ptrace: Operation not permitted|Could not trace the inferior", done.stderr):
        pytest.skip("processes may not be traced here")
    answers = done.stdout.split("\n--- \n")[1:]
    assert len(answers) == len(commands), done.stdout + done.stderr
    return [answer.strip() for answer in answers]


def line_of(text: str) -> int:
    lines = (ROOT / "kernels" / "lrn.cu").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if "lrn_across_backward(" in line)
    return 1 + next(i for i, line in enumerate(lines) if i > start and text in line)


def test_one_thread_is_stopped_and_shown(program: Path) -> None:
    _, _, arguments, where, thread, block, threads, _, vector, after = session(
        program,
        "cuda break lrn_across_backward thread 3 block 1",
        "run",
        "info args",
        "cuda thread",
        "print threadIdx",
        "print blockIdx.x",
        "cuda threads",
        f"cuda break lrn.cu:{line_of('const LrnSides sides')} thread 3 block 1",
        "continue 1\nprint vector",
        "next\ncuda thread",
    )
    assert "problem = {n = 2, h = 4, w = 4, c = 128, groups = 1, size = 5, " in arguments
    assert re.search(r"^dx = 0x[0-9a-f]+$", arguments, re.M)
    assert where == (
        "lrn_across_backward<SIZE, ALIGNED, T>, block (1,0,0) of (5,1,1), "
        "thread (3,0,0) of (256,1,1): warp 0, lane 3"
    )
    assert "x = 3, y = 0, z = 0" in thread and block.endswith("= 1")
    barrier = f"__syncthreads, kernels/lrn.cu:{line_of('__syncthreads')}"
    assert threads.splitlines() == [
        f"(0,0,0) to (2,0,0)       waiting at {barrier}",
        "(3,0,0)                  running",
        "(4,0,0) to (255,0,0)     not begun",
    ]
    # A block has 254 vectors of its own, and one of each neighbour.
    assert vector.splitlines()[-1].endswith(f"= {254 + 3 - 1}")
    assert after.splitlines()[-1] == where


def test_a_step_over_a_barrier_stays_in_its_thread_and_others_are_seen_from_it(program: Path) -> None:
    barrier = line_of("__syncthreads")
    _, _, before, stepped, waiting, itself, selected, returned, wrong, end = session(
        program,
        f"cuda break lrn.cu:{barrier} thread 7 block 0",
        "run",
        "print t.lane[0]",
        "next\nprint thread",
        "cuda at 9 print thread",
        "cuda at 7 print thread",
        "backtrace 1",
        "python\ntry: gdb.execute('cuda at 0 print thread')\nexcept gdb.error as e: print(e)\nend",
        "python\ntry: gdb.execute('cuda at 256 print thread')\nexcept gdb.error as e: print(e)\nend",
        "delete\ncontinue",
    )
    assert re.search(r"\$1 = -?[0-9.e-]+$", before)
    assert stepped.splitlines()[-1].endswith("= 7") and waiting.endswith("= 9") and itself.endswith("= 7")
    assert "lrn_across_backward<5, true, float>" in selected and f"lrn.cu:{barrier + 1}" in selected
    assert returned == "thread (0,0,0) has not begun or has returned"
    assert wrong == "the block has (256,1,1) threads; there is no (256,0,0)"
    # Registers are whole again: the kernel runs to its end and to the right result.
    plain = subprocess.run([program], capture_output=True, text=True, check=True, timeout=60).stdout
    assert plain.strip() in end and "exited normally" in end


def test_the_stack_of_a_thread_that_waits(program: Path) -> None:
    _, _, stack, locals_ = session(
        program,
        "cuda break lrn_across_backward thread 3 block 1",
        "run",
        "cuda at 2 backtrace",
        "cuda at 2 info locals",
    )
    assert re.search(r"#\d+ .*__syncthreads", stack) and re.search(
        r"#\d+ .*lrn_across_backward<5, true", stack
    )
    assert "Machine::fiber_main" in stack
    assert "thread = 2" in locals_.splitlines() and "exists = true" in locals_.splitlines()


def test_mistakes_are_explained(program: Path) -> None:
    trial = "python\ntry: gdb.execute('{}')\nexcept gdb.error as e: print(e)\nend"
    commands = ("cuda thread", "cuda break lrn.cu:1", "cuda break f thread 1;2", "cuda at 3")
    assert session(program, *(trial.format(command) for command in commands)) == [
        "no kernel runs now",
        "cuda break LOCATION thread X,Y,Z [block X,Y,Z]",
        "a position is X, X,Y or X,Y,Z, not '1;2'",
        "cuda at X,Y,Z COMMAND",
    ]
