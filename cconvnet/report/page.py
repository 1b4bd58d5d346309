"""Page of a report: the head, the sections in order, and the reason in place of one that failed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import cconvnet
from cconvnet import runs
from cconvnet.data.datasets import Where
from cconvnet.evaluate import Trained, load_trained
from cconvnet.plots import analysis
from cconvnet.report import pictures, results, tables
from cconvnet.report.markup import Markup, document, tag
from cconvnet.report.opened import FAILURES, Opened, attempt
from cconvnet.report.words import day, duration, percent
from cconvnet.runs import data_name, overview
from cconvnet.runs.history import TOP5_FROM, History
from cconvnet.runs.overview import Overview

_TRAINING_IMAGES = 1000  # searched for the nearest: more would take minutes
TEST_IMAGES = 10_000  # those of CIFAR-10; of ImageNet a part, so that a page takes minutes without a GPU
_BATCH = 64
_PIXELS_BATCH = 4  # of networks that answer for each pixel, whose images are large
_LABEL_IMAGES = 8

Stepped = Callable[[int, int], None]


def write(
    run: Path,
    out: Path,
    *,
    data: Where = None,
    devices: list[str] | None = None,
    precision: str | None = None,
    best: bool = False,
    images: int = TEST_IMAGES,
    stepped: Stepped = lambda done, total: None,
) -> None:
    """Write the report of a run.

    Args:
        run: The folder of the run, or one of its checkpoints.
        out: The file of the page.
        data: The run's data, if it has moved or is not kept: a folder, a file of arrays, or arrays.
        devices: The devices for predictions and feature maps; the default one if not given.
        precision: The precision of products; that of the training if not given.
        best: Use the best checkpoint instead of the newest.
        images: The number of test images, spread evenly, for the confusion matrix, the classes and mistakes.
        stepped: Called with the number of images processed and in all, first of the test, then of the
            predictions.

    Raises:
        RunError: The folder contains no run.
        OSError: The file cannot be written.
    """
    from cconvnet.system.outputs import write_output

    history = History(runs.folder_of(run))

    def load() -> Trained:
        return load_trained(
            run,
            devices=devices,
            batch=_BATCH,
            best=best,
            precision=precision,
            pixels_batch=_PIXELS_BATCH,
        )

    text = _page(history, run, Opened(load, data), best, images, stepped)
    # Names of files may be no text.
    write_output(out, [text.encode(errors="backslashreplace")])


def _page(history: History, run: Path, opened: Opened, best: bool, images: int, stepped: Stepped) -> str:
    about = overview.read_overview(history.path)
    sections = [
        _section("curves", "Curves", lambda: pictures.curves(history)),
        *([_section("ranks", "Ranks", lambda: tables.ranks(history))] if history.waits.waited else []),
        *_results(opened, images, stepped),
        *_looks(opened, stepped),
        _section("filters", "Filters", lambda: pictures.filters(run, best)),
        _section("activations", "Feature maps", lambda: pictures.activations(opened)),
        _section("seen", "What it saw", lambda: pictures.seen(history)),
        _section("timeline", "A step's time", lambda: pictures.timeline(history)),
        _section("layers", "Layers", lambda: tables.layers(history.config)),
        _section("log", "Log", lambda: tables.log(history)),
        _section("settings", "Settings", lambda: tables.settings(history.config)),
        _section("checkpoints", "Checkpoints", lambda: tables.checkpoints(history.path, opened)),
        _section("skipped", "Skipped", lambda: tables.skipped(history.path, opened)),
        _section("environment", "Environment", lambda: tables.environment(history.config)),
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
            tag("footer", tag("p", f"Written by cconvnet {cconvnet.__version__}, {day(time.time())}.")),
            class_="page",
        ),
    )


_Section = tuple[str, str, Markup]


def _section(name: str, title: str, make: Callable[[], Markup]) -> _Section:
    """Make a section of the page; if that fails, its content is the reason."""
    try:
        content = make()
    except FAILURES as error:
        content = tag("p", f"Not shown: {error}", class_="note")
    return name, title, tag("section", tag("h2", title), content, id=name)


def _results(opened: Opened, images: int, stepped: Stepped) -> list[_Section]:
    """Make the sections of a test, which share one pass of the network."""
    test = attempt(lambda: results.tested(opened, images, stepped))

    def found() -> results.Tested:
        if isinstance(test, Exception):
            raise test
        assert isinstance(test, results.Tested)
        return test

    sections = [
        _section("confusion", "Confusion", lambda: results.confusion(found())),
        _section("classes", "Classes", lambda: results.classes(found())),
    ]
    if isinstance(test, results.Tested) and test.figures is not None:  # pixels are not shown one by one
        return sections
    return [*sections, _section("mistakes", "Worst mistakes", lambda: results.mistakes(found(), opened))]


def _looks(opened: Opened, stepped: Stepped) -> list[_Section]:
    """Make the sections of predictions and nearest images, which share one pass of the network.

    Of a network that answers for each pixel, there is a section of label images instead.
    """
    trained = attempt(opened.trained)
    if isinstance(trained, Trained) and trained.of_pixels:
        return [
            _section(
                "predictions",
                "Predictions",
                lambda: pictures.segments(
                    analysis.segmented(trained, opened.source(), _LABEL_IMAGES), trained.classes
                ),
            )
        ]
    look = attempt(
        lambda: analysis.look(opened.trained(), opened.source(), among=_TRAINING_IMAGES, stepped=stepped)
    )

    def found() -> analysis.Look:
        if isinstance(look, Exception):
            raise look
        assert isinstance(look, analysis.Look)
        return look

    return [
        _section("predictions", "Predictions", lambda: pictures.answers(found())),
        _section("neighbours", "Nearest images", lambda: pictures.neighbours(found())),
    ]


def _ranks(history: History) -> tuple[str, str | None]:
    """Return the number of ranks, "-" for one, and how they waited for each other."""
    waits = history.waits
    if not waits.waited:
        return "-", None
    return (
        f"{len(waits.waited)}",
        f"waiting {waits.share:.0%}; slowest: rank {waits.slowest}",
    )


def _header(title: str, history: History, about: Overview) -> Markup:
    settings = history.config["settings"]
    badge = tag("span", about.state, class_=f"badge {about.state}")
    written = "" if about.when is None else f", last written {day(about.when)}"
    reason = None if about.reason is None else tag("p", about.reason, class_="note")
    best = history.best()
    # A log with a line every twenty steps does not contain the last few.
    steps = max(about.steps or 0, int(overview.read_json(history.path / "summary.json").get("steps", 0)))
    top5 = None
    if best is not None and len(settings["classes"]) >= TOP5_FROM:
        top5 = float(history.epochs["test_error_top5"][best])
    after = None if about.best_epoch is None else f"after epoch {about.best_epoch}"
    tiles = [
        ("Best test error", percent(about.best_error), after),
        ("Last test error", percent(about.last_error), f"epoch {about.epochs} of {about.of_epochs}"),
        ("Top-5 error", percent(top5), "at the best epoch"),
        ("Training time", duration(about.seconds), f"{steps:,} steps of {settings['batch']:,}"),
        ("Speed", f"{about.images_per_second:,.0f}" if about.images_per_second else "-", "images per second"),
        ("Device", about.device or "-", about.precision),
        ("Ranks", *_ranks(history)),
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
