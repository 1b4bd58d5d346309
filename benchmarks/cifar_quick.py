"""Train cuda-convnet's "26% in 80 seconds" network on the CPU, beside PyTorch on the same images.

    python benchmarks/cifar_quick.py --data cifar10/ --json benchmarks/results/cifar-quick-cpu-MACHINE.json

Both sides train `cifar-quick` from the same weights, with the same order of images and the same rates, which
rise in a warm-up and fall linearly to 0, and test after every epoch. In each precision one follows the other,
in processes of their own. Our seconds are those of a whole run of `cconvnet train`: decoding, checkpoints and
log included. PyTorch's are those of its steps and tests alone, on images that are decoded already, in the
faster of its two layouts, with malloc's thresholds raised.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cconvnet.bench.processes import RAISED_MALLOC, Worker  # noqa: E402
from cconvnet.console import percent  # noqa: E402
from cconvnet.devices import get_device, machine  # noqa: E402
from cconvnet.runs import read_log  # noqa: E402

NET = "cifar-quick"
DEVICE = "cpu:0"
# Options of `cconvnet train`, which both sides follow.
# `conv1` reads pixels of up to 128 in magnitude, so that its rate is far higher than that of the others, and
# limits it.
RECIPE = {"epochs": 7, "batch": 64, "lr": 0.003, "warmup": 0.5, "lr-scale": "conv1=0.4", "momentum": 0.9}


def recipe_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the training by their names on the command line, without empty ones."""
    given = {name: getattr(options, name.replace("-", "_")) for name in RECIPE}
    return {name: value for name, value in given.items() if value != ""}


def ours(options: argparse.Namespace, precision: str) -> dict[str, Any]:
    """Train by `cconvnet train`; return the command's seconds and the test error after each epoch."""
    with tempfile.TemporaryDirectory(prefix="cconvnet-cifar-quick-") as folder:
        out = f"{folder}/run"
        command = [sys.executable, "-m", "cconvnet", "train", "--net", NET, "--data", options.data]
        command += ["--device", DEVICE, "--precision", precision, "--seed", str(options.seed), "--quiet"]
        command += ["--lr-schedule", "linear"]
        command += [word for name, value in recipe_of(options).items() for word in (f"--{name}", str(value))]
        begin = time.perf_counter()
        subprocess.run([*command, "--out", out], check=True, cwd=ROOT)
        seconds = time.perf_counter() - begin
        errors = [line["test_error_top1"] for line in read_log(Path(out)) if "test_loss" in line]
    return {"what": get_device(DEVICE).reason, "seconds": seconds, "errors": errors}


def pytorch(options: argparse.Namespace, precision: str) -> dict[str, Any]:
    """Train by PyTorch; return the seconds of steps and tests, and the test error after each epoch."""
    arguments = {"net": NET, "data": options.data, "precision": precision, "seed": options.seed}
    recipe = {name.replace("-", "_"): value for name, value in recipe_of(options).items()}
    target = "cconvnet.bench.peers.pytorch_training:PyTorchTraining"
    with Worker(target, {**arguments, "recipe": recipe}, RAISED_MALLOC) as worker:
        found: dict[str, Any] = worker.ask("train")
        return found


SIDES: dict[str, Callable[[argparse.Namespace, str], dict[str, Any]]] = {"cconvnet": ours, "pytorch": pytorch}


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Train in each precision by each side; print and return the results."""
    about = machine.describe(get_device(DEVICE))
    recipe = recipe_of(options)
    # Results do not contain the path of the data.
    about["command"] = f"cifar_quick.py --data {Path(options.data).name} --seed {options.seed}" + "".join(
        f" --{name} {value}" for name, value in recipe.items()
    )
    recipe["lr-schedule"] = "linear"
    result: dict[str, Any] = {"what": NET, "machine": about, "recipe": recipe, "runs": []}
    for precision in options.precisions.split(","):
        for side in options.sides.split(","):
            found = SIDES[side](options, precision)
            result["runs"].append({"side": side, "precision": precision, **found})
            line = f"{found['seconds']:.1f} s, test error {percent(found['errors'][-1])} ({found['what']})"
            print(f"{side} in {precision}: {line}", flush=True)
            if options.json:
                options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", required=True, help="folder of CIFAR-10's pictures")
    parser.add_argument("--seed", type=int, default=1, help="of weights and order (1)")
    for name, value in RECIPE.items():
        parser.add_argument(
            f"--{name}", type=type(value), default=value, help=f"as of `cconvnet train` ({value or 'none'})"
        )
    parser.add_argument("--precisions", default="fp32,bf16", help="with commas (fp32,bf16)")
    parser.add_argument("--sides", default=",".join(SIDES), help=f"with commas ({','.join(SIDES)})")
    parser.add_argument("--json", type=Path, help="file for the result")
    compare(parser.parse_args(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
