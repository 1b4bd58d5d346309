"""Compare training in several precisions: the same runs in each, one for each seed.

    python benchmarks/precisions.py --data cifar10/ --net cifar-quick --seeds 3 --epochs 12
    python benchmarks/precisions.py --draw benchmarks/results/precisions-cifar-quick-cpu.json

Each run is one of `cconvnet train`, in a folder that is deleted afterwards. The result is a JSON file with
the losses and errors of every epoch, rewritten after each run, and a chart of them: for each precision the
mean over the seeds and, as a band, the least and the largest value. Seeds decide the first weights, the order
of the images, their crops and the dropout. So a difference between precisions that is smaller than a band is
not significant.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cconvnet import runs  # noqa: E402
from cconvnet.console import Reporter, percent, reporter  # noqa: E402
from cconvnet.devices import (  # noqa: E402
    PRECISIONS,
    devices_of,
    machine,
    require_precision,
)
from cconvnet.plots import check, figure, save  # noqa: E402
from cconvnet.training.session import train  # noqa: E402
from cconvnet.training.settings import Options  # noqa: E402

KEPT = ("train_loss", "train_error_top1", "test_loss", "test_error_top1")


def compare(
    options: Options, precisions: Sequence[str], seeds: Sequence[int], to_json: Path, report: Reporter
) -> dict[str, Any]:
    """Train once for each precision and seed, precisions in turn; return what is written to `to_json`.

    Raises as :func:`cconvnet.training.session.train`; ValueError for a precision that the device does not
    support.
    """
    (device,) = devices_of(options.devices)
    for precision in precisions:
        require_precision(device, precision)
    assert options.data is not None
    about = machine.describe(device)
    # Results do not contain the path of the data.
    given = {name: getattr(options, name) for name in ("epochs", "batch", "lr")}
    chosen = "".join(f" --{name} {value}" for name, value in given.items() if value is not None)
    named = f"--data {Path(options.data).name} --net {options.net} --precisions {','.join(precisions)}"
    about["command"] = f"precisions.py {named} --seeds {len(seeds)}{chosen}"
    result: dict[str, Any] = {
        "what": "precisions",
        "machine": about,
        "net": options.net,
        "data": Path(options.data).name,
        "precisions": list(precisions),
        "seeds": list(seeds),
        "runs": [],
    }
    with tempfile.TemporaryDirectory(prefix="cconvnet-precisions-") as folder:
        for seed in seeds:
            for precision in precisions:
                report.say(f"{precision}, seed {seed}")
                out = Path(folder) / f"{precision}-{seed}"
                result["runs"].append(one_run(options, precision, seed, out, report))
                to_json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def one_run(options: Options, precision: str, seed: int, out: Path, report: Reporter) -> dict[str, Any]:
    """Return the result of a training: its epochs, and its images per second."""
    done = train(replace(options, precision=precision, seed=seed, out=out), report)
    if done.signal is not None:
        raise KeyboardInterrupt
    summary = done.summary
    epochs = [line for line in runs.read_log(out) if "test_loss" in line]
    return {
        "precision": precision,
        "seed": seed,
        "batch": summary["batch"],
        "images_per_second": summary["images_per_second"],
        "test_error_top1": summary["test_error_top1"],
        "epochs": [{key: line[key] for key in ("epoch", *KEPT)} for line in epochs],
    }


def spread(result: dict[str, Any], precision: str, key: str) -> tuple[list[float], list[list[float]]]:
    """Return the epochs and, for each, the values of all seeds."""
    found: dict[float, list[float]] = {}
    for run in result["runs"]:
        if run["precision"] == precision:
            for line in run["epochs"]:
                found.setdefault(line["epoch"], []).append(line[key])
    return list(found), list(found.values())


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw loss and error over the epochs, of training and of test images.

    Raises:
        PlotError: matplotlib is missing, or the file's ending names no kind of image.
    """
    page = figure(9, 3.8)
    page.suptitle(f"{result['net']} on {result['data']}: {', '.join(result['precisions'])}")
    for axes, name in zip(page.subplots(1, 2), ("loss", "error_top1"), strict=True):
        for index, precision in enumerate(result["precisions"]):
            for part, style in (("train", "--"), ("test", "-")):
                epochs, values = spread(result, precision, f"{part}_{name}")
                least, largest = list(map(min, values)), list(map(max, values))
                color, label = f"C{index}", f"{precision}, {'training' if part == 'train' else 'test'}"
                axes.plot(epochs, list(map(statistics.fmean, values)), style, color=color, label=label)
                axes.fill_between(epochs, least, largest, color=color, alpha=0.2, linewidth=0)
        axes.set_xlabel("epoch")
        axes.set_ylabel("top-1 error" if name == "error_top1" else name)
        axes.grid(alpha=0.3)
        axes.legend()
    save(page, path)


def verdict(result: dict[str, Any]) -> list[str]:
    """Return the last test error of each precision over the seeds, and the speed of its runs."""
    lines = []
    for precision in result["precisions"]:
        own = [run for run in result["runs"] if run["precision"] == precision]
        errors = [run["test_error_top1"] for run in own]
        rate = statistics.median(run["images_per_second"] for run in own)
        lines.append(
            f"{precision}: test error {percent(statistics.fmean(errors))} "
            f"({percent(min(errors))} to {percent(max(errors))}, {len(own)} seeds), {rate:,.0f} images/s"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", help="as for cconvnet train")
    parser.add_argument("--net", default="cifar-quick", help="as for cconvnet train (cifar-quick)")
    parser.add_argument("--device", help="as for cconvnet train")
    parser.add_argument("--precisions", default="fp32,bf16", help="with commas (fp32,bf16)")
    parser.add_argument("--seeds", type=int, default=3, help="runs in each precision (3)")
    parser.add_argument("--epochs", type=int, help="of each run; the network's own if not given")
    parser.add_argument("--batch", type=int, help="images per step; the network's own if not given")
    parser.add_argument("--lr", type=float, help="the first rate; the network's own if not given")
    parser.add_argument("--json", type=Path, help="file for the result (benchmarks/results/precisions-...)")
    parser.add_argument(
        "--plot", type=Path, default=ROOT / "docs" / "precisions.png", help="file for the chart"
    )
    parser.add_argument("--draw", type=Path, metavar="JSON", help="only draw an existing result")
    options = parser.parse_args(arguments)
    check(options.plot)
    if options.draw is not None:
        result = json.loads(options.draw.read_text(encoding="utf-8"))
    else:
        names = options.precisions.split(",")
        if options.data is None or options.seeds < 1 or not set(names) <= set(PRECISIONS):
            parser.error(f"--data is needed, --seeds at least 1, --precisions of {', '.join(PRECISIONS)}")
        (device,) = devices_of([options.device] if options.device else None)
        kind = f"precisions-{options.net}-{device.kind}.json"
        to_json = options.json or ROOT / "benchmarks" / "results" / kind
        wanted = Options(
            net=options.net,
            data=options.data,
            devices=[device.name],
            epochs=options.epochs,
            batch=options.batch,
            lr=options.lr,
        )
        try:
            with reporter(sys.stderr) as report:
                result = compare(wanted, names, range(1, options.seeds + 1), to_json, report)
        except KeyboardInterrupt:
            print(f"interrupted; finished runs are in {to_json}", file=sys.stderr)
            return 1
    print(*verdict(result), sep="\n")
    options.plot.parent.mkdir(exist_ok=True)
    draw(result, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
