"""A trained run: its results, its curve, its network, and what it says about images."""

from __future__ import annotations

import html
import os
import signal
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np
import numpy.typing as npt

from cconvnet import plots, runs
from cconvnet import report as pages
from cconvnet.api.conversion import errors_in_python
from cconvnet.api.keywords import TrainingKeywords
from cconvnet.api.pictures import Picture
from cconvnet.api.predictions import (
    Prediction,
    Predictions,
    Segmentation,
    named_images,
    predictions,
    segmentations,
)
from cconvnet.api.session import arrays_of, run_session
from cconvnet.console import percent, reporter
from cconvnet.data.datasets import Arrays, Where
from cconvnet.evaluate import Evaluation, Trained, check_views, evaluate_runs, load_trained
from cconvnet.network import Network
from cconvnet.plots.curve import PANELS
from cconvnet.runs.history import History
from cconvnet.runs.overview import Overview, read_json, read_overview
from cconvnet.training.option_values import parse_device_names
from cconvnet.training.trainer import Outcome

_BATCH = 64  # images of a prediction at once

Columns = dict[str, npt.NDArray[np.float64]]


class Log(NamedTuple):
    """The log of a run as columns, which ``pandas.DataFrame`` takes.

    Attributes:
        steps: A value for each line of training steps: step, epoch, loss, train_error_top1, lr,
            images_per_second.
        epochs: A value for each epoch: step, epoch, train_loss, train_error_top1, test_loss, test_error_top1,
            test_error_top5.
    """

    steps: Columns
    epochs: Columns


class Run:
    """A run: the folder of one training, and what can be done with it.

    Example:
        >>> run = cc.load("runs/first")
        >>> run.evaluate(views="ten").error_top1
        >>> run.predict("photo.jpg").class_name
        >>> run.train(epochs=60)

    Args:
        path: The folder, or one of its checkpoints, whose network is then used instead of the newest.
        arrays: The arrays that it was trained on, if its folder does not keep them.

    Attributes:
        path: The folder; :mod:`cconvnet.runs` lists its files.
        source: The folder, or the checkpoint that was given.
        arrays: The arrays that were given.

    Raises:
        RunError: The folder contains no run.
    """

    def __init__(self, path: str | os.PathLike[str], arrays: Arrays | None = None) -> None:
        self.source = Path(path)
        self.path = runs.folder_of(self.source)
        self.arrays = arrays
        self._trained: tuple[Any, Trained] | None = None
        runs.read_config(self.path)

    # ---- what is known of it -------------------------------------------------------------------------------

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides what the run computes, as ``config.json`` contains it."""
        settings: dict[str, Any] = runs.read_config(self.path)["settings"]
        return settings

    @property
    def summary(self) -> dict[str, Any]:
        """The content of ``summary.json``; empty if training never stopped in an orderly way."""
        return read_json(self.path / "summary.json")

    @property
    def overview(self) -> Overview:
        """Progress, best error, speed and state of the run."""
        return read_overview(self.path)

    @property
    def complete(self) -> bool:
        """True if all epochs are done."""
        return bool(self.summary.get("complete"))

    @property
    def classes(self) -> list[str]:
        """The names of the classes."""
        return list(self.settings["classes"])

    @property
    def log(self) -> Log:
        """The log up to now, as columns."""
        history = History(self.path)
        steps, epochs = history.steps, history.epochs
        return Log({name: steps[name] for name in steps.names}, {name: epochs[name] for name in epochs.names})

    # ---- pictures and pages --------------------------------------------------------------------------------

    def curve(
        self,
        *others: Run | str | os.PathLike[str],
        out: str | os.PathLike[str] | None = None,
        x: str = "epoch",
        smooth: int | None = None,
        log: bool | None = None,
        panels: Sequence[str] = PANELS,
    ) -> Picture:
        """Draw the loss and the errors over the training, beside those of other runs.

        Args:
            *others: Runs to draw in the same picture.
            out: The file; ``curve.png`` in the run's folder if not given.
            x: The horizontal axis: "epoch", "step" or "seconds" of training.
            smooth: Lines of the log over which training values are averaged; chosen if not given.
            log: Whether the axis of the loss is logarithmic; chosen if not given.
            panels: "loss", "error" or both.

        Returns:
            The picture, which a notebook shows.

        Raises:
            PlotError: matplotlib is missing, or the log has no line yet.
        """
        file = self.path / "curve.png" if out is None else Path(out)
        drawn = [self, *(other if isinstance(other, Run) else Run(other) for other in others)]
        with errors_in_python():
            plots.curve([run.path for run in drawn], file, plots.Curves(x, smooth, log, tuple(panels)))
        return Picture(file)

    def report(
        self,
        out: str | os.PathLike[str] | None = None,
        *,
        data: Any = None,
        open: bool = False,
        best: bool = False,
        devices: str | Sequence[str] | None = None,
        quiet: bool = False,
    ) -> Path:
        """Write the report, one page of HTML with results, pictures, settings and log.

        Args:
            out: The file; ``report.html`` in the run's folder if not given.
            data: The data, if it has moved or is not kept: a path, or test images as for :meth:`evaluate`.
            open: Open the page in the browser.
            best: Use the best checkpoint instead of the newest.
            devices: Where the network runs.
            quiet: Show nothing.

        Returns:
            The file.
        """
        file = self.path / "report.html" if out is None else Path(out)
        with errors_in_python(), reporter(quiet=quiet) as shown:
            pages.write(
                self.source,
                file,
                data=self._test_data(data),
                devices=_names(devices),
                best=best,
                stepped=shown.counted("looking at images"),
            )
        if open:
            webbrowser.open(file.resolve().as_uri())
        return file

    # ---- its network ---------------------------------------------------------------------------------------

    def evaluate(
        self,
        data: Any = None,
        *,
        views: str = "center",
        best: bool = False,
        devices: str | Sequence[str] | None = None,
        batch: int | None = None,
        precision: str | None = None,
        folded: bool = False,
        dense: bool | str = False,
        quiet: bool = False,
    ) -> Evaluation:
        """Compute loss and errors on test images, by class too.

        Args:
            data: Arrays ``(x, y)``, all of which are tested, or a path; the run's own test images if not
                given.
            views: "center", or "ten" for the average over corners, centre, and their mirror images.
            best: Use the best checkpoint instead of the newest.
            devices: Where the network runs.
            batch: Images per batch; the run's if not given.
            precision: Of products; the run's if not given.
            folded: Fold batch normalisations into the products before them.
            dense: Classify every place of whole images instead of crops, or "fine" for closer places; see
                docs/networks.md.
            quiet: Show nothing.

        Returns:
            Errors, confusion matrix, results of classes and worst mistakes.

        Raises:
            DataError: The data cannot be read, or the run does not keep its arrays and was not given them.
            ValueError: The data does not fit the network.
        """
        with errors_in_python(), reporter(quiet=quiet) as shown:
            return evaluate_runs(
                [self.source],
                self._test_data(data),
                devices=_names(devices),
                batch=batch,
                best=best,
                views=views,
                precision=precision,
                folded=folded,
                dense=dense,
                stepped=shown.counted("testing"),
            )

    def predict(
        self,
        images: Any,
        *,
        views: str = "center",
        best: bool = False,
        devices: str | Sequence[str] | None = None,
        precision: str | None = None,
        folded: bool = False,
        dense: bool | str = False,
    ) -> Prediction | Predictions | Segmentation | list[Segmentation]:
        """Return the classes of images that the run has not seen.

        A network that answers for each pixel gives the labels of an image's pixels, of its own size.

        Images are read, resized and cropped as the run's own. Grey images become coloured ones, and the
        reverse, where the network wants them so.

        Args:
            images: A file, a folder of pictures, a picture of Pillow, an array uint8 [H,W] or [H,W,C], or
                several: arrays [n,H,W] or [n,H,W,C], or a sequence of any of these.
            views: "center", or "ten" for the average over corners, centre, and their mirror images.
            best: Use the best checkpoint instead of the newest.
            devices: Where the network runs.
            precision: Of products; the run's if not given.
            folded: Fold batch normalisations into the products before them.
            dense: Classify every place of whole images instead of crops, or "fine" for closer places; see
                docs/networks.md.

        Returns:
            A Prediction for one image, Predictions for several. Of a network that answers for each pixel, a
            Segmentation, or a list of them.

        Raises:
            DataError: An image cannot be read or used.
        """
        with errors_in_python():
            check_views(views)
            names, given, single = named_images(images, self.settings["image_shape"][2])
            trained = self._load(min(len(given), _BATCH), best, devices, precision, folded, dense)
            if trained.of_pixels:
                if dense or views != "center":
                    option = "dense" if dense else "views"
                    raise ValueError(f"{option}: the network answers for each pixel of whole images already")
                labels = segmentations(trained, names, given)
                return labels[0] if single else labels
            found = predictions(trained, names, given, views)
        return found[0] if single else found

    def network(
        self,
        *,
        best: bool = False,
        batch: int | None = None,
        devices: str | Sequence[str] | None = None,
        precision: str | None = None,
    ) -> Network:
        """Return the trained network, ready for images: ``load``, ``forward``, ``outputs``.

        Args:
            best: Use the best checkpoint instead of the newest.
            batch: Images per batch; the run's if not given.
            devices: Where the network runs.
            precision: Of products; the run's if not given.
        """
        with errors_in_python():
            return load_trained(
                self.source, devices=_names(devices), batch=batch, best=best, precision=precision
            ).network

    def train(
        self,
        data: Any = None,
        *,
        test: float | None = None,
        test_seed: int = 0,
        classes: Sequence[str] | None = None,
        quiet: bool = False,
        **options: Unpack[TrainingKeywords],
    ) -> Run:
        """Resume the training, as ``cc.train(resume=run, ...)`` does; it changes this run.

        Args:
            data: The data, if it has moved or is not kept.
            test: Of arrays ``(x, y)``, the share that is for testing, as when the run was begun.
            test_seed: Seed of the choice of test images.
            classes: Names of the classes of arrays.
            quiet: Show nothing.
            **options: As of :func:`cconvnet.train`: ``run.train(epochs=60, lr=0.001)``.

        Returns:
            This run.
        """
        self._trained = None
        with errors_in_python():
            arrays = arrays_of(data, test=test, test_seed=test_seed, classes=classes)
            arrays = self.arrays if data is None else arrays
            given: dict[str, Any] = {**options, "resume": self.source}
            if arrays is None and data is not None:
                given["data"] = os.fspath(data)
            outcome = run_session(given, arrays, quiet=quiet)
        self.source, self.arrays = self.path, arrays
        ended(outcome, self)
        return self

    # ---- its data and network ------------------------------------------------------------------------------

    def _test_data(self, data: Any) -> Where:
        """Return the data to test with, None for what the run's folder names or keeps."""
        if data is None:
            return self.arrays
        if isinstance(data, tuple | list):
            return Arrays.for_testing(data, self.classes)
        return data if isinstance(data, Arrays) else os.fspath(data)

    def _load(
        self,
        batch: int,
        best: bool,
        devices: str | Sequence[str] | None,
        precision: str | None,
        folded: bool,
        dense: bool | str,
    ) -> Trained:
        """Return the network; it stays in memory for further predictions of the same kind."""
        written = (self.path / "checkpoints").stat().st_mtime_ns
        named = devices if devices is None else tuple(devices)
        key = (batch, best, named, precision, folded, dense, written)
        if self._trained is None or self._trained[0] != key:
            self._trained = None  # freed before the next one is made
            trained = load_trained(
                self.source,
                devices=_names(devices),
                batch=batch,
                best=best,
                precision=precision,
                folded=folded,
                dense=dense,
                pixels_batch=1,
            )
            self._trained = (key, trained)
        return self._trained[1]

    # ---- texts ---------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<Run {self.path}: {', '.join(value for _, value in self._facts())}>"

    def _repr_html_(self) -> str:
        rows = [("run", str(self.path)), *self._facts()]
        cells = (
            f"<tr><th style='text-align: left'>{html.escape(name)}</th>"
            f"<td style='text-align: left'>{html.escape(value)}</td></tr>"
            for name, value in rows
        )
        return f"<table>{''.join(cells)}</table>"

    def _facts(self) -> list[tuple[str, str]]:
        """Return what is to be known of the run in a few words each."""
        about = self.overview
        facts = [
            ("network", f"{about.net} on {about.data}"),
            ("state", f"{about.state}, {about.epochs} of {about.of_epochs} epochs"),
        ]
        if about.best_error is not None:
            facts.append(("lowest test error", f"{percent(about.best_error)} after epoch {about.best_epoch}"))
        if about.reason is not None:
            facts.append(("reason", about.reason))
        return facts


def ended(outcome: Outcome, run: Run) -> Run:
    """Return the run of a session that ended, or do what the signal that stopped it would have done.

    Raises:
        KeyboardInterrupt: Ctrl-C stopped a script; its attribute ``run`` is the run.
    """
    if outcome.signal == signal.SIGINT:
        # Where somebody types, the run is wanted; a script should end.
        if not (hasattr(sys, "ps1") or sys.flags.interactive):
            # No class of its own: only this one ends the process as Ctrl-C does.
            error = KeyboardInterrupt(f"training stopped after step {outcome.summary['steps']:,}")
            error.run = run  # type: ignore[attr-defined]
            raise error
    elif outcome.signal is not None:
        signal.raise_signal(outcome.signal)
    return run


def _names(devices: str | Sequence[str] | None) -> list[str] | None:
    if devices is None:
        return None
    return parse_device_names(devices) if isinstance(devices, str) else list(devices)
