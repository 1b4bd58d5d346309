"""Pictures that were drawn to files and that notebooks show."""

from __future__ import annotations

import os
from pathlib import Path


class Picture(os.PathLike[str]):
    """A picture in a file, which a notebook shows.

    Where a path is wanted, the picture may be given: ``shutil.copy(run.curve(), "curve.png")``.

    Attributes:
        path: The file: .png, .svg or .pdf.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return str(self.path)

    def _repr_png_(self) -> bytes | None:
        return self.path.read_bytes() if self.path.suffix.lower() == ".png" else None

    def _repr_svg_(self) -> str | None:
        return self.path.read_text(encoding="utf-8") if self.path.suffix.lower() == ".svg" else None
