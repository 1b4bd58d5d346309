"""The build works in a folder of any name, and names a missing prerequisite in one line."""

from __future__ import annotations

import importlib.metadata
import os
import re
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


# ---- the modules that are built, and the count of steps --------------------------------------------------


@pytest.fixture
def fake_tools(checkout: Path) -> list[str]:
    """Give the checkout compilers that write empty files, and return the settings that select them."""
    for name in ("c++", "cuda/bin/nvcc"):
        tool = checkout / "tools" / name
        tool.parent.mkdir(parents=True, exist_ok=True)
        tool.write_text('#!/bin/sh\nwhile [ $# -gt 1 ]; do [ "$1" = -o ] && : >"$2"; shift; done\n')
        tool.chmod(0o755)
    # A word of the command line may hold no space: only the folder's name does.
    return ["CXX=tools/c++", f"PYTHON={sys.executable}"]


def modules_of(checkout: Path) -> set[str]:
    return {path.name.partition(".")[0] for path in (checkout / "cconvnet").glob("*.so")}


def numbers(text: str) -> list[tuple[int, int]]:
    """Return the step and the number of steps of each line that compiles or links; each must have them."""
    lines = [
        line for line in text.splitlines() if any(tool in line for tool in ("c++  ", "nvcc  ", "link  "))
    ]
    found = [re.fullmatch(r"\[(\d+)/(\d+)\] (c\+\+ |nvcc|link)  \S.*", line) for line in lines]
    assert all(found), text
    return [(int(match[1]), int(match[2])) for match in found if match]


def test_steps_are_counted(checkout: Path, fake_tools: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    options = [*fake_tools, "CCONVNET_MODULES=emulator cpu", "CCONVNET_CUDA=off"]
    shown = numbers(make(checkout, "-j3", "modules", *options).stdout)
    total = len(shown)
    assert sorted(shown) == [(i + 1, total) for i in range(total)] and total > 40
    assert numbers(make(checkout, "-j3", "modules", *options).stdout) == []
    # Later, only what is compiled again.
    (checkout / "kernels" / "cpu" / "pool.cpp").touch()
    (checkout / "bindings" / "pool.cpp").touch()
    again = 4 if "_cpu" in modules_of(checkout) else 2
    shown = numbers(make(checkout, "-j2", "modules", *options).stdout)
    assert sorted(shown) == [(i + 1, again) for i in range(again)]
    # Other flags: everything, and counting does not change which flags the objects are known to have.
    assert len(numbers(make(checkout, "modules", *options, "CXXFLAGS=-DX='a b'").stdout)) == total
    assert numbers(make(checkout, "modules", *options, "CXXFLAGS=-DX='a b'").stdout) == []


@pytest.mark.parametrize(
    ("chosen", "built"),
    [
        ("base", set()),
        ("emulator", {"_emulator"}),
        ("counting", {"_counting"}),
        ("cuda", {"_cuda"}),
        ("device", {"_cpu"}),
        ("", None),
    ],
)
def test_modules_are_chosen(
    checkout: Path,
    fake_tools: list[str],
    monkeypatch: pytest.MonkeyPatch,
    chosen: str,
    built: set[str] | None,
) -> None:
    monkeypatch.setitem(ENVIRONMENT, "CUDA_HOME", str(checkout / "tools" / "cuda"))
    monkeypatch.setitem(ENVIRONMENT, "PATH", path_with_gpu(checkout, capability=None))
    done = make(checkout, "-j2", "modules", *fake_tools, f"CCONVNET_MODULES={chosen}")
    assert done.returncode == 0, done.stderr
    possible = {"_emulator", "_cuda"} | ({"_cpu"} if "oneDNN has no package" not in done.stdout else set())
    wanted = (possible if built is None else built & {*possible, "_counting"}) | {"_problem", "_pixels"}
    assert modules_of(checkout) == wanted
    # A machine without a GPU is told what else it could build.
    assert ("make cuda" in done.stdout and "make emulator" in done.stdout) == (chosen == "device")


def path_with_gpu(checkout: Path, capability: str | None) -> str:
    """Return a PATH on which `nvidia-smi` finds a GPU of this compute capability, or none."""
    tool = checkout / "tools" / "nvidia-smi"
    answer = f"case $1 in --query*) echo {capability};; *) echo 'CUDA Version: 12.4';; esac"
    tool.write_text(f"#!/bin/sh\n{answer if capability else 'echo No devices were found; exit 6'}\n")
    tool.chmod(0o755)
    return f"{tool.parent}{os.pathsep}{os.environ['PATH']}"


def test_with_a_gpu_its_module_is_built_for_it(
    checkout: Path, fake_tools: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENVIRONMENT, "CUDA_HOME", str(checkout / "tools" / "cuda"))
    monkeypatch.setitem(ENVIRONMENT, "PATH", path_with_gpu(checkout, capability="9.0"))
    done = make(checkout, "-j2", "modules", *fake_tools, "CCONVNET_MODULES=device")
    assert modules_of(checkout) == {"_problem", "_pixels", "_cuda"}, done.stderr
    assert "for 90a" in done.stdout
    # CuPy comes with it, for the CUDA that the driver serves.
    shown = make(checkout, "-n", "modules", "packages", *fake_tools, "CCONVNET_MODULES=device")
    assert "pip install" in shown.stdout and "cupy-cuda12x" in shown.stdout
    without = make(checkout, "-n", "modules", "packages", *fake_tools, "CCONVNET_MODULES=cpu")
    assert "pip install" in without.stdout and "cupy" not in without.stdout


@pytest.mark.parametrize(("chosen", "built"), [("none", []), ("base", ["_pixels", "_problem"])])
def test_setup_builds_the_modules_that_are_chosen(
    checkout: Path, fake_tools: list[str], chosen: str, built: list[str]
) -> None:
    (checkout / "README.md").touch()
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext"],
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=ENVIRONMENT | {"CXX": "tools/c++", "CCONVNET_MODULES": chosen},
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name.partition(".")[0] for path in checkout.glob("build/lib*/cconvnet/*.so")) == built


def test_one_kernel_is_compiled_for_a_debugger(checkout: Path, fake_tools: list[str]) -> None:
    """The emulator of the other kernels is used as it stands; a folder of its own gets the module."""
    options = (*fake_tools, "CCONVNET_CUDA=off", "CCONVNET_CPU=off", "MODULES=_emulator")
    assert make(checkout, "-j2", "modules", *options).returncode == 0
    debug = (*options, "OUT=build/debug")
    shown = make(checkout, "-n", "modules", *debug, "DEBUG=lrn fc").stdout
    compiled = [line for line in shown.splitlines() if " -c " in line]
    assert len(compiled) == 2 and all("-O0 -g3" in line for line in compiled)
    done = make(checkout, "modules", *debug, "DEBUG=lrn fc")
    assert (
        numbers(done.stdout) == [(1, 3), (2, 3), (3, 3)] and "kernels/lrn.cu (for a debugger)" in done.stdout
    )
    assert make(checkout, "modules", *debug, "DEBUG=lrn fc").stdout.count("link") == 0
    # Another choice links anew, though no object is newer.
    assert "link  build/debug/_emulator" in make(checkout, "modules", *debug, "DEBUG=fc").stdout
    assert [path.name.partition(".")[0] for path in (checkout / "build/debug").glob("*.so")] == ["_emulator"]
    assert modules_of(checkout) == {"_emulator"}
    wrong = make(checkout, "modules", *debug, "DEBUG=lnr")
    assert wrong.returncode == 2 and "no file kernels/*.cu: lnr" in wrong.stderr
    asked = make(checkout, "-n", "emulator-debug", "BASE_PYTHON=true", "KERNELS=lrn").stdout
    assert 'DEBUG="lrn" OUT=build/debug' in asked and "MODULES=_emulator" in asked


def test_nvcc_compiles_named_kernels_alone(checkout: Path, fake_tools: list[str]) -> None:
    """A kernel's machine code is there without the module."""
    asked = make(checkout, "-n", "machine-code", "BASE_PYTHON=true", "KERNELS=lrn fc").stdout
    options = ("CCONVNET_MODULES=cuda", "CCONVNET_CUDA=on", "MODULES=")
    nvcc = (*fake_tools, "CUDA_HOME=tools/cuda")
    assert all(option in asked for option in (*options, 'CUDA_KERNELS="lrn fc"'))
    done = make(checkout, "modules", *nvcc, *options, "CUDA_KERNELS=lrn fc")
    assert done.returncode == 0 and numbers(done.stdout) == [(1, 2), (2, 2)]
    assert {path.name for path in (checkout / "build").glob("*/cuda/*.o")} == {"lrn.o", "fc.o"}
    assert modules_of(checkout) == set()
    wrong = make(checkout, "modules", *nvcc, *options, "CUDA_KERNELS=lrn lnr")
    assert wrong.returncode == 2 and "KERNELS names no file kernels/*.cu: lnr" in wrong.stderr


def test_settings_may_stand_on_the_command_line(
    checkout: Path, fake_tools: list[str], tmp_path: Path
) -> None:
    """Make's own variables reach the script that looks for compilers and libraries."""
    options = (*fake_tools, "CCONVNET_MODULES=cuda", "CCONVNET_ARCHS=75 ptx", "CUDA_HOME=tools/cuda")
    assert "with tools/cuda/bin/nvcc for 75 ptx" in make(checkout, "-n", "modules", *options).stdout
    done = make(checkout, "-n", "modules", *fake_tools, "CCONVNET_MODULES=cpu", "ONEDNN_ROOT=no-such")
    assert done.returncode == 2 and "ONEDNN_ROOT=no-such needs include/oneapi/dnnl/dnnl.hpp" in done.stderr
    # What the module is not built for does not matter.
    other = make(checkout, "-n", "modules", *fake_tools, "CCONVNET_MODULES=emulator", "ONEDNN_ROOT=no-such")
    assert other.returncode == 0


def test_an_unknown_module_is_refused(checkout: Path, fake_tools: list[str]) -> None:
    done = make(checkout, "modules", *fake_tools, "CCONVNET_MODULES=cpu gpu")
    assert done.returncode == 2 and "not gpu" in done.stderr and "CCONVNET_MODULES" in done.stderr


def test_training_builds_the_modules_of_its_devices(checkout: Path) -> None:
    for settings, modules in (
        ((), "device"),
        (("DEVICE=emulator",), "emulator"),
        (("DEVICE=cuda:0,cuda:1",), "cuda"),
        (("DEVICE=reference:0",), "base"),
        (("ARGS=--epochs 3 --device=cpu:0,emulator:0",), "cpu emulator"),
        (("CCONVNET_MODULES=cpu cuda", "DEVICE=cpu:0"), "cpu cuda"),
    ):
        shown = make(checkout, "-n", "train", "BASE_PYTHON=true", *settings).stdout
        assert f'CCONVNET_MODULES="{modules}" .venv/.installed' in shown
    for target, modules, stamp in (
        ("test", "cpu cuda emulator counting", "-dev"),
        ("emulator", "emulator", ""),
        ("lint", "base", "-dev"),
    ):
        shown = make(checkout, "-n", target, "BASE_PYTHON=true").stdout
        assert f'CCONVNET_MODULES="{modules}" .venv/.installed{stamp} ' in shown


def test_what_one_may_do_next_is_said_after_training_alone(checkout: Path) -> None:
    """Not when training failed or was stopped; the report's command names the run."""
    (checkout / ".venv" / "bin").mkdir(parents=True)
    for stamp in (".requirements", ".installed"):
        (checkout / ".venv" / stamp).touch()
    for name, script in {
        "python": f'exec {shlex.quote(sys.executable)} "$@"',
        "cconvnet": 'echo "train: $*"; mkdir -p runs/7-lenet; test -z "$BROKEN" && '
        """echo '{"complete": '${COMPLETE:-true}'}' >runs/7-lenet/summary.json""",
    }.items():
        program = checkout / ".venv" / "bin" / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    older = checkout / "runs" / "6-lenet" / "summary.json"
    older.parent.mkdir(parents=True)
    older.write_text('{"complete": true}')
    os.utime(older, (1e9, 1e9))
    done = make(checkout, "train", "CXX=true", "CCONVNET_MODULES=base", "ARGS=--epochs 2")
    said = done.stdout.partition("train: train --net lenet --epochs 2\n")[2]
    assert "cconvnet report runs/7-lenet" in said and "make test" in said and said.count("\n") <= 5
    failed = make(checkout, "train", "CXX=true", "CCONVNET_MODULES=base", "BROKEN=1")
    assert failed.returncode != 0 and "train: train" in failed.stdout and "report" not in failed.stdout
    stopped = make(checkout, "train", "CXX=true", "CCONVNET_MODULES=base", "COMPLETE=false")
    assert stopped.returncode == 0 and "train: train" in stopped.stdout and "report" not in stopped.stdout


def test_help_lists_every_target_in_groups(checkout: Path) -> None:
    text = make(checkout, "help").stdout
    assert max(map(len, text.splitlines())) <= 110 and len(text.splitlines()) <= 31
    listed = re.findall(r"^  ([a-z-]+) ", text, re.MULTILINE)
    assert listed[0] == "train" and {"venv", "cpu", "cuda", "emulator", "test", "lint"} <= set(listed)
    assert len(re.findall(r"^\S", text, re.MULTILINE)) >= 3


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
