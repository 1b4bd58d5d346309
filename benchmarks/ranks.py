"""Measure two ranks of one thread each beside one process of two threads, and the cost of the fixed order.

    python benchmarks/ranks.py --json FILE.json
    python benchmarks/ranks.py --data cifar10/ --steps 300 --turns 9

Each turn runs `cconvnet train` once by each side, for as many steps: one process with two threads, two ranks
that add gradients in the fixed order, and two ranks that leave the order to MPI. Sides change their order in
each turn. The speed of a run is the median of its log's lines, without the first. Without --data they train
on random images in CIFAR-10's format, whose loading costs next to nothing. Then `cconvnet bench exchange`
times the exchange of this network's gradients, and of AlexNet's, beside MPI's own sum.

The exit code is 1 if a goal is missed. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cconvnet.devices import get_device, machine  # noqa: E402
from cconvnet.formats.netfiles import resolve  # noqa: E402
from cconvnet.network.footprint import Plan  # noqa: E402
from cconvnet.runs import read_log  # noqa: E402

RANKS = 2
DEVICE = "cpu:0"
# The processes of each side, the threads of each of them, and further options.
SIDES: dict[str, tuple[int, int, list[str]]] = {
    "one": (1, RANKS, []),
    "ranks": (RANKS, 1, []),
    "ranks, fast": (RANKS, 1, ["--reduce", "fast"]),
}
LOG_EVERY = 10
MIN_SPEED, MAX_TIMES_MPI = 0.9, 1.15
LARGE = 243_900_000  # bytes: AlexNet's


def random_images(folder: Path, batch: int) -> None:
    """Write random images of ten classes as CIFAR-10's binary version, with a short test."""
    draws = np.random.default_rng(0)
    for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
        count = batch if name == "test_batch.bin" else 10_000
        records = draws.integers(0, 256, (count, 3073), np.uint8)
        records[:, 0] %= 10
        records.tofile(folder / name)
    (folder / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n", encoding="utf-8")


def command(processes: int, *words: str) -> list[str]:
    """Return the command line of `cconvnet` in so many processes."""
    launcher = [str(Path(sys.executable).with_name("mpiexec")), "-n", str(processes)] if processes > 1 else []
    return [*launcher, sys.executable, "-P", "-m", "cconvnet", *words]


def run(processes: int, threads: int, *words: str) -> None:
    """Run a command of cconvnet in so many processes; exit if it fails."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
    done = subprocess.run(
        command(processes, *words), env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}")


def speed(side: str, options: argparse.Namespace, data: Path) -> float:
    """Return the images per second of a training of one side."""
    processes, threads, more = SIDES[side]
    with tempfile.TemporaryDirectory(prefix="cconvnet-ranks-") as folder:
        out = Path(folder) / "run"
        words = ["train", "--quiet", "--net", options.net, "--batch", str(options.batch), "--device", DEVICE]
        words += ["--data", str(data), "--steps", str(options.steps), "--log-every", str(LOG_EVERY)]
        run(processes, threads, *words, "--epochs", "100", "--out", str(out), *more)
        rates = [float(line["images_per_second"]) for line in read_log(out) if "lr" in line]
    return statistics.median(rates[1:])


def exchange(options: argparse.Namespace, sizes: Sequence[int]) -> dict[str, Any]:
    """Return the result of `cconvnet bench exchange` of these sizes."""
    with tempfile.TemporaryDirectory(prefix="cconvnet-ranks-") as folder:
        file = Path(folder) / "exchange.json"
        words = ["--sizes", ",".join(map(str, sizes)), "--seconds", str(options.seconds), "--device", DEVICE]
        run(RANKS, 1, "bench", "exchange", *words, "--json", str(file))
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all turns, print each, and return the result."""
    about = machine.describe(get_device(DEVICE))
    # Results do not contain the path of the data.
    data_words = f" --data {Path(options.data).name}" if options.data else ""
    about["command"] = (
        f"ranks.py --net {options.net} --batch {options.batch} --steps {options.steps} --turns "
        f"{options.turns} --seconds {options.seconds:g}{data_words}"
    )
    spec, _ = resolve(options.net).build_sized(None)
    plan = Plan(spec, batch=options.batch, devices=DEVICE)
    result: dict[str, Any] = {
        "what": "two ranks",
        "machine": about,
        "net": spec.name,
        "batch": options.batch,
        "images_per_second": {side: [] for side in SIDES},
    }
    with tempfile.TemporaryDirectory(prefix="cconvnet-ranks-") as folder:
        data = Path(options.data or folder)
        if not options.data:
            random_images(data, options.batch)
        for turn in range(options.turns):
            for side in list(SIDES)[:: 1 if turn % 2 == 0 else -1]:
                result["images_per_second"][side].append(speed(side, options, data))
            rates = {side: found[-1] for side, found in result["images_per_second"].items()}
            print(", ".join(f"{side}: {rate:,.0f} images/s" for side, rate in rates.items()), flush=True)
    sizes = dict.fromkeys([4 * plan.describe()["parameters"], options.large])
    exchanged = exchange(options, list(sizes))
    about["mpi"] = exchanged["machine"]["mpi"]
    result["exchange"] = exchanged["rows"]
    return result | conclusions(result)


def conclusions(result: dict[str, Any]) -> dict[str, Any]:
    """Return the medians of the ratios of each turn, and the fixed order's time over MPI's by size."""
    rates = result["images_per_second"]

    def ratio(side: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(rates[side], rates[other], strict=True))

    return {
        "times_one": ratio("ranks", "one"),
        "times_fast": ratio("ranks", "ranks, fast"),
        "times_mpi": {
            str(row["bytes"]): row["times_mpi"] for row in result["exchange"] if row["algorithm"] == "tree"
        },
        "noisy": any(max(found) > 1.2 * min(found) for found in rates.values())
        or any(row["noisy"] for row in result["exchange"]),
    }


def report(result: dict[str, Any]) -> tuple[list[str], bool]:
    """Return the conclusions as lines, and whether all goals are met."""

    def met(good: bool) -> str:
        return "met" if good else "MISSED"

    rates = {side: statistics.median(found) for side, found in result["images_per_second"].items()}
    fast_enough = result["times_one"] >= MIN_SPEED
    lines = [
        f"{result['net']}, batch {result['batch']}: "
        + ", ".join(f"{side} {rate:,.0f} images/s" for side, rate in rates.items()),
        f"two ranks of one thread: {result['times_one']:.3f} times the speed of one process of two threads; "
        f"goal at least {MIN_SPEED:g}: {met(fast_enough)}",
        f"two ranks in the fixed order: {result['times_fast']:.3f} times the speed of --reduce fast",
    ]
    cheap = True
    for size, times in result["times_mpi"].items():
        cheap &= times <= MAX_TIMES_MPI
        lines.append(
            f"exchange of {int(size) / 1e6:,.1f} MB in the fixed order: {times:.3f} times MPI's time; goal "
            f"at most {MAX_TIMES_MPI:g}: {met(times <= MAX_TIMES_MPI)}"
        )
    if result["noisy"]:
        lines.append("warning: turns differ much, so other programs use this machine; measure again")
    return lines, fast_enough and cheap


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", default="cifar-quick", help="as for cconvnet train (cifar-quick)")
    parser.add_argument("--data", help="as for cconvnet train (random images)")
    parser.add_argument("--batch", type=int, default=128, help="images of a step (128)")
    parser.add_argument("--steps", type=int, default=200, help="steps of a run (200)")
    parser.add_argument("--turns", type=int, default=7, help="runs of each side (7)")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each exchange (20)")
    parser.add_argument("--large", type=int, default=LARGE, help=f"bytes of the larger exchange ({LARGE})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the result")
    options = parser.parse_args(arguments)
    if options.steps < 2 * LOG_EVERY or options.turns < 1:
        parser.error(f"--steps must be at least {2 * LOG_EVERY}, --turns at least 1")
    result = measure(options)
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    lines, met = report(result)
    print(*lines, sep="\n")
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
