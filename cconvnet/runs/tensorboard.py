"""Event files for TensorBoard, with a run's log, in RUN/tensorboard.

TensorBoard's own package (the extra ``tensorboard``) makes the records. Each is written in one call when its
line is logged. There is no thread, so that a full disk raises an error where it is met.
"""

from __future__ import annotations

import errno
import io
import math
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet.runs.rank_waits import by_rank
from cconvnet.system.installation import pip_install

Array = np.ndarray[Any, Any]

FOLDER = "tensorboard"

# The chart of each key of the log. TensorBoard puts charts with a common beginning side by side.
_OF_STEPS = {
    "loss": "loss/steps",
    "train_error_top1": "error_top1/steps",
    "lr": "lr/general",
    "images_per_second": "speed/images_per_second",
    "slowest_rank": "ranks/slowest_rank",
}
_OF_EPOCHS = {
    "train_loss": "loss/training",
    "test_loss": "loss/test",
    "train_error_top1": "error_top1/training",
    "test_error_top1": "error_top1/test",
    "test_error_top5": "error_top5/test",
}
_FILTER_PIXELS = 4  # the side of a filter's pixel in the picture
# A picture is only drawn if this many times the time that the last one took has gone by.
_TIME_PER_PICTURE = 1000.0


class TensorBoardMissing(ValueError):
    """Event files cannot be written; the text contains the command that installs what is missing."""


def require() -> Any:
    """Import TensorBoard's messages and its writer of records.

    Raises:
        TensorBoardMissing: It is not installed.
    """
    try:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError as error:
        raise TensorBoardMissing(
            f"--tensorboard needs TensorBoard, which is missing: {pip_install('tensorboard')}"
        ) from error
    return event_pb2, summary_pb2, RecordWriter


def scalars(line: dict[str, Any]) -> dict[str, float]:
    """Return the values of a line of the log, by the chart's name."""
    charts = _OF_EPOCHS if "test_loss" in line else _OF_STEPS if "loss" in line else {}
    found = {chart: line[key] for key, chart in charts.items() if key in line}
    found |= {f"loss/{name}": loss for name, loss in line.get("head_losses", {}).items()}
    found |= {f"lr/{name}": rate for name, rate in line.get("lr_other", {}).items()}
    return found | {f"ranks/{name}": value for name, value in by_rank(line).items()}


class EventFile:
    """A new event file that takes what a run logs.

    If there are event files already, their values from `step` on are withdrawn and written again from
    `lines`. If there are none, all of `lines` is written.

    Args:
        run: The run's folder.
        lines: The run's log up to now.
        step: The number of steps that the run has done.
        filters: Returns a layer's name and its filters [K, R, S, 1 or 3]. They are drawn when an epoch ends,
            unless epochs are so short that this would take a noticeable part of them.

    Attributes:
        path: The file.

    Raises:
        TensorBoardMissing: TensorBoard is not installed.
        OSError: The file cannot be written.
    """

    def __init__(
        self,
        run: Path,
        lines: Iterable[dict[str, Any]],
        step: int,
        filters: Callable[[], tuple[str, Array] | None],
    ) -> None:
        events, summaries, writer = require()
        self._event, self._session, self._value = events.Event, events.SessionLog, summaries.Summary.Value
        self._image, self._summary = summaries.Summary.Image, summaries.Summary
        folder = run / FOLDER
        folder.mkdir(exist_ok=True)
        before = len(list(folder.glob("events.out.tfevents.*")))
        # Files are read in the order of their names.
        self.path = folder / f"events.out.tfevents.{int(time.time()):010d}.cconvnet.{before:04d}"
        self._records = writer(_Unbuffered(self.path))
        self._step, self._filters = step, filters
        self._next_picture = 0.0
        self._write(0, file_version="brain.Event:2")
        if before:
            # The start of a session withdraws the values from this step on.
            self._write(step, session_log=self._session(status=self._session.START))
        for line in lines:
            if not before or line["step"] >= step:
                self.log(line)

    def log(self, line: dict[str, Any]) -> None:
        """Write a line of the log.

        Raises:
            OSError: The disk is full.
        """
        values = [self._value(tag=chart, simple_value=value) for chart, value in scalars(line).items()]
        if values:
            self._write(line["step"], summary=self._summary(value=values))
        began = time.perf_counter()
        # Earlier filters are gone, so none are drawn for lines that are written again.
        if "test_loss" in line and line["step"] >= self._step and began >= self._next_picture:
            self._draw_filters(line["step"])
            now = time.perf_counter()
            self._next_picture = now + _TIME_PER_PICTURE * (now - began)

    def _draw_filters(self, step: int) -> None:
        if (found := self._filters()) is None:
            return
        layer, weights = found
        sheet = tiled(weights)
        height, width, channels = sheet.shape
        image = self._image(height=height, width=width, colorspace=channels, encoded_image_string=_png(sheet))
        self._write(step, summary=self._summary(value=[self._value(tag=f"filters/{layer}", image=image)]))

    def close(self) -> None:
        """Close the file."""
        self._records.close()

    def _write(self, step: int, **content: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), step=step, **content).SerializeToString())


class _Unbuffered:
    """A file that writes each record at once, or raises an error."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb", buffering=0)

    def write(self, record: bytes) -> None:
        try:
            written = self._file.write(record)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        if written != len(record):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def close(self) -> None:
        self._file.close()


def tiled(weights: Array) -> Array:
    """Draw filters [K, R, S, 1 or 3], each scaled to its own range, in one picture uint8[H, W, 1 or 3]."""
    count, height, width, channels = weights.shape
    low = weights.min(axis=(1, 2, 3), keepdims=True)
    high = weights.max(axis=(1, 2, 3), keepdims=True)
    shades = np.round(255 * (weights - low) / np.maximum(high - low, 1e-30)).astype(np.uint8)
    columns = math.ceil(math.sqrt(1.5 * count))
    rows = -(-count // columns)
    # Filters are separated by the width of one of their pixels.
    sheet = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), np.uint8)
    for index, filter_ in enumerate(shades):
        y, x = index // columns * (height + 1), index % columns * (width + 1)
        sheet[y : y + height, x : x + width] = filter_
    return sheet.repeat(_FILTER_PIXELS, axis=0).repeat(_FILTER_PIXELS, axis=1)


def _png(sheet: Array) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(sheet.squeeze(-1) if sheet.shape[2] == 1 else sheet).save(file, "PNG")
    return file.getvalue()
