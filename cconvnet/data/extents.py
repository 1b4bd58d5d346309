"""Where pictures lie: each is a file, or a stretch of one, such as a member of a tar or of a shard."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Stored(NamedTuple):
    """`length` bytes from `offset` on of the file at `path`; -1: to its end. Where `crc32` is given, not -1,
    they must have that CRC-32."""

    path: str
    offset: int = 0
    length: int = -1
    crc32: int = -1

    @property
    def place(self) -> str:
        """For messages."""
        return self.path if self.length < 0 else f"{self.path} at byte {self.offset:,}"


@dataclass(frozen=True)
class Extents:
    """Many of them as arrays, since a million objects are large: picture i is ``length[i]`` bytes from
    ``offset[i]`` on of ``files[file[i]]``.

    file int32[n], offset and length int64[n] (-1: to the file's end), crc32 uint32[n] or None.
    """

    files: Sequence[str]
    file: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    crc32: npt.NDArray[np.uint32] | None = None

    @classmethod
    def whole(cls, files: Sequence[str]) -> Extents:
        """Each file one picture."""
        count = len(files)
        return cls(files, np.arange(count, dtype=np.int32), np.zeros(count, np.int64), np.full(count, -1))

    def __len__(self) -> int:
        return len(self.file)

    def stored(self, indices: npt.NDArray[np.int64]) -> list[Stored]:
        """Where the pictures of these numbers lie."""
        sums = [-1] * len(indices) if self.crc32 is None else self.crc32[indices].tolist()
        rows = zip(
            self.file[indices].tolist(),
            self.offset[indices].tolist(),
            self.length[indices].tolist(),
            sums,
            strict=True,
        )
        return [Stored(self.files[file], *rest) for file, *rest in rows]

    def fingerprint(self, root: str) -> bytes:
        """A digest that changes with the pictures' places and with any file's name, length or time.

        Names are taken from `root` on, so a folder that was moved stays the same. Errors: OSError.
        """
        digest = hashlib.sha256()
        for array in (self.file, self.offset, self.length):
            digest.update(array.tobytes())
        for name in self.files:
            status = Path(name).stat()
            line = f"{name.removeprefix(root)}\0{status.st_size} {status.st_mtime_ns}\n"
            digest.update(line.encode(errors="surrogateescape"))
        return digest.digest()


@dataclass(frozen=True)
class Raw:
    """That pictures' bytes are no file format but uint8[height[i], width[i], channels] themselves.

    height and width int32[n]; channels is 1 or 3.
    """

    height: npt.NDArray[np.int32]
    width: npt.NDArray[np.int32]
    channels: int
