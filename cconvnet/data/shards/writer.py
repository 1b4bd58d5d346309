"""Writing the files of a set of shards."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cconvnet.data.shards.format import File
from cconvnet.system.outputs import write_output


@dataclass(frozen=True)
class Picture:
    """A stored picture: its bytes and its size in pixels."""

    data: bytes
    height: int
    width: int


@dataclass(frozen=True)
class Shard:
    """A written shard: its file, and the length, height, width and CRC-32 of each picture."""

    file: File
    pictures: list[tuple[int, int, int, int]]


def write_shard(path: Path, pictures: Iterable[Picture]) -> Shard:
    """Write pictures in the given order to a shard, atomically.

    Raises:
        OSError: The shard cannot be written.
    """
    digest, records = hashlib.sha256(), []

    def pieces() -> Iterable[bytes]:
        for picture in pictures:
            digest.update(picture.data)
            records.append((len(picture.data), picture.height, picture.width, zlib.crc32(picture.data)))
            yield picture.data

    write_output(path, pieces())
    return Shard(File(sum(row[0] for row in records), digest.hexdigest()), records)


def write_file(path: Path, data: bytes) -> File:
    """Write a small file atomically.

    Raises:
        OSError: The file cannot be written.
    """
    write_output(path, [data])
    return File(len(data), hashlib.sha256(data).hexdigest())


def packed_array(array: npt.NDArray[Any]) -> bytes:
    """Return the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
