"""Sections with text and tables: log, settings, checkpoints, skipped images, environment."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet import nets, runs
from cconvnet.nets import Distortion, RateCurve, value_text
from cconvnet.report.markup import Markup, join, table, tag
from cconvnet.report.opened import FAILURES, Opened
from cconvnet.report.words import day, percent
from cconvnet.runs import overview
from cconvnet.runs.checkpoint import Folder
from cconvnet.runs.data_record import read_data
from cconvnet.runs.history import History
from cconvnet.runs.reading import settings_of

# The page contains a part of longer lists, and how long they are.
_MAX_EPOCHS = 40
_MAX_RATES = 12
_MAX_NAMES = 12
_MAX_SKIPPED = 20


def log(history: History) -> Markup:
    """Show loss and errors of epochs, and the changes of the learning rate."""
    epochs, rates = history.epochs, history.rate_steps()
    parts: list[Markup] = []
    if rates:
        first = f"{history.steps['lr'][0]:g}"
        changes = [
            f"{rate:g} from epoch {history.rate_position(index, 'epoch'):.4g}"
            for index, rate in rates[:_MAX_RATES]
        ]
        more = f", and {len(rates) - _MAX_RATES} more changes" if len(rates) > _MAX_RATES else ""
        parts.append(tag("p", f"Learning rate {first}, {', '.join(changes)}{more}."))
    if not len(epochs):
        return join([*parts, tag("p", "No epoch has ended yet.", class_="note")])
    names = {
        "epoch": "{:g}",
        "step": "{:,.0f}",
        "train_loss": "{:.4f}",
        "test_loss": "{:.4f}",
        "train_error_top1": None,
        "test_error_top1": None,
        "test_error_top5": None,
    }
    columns = {name: epochs[name] for name in names}
    # The first, the last, the best, and others at equal distances.
    chosen = {*np.linspace(0, len(epochs) - 1, min(len(epochs), _MAX_EPOCHS)).astype(int).tolist()}
    best = history.best()
    if best is not None:
        chosen.add(best)
    rows = [
        [
            *(
                percent(float(columns[name][i])) if form is None else form.format(columns[name][i])
                for name, form in names.items()
            ),
            "best" if i == best else "",
        ]
        for i in sorted(chosen)
    ]
    if len(chosen) < len(epochs):
        parts.append(tag("p", f"{len(chosen)} of {len(epochs):,} epochs.", class_="faint"))
    heads = ["epoch", "step", "training loss", "test loss", "training error", "test error", "top-5 error", ""]
    return join([*parts, table(heads, rows, "Epochs", "numbers")])


def ranks(history: History) -> Markup:
    """Show how long each rank waited for the others, and what it sent."""
    waits, settings = history.waits, settings_of(history.config)
    steps = waits.images / (settings["batch"] * settings["accumulate"])
    words = (
        f"The {len(waits.waited)} ranks waited {waits.share:.1%} of the time of the steps, mostly for rank "
        f"{waits.slowest}, which waited least."
    )
    rows = [
        [
            f"{rank}",
            f"{waited / waits.seconds:.1%}",
            f"{1e3 * waited / steps:,.2f} ms",
            f"{sent / steps / 1e6:,.2f} MB",
            f"{sent / waits.seconds / 1e6:,.1f} MB/s",
            "slowest" if rank == waits.slowest else "",
        ]
        for rank, (waited, sent) in enumerate(zip(waits.waited, waits.sent, strict=True))
    ]
    heads = ["rank", "waited", "waited per step", "sent per step", "sent per second", ""]
    return join([tag("p", words), table(heads, rows, "Ranks", "numbers")])


def layers(config: dict[str, Any]) -> Markup:
    """Show the network's layers with their shapes, parameters and multiply-adds."""
    found = nets.spec_from_dict(config["spec"]).table()
    head, rows = found.cells()
    words = (
        f"{len(found.rows)} layers, {found.parameters:,} parameters. An image takes {found.multiply_adds:,} "
        "multiply-adds in the forward pass. Outputs are height x width x channels."
    )
    return join([tag("p", words, class_="faint"), table(head, rows[:-1], "Layers", "layers")])


def settings(config: dict[str, Any]) -> Markup:
    """Show the settings of the run."""
    rows = [[key.replace("_", " "), _value(key, value)] for key, value in config["settings"].items()]
    return table(["setting", "value"], rows, "Settings")


def _value(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "lr_steps":
        return ", ".join(_lr_step(step) for step in value) or "none"
    if key == "lr_schedule":
        return str(value_text(RateCurve(**value)))
    if key == "distort":
        return str(value_text(Distortion(**value)))
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items()) or "none"
    if key == "image_shape":
        return "x".join(map(str, value))
    if isinstance(value, list):
        more = f", and {len(value) - _MAX_NAMES:,} more" if len(value) > _MAX_NAMES else ""
        return f"{len(value):,}: {', '.join(map(str, value[:_MAX_NAMES]))}{more}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _lr_step(step: dict[str, Any]) -> str:
    of = f" for {', '.join(step['layers'])}" if step.get("layers") else ""
    return f"times {step['factor']:g} from epoch {step['epoch']:g}{of}"


def checkpoints(run: Path, opened: Opened) -> Markup:
    """Show the checkpoints, and which of them this page used."""
    files = Folder(run / "checkpoints").files()
    if not files:
        return tag("p", "There is no checkpoint yet.", class_="note")
    try:
        shown = opened.trained().path.resolve()
    except FAILURES:
        shown = None
    rows = [
        [
            file.name,
            f"{int(file.stem.removeprefix('step-')):,}",
            f"{file.stat().st_size / 1e6:,.1f} MB",
            day(file.stat().st_mtime),
            "sound; used for this page" if file.resolve() == shown else "",
        ]
        for file in files
    ]
    return table(["file", "step", "size", "written", ""], rows, "Checkpoints", "lines")


def skipped(run: Path, opened: Opened) -> Markup:
    """Show damaged checkpoints and unreadable images that were skipped."""
    parts = [tag("p", line) for line in opened.skipped_checkpoints()]
    summary = overview.read_json(run / "summary.json")
    if count := summary.get("skipped_images"):
        parts.append(tag("p", f"Training and tests skipped {_images(count)}."))
    named = read_data(run).get("unreadable", [])
    if named:
        rows = [[str(one.get(key, "")) for key in ("split", "file", "reason")] for one in named]
        parts.append(table(["split", "file", "reason"], rows[:_MAX_SKIPPED], "Found while training"))
    source = opened.source_if_open()
    broken = source.report() if source is not None else []
    if broken:
        rows = [list(dataclasses.astuple(one)) for one in broken[:_MAX_SKIPPED]]
        more = f"; {_MAX_SKIPPED} of them" if len(broken) > _MAX_SKIPPED else ""
        parts.append(tag("p", f"{_images(len(broken))} found while this page was made{more}:"))
        parts.append(table(["split", "file", "reason"], rows, "Unreadable images"))
    return join(parts or [tag("p", "No unreadable image and no damaged checkpoint was found.")])


def _images(count: int) -> str:
    return f"{count:,} unreadable image{'s' * (count != 1)}"


def environment(config: dict[str, Any]) -> Markup:
    """Show versions, device and the command that began the run."""
    rows = [
        [name.removeprefix("version of "), text]
        for name, text in runs.surroundings(config).items()
        if name != "host"  # pages are sent to strangers
    ]
    command = config.get("command")
    when = f" on {config['date']}" if "date" in config else ""
    return join(
        [
            command and tag("p", f"Begun{when} by ", tag("code", str(command))),
            table(["what", "version"], rows, "Versions"),
        ]
    )
