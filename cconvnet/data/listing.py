"""The contents of data folders: the pictures, and the reasons why other files are not used."""

from __future__ import annotations

import os
from pathlib import Path

from cconvnet.data.account import Unused
from cconvnet.data.names import printable
from cconvnet.errors import DataError

# Names of files with statistics, which are saved in the pictures' folder, begin like this.
OWN_FILES = ".cconvnet-"

PICTURES = (".jpg", ".jpeg", ".png")
# Other formats of pictures, which are not read.
OTHER_PICTURES = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpx", ".jxl"),
    *(".pbm", ".pgm", ".ppm", ".svg", ".tga", ".tif", ".tiff", ".webp"),
)

HIDDEN = "hidden"
NO_TARGET = "a link to nothing, or no file"
OUTSIDE = "outside of any class folder"
OTHER_FOLDER, OTHER_FILE = "another folder", "not a picture"
READ_ALREADY = "a link back, or to a folder that is read already"


def is_picture(name: str) -> bool:
    """Return True if a file of this name should be a picture.

    Hidden files are no pictures: macOS adds a ._NAME.jpg to each NAME.jpg on other systems' disks and in
    tars.
    """
    return name.lower().endswith(PICTURES) and not name.rpartition("/")[2].startswith(".")


def why_unused(name: str) -> str:
    """Return the reason why a file of this name is not used as a picture."""
    base = name.rpartition("/")[2]
    if base.startswith("."):
        return HIDDEN
    if is_picture(base):
        return OUTSIDE
    suffix = os.path.splitext(base)[1].lower()  # noqa: PTH122 - a Path takes as long as the call
    return f"of a kind that is not read, {suffix}" if suffix in OTHER_PICTURES else OTHER_FILE


FOLDER, FILE, NOTHING = "folder", "file", "nothing"


def kind_of(entry: os.DirEntry[str]) -> str:
    """Return FOLDER, FILE or NOTHING; links are followed.

    Links to nothing or to themselves, devices and pipes are NOTHING.
    """
    try:
        if entry.is_dir():
            return FOLDER
        return FILE if entry.is_file() else NOTHING
    except OSError:  # ELOOP, or a folder on the way that may not be entered
        return NOTHING


def beside(root: Path, used: set[str]) -> Unused:
    """Collect the entries of a folder whose names are not among `used`.

    Raises:
        DataError: The folder cannot be read.
    """
    unused = Unused()
    for entry in entries(root):
        if entry.name in used or entry.name.startswith(OWN_FILES):
            continue
        kind = kind_of(entry)
        reason = NO_TARGET if kind == NOTHING else OTHER_FOLDER if kind == FOLDER else why_unused(entry.name)
        hidden = entry.name.startswith(".")
        unused.add(printable(entry.name), HIDDEN if hidden else reason)
    return unused


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """List a folder's entries, sorted by name.

    Raises:
        DataError: The folder cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from error


def lines(file: Path) -> list[str]:
    """Return a text file's stripped lines, up to the last that is not empty.

    Raises:
        DataError: The file cannot be read or is not UTF-8.
    """
    try:
        found = [line.strip() for line in file.read_text(encoding="utf-8").rstrip().split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    return found if any(found) else []
