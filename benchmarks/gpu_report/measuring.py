"""Parts that measure: kernels and the step beside their peers, and what a machine's resources give."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from gpu_report.running import ROOT, Absent, Command, Failed, Run, python, read_values
from gpu_report.settings import FEW_THREADS, KERNELS, MACHINE, RESTARTS, STEP, Settings

PRECISIONS = "bf16,fp32,tf32"
PLAN_SECONDS = {"CCONVNET_CUDNN_PLAN_SECONDS": "1"}
PYTORCH_SECONDS = 60  # of the time before cuDNN's frontend is asked
# PyTorch's forms that are ready at once, and those that may be faster: compiling takes a while, and nothing
# is timed before all of a command's forms have taken the same first steps.
COMPILED = "channels_last+compiled+graph+lrn_by_hand"
STEP_FORMS = [
    ("bf16", "channels_last+graph,channels_last+graph+lrn_by_hand", 60),
    ("bf16", f"{COMPILED},{COMPILED}+bf16_model", 75),
]
MORE_THREADS = {"OMP_NUM_THREADS": "8", "OPENBLAS_NUM_THREADS": "8"}


def script(name: str, s: Settings, out: Path, *more: str) -> Command:
    """Return the command that runs a script of this project's benchmarks."""
    path = ROOT / "benchmarks" / name
    if not path.exists():
        raise Failed(f"{path.relative_to(ROOT)} is missing")
    return python(str(path), "--device", s.device, *more, "--json", str(out))


def peers(s: Settings, run: Run, seconds: float) -> Command:
    """Return the command that measures PyTorch and cuDNN, one process after the other.

    They measure what the lines do not contain yet. The first network comes first; others have the time that
    it leaves.
    """
    first, *others = s.tables
    turns = [("pytorch", first, min(PYTORCH_SECONDS, seconds / 2)), ("cudnn", first, seconds)]
    if others:
        turns += [(side, ",".join(others), seconds) for side in ("cudnn", "pytorch")]
    stop = ("--stop", str(s.scratch / "stop"), "--until", f"{time.monotonic() + seconds:.1f}")
    both = [lines(s, run, side, share, *stop, tables=tables) for side, tables, share in turns]
    text = "; ".join(shlex.join(command.arguments) for command in both)
    return Command(["/bin/sh", "-c", text], {**both[0].environment, **PLAN_SECONDS})


def lines(s: Settings, run: Run, side: str, seconds: float, *more: str, tables: str = "") -> Command:
    """Return the command that measures one side's kernels."""
    sizes = [
        "--tables",
        tables or ",".join(s.tables),
        "--precisions",
        PRECISIONS,
        "--seconds",
        f"{max(seconds, 1):.0f}",
    ]
    if not s.on_gpu:
        sizes += ["--calls", "1", "--verify", "finite", "--only", "conv3,fc10,pool3,loss,update"]
    out = ["--json", str(run.folder / KERNELS)]
    return python("-m", "cconvnet.bench.lines", side, "--device", s.device, *sizes, *more, *out)


def end_peers(s: Settings, run: Run, seconds: float) -> None:
    """End peers that still run. They may measure the first network for a while longer."""
    begin = run.left

    def wait(most: float, until: Callable[[], bool]) -> None:
        while any(process.poll() is None for process in s.peers) and not until():
            if begin - run.left >= most or run.left < 5:
                return
            time.sleep(0.2)

    lines = run.folder / KERNELS
    wait(seconds, lambda: measured(lines, "cudnn"))
    (s.scratch / "stop").touch()
    wait(seconds + 5, lambda: False)
    for process in s.peers:
        process.end()
    s.peers.clear()


def measured(lines: Path, side: str) -> bool:
    """Return whether a side has finished its first table, or is missing."""
    values = (value for value in read_values(lines) if isinstance(value, dict) and value.get("side") == side)
    return any(value.get("event") == "end" or "missing" in value for value in values)


def calibration(s: Settings, run: Run) -> None:
    """Measure the GPU's resources."""
    end_peers(s, run, 0)
    out = s.scratch / "calibration.json"
    seconds = max(5, min(60, int(run.left) - 4)) if s.on_gpu else 5
    try:
        run.do(script("calibration.py", s, out, "--seconds", str(seconds)))
    finally:
        run.keep(out, MACHINE, what="calibration")


def kernels(s: Settings, run: Run) -> None:
    """Measure our kernels, then the peers' remaining ones."""
    end_peers(s, run, 0)
    (s.scratch / "stop").unlink(missing_ok=True)
    if s.unbuilt and s.on_gpu:
        run.do(peers(s, run, run.left - 3))  # they need no kernels of ours
    s.need_modules()
    # Peers have begun with what matters most; what they have not done comes behind ours.
    most = run.left * (0.45 if s.on_gpu else 0.9)
    for _ in range(1 + RESTARTS):
        begin = run.left
        if run.do(lines(s, run, "ours", most - 3), most) != 3:
            break
        most -= begin - run.left
        if most < 5:
            break
    if run.left > 5:
        run.do(peers(s, run, run.left - 3))


def _bench(s: Settings, run: Run, most: float, *arguments: str, **environment: str) -> None:
    """Run a command of cconvnet bench, and keep its result among the lines."""
    out = s.scratch / "bench.json"
    command = ["-m", "cconvnet", "bench", *arguments, "--device", s.device, "--json", str(out)]
    try:
        run.do(python(*command, **environment), most)
    finally:
        run.keep(out, STEP)


def step(s: Settings, run: Run) -> None:
    """Measure our step in its forms, and beside PyTorch's."""
    s.need_modules()
    steps, net = ("50", s.net) if s.on_gpu else ("1", ["--net", "tiny", "--batch", "2"])
    most = min(50.0, 0.35 * run.left)
    sizes = ["--device", s.device, "--precisions", "bf16,tf32,fp32", "--steps", steps]
    bound = ["--seconds", f"{0.8 * most:.0f}", "--json", str(run.folder / STEP)]
    run.do(python("-m", "cconvnet.bench.step_forms", *net, *sizes, *bound, **FEW_THREADS), most)
    if not s.on_gpu:
        _bench(s, run, run.left, "step", *s.net, "--no-peer", "--steps", "1", "--warmup", "1")
        return
    for place, (precision, forms, seconds) in enumerate(STEP_FORMS):
        share = run.left * seconds / sum(other[2] for other in STEP_FORMS[place:])
        more = ["--precision", precision, "--forms", forms, "--steps", "15"]
        _bench(s, run, share, "step", *s.net, *more, **MORE_THREADS)


def served(s: Settings) -> list[str]:
    """Return the precisions of the device, as reported by the new modules in another process."""
    code = "import sys; from cconvnet.devices import PRECISIONS, get_device; "
    code += "print(*filter(get_device(sys.argv[1]).serves, PRECISIONS))"
    asked = python("-c", code, s.device)
    answer = subprocess.run(
        asked.arguments, env={**os.environ, **asked.environment}, capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        raise Failed((answer.stderr.splitlines() or [f"the modules say nothing of {s.device}"])[-1])
    return answer.stdout.split()


def roofline(s: Settings, run: Run) -> None:
    """Measure each operation of a step, in each precision."""
    s.need_modules()
    precisions = [name for name in ("bf16", "tf32", "fp32") if name in served(s)] if s.on_gpu else ["fp32"]
    steps = [] if s.on_gpu else ["--steps", "1", "--warmup", "1"]
    for place, precision in enumerate(precisions):
        share = run.left / (len(precisions) - place)
        _bench(s, run, share, "roofline", *s.net, *steps, "--precision", precision)


def checkpoint(s: Settings, run: Run) -> None:
    """Measure checkpoints."""
    s.need_modules()
    few = [] if s.on_gpu else ["--steps", "1", "--saves", "1"]
    _bench(s, run, run.left, "checkpoint", *s.net, *few, "--out", str(s.scratch))


def scaling(s: Settings, run: Run) -> None:
    """Measure steps at growing batches and image sizes."""
    s.need_modules()
    net, seconds = ("alexnet", 0.8 * run.left) if s.on_gpu else ("lenet", 3.0)
    few = [] if s.on_gpu else ["--batch-max", "2", "--sizes", "12"]
    precision = ["--precision", "bf16" if s.on_gpu else "fp32"]
    _bench(s, run, run.left, "scaling", "--net", net, "--seconds", f"{seconds:.0f}", *few, *precision)


def data(s: Settings, run: Run) -> None:
    """Measure feeding, if there are images."""
    if s.data is None:
        raise Absent("no --data FOLDER was given to feed from")
    s.need_modules()
    pictures = str(Path(s.data).resolve())
    _bench(s, run, run.left, "data", *s.net, "--data", pictures, "--seconds", "1", "--no-peer")
