"""The build works in a folder of any name, and names a missing prerequisite in one line."""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ODD = "a b@c'd\"e#f (g)"
# A make that runs the tests would pass its flags down through these variables.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=ENVIRONMENT,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy the sources into a folder whose name make and a shell take apart unless it is quoted."""
    folder = tmp_path / ODD / "cconvnet"
    for name in ("kernels", "bindings", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def test_modules_are_built_in_a_folder_of_any_name(checkout: Path) -> None:
    """Headers and Python are found below a folder of such a name too."""
    site = checkout / ".venv" / "site"
    shutil.copytree(
        Path(str(importlib.metadata.distribution("pybind11").locate_file("pybind11"))), site / "pybind11"
    )
    (info,) = Path(str(importlib.metadata.distribution("pybind11").locate_file("."))).glob(
        "pybind11-*.dist-info"
    )
    shutil.copytree(info, site / info.name)
    python = checkout / ".venv" / "python"
    python.write_text(
        f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(site))} exec {shlex.quote(sys.executable)} "$@"\n'
    )
    python.chmod(0o755)
    options = ("CCONVNET_CUDA=off", "CCONVNET_CPU=off", "MODULES=_problem")
    done = make(checkout, "modules", f"PYTHON={python}", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((checkout / "cconvnet").glob("_problem.*.so"))
    # With the same flags nothing is compiled again; with others everything is.
    again = make(checkout, "modules", f"PYTHON={python}", *options)
    assert "bindings/problem.cpp" not in again.stdout
    other = make(checkout, "-n", "modules", f"PYTHON={python}", *options, "CXXFLAGS=-DOTHER")
    assert "bindings/problem.cpp" in other.stdout
    # The flags of the other modules name the same folder: a dry run shows that the shell keeps it whole.
    shown = make(checkout, "-n", "modules", f"PYTHON={python}", "CCONVNET_CUDA=off", "CCONVNET_CPU=off")
    (line,) = (line for line in shown.stdout.splitlines() if "-DCCONVNET_MODULE=_emulator" in line)
    assert str(site / "pybind11" / "include") in shlex.split(line)


def test_a_folder_with_a_dollar_sign_is_refused(checkout: Path) -> None:
    folder = checkout.rename(checkout.with_name("costs $5"))
    done = make(folder, "venv")
    assert (done.returncode, done.stdout) == (
        2,
        f"The checkout's path may hold no dollar sign, which setuptools takes for a variable: {folder}\n",
    )
    assert not (folder / ".venv").exists()


@pytest.mark.parametrize("way", ["venv", "modules", "setup"])
def test_a_compiler_without_openmp_is_refused_in_one_line(checkout: Path, way: str) -> None:
    """Debian's clang has no OpenMP header; the message names its package before anything is compiled."""
    compiler = checkout.parent.parent / "clang++"
    compiler.write_text(
        "#!/bin/sh\ngrep -q omp.h && { echo \"fatal error: 'omp.h' file not found\" >&2; exit 1; }\n"
    )
    compiler.chmod(0o755)
    if way == "setup":
        done = subprocess.run(
            [sys.executable, "setup.py", "build_ext"],
            cwd=checkout,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
            env=ENVIRONMENT | {"CXX": str(compiler)},
        )
    else:
        done = make(checkout, way, f"CXX={compiler}", f"PYTHON={sys.executable}")
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert f"OpenMP is missing ({compiler} finds no omp.h): apt-get install libomp-dev" in said
    assert "c++   " not in said and not (checkout / ".venv").exists()
    # The CPU module alone needs it.
    without = make(
        checkout, "-n", "modules", f"CXX={compiler}", f"PYTHON={sys.executable}", "CCONVNET_CPU=off"
    )
    assert "OpenMP" not in without.stdout + without.stderr


def test_no_compiler_at_all(checkout: Path) -> None:
    done = make(checkout, "modules", "CXX=no-such-compiler", f"PYTHON={sys.executable}")
    assert "A C++17 compiler is missing (no-such-compiler): apt-get install g++" in done.stderr
