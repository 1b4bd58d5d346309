"""Byte ranges of files, one for each picture: a whole file, or a member of a tar or shard."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

Result = TypeVar("Result")
_Progress = Callable[[int, int], None]  # done, and in all

# A network disk takes long to report a file's length, so several threads ask at the same time.
_THREADS = 8
_FILES_AT_ONCE = 1024


class ByteRange(NamedTuple):
    """`length` bytes of the file at `path`, from `offset` on.

    A length of -1 reaches to the end of the file. A `crc32` other than -1 is the CRC-32 of the bytes.
    """

    path: str
    offset: int = 0
    length: int = -1
    crc32: int = -1

    @property
    def description(self) -> str:
        """The file and offset, for messages."""
        return self.path if self.length < 0 else f"{self.path} at byte {self.offset:,}"


@dataclass(frozen=True)
class ByteRanges:
    """Byte ranges as arrays, because a million objects take too much memory.

    Picture i is the ``length[i]`` bytes of ``files[file[i]]`` that begin at ``offset[i]``.

    file int32[n], offset and length int64[n] (-1: to the file's end), crc32 uint32[n] or None.
    """

    files: Sequence[str]
    file: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    crc32: npt.NDArray[np.uint32] | None = None

    @classmethod
    def whole(cls, files: Sequence[str]) -> ByteRanges:
        """Make each file one picture."""
        count = len(files)
        return cls(files, np.arange(count, dtype=np.int32), np.zeros(count, np.int64), np.full(count, -1))

    def __len__(self) -> int:
        return len(self.file)

    def select(self, indices: npt.NDArray[np.int64]) -> list[ByteRange]:
        """Return the ranges of the pictures with these numbers."""
        sums = [-1] * len(indices) if self.crc32 is None else self.crc32[indices].tolist()
        rows = zip(
            self.file[indices].tolist(),
            self.offset[indices].tolist(),
            self.length[indices].tolist(),
            sums,
            strict=True,
        )
        return [ByteRange(self.files[file], *rest) for file, *rest in rows]

    def fingerprint(self, root: str, progress: _Progress | None = None) -> bytes:
        """Return a digest of the ranges and of each file's name, length and time.

        Args:
            root: The folder. The digest contains names relative to it, so that moving the folder does not
                change it.
            progress: Called with the number of files examined so far and their total.

        Raises:
            OSError: A file does not exist or cannot be examined.
        """

        def states(names: Sequence[str]) -> bytes:
            lines = []
            for name in names:
                status = os.stat(name)  # noqa: PTH116 - a Path takes as long as the call
                lines.append(f"{name.removeprefix(root)}\0{status.st_size} {status.st_mtime_ns}\n")
            return "".join(lines).encode(errors="surrogateescape")

        digest = hashlib.sha256()
        for array in (self.file, self.offset, self.length):
            digest.update(array.tobytes())
        for text in _of_files(states, self.files, progress):
            digest.update(text)
        return digest.digest()

    def bytes(self, progress: _Progress | None = None) -> int:
        """Return the total length of all pictures; `progress` as in fingerprint().

        Raises:
            OSError: A file does not exist or cannot be examined.
        """

        def lengths(names: Sequence[str]) -> int:
            return sum(os.stat(name).st_size for name in names)  # noqa: PTH116

        to_the_end = self.length < 0
        files = [self.files[file] for file in self.file[to_the_end].tolist()]
        of_files = sum(_of_files(lengths, files, progress)) - int(self.offset[to_the_end].sum())
        return of_files + int(self.length[~to_the_end].sum())


def _of_files(
    work: Callable[[Sequence[str]], Result], files: Sequence[str], progress: _Progress | None
) -> Iterator[Result]:
    """Run `work` on groups of files in parallel and yield the results in order."""
    parts = [files[first : first + _FILES_AT_ONCE] for first in range(0, len(files), _FILES_AT_ONCE)]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="cconvnet-scan") as threads:
        for number, result in enumerate(threads.map(work, parts), 1):
            yield result
            if progress is not None:
                progress(min(number * _FILES_AT_ONCE, len(files)), len(files))


@dataclass(frozen=True)
class RawShapes:
    """The shapes of pictures that are stored as raw uint8[height[i], width[i], channels].

    height and width int32[n]; channels is 1 or 3.
    """

    height: npt.NDArray[np.int32]
    width: npt.NDArray[np.int32]
    channels: int
