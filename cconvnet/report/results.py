"""Sections with the result of a test: confusion matrix, error of each class, most confident mistakes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from cconvnet.evaluate import Answers, ClassResult, PixelAnswers, PixelFigures, answers_for, evaluate_run
from cconvnet.plots import analysis
from cconvnet.report.markup import Markup, join, table, tag
from cconvnet.report.opened import Opened
from cconvnet.report.pictures import picture
from cconvnet.report.words import percent

# A matrix of more classes could not be read; of these the pairs that were confused most are shown.
_MAX_MATRIX_CLASSES = 20
# The heads of more columns, or longer ones, are turned upright.
_MAX_COLUMNS = 10
_MAX_COLUMN_NAME = 11  # characters
_MAX_PAIRS = 40
_MAX_CLASSES = 40
_BEST_CLASSES = 8  # of more than _MAX_CLASSES, beside the worst
_MAX_MISTAKES = 24
# The shares of a class from which on a cell of the matrix is darker.
_SHADES_RIGHT = (0.0, 0.5, 0.75, 0.9)
_SHADES_WRONG = (0.0, 0.02, 0.05, 0.1)


@dataclasses.dataclass(frozen=True)
class Tested:
    """Result of a test.

    Attributes:
        answers: The predicted class of each tested image.
        images: The number of tested images, or of their pixels with labels.
        of_images: The number of test images.
        error: The share of wrong ones, from 0 to 1.
    """

    answers: Answers
    images: int
    of_images: int
    error: float

    @property
    def words(self) -> str:
        """The images, and how many of them are wrong."""
        images = self.answers.images if isinstance(self.answers, PixelAnswers) else self.images
        part = "test images" if images == self.of_images else f"of {self.of_images:,} test images"
        if self.figures is not None:
            return f"{self.images:,} pixels of {images:,} {part}: {self.figures}"
        return f"{self.images:,} {part}, {percent(self.error)} of them wrong"

    @property
    def figures(self) -> PixelFigures | None:
        """Of labels of pixels: accuracy and intersection over union."""
        return self.answers.figures if isinstance(self.answers, PixelAnswers) else None


def tested(opened: Opened, most: int, stepped: Callable[[int, int], None]) -> Tested:
    """Test the network of a page.

    Args:
        opened: The network and the data.
        most: The number of test images, spread evenly.
        stepped: Called with the number of images tested and in all.
    """
    trained, source = opened.trained(), opened.source()
    numbers = analysis.spread(len(source.test), most)
    answers = answers_for(source.test, analysis.class_names(trained, source))
    batch, count = trained.network.batch, len(numbers)
    tally = evaluate_run(
        trained,
        source,
        stepped=lambda done, _: stepped(min(done * batch, count), count),
        answers=answers,
        numbers=numbers,
    )
    return Tested(answers, tally.count, len(source.test), tally.error_top1)


def confusion(found: Tested) -> Markup:
    """Show how often each class was taken for which."""
    few = len(found.answers.classes) <= _MAX_MATRIX_CLASSES
    return _matrix(found) if few else _pairs(found)


def _matrix(found: Tested) -> Markup:
    names, counts = found.answers.classes, found.answers.confusion.tolist()

    def cell(row: int, column: int) -> Markup:
        count = counts[row][column]
        if not count:
            return tag("td", "")
        share = count / sum(counts[row])
        kind, shades = ("right", _SHADES_RIGHT) if row == column else ("wrong", _SHADES_WRONG)
        level = sum(share >= least for least in shades)
        words = f"{names[row]} taken for {names[column]}: {count:,}, {percent(share)}"
        return tag("td", f"{count:,}", class_=f"{kind}{level}", title=words)

    columns = [tag("th", name, scope="col") for name in names]
    head = tag("tr", tag("th", "is \\ taken for", scope="col"), *columns)
    rows = [
        tag("tr", tag("th", name, scope="row"), *(cell(row, column) for column in range(len(names))))
        for row, name in enumerate(names)
    ]
    tall = len(names) > _MAX_COLUMNS or max(map(len, names)) > _MAX_COLUMN_NAME
    kind = "matrix tall" if tall else "matrix"
    matrix = tag("table", tag("thead", head), tag("tbody", *rows), class_=kind)
    pairs = found.answers.confused(3)
    most = "; ".join(f"{one.name} taken for {one.predicted}, {one.images:,}" for one in pairs)
    return join(
        [
            tag(
                "p",
                f"{found.words}. Rows are the true classes, columns the predicted ones."
                + (f" Confused most often: {most}." if most else ""),
                class_="faint",
            ),
            tag("div", matrix, class_="scroll", role="region", aria_label="Confusion matrix", tabindex="0"),
        ]
    )


def _pairs(found: Tested) -> Markup:
    pairs = found.answers.confused(_MAX_PAIRS)
    rows = [[one.name, one.predicted, f"{one.images:,}", percent(one.share)] for one in pairs]
    words = f"{found.words}. The pairs of classes that were confused most often:"
    columns = ["class", "taken for", "images" if found.figures is None else "pixels", "of the class"]
    return join([tag("p", words, class_="faint"), table(columns, rows, "Confused classes", "pairs")])


def classes(found: Tested) -> Markup:
    """Show the error of each class; of many classes, of the worst and the best."""
    results = found.answers.per_class
    shown = [one for one in results if one.error is not None]
    words = f"{len(shown):,} classes, the highest error first."
    if missing := len(results) - len(shown):
        words += f" {missing:,} have no test image."
    if len(shown) > _MAX_CLASSES:
        worst = _MAX_CLASSES - _BEST_CLASSES
        words += f" Shown are the first {worst} and the last {_BEST_CLASSES}."
        shown = shown[:worst] + shown[-_BEST_CLASSES:]

    def cells(one: ClassResult) -> list[str]:
        assert one.error is not None
        bar = tag("svg", tag("rect", width=f"{100 * one.error:.1f}%", height="100%"), aria_hidden="true")
        most = "" if one.taken_for is None else f"{one.taken_for} ({one.taken_for_images:,})"
        error = tag("div", bar, tag("span", percent(one.error)), class_="bar")
        overlap = [] if overlaps is None else [percent(float(overlaps[one.label]))]
        return [one.name, f"{one.images:,}", f"{one.wrong:,}", error, *overlap, most]

    overlaps = found.answers.overlaps if isinstance(found.answers, PixelAnswers) else None
    columns = ["class", "images", "wrong", "error", "most often taken for"]
    if overlaps is not None:
        columns = ["class", "pixels", "wrong", "error", "IU", "most often taken for"]
    return join(
        [
            tag("p", words, class_="faint"),
            table(columns, map(cells, shown), "Error of each class", "classes"),
        ]
    )


def mistakes(found: Tested, opened: Opened) -> Markup:
    """Show the wrong predictions of the highest probability."""
    worst = found.answers.worst(_MAX_MISTAKES)
    if not worst:
        return tag("p", f"None: {found.words}.", class_="note")
    trained, source = opened.trained(), opened.source()
    images, _ = source.test.read([one.index for one in worst])
    names = [Path(one.file).name for one in worst]  # pages are sent to strangers
    cards = [
        tag(
            "figure",
            picture(analysis.center(trained, image), f"{name}, {one.name} taken for {one.predicted}"),
            tag(
                "figcaption",
                tag("span", one.name),
                tag("span", f"taken for {one.predicted}, {percent(one.probability)}"),
            ),
            title=name,
        )
        for one, name, image in zip(worst, names, images, strict=True)
    ]
    words = (
        "The wrong predictions of the highest probability: the true class, then the predicted one. Some of "
        "these images may be labelled wrongly."
    )
    return join([tag("p", words, class_="faint"), tag("div", *cards, class_="mistakes")])
