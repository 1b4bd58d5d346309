"""A run on one page: results, curves, filters, predictions, feature maps, settings, log, environment.

The page is a single HTML file that loads and runs nothing, and forbids its reader to do either. What
cannot be made, because matplotlib or the data is not there or the run has not come so far, says so in place.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import cconvnet
from cconvnet import plots, runs
from cconvnet.data import Source, WorkerError
from cconvnet.devices import CudaError, DeviceUnavailable
from cconvnet.evaluate import Trained, load_trained
from cconvnet.plots import analysis
from cconvnet.plots.activations import sheet
from cconvnet.plots.filters import filter_sheet
from cconvnet.report.page import Array, Markup, data_url, document, join, photo, png, table, tag
from cconvnet.runs import data_name, overview
from cconvnet.runs.checkpoint import Folder
from cconvnet.runs.data_record import read_data
from cconvnet.runs.history import TOP5_FROM, History
from cconvnet.runs.overview import Overview

# How many training images the nearest are looked for in: a page should not take minutes.
_AMONG = 1000
_BATCH = 64
# Of longer lists the page shows a part, and says so.
_MOST_EPOCHS = 40
_MOST_NAMES = 12
_MOST_SKIPPED = 20
# The longest side in pixels of a photograph.
_SIDE = 240

# What may go wrong with a part without the others having to suffer.
_FAILURES = (ValueError, OSError, DeviceUnavailable, CudaError, WorkerError, MemoryError)

Stepped = Callable[[int, int], None]


def write(
    run: Path,
    out: Path,
    *,
    data: str | None = None,
    devices: list[str] | None = None,
    precision: str | None = None,
    best: bool = False,
    stepped: Stepped = lambda done, total: None,
) -> None:
    """Writes the report of a run.

    Args
        data: where the run's data lies, if it is elsewhere by now.
        precision: what the network is looked at in, if not in what it was trained in.
        best: look at the best checkpoint instead of the newest.
        stepped: called with the number of images looked at and of all.

    Raises
        RunError: the folder holds no run.
        OSError: the file cannot be written.
    """
    from cconvnet.system.outputs import write_output

    history = History(runs.folder_of(run))

    def load() -> Trained:
        return load_trained(run, devices=devices, batch=_BATCH, best=best, precision=precision)

    text = _page(history, run, _Opened(load, data), best, stepped)
    write_output(out, [text.encode()])


def _page(history: History, run: Path, opened: _Opened, best: bool, stepped: Stepped) -> str:
    about = overview.look(history.path)
    sections = [
        _section("curves", "Curves", lambda: _curves(history)),
        _section("filters", "Filters", lambda: _filters(run, best)),
        *_looks(opened, stepped),
        _section("activations", "Feature maps", lambda: _activations(opened)),
        _section("timeline", "A step's time", lambda: _timeline(history.path)),
        _section("log", "Log", lambda: _log(history)),
        _section("settings", "Settings", lambda: _settings(history.config)),
        _section("checkpoints", "Checkpoints", lambda: _checkpoints(history.path, opened)),
        _section("skipped", "Skipped", lambda: _skipped(history.path, opened)),
        _section("environment", "Environment", lambda: _environment(history.config)),
    ]
    links = [tag("a", title, href=f"#{name}") for name, title, _ in sections]
    title = f"{history.config['settings']['net']} on {data_name(history.config['settings']['data'])}"
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    return document(
        f"{title}: {history.path.resolve().name}",
        style,
        tag(
            "div",
            _header(title, history, about),
            tag("nav", *links, aria_label="Parts of this page"),
            tag("main", *(part for _, _, part in sections)),
            tag("footer", tag("p", f"Written by cconvnet {cconvnet.__version__}, {_day(time.time())}.")),
            class_="page",
        ),
    )


class _Opened:
    """The trained network and its data, opened once and when they are wanted; what failed fails again."""

    def __init__(self, load: Callable[[], Trained], where: str | None) -> None:
        self._load, self._where = load, where
        self._trained: Trained | Exception | None = None
        self._source: Source | Exception | None = None

    def trained(self) -> Trained:
        if self._trained is None:
            self._trained = _kept(self._load)
        if isinstance(self._trained, Exception):
            raise self._trained
        return self._trained

    def source(self) -> Source:
        if self._source is None:
            self._source = _kept(lambda: analysis.open_test(self.trained(), self._where))
        if isinstance(self._source, Exception):
            raise self._source
        return self._source

    def seen_of_source(self) -> Source | None:
        """The data as far as it was looked at; None where it could not be opened."""
        return self._source if isinstance(self._source, Source) else None

    def passed_over(self) -> list[str]:
        """A line for each damaged checkpoint that was passed over."""
        return self._trained.skipped if isinstance(self._trained, Trained) else []


def _kept(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except _FAILURES as error:
        return error


_Section = tuple[str, str, Markup]


def _section(name: str, title: str, make: Callable[[], Markup]) -> _Section:
    """A part of the page, or why it is not there."""
    try:
        content = make()
    except _FAILURES as error:
        content = tag("p", f"Not shown: {error}", class_="note")
    return name, title, tag("section", tag("h2", title), content, id=name)


# ---- the head --------------------------------------------------------------------------------------------


def _header(title: str, history: History, about: Overview) -> Markup:
    settings = history.config["settings"]
    badge = tag("span", about.state, class_=f"badge {about.state}")
    written = "" if about.when is None else f", last written {_day(about.when)}"
    reason = None if about.reason is None else tag("p", about.reason, class_="note")
    best = history.best()
    # A log with a line every twenty steps does not know of the last few.
    steps = max(about.steps or 0, int(overview.read_json(history.path / "summary.json").get("steps", 0)))
    top5 = None
    if best is not None and len(settings["classes"]) >= TOP5_FROM:
        top5 = float(history.epochs["test_error_top5"][best])
    after = None if about.best_epoch is None else f"after epoch {about.best_epoch}"
    tiles = [
        ("Best test error", _percent(about.best_error), after),
        ("Last test error", _percent(about.last_error), f"epoch {about.epochs} of {about.of_epochs}"),
        ("Top-5 error", _percent(top5), "at the best epoch"),
        ("Training time", duration(about.seconds), f"{steps:,} steps of {settings['batch']:,}"),
        ("Speed", f"{about.images_per_second:,.0f}" if about.images_per_second else "-", "images per second"),
        ("Device", about.device or "-", about.precision),
        ("Parameters", f"{about.parameters:,}" if about.parameters else "-", None),
    ]
    return tag(
        "header",
        tag("h1", title),
        tag(
            "p", badge, tag("span", f"{history.path.resolve().name}{written}", class_="faint"), class_="line"
        ),
        reason,
        tag(
            "dl",
            *(
                tag("div", tag("dt", name), tag("dd", value, tag("small", note) if note else None))
                for name, value, note in tiles
                if value != "-"
            ),
            class_="tiles",
        ),
    )


def _percent(share: float | None) -> str:
    return "-" if share is None or math.isnan(share) else f"{100 * share:.2f}%"


def duration(seconds: float | None) -> str:
    """For people: "3.7 s", "1 min 14 s", "5 h 3 min", "6 d 2 h"."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, name, part, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // part} {small}"
    raise AssertionError(seconds)


def _day(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(when))


# ---- pictures --------------------------------------------------------------------------------------------


def _curves(history: History) -> Markup:
    def drawn(panel: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "panel.svg"
            plots.draw([history], file, plots.Curves(panels=(panel,)))
            return data_url("image/svg+xml", file.read_bytes())

    best = history.best()
    words = f"{len(history.epochs):,} epochs"
    if best is not None:
        epochs, errors = history.epochs["epoch"], history.epochs["test_error_top1"]
        words += (
            f"; test error from {_percent(float(errors[0]))} to {_percent(float(errors[-1]))}, "
            f"lowest {_percent(float(errors[best]))} after epoch {epochs[best]:g}"
        )
    figures = [
        tag(
            "figure",
            tag("img", src=drawn(panel), alt=f"Training and test {panel} over {words}"),
            class_="chart",
        )
        for panel in ("loss", "error")
    ]
    changed = " Dotted lines: the learning rate changed." if history.rate_changes() else ""
    return join(
        [
            tag("p", f"{words}.{changed}", class_="faint"),
            tag("div", *figures, class_="charts"),
        ]
    )


def _filters(run: Path, best: bool) -> Markup:
    _, checkpoint, _ = runs.find_checkpoint(run, best)
    found = filter_sheet(checkpoint)
    figures = [
        tag(
            "figure",
            tag("img", src=png(tower), alt=f"Filters of {found.layer} {name}".strip(), class_="small"),
            name and tag("figcaption", name),
            class_="filters",
        )
        for name, tower in zip(found.names, found.towers, strict=True)
    ]
    where = f"{found.layer} after step {found.step:,}: {found.text}."
    return join([tag("p", where, class_="faint"), *figures])


def _looks(opened: _Opened, stepped: Stepped) -> list[_Section]:
    """The network's answers, and the images near to each other, from one look."""
    look = _kept(lambda: analysis.look(opened.trained(), opened.source(), among=_AMONG, stepped=stepped))

    def found() -> analysis.Look:
        if isinstance(look, Exception):
            raise look
        assert isinstance(look, analysis.Look)
        return look

    return [
        _section("predictions", "Predictions", lambda: _answers(found())),
        _section("neighbours", "Nearest images", lambda: _neighbours(found())),
    ]


def _image(array: Array, alt: str, class_: str | None = None) -> Markup:
    small = "small" if max(array.shape[:2]) <= 64 else None
    classes = " ".join(filter(None, (small, class_))) or None
    height, width = array.shape[:2]
    return tag("img", src=photo(array, _SIDE), alt=alt, width=str(width), height=str(height), class_=classes)


def _answers(look: analysis.Look) -> Markup:
    def card(one: analysis.Seen) -> Markup:
        name = one.name if one.label is None else look.class_names[one.label]
        bars = [
            tag(
                "li",
                tag("svg", tag("rect", width=f"{100 * p:.1f}%", height="100%"), aria_hidden="true"),
                tag("span", look.class_names[number]),
                tag("span", f"{100 * p:.0f}%"),
                class_="right" if number == one.label else None,
            )
            for number, p in zip(one.classes, one.probabilities, strict=True)
        ]
        return tag(
            "figure",
            _image(one.image, f"{one.name}, {name}"),
            tag("figcaption", name),
            tag("ol", *bars, class_="bars"),
        )

    return join(
        [
            tag(
                "p",
                "Test images, some right and some wrong, each with its true class; below the five classes "
                "that the network finds most probable, the true one in orange.",
                class_="faint",
            ),
            tag("div", *(card(one) for one in look.seen), class_="answers"),
        ]
    )


def _neighbours(look: analysis.Look) -> Markup:
    def row(one: analysis.Seen) -> Markup:
        name = one.name if one.label is None else look.class_names[one.label]
        first = tag(
            "figure", _image(one.image, f"{one.name}, {name}"), tag("figcaption", name), class_="first"
        )
        others = [
            tag(
                "figure",
                _image(image, f"training image {number}, distance {distance:.3g}"),
                tag("figcaption", look.class_names[label]),
            )
            for image, (number, distance, label) in zip(one.near_images, one.neighbours, strict=True)
        ]
        return tag("div", first, *others, class_="near")

    return join(
        [
            tag(
                "p",
                f"Left a test image, beside it the training images, of {look.among:,}, whose values in "
                f"{look.hidden} are nearest to its own.",
                class_="faint",
            ),
            tag(
                "div",
                *(row(one) for one in look.seen),
                class_="scroll",
                role="region",
                aria_label="Nearest images",
                tabindex="0",
            ),
        ]
    )


def _activations(opened: _Opened) -> Markup:
    trained = opened.trained()
    name, image = analysis.first_image(trained, opened.source())
    figures = []
    for maps in analysis.feature_maps(trained, image):
        array, text = sheet(maps, shape=2.0)
        figures.append(
            tag(
                "figure",
                tag("img", src=png(array), alt=f"Feature maps of {maps.layer}", class_="small"),
                tag("figcaption", f"{maps.layer}: {text}"),
            )
        )
    return join(
        [
            tag("p", f"What each convolution makes of {name}.", class_="faint"),
            tag("figure", _image(analysis.center(trained, image), name, "query")),
            tag("div", *figures, class_="maps"),
        ]
    )


def _timeline(run: Path) -> Markup:
    """The picture that ``cconvnet plot timeline`` left in the run, or how to make it."""
    kinds = {".svg": "image/svg+xml", ".png": "image/png"}
    files = [file for kind in kinds if (file := run / f"timeline{kind}").is_file()]
    if not files:
        # It takes a device for a while, which may be busy training just now.
        command = tag("code", f"cconvnet plot timeline {shlex.quote(str(run))}")
        return tag("p", "Not measured yet: ", command, ", then this page again.", class_="note")
    source = data_url(kinds[files[0].suffix], files[0].read_bytes())
    image = tag("img", src=source, alt="The time of each layer and pass of a step")
    box = tag("div", image, class_="scroll", role="region", aria_label="A step's time", tabindex="0")
    return tag("figure", box, class_="chart wide")


# ---- tables ----------------------------------------------------------------------------------------------


def _log(history: History) -> Markup:
    epochs, rates = history.epochs, history.rate_changes()
    parts: list[Markup] = []
    if rates:
        first = f"{history.steps['lr'][0]:g}"
        changes = [
            f"{rate:g} from epoch {history.rate_place(index, 'epoch'):.4g}" for index, rate in rates[:12]
        ]
        more = f", and {len(rates) - 12} more changes" if len(rates) > 12 else ""
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
    # The first, the last, the best, and the others evenly.
    chosen = {*np.linspace(0, len(epochs) - 1, min(len(epochs), _MOST_EPOCHS)).astype(int).tolist()}
    best = history.best()
    if best is not None:
        chosen.add(best)
    rows = [
        [
            *(
                _percent(float(columns[name][i])) if form is None else form.format(columns[name][i])
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


def _settings(config: dict[str, Any]) -> Markup:
    rows = [[key.replace("_", " "), _value(key, value)] for key, value in config["settings"].items()]
    return table(["setting", "value"], rows, "Settings")


def _value(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "lr_steps":
        return ", ".join(_lr_step(step) for step in value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items()) or "none"
    if key == "image_shape":
        return "x".join(map(str, value))
    if isinstance(value, list):
        more = f", and {len(value) - _MOST_NAMES:,} more" if len(value) > _MOST_NAMES else ""
        return f"{len(value):,}: {', '.join(map(str, value[:_MOST_NAMES]))}{more}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _lr_step(step: dict[str, Any]) -> str:
    of = f" for {', '.join(step['layers'])}" if step.get("layers") else ""
    return f"times {step['factor']:g} from epoch {step['epoch']:g}{of}"


def _checkpoints(run: Path, opened: _Opened) -> Markup:
    files = Folder(run / "checkpoints").files()
    if not files:
        return tag("p", "There is none yet.", class_="note")
    try:
        shown = opened.trained().path.resolve()
    except _FAILURES:
        shown = None
    rows = [
        [
            file.name,
            f"{int(file.stem.removeprefix('step-')):,}",
            f"{file.stat().st_size / 1e6:,.1f} MB",
            _day(file.stat().st_mtime),
            "sound, and what this page looked at" if file.resolve() == shown else "",
        ]
        for file in files
    ]
    return table(["file", "step", "size", "written", ""], rows, "Checkpoints", "lines")


def _skipped(run: Path, opened: _Opened) -> Markup:
    parts = [tag("p", line) for line in opened.passed_over()]
    summary = overview.read_json(run / "summary.json")
    if count := summary.get("skipped_images"):
        parts.append(tag("p", f"Training and tests left out {_images(count)}."))
    named = read_data(run).get("unreadable", [])
    if named:
        rows = [[str(one.get(key, "")) for key in ("split", "file", "reason")] for one in named]
        parts.append(table(["split", "file", "reason"], rows[:_MOST_SKIPPED], "Found while training"))
    source = opened.seen_of_source()
    broken = source.report() if source is not None else []
    if broken:
        rows = [list(dataclasses.astuple(one)) for one in broken[:_MOST_SKIPPED]]
        more = f", of which {_MOST_SKIPPED}" if len(broken) > _MOST_SKIPPED else ""
        parts.append(tag("p", f"{_images(len(broken))} found while this page was made{more}:"))
        parts.append(table(["split", "file", "reason"], rows, "Broken images"))
    return join(parts or [tag("p", "Nothing: no broken image and no damaged checkpoint was met.")])


def _images(count: int) -> str:
    return f"{count:,} broken image{'s' * (count != 1)}"


def _environment(config: dict[str, Any]) -> Markup:
    rows = [
        [name.removeprefix("version of "), text]
        for name, text in runs.surroundings(config).items()
        if name != "host"  # pages are passed on to strangers
    ]
    command = config.get("command")
    when = f" on {config['date']}" if "date" in config else ""
    return join(
        [
            command and tag("p", f"Begun{when} by ", tag("code", str(command))),
            table(["what", "version"], rows, "Versions"),
        ]
    )
