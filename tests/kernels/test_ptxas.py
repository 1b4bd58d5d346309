"""The Makefile's reaction to the output of compilers; a script replaces nvcc."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import programs

ROOT = programs.ROOT

INFO = "ptxas info    : "
USED = f"""{INFO}0 bytes gmem
{INFO}Compiling entry function '_Z1kPf' for 'sm_90a'
{INFO}Function properties for _Z1kPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
{INFO}Used 168 registers, used 1 barriers, 384 bytes cmem[0]"""
# As nvcc 13.0 prints them.
SLOWER = {
    "C7508": "Potential Performance Loss: 'setmaxnreg' ignored; unable to determine register count at entry.",
    "C7510": "Potential Performance Loss: wgmma.mma_async instructions are serialized due to the presence of "
    "Extern calls in the function '_Z1kPf'",
    "C7511": "Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient "
    "register resources for the wgmma pipeline in the function '_Z1kPf'",
    "C7517": "warpgroup.wait is injected in around line 47 by compiler to allow use of registers defined by "
    "GMMA in function '_Z1kPf'",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make a project of one kernel, which the real Makefile builds."""
    for folder in ("kernels", "bindings", "tools", "cuda/bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "tools" / "compile_settings.py", tmp_path / "tools")
    for name in ("kernels/one.cu", "bindings/module.cpp", "bindings/problem.cpp", "bindings/pixels.cpp"):
        (tmp_path / name).touch()
    return tmp_path


def make(tree: Path, words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `make modules` with an nvcc that prints `words` as it compiles."""
    (tree / "words").write_text(words + "\n")
    nvcc = tree / "cuda" / "bin" / "nvcc"
    nvcc.write_text(
        "#!/bin/sh\n"
        f'case " $* " in *" -c "*) cat {tree}/words >&2; code={code};; *) code=0;; esac\n'
        'while [ $# -gt 1 ]; do [ "$1" = -o ] && touch "$2"; shift; done\n'
        "exit $code\n"
    )
    nvcc.chmod(0o755)
    settings = {
        "CXX": "true",
        "CUDA_HOME": str(tree / "cuda"),
        "CCONVNET_ARCHS": "90a",
        "CCONVNET_CUDA": "on",
    }
    # Not the flags of a make that started these tests.
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    return subprocess.run(
        ["make", "modules", f"PYTHON={sys.executable}", "CCONVNET_CUDA=on", "CCONVNET_CPU=off", "OUT=out"],
        cwd=tree, env=environment | settings, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def objects(tree: Path) -> list[Path]:
    return list(tree.glob("build/*/cuda/one.o"))


def test_resources_are_no_fault(tree: Path) -> None:
    done = make(tree, USED)
    assert done.returncode == 0 and objects(tree), done.stderr
    assert "ptxas" not in done.stdout + done.stderr


@pytest.mark.parametrize("code", SLOWER)
def test_code_slower_than_written_fails_the_build(tree: Path, code: str) -> None:
    done = make(tree, f"{INFO}({code}) {SLOWER[code]}\n{USED}")
    assert done.returncode != 0 and not objects(tree)
    assert f"({code})" in done.stderr
    assert "kernels/one.cu: ptxas made a kernel slower than written" in done.stderr


def test_spilled_registers_fail_the_build(tree: Path) -> None:
    done = make(tree, USED.replace("0 bytes spill stores", "48 bytes spill stores"))
    assert done.returncode != 0 and not objects(tree)
    assert "spills registers" in done.stderr


def test_a_failed_compilation_shows_why(tree: Path) -> None:
    done = make(tree, f"{INFO}0 bytes gmem\nkernels/one.cu(3): error: expected a ';'", code=2)
    assert done.returncode != 0 and "error: expected a ';'" in done.stderr
    assert INFO not in done.stderr


def test_programs_are_held_to_the_same(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tree, USED)
    monkeypatch.setenv("CUDA_HOME", str(tree / "cuda"))
    assert programs.build(tree / "kernels" / "one.cu", "cuda", "90a", tree).exists()
    nvcc = tree / "cuda" / "bin" / "nvcc"
    nvcc.write_text(f'#!/bin/sh\necho "{INFO}(C7511) serialized" >&2\n')
    with pytest.raises(programs.CannotBuild, match=r"C7511"):
        programs.build(tree / "kernels" / "one.cu", "cuda", "90a", tree)
    nvcc.write_text("#!/bin/sh\necho 'error: no' >&2\nexit 1\n")
    with pytest.raises(programs.CannotBuild, match="error: no"):
        programs.build(tree / "kernels" / "one.cu", "cuda", "90a", tree)
