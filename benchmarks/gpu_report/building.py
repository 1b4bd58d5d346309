"""Parts that come first: the machine, and the modules compiled while peers are measured."""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from gpu_report.measuring import peers, script
from gpu_report.running import ROOT, Command, Failed, Run, python
from gpu_report.settings import Settings, cores

_CLOCKS = "name,compute_cap,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit"
_ASKED = [
    ["date", "-u"],
    ["uname", "-a"],
    ["grep", "-E", "MemTotal|MemAvailable", "/proc/meminfo"],
    ["nvidia-smi"],
    ["nvidia-smi", f"--query-gpu={_CLOCKS}", "--format=csv"],
    ["nvcc", "--version"],
    ["c++", "--version"],
]


def machine(settings: Settings, run: Run) -> None:
    """Record the machine, and install wheels that it lacks."""
    run.say(f"{cores()} cores, Python {sys.version.split()[0]}: {sys.executable}")
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        run.say(f"{header} is missing: the modules cannot be compiled for this Python")
    for command in _ASKED:
        if shutil.which(command[0]):
            run.do(Command(command), 15)
    names = "numpy|cupy|torch|triton|pybind11|pytest|hypothesis|typer|rich|safetensors|pillow|nvidia-|cuda-"
    run.do(
        python(
            "-c",
            "import importlib.metadata as m, re, sys\n"
            "print(*sorted({f'{d.name} {d.version}' for d in m.distributions()"
            " if re.match(sys.argv[1], d.name or '', re.I)}), sep=', ')",
            names,
        ),
        20,
    )
    run.states.clear()  # a missing program is no failure
    wheels = find_wheels()
    if not wheels:
        run.say("no wheels: where its frontend is not installed, cuDNN is measured through PyTorch alone")
        return
    site = settings.scratch / "site"
    options = [
        "--no-index",
        "--no-deps",
        "--no-compile",
        "--no-cache-dir",
        "--upgrade",
        "--target",
        str(site),
    ]
    pip = Command([sys.executable, "-m", "pip", "install", "-q", *options, *map(str, wheels)])
    if run.do(pip, 40) == 0:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(site)]))
        sys.path.append(str(site))


def find_wheels() -> list[Path]:
    """Return the wheels in $WHEELS, else in the project's ``.whl``: packages that this machine lacks."""
    folder = Path(os.environ.get("WHEELS") or ROOT / ".whl")
    return sorted(folder.glob("*.whl"))


def compile_jobs(kind: str, number: int | None = None, meminfo: Path = Path("/proc/meminfo")) -> int:
    """Return the number of compilers that run at once: as many as there are cores.

    A machine with a GPU has enough memory, but some virtual ones grow theirs as it is used and report little
    at first. Elsewhere each compiler is given 1.5 GB of the memory.
    """
    number = number or cores()
    if kind == "cuda":
        return number
    try:
        kibibytes = re.findall(r"^Mem(?:Total|Available): +([0-9]+)", meminfo.read_text(), re.M)
    except OSError:
        return number
    return max(1, min([number, max((int(text) // 1_500_000 for text in kibibytes), default=number)]))


def make(settings: Settings, jobs: int, modules: Sequence[str] = (), *more: str) -> Command:
    """Return the command that compiles modules."""
    variables = [
        f"-j{jobs}",
        f"PYTHON={sys.executable}",
        *([f"MODULES={' '.join(modules)}"] if modules else []),
    ]
    if settings.on_gpu:
        variables.append("CCONVNET_CUDA=on")
    # The flags of a make that started this must not apply.
    alone = {"MAKEFLAGS": "", "MFLAGS": "", "MAKELEVEL": ""}
    return Command(["make", "--no-print-directory", "modules", *variables, *more], alone)


def build(settings: Settings, run: Run) -> None:
    """Compile the modules; on a GPU, peers and conformance run meanwhile."""
    jobs = compile_jobs(settings.kind)
    # Peers need only the modules of problems, so those come first.
    status = run.do(make(settings, jobs, ["_problem", "_pixels"]))
    if status == 0 and settings.on_gpu:
        settings.peers.append(run.start(peers(settings, run, 170)))
        # It mostly compiles a program of its own.
        if (ROOT / "benchmarks" / "conformance.py").exists():
            settings.conformance = run.start(
                script("conformance.py", settings, settings.scratch / "conformance.jsonl")
            )
    kernels = [f"_{settings.kind}"] if settings.kind in ("cuda", "emulator") else []
    if status == 0:
        build = make(settings, jobs, ["_problem", "_pixels", *kernels] if kernels else ())
        status = run.do(build)
        if status not in (0, None) and run.left > 60 and jobs > 4:
            run.say("compiling again with fewer compilers at a time, in case memory was short")
            status = run.do(make(settings, jobs // 4, ["_problem", "_pixels", *kernels]))
            run.states.discard("failed")
    if status == 0:
        query = "import sys; from cconvnet.devices import PRECISIONS, get_device as d; d = d(sys.argv[1]); "
        query += "print(d.reason, *filter(d.serves, PRECISIONS)); print(d.host(d.array([1.0, 2.0])).sum())"
        status = run.do(python("-c", query, settings.device), 60)
    if status != 0:
        settings.unbuilt = "the modules could not be built"
        raise Failed(settings.unbuilt if status is not None else f"{settings.unbuilt} in time")
