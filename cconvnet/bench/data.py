"""Speed of feeding training: decoding, loading and copying to the device, and which of them limits training.

Each stage is measured by itself, for a moment at a time and in turn, so that a drift of the machine's speed
affects all of them. The last stage is training itself, which shares the cores with its loader. PyTorch's
DataLoader reads the same images in a process of its own and takes its turns as well.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet import data
from cconvnet.bench.peers.feeding import open_streamed, times_over
from cconvnet.bench.processes import PeerMissing, Worker, WorkerError
from cconvnet.checks import MAX_SIDE, real, whole
from cconvnet.data.splits import Split, StoredSplit
from cconvnet.data.workers import MAX_WORKERS, surplus, usable_cores, worker_limit
from cconvnet.devices import check_precision, devices_of, machine, require_precision
from cconvnet.formats.netfiles import AnyNet, resolve
from cconvnet.nets import spec_to_dict

OURS = "cconvnet.bench.peers.cconvnet_data:OurData"
PYTORCH = "cconvnet.bench.peers.pytorch_data:PyTorchData"

# Stages in the order in which an image passes through them.
STAGES = {
    "decode 1": "one core reads and decodes",
    "decode": "all workers read and decode",
    "load": "the loader makes batches",
    "crops": "and float32 crops less the mean, by the CPU",
    "feed": "or takes them to the device, which makes the crops",
    "step": "training steps on a batch that is there",
    "train": "loader and steps together",
}
_ROUNDS = 5
# Stages whose rates differ by less count as equally fast.
_CLOSE = 0.9


# ---- the measurement -------------------------------------------------------------------------------------


@dataclass
class _StageTurns:
    """A stage of a side, and the images and seconds of each of its turns."""

    side: str
    stage: str
    worker: Worker
    arguments: dict[str, Any]
    notes: dict[str, Any] = field(default_factory=dict)
    turns: list[tuple[int, float]] = field(default_factory=list)

    def turn(self, seconds: float) -> None:
        images, passed = self.worker.ask("measure", **self.arguments, seconds=seconds)
        self.turns.append((images, passed))

    @property
    def rate(self) -> float:
        return statistics.median(images / seconds for images, seconds in self.turns)

    def values(self) -> dict[str, Any]:
        rates = [images / seconds for images, seconds in self.turns]
        return {
            "side": self.side,
            "stage": self.stage,
            **self.notes,
            "images_per_second": statistics.median(rates),
            "images_per_second_min": min(rates),
            "images_per_second_max": max(rates),
            "images": sum(images for images, _ in self.turns),
            "turns": len(rates),
        }


def bench_data(
    net: AnyNet,
    where: str | None = None,
    *,
    device: str | None = None,
    batch: int | None = None,
    precision: str | None = None,
    size: int | None = None,
    workers: int | None = None,
    seconds: float = 10.0,
    peer: str | None = PYTORCH,
    say: Callable[[str], None] = lambda text: None,
    measured: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Measure how fast a network's training images of `where` are fed to it.

    Args:
        net: A network, or its name or file; see cconvnet.formats.netfiles.resolve.
        where: The data, as for training; None: the default data.
        device: The device of the training; None: the default device.
        batch: Images in a batch; None: the network's own.
        precision: One of cconvnet.devices.PRECISIONS; None: fp32.
        size: The height and width to which stored images are brought. None: the network's, else their own.
        workers: Decoding processes; None: one for each core, as in training.
        seconds: Seconds for which each stage is measured, in several turns.
        peer: The other side, "module:Class"; None: none.
        say: Called with messages.
        measured: Called with the number of finished turns and of all turns.

    Returns:
        ``rows``, one for each stage and side, with ``images_per_second``, the median of the turns, and its
        extremes. Our rows also contain ``read_bytes_per_second``, ``pixel_bytes_per_second`` and ``share``:
        the stage's share of the time of training. ``limit`` contains the ``stage`` that limits training and a
        ``text`` about it. ``ratios`` contains our rate over the peer's: for ``crops``, where both deliver
        normalised crops of floats, the ratio to quote; and for ``load``, where ours delivers images from
        which its device makes the crops. The result also contains the settings.

    Raises:
        ValueError: The text names the argument.
        DataError: The data cannot be used.
        WorkerError: Our side failed.
    """
    check_precision(precision)
    for name, value, least in (("--batch", batch, 1), ("--workers", workers, 0)):
        if value is not None:
            whole(name, value, least)
    real("--seconds", seconds, above=0)
    (used,) = devices_of([device] if device is not None else None)
    precision = precision or "fp32"
    require_precision(used, precision)
    wanted = resolve(net)
    size = wanted.stored_size if size is None else whole("--size", size, 1, MAX_SIDE)
    source = open_streamed(where, size)
    spec, _ = wanted.build(source.image_shape, len(source.classes))
    batch = spec.recipe.batch if batch is None else batch
    workers = min(usable_cores(), MAX_WORKERS) if workers is None else workers
    split = source.train
    read = len(split) * times_over(len(split), batch)
    if note := surplus(workers, read):
        say(note)
        workers = worker_limit(read)
    stored = stored_bytes(split)
    result: dict[str, Any] = {
        "what": "data",
        "machine": machine.describe(used),
        "net": spec.name,
        "batch": batch,
        "precision": precision,
        "device": used.name,
        "data": source.name,
        "pictures": len(split),
        "times_over": times_over(len(split), batch),
        "picture_bytes": stored,
        "image": list(split.image_shape),
        "crop": [spec.input.height, spec.input.width, spec.input.channels],
        "decoder": source.decoder,
        "workers": workers,
        "cores": usable_cores(),
        "rows": [],
        "peers": {},
        "ratios": {},
    }
    arguments = {
        "data": where,
        "size": size,
        "spec": spec_to_dict(spec),
        "batch": batch,
        "device": used.name,
        "precision": precision,
        "workers": workers,
    }
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(Worker(OURS, arguments))
        rows = [_StageTurns("cconvnet", stage, worker, {"stage": stage}) for stage in STAGES]
        if peer is not None:
            other = {"data": where, "size": split.image_shape[0], "crop": spec.input.height, "batch": batch}
            found = _peer(stack, peer, other, max(workers, 1), seconds, result["peers"], say, split)
            rows += [found] if found is not None else []
        for done in range(_ROUNDS):
            for number, row in enumerate(rows):
                row.turn(seconds / _ROUNDS)
                measured(done * len(rows) + number + 1, _ROUNDS * len(rows))
    _conclude(result, rows)
    return result


def stored_bytes(split: Split) -> float | None:
    """Return the mean length of a stored image; None for images in memory."""
    if not isinstance(split, StoredSplit):
        return None
    chosen = np.unique(np.linspace(0, len(split) - 1, min(len(split), 1000)).astype(np.int64))
    return statistics.fmean(
        Path(stored.path).stat().st_size - stored.offset if stored.length < 0 else stored.length
        for stored in split.ranges.select(chosen)
    )


def _peer(
    stack: contextlib.ExitStack,
    target: str,
    arguments: dict[str, Any],
    workers: int,
    seconds: float,
    notes: dict[str, Any],
    say: Callable[[str], None],
    split: Split,
) -> _StageTurns | None:
    """Return the peer with the number of workers that is fastest, up to ours; None if it cannot be used."""
    about: dict[str, Any] = {}
    notes["pytorch"] = about
    try:
        if not isinstance(split, data.PictureSplit):
            raise PeerMissing("images that need no decoding are not compared with PyTorch's DataLoader")
        worker = stack.enter_context(Worker(target, arguments))
        about.update(worker.ask("about"))
        rates = {}
        for count in sorted({1, workers // 2, workers - 1, workers} - {0}):
            images, passed = worker.ask("measure", workers=count, seconds=seconds / _ROUNDS)
            rates[count] = images / passed
            say(f"PyTorch's DataLoader with {count} workers: {rates[count]:,.0f} images/s")
    except WorkerError as error:
        about["missing" if isinstance(error, PeerMissing) else "failed"] = str(error)
        say(str(error))
        return None
    about["tried_workers"] = rates
    best = max(rates, key=lambda count: rates[count])
    return _StageTurns("PyTorch", "crops", worker, {"workers": best}, {"workers": best})


def _conclude(result: dict[str, Any], rows: list[_StageTurns]) -> None:
    """Fill the result with the measurements of the sides."""
    rates = {row.stage: row.rate for row in rows if row.side == "cconvnet"}
    pixels = math.prod(result["image"])
    for row in rows:
        values = row.values()
        if row.side == "cconvnet":
            values["share"] = rates["train"] / row.rate
            if row.stage != "step":
                values["pixel_bytes_per_second"] = row.rate * pixels
                if result["picture_bytes"] is not None:
                    values["read_bytes_per_second"] = row.rate * result["picture_bytes"]
        else:
            result["ratios"] = {stage: rates[stage] / row.rate for stage in ("crops", "load")}
        result["rows"].append(values)
    result["limit"] = limit(rates, result)


def limit(rates: Mapping[str, float], about: Mapping[str, Any]) -> dict[str, str]:
    """Return the stage that limits training, and a text about it.

    Args:
        rates: Images per second of each of STAGES.
        about: ``workers``, ``cores``, ``device``, ``decoder`` (empty for images that need none).
    """
    step, feed, load, decode = (rates[name] for name in ("step", "feed", "load", "decode"))
    workers = f"{about['workers']} workers" if about["workers"] != 1 else "1 worker"
    times = f"a training step takes {step:,.0f} images/s"
    if feed >= step:
        text = (
            f"computing limits: {times}, while loading brings {feed:,.0f} to the device; training reaches "
            f"{rates['train']:,.0f}"
        )
        if rates["train"] >= _CLOSE * step:
            return {"stage": "step", "text": f"{text}. Faster loading would not help"}
        shared = "loading and computing do not fully overlap"
        if about["device"].startswith("cpu"):
            shared = "the cores that decode are those that compute"
        return {"stage": "step", "text": f"{text}: {shared}"}
    if load >= feed / _CLOSE:
        return {
            "stage": "feed",
            "text": f"copying images to the device limits: {feed:,.0f} images/s, of {load:,.0f} that are "
            f"loaded; {times}",
        }
    if decode >= load / _CLOSE:
        return {
            "stage": "load",
            "text": f"making batches limits: {load:,.0f} images/s, of {decode:,.0f} that are decoded; "
            f"{times}",
        }
    if not about["decoder"]:
        return {
            "stage": "decode",
            "text": f"reading limits: {decode:,.0f} images/s; {times}. Faster storage, or memory that holds "
            "all, would help",
        }
    better = "smaller pictures (cconvnet data prepare), or raw ones (its --raw)"
    if about["workers"] < about["cores"]:
        better = f"more --workers (there are {about['cores']} cores), {better}"
    else:
        better = f"more cores, {better}"
    return {
        "stage": "decode",
        "text": f"decoding limits: {workers} decode {decode:,.0f} images/s; {times}. What would help: "
        f"{better}",
    }


# ---- for people ------------------------------------------------------------------------------------------


def headline(result: Mapping[str, Any]) -> str:
    """Return a line with the data, the network and the device that were measured."""
    height, width, channels = result["image"]
    stored = result["picture_bytes"]
    pictures = f"{result['pictures']:,} images"
    if stored is not None:
        pictures += f" of {stored / 1e3:,.0f} KB"
    decoder = f", {result['decoder']}" if result["decoder"] else ""
    return (
        f"{result['data']}: {pictures} to {height}x{width}x{channels}{decoder}, {result['workers']} workers; "
        f"{result['net']}, batch {result['batch']}, {result['precision']}, {result['device']}: "
        f"{result['machine'].get('chip', '')}, {result['cores']} cores"
    )


def table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table of the result of :func:`bench_data`."""
    header = ["stage", "images/s", "slowest", "fastest", "read MB/s", "pixels MB/s", "of training", "what"]
    rows = []
    for row in result["rows"]:
        rates = [f"{row[f'images_per_second{kind}']:,.0f}" for kind in ("", "_min", "_max")]
        sizes = [
            f"{row[key] / 1e6:,.1f}" if key in row else ""
            for key in ("read_bytes_per_second", "pixel_bytes_per_second")
        ]
        name = row["stage"] if row["side"] == "cconvnet" else f"{row['side']} {row['stage']}"
        share = f"{row['share']:.0%}" if "share" in row else ""
        what = STAGES[row["stage"]] if row["side"] == "cconvnet" else f"with {row['workers']} workers"
        rows.append([name, *rates, *sizes, share, what])
    return header, rows


def verdict(result: Mapping[str, Any]) -> list[str]:
    """Return the conclusions of the table."""
    lines: list[str] = [result["limit"]["text"]]
    if ratios := result["ratios"]:
        theirs = next(row for row in result["rows"] if row["side"] != "cconvnet")
        lines.append(
            f"beside PyTorch's DataLoader at its best, with {theirs['workers']} workers: "
            f"{ratios['crops']:.2f} times as many crops, both float32 and normalised; {ratios['load']:.2f} "
            "times as many images loaded, where the device makes the crops"
        )
    return lines
