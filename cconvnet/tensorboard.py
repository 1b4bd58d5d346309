"""A run's log as TensorBoard reads it: event files in RUN/tensorboard.

An event file is a row of records, each the length of its content, a checksum of that, the content and a
checksum of it; the content is a protocol buffer message ``Event``. The few messages that are needed are
written here by themselves, because TensorBoard's own package and others that write them are large, and some
import a deep-learning framework where they find one.
Sources: tensorflow/core/lib/io/record_writer.h for records; event.proto and summary.proto of TensorBoard for
messages and the numbers of their fields; RFC 3720, appendix B.4, for CRC-32C.
"""

from __future__ import annotations

import errno
import functools
import io
import math
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

FOLDER = "tensorboard"

# By a key of the log: the chart's name. TensorBoard puts those with one beginning side by side.
_OF_STEPS = {
    "loss": "loss/steps",
    "train_error_top1": "error_top1/steps",
    "lr": "lr/general",
    "images_per_second": "speed/images_per_second",
}
_OF_EPOCHS = {
    "train_loss": "loss/training",
    "test_loss": "loss/test",
    "train_error_top1": "error_top1/training",
    "test_error_top1": "error_top1/test",
    "test_error_top5": "error_top5/test",
}
_FILTER_PIXELS = 8  # how large a pixel of a filter is drawn


def scalars(line: dict[str, Any]) -> dict[str, float]:
    """What is drawn of a line of the log, by the chart's name."""
    charts = _OF_EPOCHS if "test_loss" in line else _OF_STEPS if "loss" in line else {}
    found = {chart: line[key] for key, chart in charts.items() if key in line}
    return found | {f"lr/{name}": rate for name, rate in line.get("lr_other", {}).items()}


class EventFile:
    """Writes what a run logs into a new event file.

    Where there are event files already, what they hold from `step` on is withdrawn and written again from
    `lines`; where there are none, all of `lines` is written.

    Args
        lines: the run's log up to now.
        step: how many steps the run has done.
        filters: gives a layer's name and its filters [K, R, S, 1 or 3], which are drawn at every epoch.

    Raises
        OSError: it cannot be written.
    """

    def __init__(
        self,
        run: Path,
        lines: Iterable[dict[str, Any]],
        step: int,
        filters: Callable[[], tuple[str, Array] | None],
    ) -> None:
        folder = run / FOLDER
        folder.mkdir(exist_ok=True)
        before = len(list(folder.glob("events.out.tfevents.*")))
        # Files are read in the order of their names.
        self.path = folder / f"events.out.tfevents.{int(time.time()):010d}.cconvnet.{before:04d}"
        self._file = self.path.open("wb", buffering=0)
        self._step, self._filters = step, filters
        self._write(0, _string(3, b"brain.Event:2"))
        if before:
            self._write(
                step, _message(7, _integer(1, 1))
            )  # a session starts: what was there from here on goes
        for line in lines:
            if not before or line["step"] >= step:
                self.log(line)

    def log(self, line: dict[str, Any]) -> None:
        """Writes a line of the log. Raises OSError: the disk is full."""
        values = b"".join(
            _message(1, _string(1, chart.encode()) + _float(2, value))
            for chart, value in scalars(line).items()
        )
        # The filters of the past are not at hand.
        if "test_loss" in line and line["step"] >= self._step and (found := self._filters()) is not None:
            layer, weights = found
            values += _message(1, _string(1, f"filters/{layer}".encode()) + _message(4, _image(weights)))
        if values:
            self._write(line["step"], _message(5, values))

    def close(self) -> None:
        self._file.close()

    def _write(self, step: int, content: bytes) -> None:
        event = _double(1, time.time()) + _integer(2, step) + content
        length = struct.pack("<Q", len(event))
        record = (
            length + struct.pack("<I", _masked_crc(length)) + event + struct.pack("<I", _masked_crc(event))
        )
        try:
            # One call, so that a kill leaves no half record.
            written = self._file.write(record)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        if written != len(record):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))


def tiled(weights: Array) -> Array:
    """Filters [K, R, S, 1 or 3], each scaled to its own range, as one picture uint8[H, W, 1 or 3]."""
    count, height, width, channels = weights.shape
    low = weights.min(axis=(1, 2, 3), keepdims=True)
    high = weights.max(axis=(1, 2, 3), keepdims=True)
    shades = np.round(255 * (weights - low) / np.maximum(high - low, 1e-30)).astype(np.uint8)
    columns = math.ceil(math.sqrt(1.5 * count))
    rows = -(-count // columns)
    # A line of one pixel of a filter between them.
    sheet = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), np.uint8)
    for index, filter_ in enumerate(shades):
        y, x = index // columns * (height + 1), index % columns * (width + 1)
        sheet[y : y + height, x : x + width] = filter_
    return sheet.repeat(_FILTER_PIXELS, axis=0).repeat(_FILTER_PIXELS, axis=1)


def _image(weights: Array) -> bytes:
    """The content of a message Summary.Image."""
    from PIL import Image

    sheet = tiled(weights)
    height, width, channels = sheet.shape
    file = io.BytesIO()
    Image.fromarray(sheet.squeeze(-1) if channels == 1 else sheet).save(file, "PNG")
    return _integer(1, height) + _integer(2, width) + _integer(3, channels) + _string(4, file.getvalue())


# ---- protocol buffers ------------------------------------------------------------------------------------
# A field is a key, its number and how its value is written, and the value.


def _varint(value: int) -> bytes:
    """Seven bits in a byte, the lowest first; the eighth bit says that there is more."""
    return bytes(_sevens(value))


def _sevens(value: int) -> Iterator[int]:
    while value > 0x7F:
        yield 0x80 | value & 0x7F
        value >>= 7
    yield value


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _string(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


_message = _string


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


# ---- checksums -------------------------------------------------------------------------------------------


@functools.cache
def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


def crc32c(data: bytes) -> int:
    """CRC-32C, Castagnoli's polynomial, of some bytes."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _masked_crc(data: bytes) -> int:
    """As records hold it: turned by 15 bits and moved on, since a checksum of checksums says little."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
