"""The commands ``cconvnet evaluate`` and ``cconvnet predict``."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cconvnet.cli.options import (
    Batch,
    Best,
    Data,
    Dense,
    DenseFine,
    DeviceNames,
    Folded,
    Json,
    OptionalRun,
    RunPrecision,
    Views,
    device_names,
    print_table,
    reporter_for,
    whole,
    write_json,
)
from cconvnet.cli.weight_options import Bgr, ClassesFile, Deviation, Mean, read_classes, reading_of
from cconvnet.system import outputs

if TYPE_CHECKING:
    from cconvnet.evaluate import ClassResult, Evaluation, Trained

# A confusion matrix of more classes would be wider than most terminals; then pairs are printed.
_MAX_MATRIX_CLASSES = 12
_CONFUSED_PAIRS = 30
_CSV_FILES = ("confusion.csv", "classes.csv", "images.csv")


def _checked_folder(folder: Path | None) -> Path | None:
    """Refuse a folder of --csv whose files cannot be written."""
    if folder is not None:
        outputs.check_folder(folder)
        for name in _CSV_FILES if folder.exists() else ():
            outputs.check_output(folder / name, "csv")
    return folder


def evaluate(
    run: Annotated[
        list[Path],
        typer.Option(
            "--run",
            help="Folder of a run, or one of its checkpoints. If given several times, their probabilities "
            "are averaged, too.",
            metavar="RUN",
        ),
    ],
    data: Data = None,
    views: Views = "center",
    device: DeviceNames = None,
    batch: Batch = None,
    precision: RunPrecision = None,
    best: Best = False,
    folded: Folded = False,
    dense: Dense = False,
    dense_fine: DenseFine = False,
    confusion: Annotated[
        bool,
        typer.Option(
            "--confusion",
            help="Print how often each class was taken for which; of many classes, the pairs confused most.",
        ),
    ] = False,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Print the error of each class, the highest first.")
    ] = False,
    worst: Annotated[
        int | None,
        typer.Option(help="Print so many of the most confident mistakes.", metavar="N", callback=whole(1)),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            help="Write confusion.csv, classes.csv and images.csv to this folder: the counts, the error of "
            "each class, and the predicted class of each image. Of labels of pixels, the first two.",
            metavar="FOLDER",
            callback=_checked_folder,
        ),
    ] = None,
    to_json: Json = None,
) -> None:
    """Compute the test error of a trained network, or of the averaged probabilities of several.

    Of a network that answers for each pixel: pixel accuracy, mean accuracy of classes, mean intersection over
    union (IU), and that mean weighted by the classes' pixels. --per-class prints accuracy and IU of each.

    With --confusion, --per-class and --worst it also shows which classes and images are wrong. Then --json
    contains these parts too. `cconvnet report` shows them with pictures.
    """
    from cconvnet.evaluate import Tally, evaluate_runs
    from cconvnet.runs.data_record import unreadable_lines

    def values(tally: Tally) -> dict[str, float]:
        return {
            "test_error_top1": tally.error_top1,
            "test_error_top5": tally.error_top5,
            "test_loss": tally.mean_loss,
        }

    with reporter_for(to_json) as report:

        def stepped(done: int, total: int) -> None:
            if done == 1:
                report.begin("testing", total)
            report.step(done, "testing", f"{done}/{total}")

        found = evaluate_runs(
            run,
            data,
            devices=device_names(device),
            batch=batch,
            precision=precision,
            best=best,
            folded=folded,
            dense="fine" if dense_fine else dense,
            views=views,
            say=report.say,
            stepped=stepped,
        )
        report.end()
        if worst and found.figures is not None:
            raise ValueError("--worst is of images; the pixels' labels have --per-class and --confusion")
        source, results, together = found.source, found.results, found.tally
        where, classes = f"{source.name}, {found.size}", len(source.classes)
        for result in results:
            seen = f"{result.views} view{'s' * (result.views > 1)}"
            report.say(f"{where}, {seen}, {result.path}: {result.tally.text(classes)}")
        if found.figures is not None:
            report.say(f"{found.figures}")
        if len(results) > 1:
            report.say(f"{where}, average of {len(results)} networks: {together.text(classes)}")
        for line in unreadable_lines(source.unreadable()):
            report.say(line)
    if to_json != "-":
        _print_parts(found, confusion, per_class, worst)
    if csv is not None:
        _write_csv(found, csv)
    if to_json:
        members = [
            {
                "checkpoint": str(result.path),
                "net": result.net,
                "device": result.device,
                "precision": result.precision,
                "views": result.views,
                **values(result.tally),
            }
            for result in results
        ]
        document = {
            "data": source.name,
            "images": together.count,
            **_figures(found),
            "unreadable": [vars(one) for one in source.unreadable()],
            **values(together),
            **(members[0] if len(members) == 1 else {"members": members}),
        }
        if confusion:
            document |= {"classes": found.classes, "confusion": found.confusion.tolist()}
        if per_class:
            document["per_class"] = [
                {**vars(one), "error": one.error, **_overlap(found, one)} for one in found.per_class
            ]
        if worst:
            document["worst"] = [vars(one) for one in found.worst(worst)]
        write_json(to_json, document)


def _figures(found: Evaluation) -> dict[str, Any]:
    """Return what the JSON document has of labels of pixels; `images` are then images, not pixels."""
    from cconvnet.evaluate import PixelAnswers

    if not isinstance(found.answers, PixelAnswers):
        return {}
    return {"images": found.answers.images, "pixels": found.images, **vars(found.answers.figures)}


def _overlap(found: Evaluation, one: ClassResult) -> dict[str, float | None]:
    """Return the intersection over union of a class of pixels, None if it has none; nothing for images."""
    from cconvnet.evaluate import PixelAnswers

    if not isinstance(found.answers, PixelAnswers):
        return {}
    value = float(found.answers.overlaps[one.label])
    return {"iu": None if math.isnan(value) else value}


def _print_parts(found: Evaluation, confusion: bool, per_class: bool, worst: int | None) -> None:
    """Print the tables that were asked for."""
    from cconvnet.console import percent

    counted = "images" if found.figures is None else "pixels"

    def error(share: float | None) -> str:
        return "-" if share is None else percent(share)

    names = found.classes
    if confusion and len(names) <= _MAX_MATRIX_CLASSES:
        rows = [
            [name, *map("{:,}".format, counts)]
            for name, counts in zip(names, found.confusion.tolist(), strict=True)
        ]
        print_table("right class by row, predicted class by column", ["", *names], rows, set(names))
    elif confusion:
        rows = [
            [one.name, one.predicted, f"{one.images:,}", percent(one.share)]
            for one in found.answers.confused(_CONFUSED_PAIRS)
        ]
        columns = ["right class", "predicted", counted, "of the class"]
        print_table("classes confused most often", columns, rows, {counted, "of the class"})
    if per_class:
        rows = [
            [
                one.name,
                f"{one.images:,}",
                f"{one.wrong:,}",
                error(one.error),
                *(error(value) for value in _overlap(found, one).values()),
                f"{one.taken_for} ({one.taken_for_images:,})" if one.taken_for is not None else "",
            ]
            for one in found.per_class
        ]
        overlap = [] if found.figures is None else ["IU"]
        columns = ["class", counted, "wrong", "error", *overlap, "most often taken for"]
        print_table("error of each class", columns, rows, {counted, "wrong", "error", "IU"})
    if worst:
        rows = [
            [one.file, one.name, one.predicted, percent(one.probability), percent(one.probability_of_right)]
            for one in found.worst(worst)
        ]
        columns = ["image", "right class", "predicted", "probability", "of the right class"]
        print_table("most confident mistakes", columns, rows, {"probability", "of the right class"})


def _write_csv(found: Evaluation, folder: Path) -> None:
    """Write the files of --csv."""
    folder.mkdir(parents=True, exist_ok=True)
    names = found.classes
    counts = ([name, *row] for name, row in zip(names, found.confusion.tolist(), strict=True))
    outputs.write_csv(folder / "confusion.csv", ["class", *names], counts)
    classes = (
        [
            *(one.label, one.name, one.images, one.wrong, one.error, one.taken_for, one.taken_for_images),
            *_overlap(found, one).values(),
        ]
        for one in found.per_class
    )
    columns = ["label", "class", "images", "wrong", "error", "taken_for", "taken_for_images"]
    if found.figures is not None:  # then there are no answers of images
        columns = [name.replace("images", "pixels") for name in columns]
        outputs.write_csv(folder / "classes.csv", [*columns, "iu"], classes)
        return
    outputs.write_csv(folder / "classes.csv", columns, classes)
    images = (
        [one.index, one.file, one.name, one.predicted, one.probability, one.probability_of_right]
        for one in found.answers
    )
    columns = ["index", "file", "class", "predicted", "probability", "probability_of_right"]
    outputs.write_csv(folder / "images.csv", columns, images)


def predict(
    pictures: Annotated[list[Path], typer.Argument(help="JPEG or PNG files.", metavar="PICTURE")],
    run: OptionalRun = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="File of weights, .pth or .safetensors, instead of --run.", metavar="FILE"),
    ] = None,
    net: Annotated[
        str | None, typer.Option(help="With --weights: the network, as for `import`.", metavar="NAME")
    ] = None,
    classes: ClassesFile = None,
    bgr: Bgr = None,
    mean: Mean = None,
    deviation: Deviation = None,
    top: Annotated[int, typer.Option(help="Number of classes to show.", metavar="N", callback=whole())] = 5,
    views: Views = "center",
    device: DeviceNames = None,
    precision: RunPrecision = None,
    best: Best = False,
    folded: Folded = False,
    dense: Dense = False,
    dense_fine: DenseFine = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Of a network that answers for each pixel: folder for the label images, or one's file, "
            ".png. If not given: beside each picture, as NAME-labels.png.",
            metavar="FOLDER",
        ),
    ] = None,
    to_json: Json = None,
) -> None:
    """Classify pictures with a trained network, that of a run or of another program's file.

    A network that answers for each pixel writes a label image of each picture, of its size: a PNG with Pascal
    VOC's palette. Then the classes are printed with their shares of the pixels.

    Unreadable pictures are listed and skipped. The exit code is then 1, or 2 if no picture is readable.
    """
    from cconvnet import evaluate as evaluation
    from cconvnet.formats.netfiles import resolve
    from cconvnet.training.imported import checkpoint_of, weights_of

    if (run is None) == (weights is None):
        raise ValueError("exactly one of --run and --weights is needed")
    options: dict[str, Any] = {
        "devices": device_names(device),
        "batch": min(len(pictures), 64),
        "pixels_batch": 1,  # each picture has its own size
        "precision": precision,
        "folded": folded,
        "dense": "fine" if dense_fine else dense,
    }
    if run is not None:
        trained = evaluation.load_trained(run, best=best, **options)
    else:
        assert weights is not None
        chosen = None if net is None else resolve(net)
        reading = reading_of(None, mean, deviation, bgr)
        checkpoint, notes = checkpoint_of(weights_of(weights), chosen, reading, read_classes(classes))
        for note in notes:
            print(f"weights: {note}", file=sys.stderr)
        trained = evaluation.trained_of(checkpoint, weights, **options)
    for line in trained.skipped:
        print(f"skipped: {line}", file=sys.stderr)
    if note := evaluation.not_turned(pictures, trained.preprocessing):
        print(f"note: {note}", file=sys.stderr)
    if trained.of_pixels:
        if dense or dense_fine or views != "center":
            option = "--dense" if dense else "--dense-fine" if dense_fine else f"--views {views}"
            raise ValueError(f"{option}: the network answers for each pixel of whole pictures; leave it out")
        _write_labels(trained, pictures, out, top, to_json)
        return
    if out is not None:
        raise ValueError("--out is for label images, and this network answers for images; --json has files")

    def classes_of(path: Path, result: Any) -> tuple[dict[str, Any], list[list[str]]]:
        best_classes = [
            (trained.classes[i], float(result[i])) for i in (-result).argsort(kind="stable")[:top]
        ]
        shown = [{"class": name, "probability": probability} for name, probability in best_classes]
        return {"classes": shown}, [[name, f"{100 * share:.2f}%"] for name, share in best_classes]

    each = evaluation.predict_each(trained, pictures, views)
    _show_each(pictures, each, classes_of, ["class", "probability"], to_json)


def _show_each(
    pictures: list[Path],
    results: Iterable[Any],
    show: Callable[[Path, Any], tuple[dict[str, Any], list[list[str]]]],
    columns: list[str],
    to_json: str | None,
) -> None:
    """Print and write the results of pictures; those that cannot be read decide the exit code.

    Args:
        pictures: The files.
        results: Of each; a DataError of one that cannot be read.
        show: Returns of a picture and its result the fields for JSON and the rows of the table.
        columns: Of the table behind the picture; the last is of numbers.
        to_json: The file for all.
    """
    from cconvnet.data import DataError

    found: list[dict[str, Any]] = []
    rows: list[list[str]] = []
    unread = 0
    for path, result in zip(pictures, results, strict=True):
        if isinstance(result, DataError):
            unread += 1
            print(f"error: {result}", file=sys.stderr)
            found.append({"picture": str(path), "error": str(result)})
            continue
        fields, lines = show(path, result)
        found.append({"picture": str(path), **fields})
        rows += [[str(path) if number == 0 else "", *line] for number, line in enumerate(lines)]
    if to_json != "-" and rows:
        print_table("", ["picture", *columns], rows, {columns[-1]})
    if to_json:
        write_json(to_json, found)
    if unread:
        raise typer.Exit(2 if unread == len(pictures) else 1)


def _write_labels(
    trained: Trained, pictures: list[Path], out: Path | None, top: int, to_json: str | None
) -> None:
    """Write a label image of each picture, and print the shares of its classes."""
    from cconvnet.evaluate.segmentation import picture_of, segment_each, shares

    files = dict(zip(pictures, _label_files(pictures, out), strict=True))

    def shares_of(path: Path, labels: Any) -> tuple[dict[str, Any], list[list[str]]]:
        file = files[path]
        file.parent.mkdir(parents=True, exist_ok=True)
        outputs.save_picture(picture_of(labels), file)
        print(f"labels: {file}", file=sys.stderr)
        parts = shares(labels, trained.classes)
        shown = [{"class": name, "share": share} for name, share in parts]
        lines = [[name, f"{100 * share:.2f}%"] for name, share in parts[:top]]
        return {"labels": str(file), "classes": shown}, lines

    _show_each(pictures, segment_each(trained, pictures), shares_of, ["class", "of the pixels"], to_json)


def _label_files(pictures: list[Path], out: Path | None) -> list[Path]:
    """Return the file for each picture's label image.

    Raises:
        ValueError: Two are one file, or one is a picture.
        OutputError: One cannot be written.
    """
    if out is None:
        files = [path.with_name(f"{path.stem}-labels.png") for path in pictures]
    elif out.suffix.lower() == ".png":
        if len(pictures) > 1:
            raise ValueError(f"--out {out} is one file for {len(pictures)} pictures; name a folder")
        files = [out]
    else:
        outputs.check_folder(out)
        files = [out / f"{path.stem}.png" for path in pictures]
    taken: dict[Path, Path] = {}
    read = {path.resolve() for path in pictures}
    for path, file in zip(pictures, files, strict=True):
        own = file.resolve()
        if own in read:
            raise ValueError(f"{file} is one of the pictures; --out names another folder for label images")
        if own in taken:
            raise ValueError(f"{file} would be the label image of {taken[own]} and of {path}")
        taken[own] = path
        if file.parent.is_dir():
            outputs.check_output(file, "png")
    return files
