"""Sections with pictures: curves, filters, predictions, neighbours, feature maps, the time of a step."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cconvnet import plots, runs
from cconvnet.data.label_images import IGNORED, palette
from cconvnet.plots import analysis
from cconvnet.plots.activations import sheet
from cconvnet.plots.filters import filter_sheet
from cconvnet.report.markup import Array, Markup, data_url, join, photo, png, tag
from cconvnet.report.opened import Opened
from cconvnet.report.words import percent
from cconvnet.runs.history import History

_MAX_PHOTO_SIDE = 240  # pixels
_MAX_LABELS_SIDE = 480


def curves(history: History) -> Markup:
    """Show loss and error over the epochs."""

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
            f"; test error from {percent(float(errors[0]))} to {percent(float(errors[-1]))}, "
            f"lowest {percent(float(errors[best]))} after epoch {epochs[best]:g}"
        )
    figures = [
        tag(
            "figure",
            tag("img", src=drawn(panel), alt=f"Training and test {panel} over {words}"),
            class_="chart",
        )
        for panel in ("loss", "error")
    ]
    changed = " Dotted lines: the learning rate changed." if history.rate_steps() else ""
    return join(
        [
            tag("p", f"{words}.{changed}", class_="faint"),
            tag("div", *figures, class_="charts"),
        ]
    )


def filters(run: Path, best: bool) -> Markup:
    """Show the filters of the first convolution, by tower."""
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


def picture(array: Array, alt: str, class_: str | None = None) -> Markup:
    """Return an image uint8[H,W,C] as an element, magnified without smoothing if it is small."""
    small = "small" if max(array.shape[:2]) <= 64 else None
    classes = " ".join(filter(None, (small, class_))) or None
    height, width = array.shape[:2]
    return tag(
        "img",
        src=photo(array, _MAX_PHOTO_SIDE),
        alt=alt,
        width=str(width),
        height=str(height),
        class_=classes,
    )


def answers(look: analysis.Look) -> Markup:
    """Show test images with their five most probable classes."""

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
            picture(one.image, f"{one.name}, {name}"),
            tag("figcaption", name),
            tag("ol", *bars, class_="bars"),
        )

    return join(
        [
            tag(
                "p",
                "Test images, some classified right and some wrong, with their true classes. Below each "
                "are its five most probable classes, the true one in orange.",
                class_="faint",
            ),
            tag("div", *(card(one) for one in look.seen), class_="answers"),
        ]
    )


def segments(found: Sequence[analysis.Segmented], classes: Sequence[str]) -> Markup:
    """Show test images beside their label images and the network's, with the colours of the classes there."""
    colours, shown = palette(), sorted({*_labels(found, len(classes))})

    def drawn(array: Array, alt: str) -> Markup:
        return tag("img", src=png(array), alt=alt, class_="small")

    def card(one: analysis.Segmented) -> Markup:
        truth = np.where(one.labels < len(classes), one.labels, IGNORED)
        step = -(-max(truth.shape) // _MAX_LABELS_SIDE)  # labels have no mean
        parts = (
            (picture(one.image, one.name), "image"),
            (drawn(colours[truth[::step, ::step]], f"labels of {one.name}"), "labels"),
            (drawn(colours[one.predicted[::step, ::step]], f"predicted labels of {one.name}"), "predicted"),
        )
        figures = [tag("figure", image, tag("figcaption", name)) for image, name in parts]
        return tag("div", *figures, class_="segments", title=one.name)

    keys = [
        tag("li", drawn(np.full((12, 12, 3), colours[label]), classes[label]), tag("span", classes[label]))
        for label in shown
    ]
    words = "Test images, their labels, and what the network predicts. Pale pixels are ignored."
    return join(
        [
            tag("p", words, class_="faint"),
            tag("ul", *keys, class_="keys"),
            *map(card, found),
        ]
    )


def _labels(found: Sequence[analysis.Segmented], classes: int) -> Iterator[int]:
    """Yield the classes in label images."""
    for one in found:
        for labels in (one.labels, one.predicted):
            yield from (label for label in np.unique(labels).tolist() if 0 <= label < classes)


def neighbours(look: analysis.Look) -> Markup:
    """Show test images with the nearest training images."""

    def row(one: analysis.Seen) -> Markup:
        name = one.name if one.label is None else look.class_names[one.label]
        first = tag(
            "figure", picture(one.image, f"{one.name}, {name}"), tag("figcaption", name), class_="first"
        )
        others = [
            tag(
                "figure",
                picture(image, f"training image {number}, distance {distance:.3g}"),
                tag("figcaption", look.class_names[label]),
            )
            for image, (number, distance, label) in zip(one.near_images, one.neighbours, strict=True)
        ]
        return tag("div", first, *others, class_="near")

    return join(
        [
            tag(
                "p",
                f"A test image on the left, then the training images, out of {look.among:,}, whose values in "
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


def activations(opened: Opened) -> Markup:
    """Show the feature maps of each convolution for one test image."""
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
            tag("p", f"Feature maps of each convolution for {name}.", class_="faint"),
            tag("figure", picture(analysis.center(trained, image), name, "query")),
            tag("div", *figures, class_="maps"),
        ]
    )


def seen(history: History) -> Markup:
    """Show the pictures that ``cconvnet plot why``, ``features`` and ``map`` wrote, or these commands."""
    run = shlex.quote(str(history.path))
    return join(
        [
            _written(history.path, name, alt, f"cconvnet plot {name} {run}{more}")
            for name, alt, more in (
                ("why", "Why a picture gets its class", " PICTURE"),
                ("features", "The patches to which a layer responds most", " --layer NAME"),
                ("map", "Images in the plane by their features", ""),
            )
        ]
    )


def timeline(history: History) -> Markup:
    """Show the picture that ``cconvnet plot timeline`` wrote to the run, or that command if there is none."""
    # Measuring it here would occupy a device that may be training.
    ranks = len(history.waits.waited)
    launcher = f"mpiexec -n {ranks} " if ranks else ""
    command = f"{launcher}cconvnet plot timeline {shlex.quote(str(history.path))}"
    return _written(history.path, "timeline", "The time of each layer and pass of a step", command)


def _written(run: Path, name: str, alt: str, command: str) -> Markup:
    """Show a picture of the run's folder, or the command that draws it."""
    kinds = {".svg": "image/svg+xml", ".png": "image/png"}
    files = [file for kind in kinds if (file := run / f"{name}{kind}").is_file()]
    if not files:
        return tag(
            "p", "Not drawn yet: ", tag("code", command), ", then write this page again.", class_="note"
        )
    source = data_url(kinds[files[0].suffix], files[0].read_bytes())
    box = tag(
        "div", tag("img", src=source, alt=alt), class_="scroll", role="region", aria_label=alt, tabindex="0"
    )
    return tag("figure", box, class_="chart wide")
