"""Options of commands that read weights of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cconvnet.checks import real
from cconvnet.training.option_values import parse_except

if TYPE_CHECKING:
    from cconvnet.training.imported import Reading

ClassesFile = Annotated[
    Path | None,
    typer.Option(
        "--classes",
        help="File with the names of the classes, one a line, in the order of their numbers.",
        metavar="FILE",
    ),
]
Except = Annotated[
    str | None,
    typer.Option(
        "--except",
        help="Layers that stay at their random first values, such as fc8 or fc*; auto: those of other "
        "shapes, as the last one for other classes.",
        metavar="LAYERS",
    ),
]
Bgr = Annotated[
    bool | None,
    typer.Option(
        "--bgr/--rgb",
        help="Order of the colours that the first layer reads in the file; BGR becomes RGB here. If not "
        "given: as usual for the names in the file.",
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        "--mean",
        help="Mean that was subtracted from pixels of 0 to 255, red first, such as 124,117,104. If not "
        "given: that of the names in the file, or the network's own.",
        metavar="R,G,B",
    ),
]
Deviation = Annotated[
    str | None,
    typer.Option("--deviation", help="Deviation by which they were divided, likewise.", metavar="R,G,B"),
]


def reading_of(leave: str | None, mean: str | None, deviation: str | None, bgr: bool | None) -> Reading:
    """Return the choices that these options make.

    Raises:
        ValueError: A text cannot be read; the error names the option.
    """
    from cconvnet.training.imported import Reading

    return Reading(
        () if leave is None else parse_except(leave),
        _numbers("--mean", mean),
        _numbers("--deviation", deviation),
        bgr,
    )


def _numbers(flag: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(real(flag, float(part)) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"{flag} must be a number for each channel, such as 124,117,104, not {text!r}"
        ) from None


def read_classes(file: Path | None) -> list[str] | None:
    """Return the names in a file of classes, None if there is none.

    Raises:
        ValueError: It contains no names, or one of them twice.
        OSError: It cannot be read.
    """
    if file is None:
        return None
    names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    names = [name for name in names if name]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"--classes: {file} must have a name in each line, and none of them twice")
    return names
