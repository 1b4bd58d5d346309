"""Output files of commands: checked before the work, written so that they are old or new at any moment.

A regular file is written under a temporary name in the same folder, synced to the disk and renamed. Links
stay, and their targets are replaced. Permissions and owner of a file stay. Anything but a regular file, such
as a device, a named pipe or ``/dev/stdout``, is written to and never replaced.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import io
import itertools
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

_MAX_LINKS = 40  # as many as Linux follows (path_resolution(7))
_MAX_NAME_BYTES = 255
_DESCRIPTOR_FOLDER = re.compile(r"/proc/(?:self|thread-self|\d+)(?:/task/\d+)?/fd")

# The first bytes of files that a command may overwrite: a list or an object of JSON, the name of a first
# column, pictures, a page.
_BEGINNINGS = {
    "csv": re.compile(rb"\w+,"),
    "json": re.compile(rb"\s*[\[{]"),
    "png": re.compile(rb"\x89PNG"),
    "jpg": re.compile(rb"\xff\xd8"),
    "jpeg": re.compile(rb"\xff\xd8"),
    "pdf": re.compile(rb"%PDF"),
    "svg": re.compile(rb"\s*<(?:\?xml|!DOCTYPE svg|svg)", re.IGNORECASE),
    "html": re.compile(rb"\s*<(?:!doctype html|html)", re.IGNORECASE),
}
# Files that runs and prepared data need.
_RUN_FILES = ("config.json", "summary.json", "state.json")
_SHARD_FILES = ("dataset.json",)


class OutputError(ValueError):
    """A requested file cannot be written; the text names it and the reason."""


# ---- before the work -----------------------------------------------------------------------------------


def check_output(path: str | Path, kind: str | None = None) -> None:
    """Refuse a file that could not be written later, or that would replace one of another kind.

    Args:
        path: The file.
        kind: The kind of content, such as json or png. An existing file of another kind is not replaced.

    Raises:
        OutputError: The file is refused; the text contains `path` and the reason.
    """

    def refuse(why: str) -> NoReturn:
        raise OutputError(f"{path} cannot be written: {why}")

    if not os.fspath(path):
        raise OutputError("the name of the file to write is empty")
    try:
        target = _followed(Path(path))
        if isinstance(target, int):
            if fcntl.fcntl(target, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                refuse(f"descriptor {target} is open for reading only")
            return
        old = _look(target)
    except OSError as error:
        refuse(error.strerror or str(error))
    if old is not None and not stat.S_ISREG(old.st_mode):
        if stat.S_ISDIR(old.st_mode):
            refuse("it is a folder")
        if not (stat.S_ISCHR(old.st_mode) or stat.S_ISFIFO(old.st_mode)):
            refuse("it is not a file, a named pipe or a character device")
        if not os.access(target, os.W_OK):
            refuse("permission denied")
        return
    folder = target.parent
    if not folder.is_dir():
        shown = Path(path).parent if folder == Path(path).parent.absolute() else folder
        refuse(f"{shown} is not a folder" if folder.exists() else f"there is no folder {shown}")
    if old is not None and not os.access(target, os.W_OK):
        refuse("permission denied")
    if old is None or os.access(folder, os.W_OK | os.X_OK):
        try:
            # Only writing shows whether it works. Linux gives this file no name, so it cannot be left behind.
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            refuse(f"{folder}: {error.strerror}")
    if old is not None and old.st_size:
        _check_kind(path, target, kind)


def _check_kind(path: str | Path, target: Path, kind: str | None) -> None:
    """Raise OutputError if a file is not of the kind that its writer may replace."""
    if kind == "json":
        run = target.name in _RUN_FILES and (target.parent / "checkpoints").is_dir()
        if run or target.name in _SHARD_FILES:
            raise OutputError(
                f"{path} belongs to the {'run' if run else 'data'} in its folder; choose another name"
            )
    beginning = _BEGINNINGS.get(kind or "")
    with contextlib.suppress(OSError), target.open("rb") as file:
        if beginning is not None and not beginning.match(file.read(256)):
            raise OutputError(
                f"{path} already exists and is not a {kind} file; choose another name, or remove it"
            )


def check_folder(path: Path) -> None:
    """Refuse a folder that could not be created or written to.

    Raises:
        OSError: The folder is refused; the error names `path`.
    """
    there = path.absolute()
    while not there.exists() and there != there.parent:
        if there.is_symlink():
            raise OSError(errno.ENOENT, "it is a link to a file that does not exist", str(path))
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def is_plain(path: str | Path) -> bool:
    """Return whether `path` is a regular file, or will be one, and so can be rewritten many times."""
    try:
        target = _followed(Path(path))
        old = None if isinstance(target, int) else _look(target)
    except OSError:
        return False
    return not isinstance(target, int) and (old is None or stat.S_ISREG(old.st_mode))


def _followed(path: Path) -> Path | int:
    """Follow links to their end.

    Returns:
        A path that is no link, or the number of a descriptor of this process.

    Raises:
        OSError: The links form a circle, or cannot be read.
    """
    for _ in range(_MAX_LINKS):
        folder = os.path.realpath(path.parent)
        if _DESCRIPTOR_FOLDER.fullmatch(folder) and path.name.isdecimal() and path.name.isascii():
            if os.path.realpath("/proc/self/fd") == re.sub(r"/task/\d+", "", folder):
                # Opening it by name would overwrite the file behind it from its beginning.
                return int(path.name)
            return path
        path = Path(folder, path.name)
        if not path.is_symlink():
            return path
        path = path.parent / path.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def _look(path: Path) -> os.stat_result | None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return path.stat()
    return None


# ---- atomic writes ------------------------------------------------------------------


def side_file(path: Path) -> Path:
    """Return the temporary name under which `path` is written before it is renamed."""
    room = _MAX_NAME_BYTES - len("..partial")
    name = os.fsdecode(os.fsencode(path.name)[:room])
    return path.with_name(f".{name}.partial")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[int]:
    """Replace a file atomically.

    If the process is killed at any moment, the old file or the new one is there, whole. Anything but a
    regular file is written to directly.

    Args:
        path: The file.

    Yields:
        A descriptor for the new content.

    Raises:
        OSError: The file could not be written. The old one is unchanged, and no temporary file is left. The
            error names `path`.
    """
    try:
        target = _followed(path)
        old = None if isinstance(target, int) else _look(target)
        if isinstance(target, int) or (old is not None and not stat.S_ISREG(old.st_mode)):
            writing = _directly(target)
        elif (side := _open_side_file(target, old)) is not None:
            writing = _by_renaming(target, old, side)
        else:
            writing = _in_place(target)
        with writing as descriptor:
            yield descriptor
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _open_side_file(target: Path, old: os.stat_result | None) -> int | None:
    """Open the temporary file, with the owner and permissions of the old one.

    Returns:
        Its descriptor, or None if no new file in this folder can replace the old one or have its owner.
    """
    if old is not None and not os.access(target.parent, os.W_OK | os.X_OK):
        return None
    side = side_file(target)
    descriptor = os.open(side, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        if old is not None:
            new = os.fstat(descriptor)
            if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
                os.fchown(descriptor, old.st_uid, old.st_gid)
            os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
    except OSError as error:
        os.close(descriptor)
        side.unlink()
        if error.errno in (errno.EPERM, errno.EINVAL):  # EINVAL: an owner that a container does not know
            return None
        raise
    return descriptor


@contextlib.contextmanager
def _by_renaming(target: Path, old: os.stat_result | None, descriptor: int) -> Iterator[int]:
    side = side_file(target)
    try:
        try:
            yield descriptor
            # Without this, the rename could reach the disk before the data does.
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if old is not None:
            shutil.copystat(target, side)  # access lists and other attributes
            os.utime(side)
        try:
            side.replace(target)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            # A file that is itself a mount point, as in containers, cannot be replaced.
            shutil.copyfile(side, target)
            side.unlink()
        _sync_folder(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            side.unlink()
        raise


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        # EINVAL comes from file systems that cannot sync folders, such as VirtualBox's (Linux,
        # fs/vboxsf/dir.c).
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(folder)


@contextlib.contextmanager
def _in_place(target: Path) -> Iterator[int]:
    """Overwrite the old file once the new content is complete."""
    with tempfile.TemporaryFile() as new:
        yield new.fileno()
        new.seek(0)
        with target.open("r+b") as file:
            file.truncate()
            shutil.copyfileobj(new, file)
            file.flush()
            os.fsync(file.fileno())


@contextlib.contextmanager
def _directly(target: Path | int) -> Iterator[int]:
    for stream in (sys.stdout, sys.stderr):  # so that what was printed before comes first
        if stream is not None:
            stream.flush()
    opened = os.dup(target) if isinstance(target, int) else os.open(target, os.O_WRONLY | os.O_NOCTTY)
    try:
        yield opened
    finally:
        os.close(opened)


def write(descriptor: int, piece: bytes | memoryview) -> None:
    """Write all of a piece, however little the system accepts at a time.

    Raises:
        OSError: It could not be written.
    """
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def write_output(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write pieces to a file with ``replacing``, which raises its errors."""
    with replacing(path) as descriptor:
        for piece in pieces:
            write(descriptor, piece)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON with ``replacing``, which raises its errors."""
    write_output(path, [(json.dumps(value, indent=2) + "\n").encode()])


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table as CSV with ``replacing``, which raises its errors.

    Args:
        path: The file.
        columns: The names of the columns, which are the first line.
        rows: The values of each row; None is an empty cell.
    """
    # Names of files that are no text are written as the bytes that they are.
    write_output(path, (line.encode(errors="surrogateescape") for line in csv_lines(columns, rows)))


def csv_lines(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    """Yield the lines of a table as CSV, the names of its columns first; see write_csv()."""
    for row in itertools.chain([columns], rows):
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerow(row)
        yield buffer.getvalue()


def save_picture(picture: Any, path: Path) -> None:
    """Write a Pillow picture as PNG or JPEG with ``replacing``, which raises its errors."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG" if path.suffix.lower() == ".png" else "JPEG")
    write_output(path, [buffer.getbuffer()])
