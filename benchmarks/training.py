"""Train a network on the CPU, beside PyTorch on the same images.

    python benchmarks/training.py --net cifar-quick --data cifar10/ --json FILE.json --plot FILE.png

Both sides begin with the same weights. They see the same images in the same order, with the same crops and
mirroring, at the same rates, which rise in a warm-up and fall linearly to 0. They test after every epoch. For
each precision and seed one follows the other, in processes of their own. PyTorch drops the elements that we
drop, by masks that our module makes during its steps, and its momentum is turned into ours, so that the two
differ by rounding alone.

Our seconds are those of a whole run of `cconvnet train`: decoding, checkpoints and log included. PyTorch's
are those of its steps and tests alone, on images that are decoded already, in the faster of its two layouts,
with malloc's thresholds raised.
"""

from __future__ import annotations

import argparse
import itertools
import json
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
    "nin-cifar": {"epochs": 5, "batch": 128, "lr": 0.01, "warmup": 0.5},
}
TYPES = {"epochs": int, "batch": int, "lr": float, "warmup": float, "lr-scale": str, "momentum": float}


def recipe_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the training: the given ones, then the network's of RECIPES."""
    given = {name: getattr(options, name.replace("-", "_")) for name in TYPES}
    given = {name: value for name, value in given.items() if value is not None}
    return {**RECIPES[options.net], "momentum": 0.9, **given}


def ours(options: argparse.Namespace, precision: str, seed: int) -> dict[str, Any]:
    """Train by `cconvnet train`; return the command's seconds and the test error after each epoch."""
    with tempfile.TemporaryDirectory(prefix="cconvnet-training-") as folder:
        out = f"{folder}/run"
        command = [sys.executable, "-m", "cconvnet", "train", "--net", options.net, "--data", options.data]
        command += ["--device", DEVICE, "--precision", precision, "--seed", str(seed), "--quiet"]
        command += ["--lr-schedule", "linear"]
        command += [word for name, value in recipe_of(options).items() for word in (f"--{name}", str(value))]
        begin = time.perf_counter()
        subprocess.run([*command, "--out", out], check=True, cwd=ROOT)
        seconds = time.perf_counter() - begin
        errors = [line["test_error_top1"] for line in read_log(Path(out)) if "test_loss" in line]
    return {"what": get_device(DEVICE).reason, "seconds": seconds, "errors": errors}


def pytorch(options: argparse.Namespace, precision: str, seed: int) -> dict[str, Any]:
    """Train by PyTorch; return the seconds of steps and tests, and the test error after each epoch."""
    arguments = {"net": options.net, "data": options.data, "precision": precision, "seed": seed}
    recipe = {name.replace("-", "_"): value for name, value in recipe_of(options).items()}
    target = "cconvnet.bench.peers.pytorch_training:PyTorchTraining"
    with Worker(target, {**arguments, "recipe": recipe}, RAISED_MALLOC) as worker:
        found: dict[str, Any] = worker.ask("train")
        return found


SIDES: dict[str, Callable[[argparse.Namespace, str, int], dict[str, Any]]] = {
    "cconvnet": ours,
    "pytorch": pytorch,
}


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Train in each precision, from each seed, by each side; print and return the results."""
    about = machine.describe(get_device(DEVICE))
    recipe = recipe_of(options)
    # Results do not contain the path of the data.
    about["command"] = (
        f"training.py --net {options.net} --data {Path(options.data).name} --seeds {options.seeds}"
        + "".join(f" --{name} {value}" for name, value in recipe.items())
    )
    recipe["lr-schedule"] = "linear"
    result: dict[str, Any] = {
        "what": options.net,
        "machine": about,
        "recipe": recipe,
        "runs": [],
    }
    precisions, seeds, sides = (
        getattr(options, name).split(",") for name in ("precisions", "seeds", "sides")
    )
    for precision, seed, side in itertools.product(precisions, map(int, seeds), sides):
        found = SIDES[side](options, precision, seed)
        result["runs"].append({"side": side, "precision": precision, "seed": seed, **found})
        line = f"{found['seconds']:.1f} s, test error {percent(found['errors'][-1])} ({found['what']})"
        print(f"{side} in {precision}, seed {seed}: {line}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if len(seeds) > 1:
        for (side, precision), runs in grouped(result).items():
            error, seconds = (statistics.median(values) for values in zip(*map(last, runs), strict=True))
            print(f"{side} in {precision}, median: {seconds:.1f} s, test error {percent(error)}")
    return result


def last(run: dict[str, Any]) -> tuple[float, float]:
    """Return a run's last test error and its seconds."""
    return run["errors"][-1], run["seconds"]


def grouped(result: dict[str, Any]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the runs of all seeds by side and precision."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in result["runs"]:
        groups.setdefault((run["side"], run["precision"]), []).append(run)
    return groups


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the median test error after each epoch, and each seed's where there are several.

    Raises:
        PlotError: matplotlib is missing, or the file's ending names no kind of image.
    """
    groups = grouped(result)
    seeds = [str(run["seed"]) for run in next(iter(groups.values()))]
    about = "Both sides have the same first weights, images, rates and dropout. "
    about += f"Seed {seeds[0]}." if len(seeds) == 1 else f"Seeds {', '.join(seeds)}; thick: medians."
    title = f"{result['what']}: test error after each epoch"
    with drawn(path, 6.4, 4.2, title, about) as page:
        axes = page.subplots()
        for number, ((side, precision), runs) in enumerate(groups.items()):
            percents = [[100 * error for error in run["errors"]] for run in runs]
            medians = [statistics.median(of_epoch) for of_epoch in zip(*percents, strict=True)]
            epochs, color = range(1, len(medians) + 1), f"C{number}"
            axes.plot(epochs, medians, marker="o", color=color, label=f"{side}, {precision}")
            if len(percents) > 1:
                axes.plot(epochs, list(zip(*percents, strict=True)), color=color, linewidth=0.7, alpha=0.6)
        axes.set(xlabel="epochs", ylabel="test error, %", ylim=(0, None))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--net", choices=RECIPES, default="cifar-quick", help="network (cifar-quick)")
    parser.add_argument("--data", required=True, help="folder of CIFAR-10's pictures")
    parser.add_argument("--seeds", default="1", help="of weights, order and dropout, with commas (1)")
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
