"""Train a network on the CPU, beside PyTorch on the same images.

    python benchmarks/training.py --net cifar-quick --data cifar10/ --json FILE.json --plot FILE.png

Both sides begin with the same weights. They see the same images in the same order, with the same crops and
mirroring, at the same rates, which rise in a warm-up and fall linearly to 0. They test after every epoch. In
each precision one follows the other, in processes of their own. Our seconds are those of a whole run of
`cconvnet train`: decoding, checkpoints and log included. PyTorch's are those of its steps and tests alone, on
images that are decoded already, in the faster of its two layouts, with malloc's thresholds raised.
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
from cconvnet.plots import check, drawn  # noqa: E402
from cconvnet.runs import read_log  # noqa: E402

DEVICE = "cpu:0"
# Options of `cconvnet train`, which both sides follow, by network.
RECIPES: dict[str, dict[str, Any]] = {
    # `conv1` reads pixels of up to 128 in magnitude, so that its rate is far higher than that of the others,
    # and limits it.
    "cifar-quick": {"epochs": 7, "batch": 64, "lr": 0.003, "warmup": 0.5, "lr-scale": "conv1=0.4"},
    "resnet20": {"epochs": 3, "batch": 128, "lr": 0.1, "warmup": 0.0},
    "nin-cifar": {"epochs": 5, "batch": 128, "lr": 0.004, "warmup": 0.5},
}
TYPES = {"epochs": int, "batch": int, "lr": float, "warmup": float, "lr-scale": str, "momentum": float}


def recipe_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the training: the given ones, then the network's of RECIPES."""
    given = {name: getattr(options, name.replace("-", "_")) for name in TYPES}
    given = {name: value for name, value in given.items() if value is not None}
    return {**RECIPES[options.net], "momentum": 0.9, **given}


def ours(options: argparse.Namespace, precision: str) -> dict[str, Any]:
    """Train by `cconvnet train`; return the command's seconds and the test error after each epoch."""
    with tempfile.TemporaryDirectory(prefix="cconvnet-training-") as folder:
        out = f"{folder}/run"
        command = [sys.executable, "-m", "cconvnet", "train", "--net", options.net, "--data", options.data]
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
    arguments = {"net": options.net, "data": options.data, "precision": precision, "seed": options.seed}
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
    about["command"] = (
        f"training.py --net {options.net} --data {Path(options.data).name} --seed {options.seed}"
        + "".join(f" --{name} {value}" for name, value in recipe.items())
    )
    recipe["lr-schedule"] = "linear"
    result: dict[str, Any] = {
        "what": options.net,
        "machine": about,
        "seed": options.seed,
        "recipe": recipe,
        "runs": [],
    }
    for precision in options.precisions.split(","):
        for side in options.sides.split(","):
            found = SIDES[side](options, precision)
            result["runs"].append({"side": side, "precision": precision, **found})
            line = f"{found['seconds']:.1f} s, test error {percent(found['errors'][-1])} ({found['what']})"
            print(f"{side} in {precision}: {line}", flush=True)
            if options.json:
                options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the test error after each epoch of all runs.

    Raises:
        PlotError: matplotlib is missing, or the file's ending names no kind of image.
    """
    about = f"Seed {result['seed']}, the same first weights, images and rates on both sides."
    title = f"{result['what']}: test error after each epoch"
    with drawn(path, 6.4, 4.2, title, about) as page:
        axes = page.subplots()
        for run in result["runs"]:
            label = f"{run['side']}, {run['precision']}"
            percents = [100 * error for error in run["errors"]]
            axes.plot(range(1, len(percents) + 1), percents, marker="o", label=label)
        axes.set(xlabel="epochs", ylabel="test error, %", ylim=(0, None))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--net", choices=RECIPES, default="cifar-quick", help="network (cifar-quick)")
    parser.add_argument("--data", required=True, help="folder of CIFAR-10's pictures")
    parser.add_argument("--seed", type=int, default=1, help="of weights and order (1)")
    for name, kind in TYPES.items():
        parser.add_argument(
            f"--{name}", type=kind, help="as of `cconvnet train`, instead of the network's own"
        )
    parser.add_argument("--precisions", default="fp32,bf16", help="with commas (fp32,bf16)")
    parser.add_argument("--sides", default=",".join(SIDES), help=f"with commas ({','.join(SIDES)})")
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--plot", type=Path, help="picture of the test errors")
    options = parser.parse_args(arguments)
    if options.plot:
        check(options.plot)
    result = compare(options)
    if options.plot:
        draw(result, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
