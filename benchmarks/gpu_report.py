"""All that is worth knowing of a GPU machine in at most eight minutes: `make gpu-report REPORT=folder`.

    python benchmarks/gpu_report.py folder --device cuda:0 --skip tests,scaling

Builds the modules in place, runs all tests on the device, compute-sanitizer's tools on a few small shapes,
and every `cconvnet bench` command in every precision that the device serves. What it leaves in the folder:

summary.json   each part's state, seconds and commands, rewritten before and after each part
report.log     what the commands printed, in order
kernels.json, step.json, roofline.json, scaling.json, checkpoint.json, data.json
               {"results": [...]}: the results of the commands, rewritten after each command
running.json   what the command that is running has found so far

A part has a share of the time and what the parts before it left of theirs. A command that runs over is ended,
with all processes it started; what it had written by then is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MINUTES = 8.0
# Of kernels, for each side and row; of scaling, for all; and for building cuDNN's plans of a row.
SECONDS = 0.05
SCALING_SECONDS = 30
DATA_SECONDS = 1  # of each stage
PLAN_SECONDS = {"CCONVNET_CUDNN_PLAN_SECONDS": "2"}
# PyTorch's forms that are ready at once, and those that may be faster: compiling takes a while, and nothing
# is timed before all of a command's forms have taken the same first steps.
STEP_FORMS = [
    "channels_last,channels_last+graph",
    "channels_last+graph,channels_last+compiled+graph,channels_last+compiled+graph+lrn_by_hand",
]
# Beside ours in bf16: weights in bf16 as well, and the precision that PyTorch takes if none is asked for.
BF16_FORMS = ",".join(f"channels_last+compiled+graph+lrn_by_hand+{word}" for word in ("bf16_model", "fp32"))
# How long what was asked to end may take to write what it has.
GRACE = 5.0
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
# Of the networks whose kernels are measured; a later one is measured with the time that is left.
BATCHES = {"alexnet": 128, "resnet50": 64, "vgg16": 32, "googlenet": 64, "cifar-quick": 128}


@dataclass(frozen=True)
class Command:
    """Attributes
    arguments: of the process. Where it measures, ``--json FILE`` is added.
    environment: added to this process's own.
    measures: it writes a result.
    share: of what is left of its part's time, beside those of the commands behind it.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    measures: bool = False
    share: float = 1.0


class Absent(Exception):
    """A part cannot run here; the text says why."""


@dataclass(frozen=True)
class Part:
    """Attributes
    share: seconds of an eight-minute report.
    commands: makes them when the part begins; Absent if it cannot run here.
    """

    name: str
    share: float
    commands: Callable[[], Sequence[Command]]


# ---- the parts ------------------------------------------------------------------------------------------


def parts(device: str, batch: int | None = None, pictures: str | None = None) -> list[Part]:
    """The parts of a report, in order; `batch` replaces every network's own number of images.

    `pictures` is the data that feeding is measured on, at AlexNet's size.
    """
    kind = device.split(":")[0]

    def make(*arguments: str) -> Command:
        # Not the flags of the make that may have started this.
        alone = {"MAKEFLAGS": "", "MFLAGS": ""}
        jobs = subprocess.run(
            ["make", "-s", "jobs"], cwd=ROOT, env={**os.environ, **alone}, capture_output=True, check=True
        )
        settings = [f"-j{int(jobs.stdout)}", f"PYTHON={sys.executable}", *arguments]
        return Command(["make", "--no-print-directory", "modules", *settings], alone)

    def build() -> list[Command]:
        return [make(*(["CCONVNET_CUDA=on"] if kind == "cuda" else []))]

    def tests() -> list[Command]:
        return [_python("-m", "pytest", "-n", str(min(8, os.cpu_count() or 1)), "--device", device)]

    def sanitize() -> list[Command]:
        shapes = _python("tests/basic_shapes.py", device, CCONVNET_TEST_GUARD="0")
        if kind == "emulator":
            return [make("SANITIZE=address,undefined", "OUT=build/sanitize"), _with_host_sanitizers(shapes)]
        if kind != "cuda":
            raise Absent(f"compute-sanitizer watches GPUs, not {device}")
        return [_under_compute_sanitizer(tool, shapes) for tool in TOOLS]

    def bench(*arguments: str, only: str | None = None) -> list[Command]:
        common = ["-m", "cconvnet", "bench", *arguments, "--device", device]
        return [
            _python(*common, "--precision", name, measures=True, **PLAN_SECONDS)
            for name in served(device)
            if only in (None, name)
        ]

    def kernels() -> list[Command]:
        found = []
        for net, own in BATCHES.items():
            arguments = ("--net", net, "--batch", str(batch or own), "--seconds", str(SECONDS))
            share = 4.0 if net == "alexnet" else 1.0  # the one that this library is about
            found += [replace(command, share=share) for command in bench("kernels", *arguments)]
        return found

    def step() -> list[Command]:
        if kind != "cuda":
            return bench("step", *alexnet)
        forms = [bench("step", *alexnet, "--forms", names) for names in STEP_FORMS]
        forms.append(bench("step", *alexnet, "--forms", BF16_FORMS, only="bf16"))
        return [replace(c, share=share) for share, of in zip((1, 3, 3), forms, strict=True) for c in of]

    def data() -> list[Command]:
        if pictures is None:
            raise Absent("no --data FOLDER was given to feed from")
        return bench("data", *alexnet, "--data", pictures, "--seconds", str(DATA_SECONDS), "--no-peer")

    alexnet = ("--net", "alexnet", "--batch", str(batch or BATCHES["alexnet"]))
    return [
        Part("build", 70, build),
        Part("tests", 70, tests),
        Part("sanitize", 50, sanitize),
        Part("kernels", 115, kernels),
        Part("step", 70, step),
        Part("roofline", 30, lambda: bench("roofline", *alexnet)),
        Part("scaling", 40, lambda: bench("scaling", "--net", "alexnet", "--seconds", str(SCALING_SECONDS))),
        Part("checkpoint", 10, lambda: bench("checkpoint", *alexnet, only="fp32")),
        Part("data", 25, data),
    ]


def served(device: str) -> list[str]:
    """The precisions of a device, as the modules that were just built say in a process of their own."""
    asked = _python(
        "-c",
        "import sys; from cconvnet.backends import PRECISIONS, get_device; "
        "print(*filter(get_device(sys.argv[1]).serves, PRECISIONS))",
        device,
    )
    answer = subprocess.run(
        asked.arguments, env={**os.environ, **asked.environment}, capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        raise RuntimeError((answer.stderr.splitlines() or [f"the modules say nothing of {device}"])[-1])
    return answer.stdout.split()


def _python(*arguments: str, measures: bool = False, **environment: str) -> Command:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return Command(
        [sys.executable, *arguments], {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **environment}, measures
    )


def _under_compute_sanitizer(tool: str, command: Command) -> Command:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=f"{home}/bin")
    if program is None:
        raise Absent("compute-sanitizer was not found; it comes with the CUDA toolkit (CUDA_HOME names that)")
    options = ["--tool", tool, "--error-exitcode", "1", "--print-limit", "20"]
    if tool == "memcheck":
        # CuPy asks things of the driver that may be refused; only what kernels do is looked at.
        options += ["--report-api-errors", "no"]
    return Command([program, *options, *command.arguments], command.environment)


def _with_host_sanitizers(command: Command) -> Command:
    """On the emulator built with the host compiler's sanitizers, into a Python built without."""
    compiler = os.environ.get("CXX", "g++").split()
    libraries = [
        subprocess.run(
            [*compiler, f"-print-file-name=lib{name}.so"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("asan", "ubsan", "stdc++")
    ]
    environment = {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",
        "CCONVNET_MODULE_PATH": "build/sanitize",
    }
    return Command(command.arguments, {**command.environment, **environment})


# ---- running them ---------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What became of a part.

    Attributes
        state: ``waiting``, ``running``, ``ok``, ``failed``, ``over time``, ``interrupted``, ``skipped``, or
            ``absent``: it cannot run here.
    """

    name: str
    state: str = "waiting"
    seconds: float = 0.0
    limit_seconds: float = 0.0
    why: str = ""
    commands: list[dict[str, Any]] = field(default_factory=list)


class Report:
    """Runs parts one after the other and writes what they leave into a folder.

    Args:
        minutes: what all parts together may take; their shares are scaled to it.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        folder: Path,
        parts: Sequence[Part],
        minutes: float = MINUTES,
        clock: Callable[[], float] = time.monotonic,
        grace: float = GRACE,
    ) -> None:
        self._folder, self._parts, self._clock, self._grace = folder, parts, clock, grace
        self._scale = 60 * minutes / sum(part.share for part in parts)
        self.outcomes = [Outcome(part.name) for part in parts]
        folder.mkdir(parents=True, exist_ok=True)
        # An earlier report's results must not be taken for this one's.
        self._running = (folder / "running.json").resolve()
        for name in ("report.log", "running.json", *(f"{part.name}.json" for part in parts)):
            (folder / name).unlink(missing_ok=True)

    def run(self, names: Sequence[str]) -> bool:
        """Runs the parts called `names`, whatever becomes of others; whether all of them are ok.

        After KeyboardInterrupt everything that there is stands in the folder.
        """
        for outcome in self.outcomes:
            outcome.state = "waiting" if outcome.name in names else "skipped"
        begin, allowed = self._clock(), 0.0
        for part, outcome in zip(self._parts, self.outcomes, strict=True):
            allowed += self._scale * part.share
            if part.name not in names:
                continue
            started = self._clock()
            # What earlier parts left of their time is this one's too.
            outcome.limit_seconds = begin + allowed - started
            outcome.state = "running"
            self._write_summary()
            print(f"{part.name} (at most {outcome.limit_seconds:.0f} s) ...", flush=True)
            try:
                outcome.state = self._run(part, outcome, begin + allowed)
            except Absent as error:
                outcome.state, outcome.why = "absent", str(error)
            except KeyboardInterrupt:
                outcome.state = "interrupted"
                raise
            except Exception as error:
                outcome.state, outcome.why = "failed", f"{type(error).__name__}: {error}"
            finally:
                outcome.seconds = self._clock() - started
                self._write_summary()
                print(f"{part.name}: {outcome.state}, {outcome.seconds:.0f} s {outcome.why}", flush=True)
        return all(outcome.state in ("ok", "skipped", "absent") for outcome in self.outcomes)

    def _run(self, part: Part, outcome: Outcome, deadline: float) -> str:
        commands = part.commands()
        results: list[Any] = []
        states = []
        for index, command in enumerate(commands):
            # So that no command takes the time of all others.
            share = command.share / sum(later.share for later in commands[index:])
            limit = max(0.0, share * (deadline - self._clock()))
            arguments = [*command.arguments, *(["--json", str(self._running)] if command.measures else [])]
            record: dict[str, Any] = {"command": list(command.arguments)}
            outcome.commands.append(record)
            started = self._clock()
            try:
                record["exit"] = self._execute(arguments, command.environment, limit)
            finally:
                record["seconds"] = self._clock() - started
                if (result := _read_json(self._running)) is not None:
                    results.append(result)
                    _write_json(self._folder / f"{part.name}.json", {"results": results})
                self._running.unlink(missing_ok=True)
            states.append({0: "ok", None: "over time"}.get(record["exit"], "failed"))
        return next((state for state in ("failed", "over time") if state in states), "ok")

    def _execute(self, arguments: Sequence[str], environment: Mapping[str, str], limit: float) -> int | None:
        """The exit status of a process, its output in the log; None if it had to be ended."""
        path = self._folder / "report.log"
        with path.open("a", encoding="utf-8") as log:
            print("\n$", *arguments, file=log, flush=True)
            begin = path.stat().st_size
            process = subprocess.Popen(
                arguments,
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            deadline = self._clock() + limit
            try:
                while (status := process.poll()) is None and self._clock() < deadline:
                    time.sleep(0.05)
            finally:
                self._end(process)
            if status is None:
                print(f"\n(ended: its {limit:.0f} s are over)", file=log, flush=True)
        if status:
            lines = path.read_bytes()[begin:].decode(errors="replace").splitlines()
            print(*(f"  | {line}" for line in lines[-30:]), sep="\n", flush=True)
        return status

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Ends a process and all that it started: with time to write what it has, then at once."""
        if process.poll() is None:
            _signal_group(process, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=self._grace)
        _signal_group(process, signal.SIGKILL)
        process.wait()

    def _write_summary(self) -> None:
        _write_json(
            self._folder / "summary.json",
            {
                "machine": _machine(),
                "minutes": sum(self._scale * part.share for part in self._parts) / 60,
                "parts": [asdict(outcome) for outcome in self.outcomes],
            },
        )

    def table(self) -> str:
        lines = [f"{'part':10} {'state':12} {'seconds':>8}  "]
        for outcome in self.outcomes:
            statuses = [c.get("exit") for c in outcome.commands]
            good = f"{statuses.count(0)} of {len(statuses)} commands" if statuses else ""
            lines.append(f"{outcome.name:10} {outcome.state:12} {outcome.seconds:8.1f}  {good} {outcome.why}")
        return "\n".join(line.rstrip() for line in lines)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _machine() -> dict[str, Any]:
    """What can be said before anything is built."""
    asked = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,clocks.max.sm", "--format=csv,noheader"],
        capture_output=True, text=True, check=False,
    ) if shutil.which("nvidia-smi") else None  # fmt: skip
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "gpus": asked.stdout.splitlines() if asked and asked.returncode == 0 else [],
    }


def _read_json(path: Path) -> Any:
    """What a JSON file holds; None if it is missing or was cut off."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)


def _chosen(parser: argparse.ArgumentParser, known: Sequence[str], only: str, skip: str) -> list[str]:
    def split(text: str) -> list[str]:
        names = text.replace(",", " ").split()
        if unknown := [name for name in names if name not in known]:
            parser.error(f"there is no part {unknown[0]!r}; the parts are {', '.join(known)}")
        return names

    skipped = split(skip)
    return [name for name in split(only) or known if name not in skipped]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="where the report goes")
    parser.add_argument("--device", default="cuda:0", help="cuda:0, or cpu:0 or emulator:0 to try it")
    parser.add_argument("--parts", default="", help="only these, with spaces or commas")
    parser.add_argument("--skip", default="", help="all but these")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all parts together (8)")
    parser.add_argument("--data", help="a folder of pictures or shards to measure feeding with")
    parser.add_argument("--batch", type=int, help="images in each measurement, instead of each network's own")
    options = parser.parse_args(arguments)
    every = parts(options.device, options.batch, options.data)
    names = _chosen(parser, [part.name for part in every], options.parts, options.skip)

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    sys.path.insert(0, str(ROOT))
    report = Report(options.folder, every, options.minutes)
    try:
        done = report.run(names)
    except KeyboardInterrupt:
        done = False
    print(f"\n{report.table()}\n{options.folder}")
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
