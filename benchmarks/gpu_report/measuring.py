"""Parts that measure: kernels and the step beside their peers, and what a machine's resources give."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from gpu_report.running import ROOT, Absent, Command, Failed, Run, python, read_values
from gpu_report.settings import CONSTANTS, FEW_THREADS, KERNELS, MACHINE, RESTARTS, STEP, Settings

PRECISIONS = "bf16,fp32,tf32"
PLAN_SECONDS = {"CCONVNET_CUDNN_PLAN_SECONDS": "1"}
PYTORCH_SECONDS = 60  # of the time, before cuDNN's frontend is measured
# PyTorch's forms that are ready at once, and those that may be faster. Compiling takes a while, and timing
# starts only after all of a command's forms have taken the same first steps.
COMPILED = "channels_last+compiled+graph+lrn_by_hand"
STEP_FORMS = [
    ("bf16", "channels_last+graph,channels_last+graph+lrn_by_hand", 60),
    ("bf16", f"{COMPILED},{COMPILED}+bf16_model", 75),
]
MORE_THREADS = {"OMP_NUM_THREADS": "8", "OPENBLAS_NUM_THREADS": "8"}


def script(name: str, settings: Settings, out: Path, *more: str) -> Command:
    """Return the command that runs a script of this project's benchmarks."""
    path = ROOT / "benchmarks" / name
    if not path.exists():
        raise Failed(f"{path.relative_to(ROOT)} is missing")
    return python(str(path), "--device", settings.device, *more, "--json", str(out))


def peers(settings: Settings, run: Run, seconds: float) -> Command:
    """Return the command that measures PyTorch and cuDNN, one process after the other.

    They measure what the lines do not contain yet. The first network comes first; others have the time that
    it leaves.
    """
    first, *others = settings.tables
    turns = [("pytorch", first, min(PYTORCH_SECONDS, seconds / 2)), ("cudnn", first, seconds)]
    if others:
        turns += [(side, ",".join(others), seconds) for side in ("cudnn", "pytorch")]
    stop = ("--stop", str(settings.scratch / "stop"), "--until", f"{time.monotonic() + seconds:.1f}")
    both = [lines(settings, run, side, share, *stop, tables=tables) for side, tables, share in turns]
    text = "; ".join(shlex.join(command.arguments) for command in both)
    return Command(["/bin/sh", "-c", text], {**both[0].environment, **PLAN_SECONDS})


def lines(settings: Settings, run: Run, side: str, seconds: float, *more: str, tables: str = "") -> Command:
    """Return the command that measures one side's kernels."""
    sizes = [
        "--tables",
        tables or ",".join(settings.tables),
        "--precisions",
        PRECISIONS,
        "--seconds",
        f"{max(seconds, 1):.0f}",
    ]
    if not settings.on_gpu:
        sizes += ["--calls", "1", "--verify", "finite", "--only", "conv3,fc10,pool3,cost,update"]
    out = ["--json", str(run.folder / KERNELS)]
    return python("-m", "cconvnet.bench.lines", side, "--device", settings.device, *sizes, *more, *out)


def end_peers(settings: Settings, run: Run, seconds: float) -> None:
    """End peers that still run. They may measure the first network for a while longer."""
    begin = run.left

    def wait(most: float, until: Callable[[], bool]) -> None:
        while any(process.poll() is None for process in settings.peers) and not until():
            if begin - run.left >= most or run.left < 5:
                return
            time.sleep(0.2)

    lines = run.folder / KERNELS
    wait(seconds, lambda: measured(lines, "cudnn"))
    (settings.scratch / "stop").touch()
    wait(seconds + 5, lambda: False)
    for process in settings.peers:
        process.end()
    settings.peers.clear()


def measured(lines: Path, side: str) -> bool:
    """Return whether a side has finished its first table, or is missing."""
    values = (value for value in read_values(lines) if isinstance(value, dict) and value.get("side") == side)
    return any(value.get("event") == "end" or "missing" in value for value in values)


def calibration(settings: Settings, run: Run) -> None:
    """Measure the GPU's resources."""
    end_peers(settings, run, 0)
    out = settings.scratch / "calibration.json"
    seconds = max(5, min(60, int(run.left) - 4)) if settings.on_gpu else 5
    try:
        more = ("--seconds", str(seconds), "--constants", str(run.folder / CONSTANTS))
        run.do(script("calibration.py", settings, out, *more))
    finally:
        run.keep(out, MACHINE, what="calibration")


def kernels(settings: Settings, run: Run) -> None:
    """Measure our kernels, then the peers' remaining ones."""
    end_peers(settings, run, 0)
    (settings.scratch / "stop").unlink(missing_ok=True)
    if settings.unbuilt and settings.on_gpu:
        run.do(peers(settings, run, run.left - 3))  # they need no kernels of ours
    settings.need_modules()
    # Peers have begun with the most important cases; their remaining ones follow ours.
    most = run.left * (0.45 if settings.on_gpu else 0.9)
    for _ in range(1 + RESTARTS):
        begin = run.left
        if run.do(lines(settings, run, "ours", most - 3), most) != 3:
            break
        most -= begin - run.left
        if most < 5:
            break
    if run.left > 5:
        run.do(peers(settings, run, run.left - 3))


def _bench(settings: Settings, run: Run, most: float, *arguments: str, **environment: str) -> None:
    """Run a command of cconvnet bench, and keep its result among the lines."""
    out = settings.scratch / "bench.json"
    command = ["-m", "cconvnet", "bench", *arguments, "--device", settings.device, "--json", str(out)]
    try:
        run.do(python(*command, **environment), most)
    finally:
        run.keep(out, STEP)


def step(settings: Settings, run: Run) -> None:
    """Measure our step in its forms, and beside PyTorch's."""
    settings.need_modules()
    steps, net = ("50", settings.net) if settings.on_gpu else ("1", ["--net", "tiny", "--batch", "2"])
    most = min(50.0, 0.35 * run.left)
    sizes = ["--device", settings.device, "--precisions", "bf16,tf32,fp32", "--steps", steps]
    bound = ["--seconds", f"{0.8 * most:.0f}", "--json", str(run.folder / STEP)]
    run.do(python("-m", "cconvnet.bench.step_forms", *net, *sizes, *bound, **FEW_THREADS), most)
    if not settings.on_gpu:
        _bench(settings, run, run.left, "step", *settings.net, "--no-peer", "--steps", "1", "--warmup", "1")
        return
    for place, (precision, forms, seconds) in enumerate(STEP_FORMS):
        share = run.left * seconds / sum(other[2] for other in STEP_FORMS[place:])
        more = ["--precision", precision, "--forms", forms, "--steps", "15"]
        _bench(settings, run, share, "step", *settings.net, *more, **MORE_THREADS)


def served(settings: Settings) -> list[str]:
    """Return the precisions of the device, as reported by the new modules in another process."""
    code = "import sys; from cconvnet.devices import PRECISIONS, get_device; "
    code += "print(*filter(get_device(sys.argv[1]).serves, PRECISIONS))"
    asked = python("-c", code, settings.device)
    answer = subprocess.run(
        asked.arguments, env={**os.environ, **asked.environment}, capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        raise Failed((answer.stderr.splitlines() or [f"the modules do not report {settings.device}"])[-1])
    return answer.stdout.split()


def roofline(settings: Settings, run: Run) -> None:
    """Measure each operation of a step, in each precision."""
    settings.need_modules()
    precisions = (
        [name for name in ("bf16", "tf32", "fp32") if name in served(settings)]
        if settings.on_gpu
        else ["fp32"]
    )
    steps = [] if settings.on_gpu else ["--steps", "1", "--warmup", "1"]
    for place, precision in enumerate(precisions):
        share = run.left / (len(precisions) - place)
        _bench(settings, run, share, "roofline", *settings.net, *steps, "--precision", precision)


def checkpoint(settings: Settings, run: Run) -> None:
    """Measure checkpoints."""
    settings.need_modules()
    few = [] if settings.on_gpu else ["--steps", "1", "--saves", "1"]
    _bench(settings, run, run.left, "checkpoint", *settings.net, *few, "--out", str(settings.scratch))


def scaling(settings: Settings, run: Run) -> None:
    """Measure steps at growing batches and image sizes."""
    settings.need_modules()
    net, seconds = ("alexnet", 0.8 * run.left) if settings.on_gpu else ("lenet", 3.0)
    few = [] if settings.on_gpu else ["--batch-max", "2", "--sizes", "12"]
    precision = ["--precision", "bf16" if settings.on_gpu else "fp32"]
    _bench(settings, run, run.left, "scaling", "--net", net, "--seconds", f"{seconds:.0f}", *few, *precision)


def data(settings: Settings, run: Run) -> None:
    """Measure feeding, if there are images."""
    if settings.data is None:
        raise Absent("no --data FOLDER was given to feed from")
    settings.need_modules()
    pictures = str(Path(settings.data).resolve())
    _bench(settings, run, run.left, "data", *settings.net, "--data", pictures, "--seconds", "1", "--no-peer")
