"""A run's log as columns of numbers, which can be read further as the log grows."""

from __future__ import annotations

import contextlib
import json
import math
import os
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet.runs.rank_waits import OF_RANKS, RankWaits
from cconvnet.runs.reading import read_config, settings_of

Array = np.ndarray[Any, Any]

# The top-5 error is shown from this number of classes on. Among fewer, the right class is almost always among
# the first five.
TOP5_FROM = 11

# A rate that changes in so many lines of the log in a row follows a curve: a warm-up or a schedule.
_CURVE_FROM = 4

X_AXES = ("epoch", "step", "seconds")

_STEP = ("step", "epoch", "loss", "train_error_top1", "lr", "images_per_second")
_EPOCH = (
    "step",
    "epoch",
    "train_loss",
    "train_error_top1",
    "test_loss",
    "test_error_top1",
    "test_error_top5",
)

# Of more bytes at once, about 70,000 lines, only a part of the steps' lines is read. That takes a second.
_READ_WHOLE = 2**24


def _parsed(text: bytes) -> dict[str, Any]:
    """Return a line of the log; nothing of one that is damaged."""
    with contextlib.suppress(ValueError):
        line = json.loads(text)
        if isinstance(line, dict):
            return line
    return {}


def smoothed(values: Array, window: int) -> Array:
    """Return the mean of the `window` values around each, fewer at the ends, without infinities and NaN."""
    if window <= 1:
        return values
    good = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(good, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(good)])
    index = np.arange(len(values))
    first = np.maximum(index - (window - 1) // 2, 0)
    last = np.minimum(index + window // 2 + 1, len(values))
    count = counts[last] - counts[first]
    means = np.full(len(values), math.nan)
    np.divide(sums[last] - sums[first], count, out=means, where=good)
    return means


@dataclass
class _Columns:
    """Lines of one kind: a growing array for each of their values, with NaN where a line lacks it."""

    names: tuple[str, ...]
    values: dict[str, array[float]] = field(init=False)

    def __post_init__(self) -> None:
        self.values = {name: array("d") for name in self.names}

    def add(self, line: dict[str, Any]) -> None:
        for name, column in self.values.items():
            value = line.get(name)
            column.append(value if isinstance(value, int | float) else math.nan)

    def __getitem__(self, name: str) -> Array:
        return np.array(self.values[name])

    def __len__(self) -> int:
        return len(self.values[self.names[0]])


class History:
    """The log of one run.

    Attributes:
        path: The run's folder.
        config: The content of its ``config.json``.
        steps: The lines of training steps: step, epoch, loss, train_error_top1, lr, images_per_second.
        epochs: The lines of whole epochs: step, epoch, train_ and test_loss, train_ and test_error_top1,
            test_error_top5.
        waits: The waits of the run's ranks.

    Raises:
        RunError: The folder contains no run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = read_config(path)
        self._clear()
        self.read()

    def _clear(self) -> None:
        self.steps, self.epochs = _Columns(_STEP), _Columns(_EPOCH)
        self.waits, self._step, self._left_out = RankWaits(), 0, b""
        self._offset, self._file = 0, -1

    def __len__(self) -> int:
        return len(self.steps) + len(self.epochs)

    def read(self) -> bool:
        """Read what was written since the last call.

        A log that a resumed run cut back to an earlier step is read anew. Of a very long log all lines of
        epochs are read, and of the lines of steps each second, third, ....

        Returns:
            True if there was anything to read.
        """
        try:
            log = (self.path / "log.jsonl").open("rb")
        except FileNotFoundError:
            return False
        with log:
            state = os.fstat(log.fileno())
            if state.st_ino != self._file or state.st_size < self._offset:
                self._clear()
                self._file = state.st_ino
            before = self._offset
            log.seek(self._offset)
            stride = 1 + (state.st_size - before) // _READ_WHOLE
            for number, text in enumerate(log):
                if not text.endswith(b"\n"):
                    break  # still being written, or cut short by a kill
                self._offset += len(text)
                if number % stride and b'"test_loss"' not in text:
                    self._left_out = text if b'"loss"' in text else self._left_out
                    continue
                line = _parsed(text)
                if "test_loss" in line:
                    self.epochs.add(line)
                elif "loss" in line:
                    self.steps.add(line)
                    self._add_waits(line)
        return self._offset > before

    def _add_waits(self, line: dict[str, Any]) -> None:
        """Add the waits of a line of steps: those since the line before, which may have been left out."""
        before = _parsed(self._left_out).get("step", self._step)
        self._step, self._left_out = line.get("step", before), b""
        if self.waits.waited or OF_RANKS[0] in line:
            settings = settings_of(self.config)
            images = (self._step - before) * settings["batch"] * settings["accumulate"]
            self.waits.add(line, images)

    def positions(self, lines: _Columns, x: str) -> Array:
        """Return the positions of lines on an axis of epochs, of steps, or of seconds of training.

        The log contains speeds, not times, so seconds are summed from the images and the speed of each line.
        """
        if x != "seconds":
            return lines[x]
        step, rate = self.steps["step"], self.steps["images_per_second"]
        images = np.diff(step, prepend=0) * self.config["settings"]["batch"]
        seconds = np.cumsum(np.divide(images, rate, out=np.zeros(len(step)), where=rate > 0))
        if not len(step):
            return np.full(len(lines), math.nan)
        positions: Array = np.interp(lines["step"], [0, *step], [0, *seconds])
        return positions

    def rate_changes(self) -> list[tuple[int, float]]:
        """Return the changes of the learning rate: the index of the first step line with it, and the rate."""
        rates = self.steps["lr"]
        return [(int(i), float(rates[i])) for i in np.flatnonzero(np.diff(rates)) + 1]

    def rate_steps(self) -> list[tuple[int, float]]:
        """Return the changes of the learning rate without those along a curve, such as a warm-up."""
        changes = self.rate_changes()
        indices = np.array([index for index, _ in changes], int)
        groups = np.split(np.arange(len(indices)), np.flatnonzero(np.diff(indices) > 1) + 1)
        return [changes[i] for group in groups if len(group) < _CURVE_FROM for i in group]

    def rate_position(self, index: int, x: str) -> float:
        """Return the position on an axis from which on the rate of step line `index` applied.

        A line contains the rate of its last step. Rates mostly change between two epochs. So if an epoch ends
        within the line's steps, or right before them, the rate is taken to have changed there.
        """
        epochs, positions = self.steps["epoch"], self.positions(self.steps, x)
        before, now = epochs[index - 1], epochs[index]
        boundary = math.ceil(now) - 1
        if not before - 1e-4 <= boundary < now:  # the log rounds epochs to four digits
            return float(positions[index])
        return float(np.interp(boundary, [before, now], [positions[index - 1], positions[index]]))

    def best(self) -> int | None:
        """Return the index of the first epoch line with the lowest test error."""
        errors = self.epochs["test_error_top1"]
        return int(np.nanargmin(errors)) if np.isfinite(errors).any() else None

    def lowest_error(self) -> float | None:
        """Return the lowest test error, from 0 to 1."""
        best = self.best()
        return None if best is None else float(self.epochs["test_error_top1"][best])

    def training_error(self) -> tuple[Array, Array]:
        """Return epochs, and around each the mean training error of a quarter of an epoch.

        Of epochs with fewer than four lines of steps these are the lines as they are; of those with less than
        one, the lines of epochs.
        """
        lines = self.epochs if len(self.epochs) >= len(self.steps) else self.steps
        epochs = lines["epoch"]
        per_epoch = len(epochs) / epochs[-1] if len(epochs) else 0.0
        return epochs, smoothed(lines["train_error_top1"], int(per_epoch / 4))
