"""The commands ``cconvnet evaluate`` and ``cconvnet predict``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cconvnet.cli.options import (
    Batch,
    Best,
    Data,
    DeviceNames,
    Json,
    RunPath,
    RunPrecision,
    Views,
    device_names,
    print_table,
    reporter_for,
    whole,
    write_json,
)


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
    to_json: Json = None,
) -> None:
    """Compute the test error of a trained network, or of the averaged probabilities of several."""
    from cconvnet.console import percent
    from cconvnet.evaluate import Tally, evaluate_runs
    from cconvnet.runs.data_record import unreadable_lines

    def errors(tally: Tally) -> str:
        return (
            f"top-1 error {percent(tally.error_top1)}, top-5 error {percent(tally.error_top5)}, "
            f"loss {tally.mean_loss:.4f}"
        )

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

        source, results, together = evaluate_runs(
            run,
            data,
            devices=device_names(device),
            batch=batch,
            precision=precision,
            best=best,
            views=views,
            say=report.say,
            stepped=stepped,
        )
        report.end()
        where = f"{source.name}, {together.count:,} test images"
        for result in results:
            seen = f"{result.views} view{'s' * (result.views > 1)}"
            report.say(f"{where}, {seen}, {result.path}: {errors(result.tally)}")
        if len(results) > 1:
            report.say(f"{where}, average of {len(results)} networks: {errors(together)}")
        for line in unreadable_lines(source.unreadable()):
            report.say(line)
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
            "unreadable": [vars(one) for one in source.unreadable()],
            **values(together),
        }
        write_json(to_json, {**document, **(members[0] if len(members) == 1 else {"members": members})})


def predict(
    run: RunPath,
    pictures: Annotated[list[Path], typer.Argument(help="JPEG or PNG files.", metavar="PICTURE...")],
    top: Annotated[int, typer.Option(help="Number of classes to show.", metavar="N", callback=whole())] = 5,
    views: Views = "center",
    device: DeviceNames = None,
    precision: RunPrecision = None,
    best: Best = False,
    to_json: Json = None,
) -> None:
    """Classify pictures with a trained network.

    Unreadable pictures are listed and skipped. The exit code is then 1, or 2 if no picture is readable.
    """
    from cconvnet import evaluate as evaluation
    from cconvnet.data import DataError

    trained = evaluation.load_trained(
        run, devices=device_names(device), batch=min(len(pictures), 64), best=best, precision=precision
    )
    for line in trained.skipped:
        print(f"skipped: {line}", file=sys.stderr)
    if note := evaluation.not_turned(pictures, trained.preprocessing):
        print(f"note: {note}", file=sys.stderr)
    found: list[dict[str, Any]] = []
    rows: list[list[str]] = []
    unread = 0
    for path, result in zip(pictures, evaluation.predict_each(trained, pictures, views), strict=True):
        if isinstance(result, DataError):
            unread += 1
            print(f"error: {result}", file=sys.stderr)
            found.append({"picture": str(path), "error": str(result)})
            continue
        order = (-result).argsort(kind="stable")[:top]
        classes = [{"class": trained.classes[i], "probability": float(result[i])} for i in order]
        found.append({"picture": str(path), "classes": classes})
        rows += [
            [str(path) if position == 0 else "", trained.classes[i], f"{100 * result[i]:.2f}%"]
            for position, i in enumerate(order)
        ]
    if to_json != "-" and rows:
        print_table("", ["picture", "class", "probability"], rows, {"probability"})
    if to_json:
        write_json(to_json, found)
    if unread:
        raise typer.Exit(2 if unread == len(pictures) else 1)
