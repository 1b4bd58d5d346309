"""Measure what a GPU's kernels are made of: the constants of a model of their speed.

    python benchmarks/calibration.py --device cuda:0 --json benchmarks/results/calibration-h200.json
    python benchmarks/calibration.py --constants constants.json    # for `cconvnet profile --constants`

Builds calibration.cu and runs its loops: multiply-adds, instruction issue, tensor cores, shared memory, L2
and memory bandwidth, barriers, launches and graph nodes. Rates are per cycle and multiprocessor (SM),
latencies in cycles; each comes with the GPU's clock during the measurement. The result names machine,
versions and commit. The file is rewritten after each measurement. ``--constants`` writes the constants of
`cconvnet profile` with those that were measured in place of the assumed ones.

With ``--device emulator:0`` every loop runs once and nothing is timed: values are null.
Exit codes: 0 if everything was measured, 1 if not, 2 if nothing could be.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import programs

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SOURCE = Path(__file__).resolve().parent / "calibration.cu"
SECONDS = 60.0


def measured(
    program: Path, device: str, seconds: float, limit: float, taken: Callable[[dict[str, Any]], None]
) -> str:
    """Pass every measurement of a program to `taken` as it is made; return why it failed, if it did."""
    words = [str(program), "--device", str(programs.ordinal_of(device)), "--seconds", f"{seconds:g}"]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        over = threading.Event()
        timer = threading.Timer(limit, lambda: (over.set(), process.kill()))
        timer.start()
        try:
            assert process.stdout
            for line in process.stdout:
                if line.endswith("\n"):
                    taken(json.loads(line))
        finally:
            timer.cancel()
            process.kill()  # it still runs only after an exception
        code = process.wait()
        errors.seek(0)
        if over.is_set():
            return f"still running after {limit:.0f} s"
        return errors.read().strip() or f"exit code {code}" if code else ""


def show(value: dict[str, Any]) -> None:
    """Print a measurement."""
    number = "not timed" if value["value"] is None else f"{value['value']:,.4g}"
    clock = f" at {value['clock_ghz']:.2f} GHz" if "clock_ghz" in value else ""
    print(f"{value['name']:45} {number:>10} {value['unit']}{clock}", flush=True)


def machine(device: str) -> dict[str, Any]:
    """Describe the machine as in results; with fewer facts if CuPy cannot use the GPU."""
    from cconvnet.devices import DeviceUnavailable, get_device
    from cconvnet.devices.machine import describe

    try:
        return describe(get_device(device))
    except DeviceUnavailable as error:
        return {"device": device, "module": str(error), **programs.chip()}


def write_constants(calibration: dict[str, Any], file: Path) -> None:
    """Write the model's constants of the calibrated GPU, those that were measured marked so."""
    from cconvnet.profile import chips

    capability = calibration["machine"].get("compute_capability", "9.0").replace(".", "")
    arch = chips.arch_of(capability)
    day = calibration["machine"].get("date") or datetime.now(UTC).date().isoformat()
    chip = chips.refit(chips.chip_of(arch), calibration, day)
    file.write_text(json.dumps({arch: chips.to_dict(chip)}, indent=1) + "\n")


def run(
    device: str, archs: str | None, seconds: float, out: Path | None, constants: Path | None = None
) -> int:
    """Build the program, measure, and write the result after each measurement; return the exit status."""
    begin = time.monotonic()
    kind = programs.kind_of(device)
    program = programs.build(SOURCE, kind, archs)
    left = seconds - (time.monotonic() - begin)
    result: dict[str, Any] = {"what": "calibration", "machine": machine(device), "measurements": []}

    def write() -> None:
        result["seconds"] = round(time.monotonic() - begin, 2)
        if out:
            out.write_text(json.dumps(result, indent=1) + "\n")

    def take(value: dict[str, Any]) -> None:
        show(value)
        result["measurements"].append(value)
        write()  # results so far survive any end

    # Two thirds of the time are planned for the runs.
    why = measured(program, device, max(left - 5, 1.0) * 2 / 3, max(left, 10.0), take)
    if why:
        result["failure"] = why
        print(f"FAILED: {why}", file=sys.stderr)
    write()
    if constants:
        try:
            write_constants(result, constants)
        except ValueError as error:
            print(f"no constants are written: {error}", file=sys.stderr)
    print(f"{len(result['measurements'])} measurements on {device} in {result['seconds']:.1f} s")
    return 1 if why else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = programs.parser(__doc__, "write the result to a file")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, metavar="S", help="for all, with building (60)"
    )
    parser.add_argument(
        "--constants", type=Path, metavar="FILE", help="write constants for `cconvnet profile`"
    )
    options = parser.parse_args(arguments)

    def work() -> int:
        if not 1 <= options.seconds < 1e6:
            raise ValueError(f"--seconds must be from 1 to 1000000, not {options.seconds}")
        return run(options.device, options.arch, options.seconds, options.json, options.constants)

    return programs.exit_status(options.device, work)


if __name__ == "__main__":
    sys.exit(main())
