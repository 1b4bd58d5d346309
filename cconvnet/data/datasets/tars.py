"""The members of tars as byte ranges: only headers are read, and nothing is unpacked.

Archives come from strangers. A member's name is never used as a path, and a link is never followed. No byte
range reaches beyond its archive. A tar that is damaged, cut off or claims a longer member raises a DataError.

Python's tarfile does not serve here for three reasons. It would keep an object of 1 KiB for each of
ImageNet's 1.3 million members. It reads a tar within a tar to the end of the outer file. It takes a tar that
was cut off for a shorter one.

Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Interchange Format"; the GNU tar manual,
"Basic Tar Format".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from cconvnet.data.byte_ranges import ByteRanges
from cconvnet.data.dataset import LeftOut
from cconvnet.data.names import printable
from cconvnet.data.splits import Progress
from cconvnet.errors import DataError

Read = Callable[[int, int], bytes]  # offset, length
Places = npt.NDArray[np.int64]
Item = TypeVar("Item")
Result = TypeVar("Result")

BLOCK = 512
# The limit of an extended header or a long name. True ones have less than 1 KiB.
MAX_EXTENDED = 2**20
# Headers are about 100 KiB apart, so reading them is mostly waiting. Several threads wait at the same time.
THREADS = 8

FILE, FOLDER, LINK, DEVICE, SPARSE, OTHER = "file", "folder", "link", "device", "sparse file", "member"
_KINDS = {b"\0": FILE, b"0": FILE, b"7": FILE, b"1": LINK, b"2": LINK, b"3": DEVICE, b"4": DEVICE}
_KINDS |= {b"5": FOLDER, b"6": DEVICE, b"S": SPARSE}
_WITHOUT_CONTENTS = (LINK, DEVICE, FOLDER)


class Member(NamedTuple):
    """A member of a tar: the `size` bytes of the file on disk that begin at `offset`.

    `kind` is FILE, FOLDER or the name of another kind.
    """

    name: str
    kind: str
    offset: int
    size: int


class TarFile:
    """A tar on disk, or one inside another file. Used as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
            self.size = os.fstat(self._descriptor).st_size
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        if hasattr(os, "posix_fadvise"):  # reading ahead would read the whole file for its headers
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def __enter__(self) -> TarFile:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._descriptor)

    def read(self, offset: int, length: int) -> bytes:
        """Read bytes of the file on disk."""
        try:
            return os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}") from error

    def members(self, within: Member | None = None) -> Iterator[Member]:
        """Yield the tar's members, or those of the inner tar `within`."""
        if within is None:
            return members(self.read, 0, self.size, str(self.path))
        end = within.offset + within.size
        return members(self.read, within.offset, end, f"{within.name} in {self.path}")


def members(read: Read, start: int, end: int, called: str) -> Iterator[Member]:
    """Yield the members of the tar from `start` to `end`, named `called` in messages.

    Raises:
        DataError: The tar is damaged or cut off, or it is no tar.
    """
    at = start
    name, size, sparse = None, None, False  # values of extended headers for the next member
    while True:
        header = read(at, BLOCK) if at + BLOCK <= end else b""
        if len(header) < BLOCK:
            raise DataError(
                f"{called} is cut off: it ends after {max(end - start, 0):,} bytes without the mark that "
                "ends a tar; download or copy it again"
            )
        if not any(header):
            return
        _check(header, called, at - start)
        kind = header[156:157]
        length = _number(header[124:136])
        if kind not in b"LKxXg" and size is not None:
            length = size
        if length < 0:
            raise DataError(f"{called} is damaged: the member at byte {at - start:,} has no proper size")
        contents = at + BLOCK
        if kind in b"LKxXg":
            records = _extended(read, contents, length, end, called)
            if kind == b"L":
                name = _text(records.split(b"\0", 1)[0])
            elif kind in b"xX":
                name, size, sparse = _pax(records, name, f"{called} at byte {at - start:,}")
            elif kind == b"g" and _pax(records, None, called) != (None, None, False):
                raise DataError(f"{called} is damaged: it has one name or size for all of its members")
            at = contents + -(-length // BLOCK) * BLOCK
            continue
        what = SPARSE if sparse else _KINDS.get(kind, OTHER)
        title = _name(header) if name is None else name
        if what == FILE and kind == b"\0" and title.endswith("/"):  # folders before 1988
            what = FOLDER
        if kind == b"S":
            more = header[482]
            while more and contents + BLOCK <= end:
                more = (read(contents, BLOCK) + bytes(BLOCK))[504]
                contents += BLOCK
        if what in _WITHOUT_CONTENTS:
            length = 0
        if contents + length > end:
            raise DataError(
                f"{called} is cut off or damaged: its member {title} should have {length:,} bytes, of which "
                f"{contents + length - end:,} are missing; download or copy it again"
            )
        yield Member(title, what, contents, length)
        name, size, sparse = None, None, False
        at = contents + -(-length // BLOCK) * BLOCK


def _check(header: bytes, called: str, at: int) -> None:
    """Check a header's checksum, which counts its own field as spaces."""
    if _number(header[148:156]) == sum(header) - sum(header[148:156]) + 8 * 32:
        return
    for magic, name, program in (
        (b"\x1f\x8b", "gzip", "gunzip"),
        (b"\xfd7zXZ", "xz", "unxz"),
        (b"BZh", "bzip2", "bunzip2"),
        (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    ):
        if at == 0 and header.startswith(magic):
            raise DataError(
                f"{called} is compressed with {name}, so its members cannot be read where they lie; "
                f"uncompress it with {program}"
            )
    raise DataError(
        f"{called} is not a tar"
        if at == 0
        else f"{called} is damaged: at byte {at:,} there is no header of a member"
    )


def _number(field: bytes) -> int:
    """Decode a number, octal or (if its first bit is set) binary; return -1 for anything else."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if not digits:
        return 0
    return int(digits, 8) if not digits.strip(b"01234567") else -1


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0":  # GNU's own format uses POSIX's prefix field otherwise
        prefix = header[345:500].split(b"\0", 1)[0]
        name = prefix + b"/" + name if prefix else name
    return _text(name)


def _text(name: bytes) -> str:
    return printable(name.decode(errors="surrogateescape"))


def _extended(read: Read, offset: int, length: int, end: int, called: str) -> bytes:
    if length > MAX_EXTENDED or offset + length > end:
        raise DataError(
            f"{called} is damaged: an extended header should have {length:,} bytes, which cannot be"
        )
    return read(offset, length)


def _pax(records: bytes, name: str | None, called: str) -> tuple[str | None, int | None, bool]:
    r"""Return name, size and whether the member is sparse, from records of "LENGTH KEY=VALUE\n"."""
    size, sparse = None, False
    while records.strip(b"\0"):
        digits, _, _ = records[:12].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = records[len(digits) + 1 : length].partition(b"=")
        if length > len(records) or not equals or not value.endswith(b"\n"):
            raise DataError(f"{called} is damaged: an extended header contains something other than records")
        value = value[:-1]
        if key == b"path":
            name = _text(value)
        elif key == b"size":
            if not value.isdigit() or len(value) > 20:
                raise DataError(f"{called} is damaged: an extended header claims the size {_text(value)}")
            size = int(value)
        sparse = sparse or key.startswith(b"GNU.sparse.")
        records = records[length:]
    return name, size, sparse


def usable(found: Iterator[Member], where: str) -> tuple[dict[str, Member], list[LeftOut]]:
    """Return the files of one tar by name, and the members left out, whose names get the prefix `where`."""
    files: dict[str, Member] = {}
    left_out: list[LeftOut] = []
    for member in found:
        if member.kind == FOLDER:
            continue
        name = member.name.removeprefix("./")
        reason = ""
        if member.kind != FILE:
            reason = f"a {member.kind}, which is not read from a tar"
        elif name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
            reason = "its name leads out of the archive"
        elif name in files:
            reason = "the tar has an earlier member of this name"
        if reason:
            left_out.append(LeftOut(f"{where}/{name}", reason))
        else:
            files[name] = member
    return files, left_out


def places(found: Sequence[Member]) -> Places:
    """Return offsets and sizes, int64[n,2]."""
    return np.array([(member.offset, member.size) for member in found], np.int64).reshape(-1, 2)


def ranges(parts: Sequence[tuple[Path, Places]]) -> ByteRanges:
    """Join the places in several files into one ByteRanges."""
    files = [str(path) for path, _ in parts]
    file = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for _, part in parts])
    offset, length = np.concatenate([part for _, part in parts]).T.copy()
    return ByteRanges(files, file, offset, length)


def in_threads(
    work: Callable[[Item], Result], items: Sequence[Item], progress: Progress | None
) -> list[Result]:
    """Run `work` on every item in threads and return the results in order; the first error stops it."""
    results = []
    with ThreadPoolExecutor(THREADS, thread_name_prefix="cconvnet-scan") as threads:
        for result in threads.map(work, items):
            results.append(result)
            if progress is not None:
                progress(len(results), len(items))
    return results
