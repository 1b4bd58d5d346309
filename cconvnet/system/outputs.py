"""Files that commands write: checked before the work, and either old or new at every instant.

A plain file is written beside its final name, synced to the disk and renamed. A link stays, and what it leads
to is replaced. Permissions and owner of a file stay. What is no plain file, such as a device, a named pipe or
``/dev/stdout``, is written to and never replaced.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
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

_MOST_LINKS = 40  # as Linux follows (path_resolution(7))
_LONGEST_NAME = 255  # bytes
_FOLDERS_OF_DESCRIPTORS = re.compile(r"/proc/(?:self|thread-self|\d+)(?:/task/\d+)?/fd")

# How files begin that a command may write over without a word: a list or an object of JSON, pictures, a page.
_BEGINNINGS = {
    "json": re.compile(rb"\s*[\[{]"),
    "png": re.compile(rb"\x89PNG"),
    "jpg": re.compile(rb"\xff\xd8"),
    "jpeg": re.compile(rb"\xff\xd8"),
    "pdf": re.compile(rb"%PDF"),
    "svg": re.compile(rb"\s*<(?:\?xml|!DOCTYPE svg|svg)", re.IGNORECASE),
    "html": re.compile(rb"\s*<(?:!doctype html|html)", re.IGNORECASE),
}
# What a run or prepared data cannot do without.
_OF_A_RUN = ("config.json", "summary.json", "state.json")
_OF_SHARDS = ("dataset.json",)


class OutputError(ValueError):
    """A file cannot be written where it was asked for; the text names it and the reason."""


# ---- before the work -----------------------------------------------------------------------------------


def check_output(path: str | Path, kind: str | None = None) -> None:
    """Refuse a file that could not be written later, or that would replace something of another kind.

    Args
        kind: what will be written, such as json or png. A file that begins as no such file is not replaced.

    Raises
        OutputError: naming `path` and the reason.
    """

    def refuse(why: str) -> NoReturn:
        raise OutputError(f"{path} cannot be written: {why}")

    if not os.fspath(path):
        raise OutputError("the name of the file to write is empty")
    try:
        target = _followed(Path(path))
        if isinstance(target, int):
            if fcntl.fcntl(target, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                refuse(f"descriptor {target} is open for reading alone")
            return
        old = _look(target)
    except OSError as error:
        refuse(error.strerror or str(error))
    if old is not None and not stat.S_ISREG(old.st_mode):
        if stat.S_ISDIR(old.st_mode):
            refuse("it is a folder")
        if not (stat.S_ISCHR(old.st_mode) or stat.S_ISFIFO(old.st_mode)):
            refuse("it is neither a file nor a named pipe nor a character device")
        if not os.access(target, os.W_OK):
            refuse("permission denied")
        return
    folder = target.parent
    if not folder.is_dir():
        shown = Path(path).parent if folder == Path(path).parent.absolute() else folder
        refuse(f"{shown} is no folder" if folder.exists() else f"there is no folder {shown}")
    if old is not None and not os.access(target, os.W_OK):
        refuse("permission denied")
    if old is None or os.access(folder, os.W_OK | os.X_OK):
        try:
            # The only sure way to know; Linux gives the file no name, so that nothing of it can stay.
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            refuse(f"{folder}: {error.strerror}")
    if old is not None and old.st_size:
        _check_kind(path, target, kind)


def _check_kind(path: str | Path, target: Path, kind: str | None) -> None:
    """Raises OutputError for a file that is another than what its writer may replace."""
    if kind == "json":
        run = target.name in _OF_A_RUN and (target.parent / "checkpoints").is_dir()
        if run or target.name in _OF_SHARDS:
            raise OutputError(
                f"{path} belongs to the {'run' if run else 'data'} in its folder; choose another name"
            )
    beginning = _BEGINNINGS.get(kind or "")
    with contextlib.suppress(OSError), target.open("rb") as file:
        if beginning is not None and not beginning.match(file.read(256)):
            raise OutputError(
                f"{path} is there already and is no {kind} file; choose another name, or remove it"
            )


def check_folder(path: Path) -> None:
    """Refuse a folder that could not be made or written into.

    Raises
        OSError: naming `path`.
    """
    there = path.absolute()
    while not there.exists() and there != there.parent:
        if there.is_symlink():
            raise OSError(errno.ENOENT, "it is a link that leads nowhere", str(path))
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def is_plain(path: str | Path) -> bool:
    """True if `path` is a file, or will be one: it can be written over again and again."""
    try:
        target = _followed(Path(path))
        old = None if isinstance(target, int) else _look(target)
    except OSError:
        return False
    return not isinstance(target, int) and (old is None or stat.S_ISREG(old.st_mode))


def _followed(path: Path) -> Path | int:
    """The end of links: a path that is no link, or the number of a descriptor of this process.

    Raises OSError: links lead in a circle, or cannot be read.
    """
    for _ in range(_MOST_LINKS):
        folder = os.path.realpath(path.parent)
        if _FOLDERS_OF_DESCRIPTORS.fullmatch(folder) and path.name.isdecimal() and path.name.isascii():
            if os.path.realpath("/proc/self/fd") == re.sub(r"/task/\d+", "", folder):
                # Opened by its name, a file that output goes to would be written from its beginning.
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


# ---- files that are either old or new ------------------------------------------------------------------


def side_file(path: Path) -> Path:
    """The name under which `path` is written before it is renamed."""
    room = _LONGEST_NAME - len("..partial")
    name = os.fsdecode(os.fsencode(path.name)[:room])
    return path.with_name(f".{name}.partial")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[int]:
    """A descriptor for what `path` is to hold: a kill at any instant leaves the old file or the new one.

    What is no plain file is written to as it comes.

    Raises
        OSError: the file could not be written; the old one is unchanged and no side file is left. It names
            `path`.
    """
    try:
        target = _followed(path)
        old = None if isinstance(target, int) else _look(target)
        if isinstance(target, int) or (old is not None and not stat.S_ISREG(old.st_mode)):
            writing = _as_it_comes(target)
        elif (side := _opened_beside(target, old)) is not None:
            writing = _beside(target, old, side)
        else:
            writing = _in_place(target)
        with writing as descriptor:
            yield descriptor
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _opened_beside(target: Path, old: os.stat_result | None) -> int | None:
    """A descriptor of the side file; None: no new file there could have the name and owner of the old one."""
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
def _beside(target: Path, old: os.stat_result | None, descriptor: int) -> Iterator[int]:
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
            # A file that is a mount point, as containers have them, cannot be replaced.
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
        # So says a file system that cannot sync folders, such as VirtualBox's (Linux, fs/vboxsf/dir.c).
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(folder)


@contextlib.contextmanager
def _in_place(target: Path) -> Iterator[int]:
    """The old file is written over once all of the new one is there."""
    with tempfile.TemporaryFile() as new:
        yield new.fileno()
        new.seek(0)
        with target.open("r+b") as file:
            file.truncate()
            shutil.copyfileobj(new, file)
            file.flush()
            os.fsync(file.fileno())


@contextlib.contextmanager
def _as_it_comes(target: Path | int) -> Iterator[int]:
    for stream in (sys.stdout, sys.stderr):  # what was printed before comes before
        if stream is not None:
            stream.flush()
    opened = os.dup(target) if isinstance(target, int) else os.open(target, os.O_WRONLY | os.O_NOCTTY)
    try:
        yield opened
    finally:
        os.close(opened)


def write(descriptor: int, piece: bytes | memoryview) -> None:
    """Writes all of a piece, however little the system takes at a time. Raises OSError."""
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def write_output(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Writes `path` as ``replacing`` does. Raises OSError likewise."""
    with replacing(path) as descriptor:
        for piece in pieces:
            write(descriptor, piece)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, as ``replacing`` does. Raises OSError likewise."""
    write_output(path, [(json.dumps(value, indent=2) + "\n").encode()])


def save_picture(picture: Any, path: Path) -> None:
    """Writes a picture of Pillow, PNG or JPEG, as ``replacing`` does. Raises OSError likewise."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG" if path.suffix.lower() == ".png" else "JPEG")
    write_output(path, [buffer.getbuffer()])
