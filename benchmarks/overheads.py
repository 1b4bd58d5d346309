"""Measure the cost of cconvnet beside training: importing, starting, watching, and memory that grows.

    python benchmarks/overheads.py
    python benchmarks/overheads.py --parts watching --net cifar-quick --steps 1000 --json overheads.json

Each part runs in processes of its own. Its result is printed with its target:

    import    seconds of `import cconvnet` in fresh processes, and of the imports of training
    start     seconds from `cconvnet train` to the end of its first step, in fresh processes
    watching  share of a step that the progress bar and the log take, measured twice: as the time within them,
              and as the difference of steps with and without them, in turn; the share with TensorBoard's
              files, where it is installed; and the seconds of the curve at the end
    memory    growth of a run's resident memory over 2,000 steps: the slope of the straight line that fits
              it best, and the difference of the last and the first value

Where other programs use the same cores, the second figure of "watching" is unreliable: its spread is printed,
too. The exit code is 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

TARGETS = {"import": 0.5, "start": 3.0, "watching": 0.01, "memory": 1.0}
UNITS = {"import": "s", "start": "s", "watching": "of a step", "memory": "MB in 1,000 steps"}
# Steps after which caches and pools do not grow any more.
_WARM_STEPS = 200
_STEPS_PER_SAMPLE = 10


# ---- in processes of their own ---------------------------------------------------------------------------


def import_seconds(module: str) -> float:
    """Return the seconds of an import in a fresh process."""
    code = f"import time; begin = time.perf_counter(); import {module}; print(time.perf_counter() - begin)"
    return float(_python("-c", code))


def start_seconds(options: argparse.Namespace) -> float:
    """Return the seconds from the start of the process to the end of the first step."""
    begin = time.monotonic()
    return float(_python(__file__, "--inside", "start", *_arguments(options))) - begin


def _python(*arguments: str) -> str:
    # An empty entry would name the working directory.
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-P", *arguments], capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout.splitlines()[-1]


def _arguments(options: argparse.Namespace) -> list[str]:
    given = ["--net", options.net, "--device", options.device, "--steps", str(options.steps)]
    return [*given, *(["--data", options.data] if options.data else [])]


def inside_start(options: argparse.Namespace) -> float:
    """Return the time at which the first step of `cconvnet train` ends."""
    with tempfile.TemporaryDirectory() as folder:
        sys.argv = ["cconvnet", "train", "--quiet", "--net", options.net, "--device", options.device]
        sys.argv += ["--out", f"{folder}/run", *(["--data", options.data] if options.data else [])]
        from cconvnet import cli
        from cconvnet.network import Network

        train_step = Network.train_step

        def first_step(network: Network, *given: Any) -> None:
            train_step(network, *given)
            network.result()
            raise _Ended(time.monotonic())

        Network.train_step = first_step  # type: ignore[method-assign]
        try:
            cli.app(standalone_mode=False)
        except _Ended as ended:
            return ended.moment
    raise AssertionError("no step was done")


class _Ended(BaseException):
    def __init__(self, moment: float) -> None:
        super().__init__()
        self.moment = moment


class _Terminal(io.TextIOWrapper):
    """A terminal without a reader."""

    def isatty(self) -> bool:
        return True


def _trainer(options: argparse.Namespace, folder: str, steps: int, tensorboard: bool) -> Any:
    """Return a training that is ready to begin, with a progress bar, and its options."""
    from cconvnet.console import Bar
    from cconvnet.devices import devices_of
    from cconvnet.training.new_run import new_run
    from cconvnet.training.options import Options

    wanted = Options(
        net=options.net,
        data=options.data,
        devices=[options.device],
        epochs=10**6,
        steps=steps,
        out=Path(folder) / "run",
        checkpoint_every=10**9,
        tensorboard=tensorboard,
    )
    terminal = _Terminal(io.BufferedWriter(io.FileIO(os.devnull, "w")), encoding="utf-8")
    return new_run(wanted, devices_of(wanted.devices), Bar(terminal)), wanted


def inside_watching(options: argparse.Namespace) -> dict[str, Any]:
    """Measure watching, with TensorBoard's files if it is installed."""
    found = _watched(options, tensorboard=False)
    if _has_tensorboard():
        found["share_with_tensorboard"] = _watched(options, tensorboard=True)["share"]
    return found


def _watched(options: argparse.Namespace, tensorboard: bool) -> dict[str, Any]:
    """Run steps in turns, watched and not; each turn has one line of the log."""
    from cconvnet.plots import curve
    from cconvnet.training import start

    with tempfile.TemporaryDirectory() as folder:
        trainer, wanted = _trainer(options, folder, _WARM_STEPS + options.steps, tensorboard)
        turns = _Turns(wanted.log_every)
        with trainer.run:
            start.begin(trainer, wanted)
            step, begin = trainer.steps.begin, trainer.reporter.begin

            def counted(*given: Any) -> None:
                turns.next(trainer.progress.step)
                step(*given)

            trainer.steps.begin = counted
            for owner, name in (
                (trainer.reporter, "step"),
                (trainer.reporter, "say"),
                (trainer.pace, "count_step"),
                (trainer.run, "log"),
            ):
                setattr(owner, name, turns.watched(getattr(owner, name)))
            trainer.reporter.begin = begin
            trainer.train(wanted)
        before = time.perf_counter()
        curve(Path(folder) / "run", Path(folder) / "curve.png")
        return {**turns.result(), "curve_seconds": time.perf_counter() - before}


def _has_tensorboard() -> bool:
    from cconvnet.runs.tensorboard import TensorBoardMissing, require

    try:
        require()
    except TensorBoardMissing:
        return False
    return True


class _Turns:
    """Turns of watched and unwatched steps, their times, and the time that watching took."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._turn = -1
        self._mark: float | None = None
        self._within = self._outside = 0.0
        self._blocks: dict[bool, list[float]] = {True: [], False: []}

    @property
    def _on(self) -> bool:
        return self._turn % 2 == 1

    def next(self, step: int) -> None:
        """Begin a step, which ends the one before and its reports."""
        now = time.perf_counter()
        if self._mark is not None and step > _WARM_STEPS:
            self._blocks[self._on][-1] += now - self._mark
        turn = step // self._length
        if turn != self._turn:
            self._turn = turn
            self._blocks[self._on].append(0.0)
        self._mark = now

    def watched(self, work: Callable[..., None]) -> Callable[..., None]:
        def call(*given: Any) -> None:
            if not self._on:
                return
            begin = time.perf_counter()
            work(*given)
            if self._turn * self._length >= _WARM_STEPS:
                self._within += time.perf_counter() - begin

        return call

    def result(self) -> dict[str, Any]:
        # The first blocks are warm-up, and the last one is incomplete.
        watched, plain = ([s for s in self._blocks[on] if s > 0][:-1] for on in (True, False))
        share = self._within / (sum(watched) or 1.0)
        ratios = [one / other for one, other in zip(watched, plain, strict=False)]
        quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
        return {
            "step_seconds": statistics.median(plain) / self._length,
            "share": share,
            "seconds_per_step": share * statistics.median(watched) / self._length,
            "ratio": quartiles[1],
            "ratio_quartiles": [quartiles[0], quartiles[2]],
            "turns": len(ratios),
        }


def inside_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Sample the resident memory of a run, and fit a line."""
    from cconvnet.training import start

    with tempfile.TemporaryDirectory() as folder:
        trainer, wanted = _trainer(options, folder, options.steps, tensorboard=False)
        samples: list[tuple[int, int]] = []
        with trainer.run:
            start.begin(trainer, wanted)
            step = trainer.steps.begin

            def sampled(*given: Any) -> None:
                done = trainer.progress.step
                if done >= _WARM_STEPS and done % _STEPS_PER_SAMPLE == 0:
                    samples.append((done, resident_bytes()))
                step(*given)

            trainer.steps.begin = sampled
            trainer.train(wanted)
    return line_through(samples)


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def line_through(samples: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Return the straight line that fits memory best, in MB for 1,000 steps, and its first and last value."""
    steps, held = zip(*samples, strict=True)
    slope = statistics.linear_regression(steps, held).slope if len(samples) > 1 else 0.0
    return {
        "steps": steps[-1],
        "slope_mb": 1000 * slope / 1e6,
        "first_mb": held[0] / 1e6,
        "last_mb": held[-1] / 1e6,
        "growth_mb": (held[-1] - held[0]) / 1e6,
    }


# ---- the measurement -------------------------------------------------------------------------------------


def measure(options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Return each part's values; "value" is compared with its target."""
    from cconvnet.devices import get_device, machine

    result: dict[str, Any] = {
        "what": "overheads",
        "machine": machine.describe(get_device(options.device)),
        "net": options.net,
        "steps": options.steps,
        "processes": options.processes,
        "parts": {},
    }
    for part in options.parts:
        say(f"{part} ...")
        result["parts"][part] = _measured(part, options)
    return result


def _measured(part: str, options: argparse.Namespace) -> dict[str, Any]:
    def median(call: Callable[[], float]) -> float:
        call()  # afterwards all files are in the system's cache
        return statistics.median(call() for _ in range(options.processes))

    if part == "import":
        found = {
            "package_seconds": median(lambda: import_seconds("cconvnet")),
            "train_seconds": median(lambda: import_seconds("cconvnet.training.session")),
            "cli_seconds": median(lambda: import_seconds("cconvnet.cli")),
        }
        return {"value": found["package_seconds"], **found}
    if part == "start":
        return {"value": median(lambda: start_seconds(options))}
    found = json.loads(_python(__file__, "--inside", part, *_arguments(options)))
    return {"value": found["share" if part == "watching" else "slope_mb"], **found}


def report(result: dict[str, Any]) -> list[str]:
    """Return a line for each part."""
    lines = []
    for part, found in result["parts"].items():
        verdict = "met" if found["value"] <= TARGETS[part] else "MISSED"
        shown = ", ".join(f"{key} {_short(value)}" for key, value in found.items() if key != "value")
        target = f"target {TARGETS[part]:g} {UNITS[part]}: {verdict}"
        lines.append(f"{part:9} {found['value']:.4f} {UNITS[part]}; {target}{shown and f' ({shown})'}")
    return lines


def _short(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(_short, value))
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--parts", default=",".join(TARGETS), help=f"with commas ({','.join(TARGETS)})")
    parser.add_argument("--net", default="lenet", help="as for cconvnet train (lenet)")
    parser.add_argument("--data", help="as for cconvnet train (the embedded digits)")
    parser.add_argument("--device", default="cpu:0", help="as for cconvnet train (cpu:0)")
    parser.add_argument("--steps", type=int, default=2000, help="steps of watching and memory (2000)")
    parser.add_argument("--processes", type=int, default=5, help="fresh ones for import and start (5)")
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--inside", choices=("start", "watching", "memory"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.parts = options.parts.split(",")
    unknown = set(options.parts) - set(TARGETS)
    if unknown or options.steps < 1 or options.processes < 1:
        parser.error(f"--parts of {', '.join(TARGETS)}; --steps and --processes at least 1")
    if options.inside == "start":
        print(inside_start(options))
        return 0
    if options.inside:
        print(json.dumps({"watching": inside_watching, "memory": inside_memory}[options.inside](options)))
        return 0
    result = measure(options, lambda text: print(text, file=sys.stderr))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(*report(result), sep="\n")
    return int(any(found["value"] > TARGETS[part] for part, found in result["parts"].items()))


if __name__ == "__main__":
    sys.exit(main())
