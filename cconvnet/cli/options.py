"""The options that several commands have, and how commands print and write."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cconvnet import checks, nets
from cconvnet.checks import LARGEST, MOST, MOST_PIXELS, MOST_SEED
from cconvnet.system import outputs
from cconvnet.system.outputs import check_output

LONGEST = 366 * 24 * 3600.0  # seconds that a measurement may be told to take
_DEVICE = re.compile(r"[0-9]{1,9}|[a-z]+(?::[0-9]{1,9})?")


def example(*lines: str) -> str:
    return "\n\n".join(["[bold]Example[/bold]", *(f"[cyan]{line}[/cyan]" for line in lines)])


# ---- checks of values, before a command begins ----------------------------------------------------------


def whole(low: int = 1, high: int = MOST) -> Callable[..., int | None]:
    """A callback that checks a whole number; the error names the option."""

    def check(parameter: typer.CallbackParam, value: int | None) -> int | None:
        return None if value is None else checks.whole(parameter.opts[0], value, low, high)

    return check


def real(
    *, low: float = -LARGEST, above: float | None = None, high: float = LARGEST
) -> Callable[..., float | None]:
    """A callback that checks a finite number; the error names the option."""

    def check(parameter: typer.CallbackParam, value: float | None) -> float | None:
        if value is None:
            return None
        return checks.real(parameter.opts[0], value, low=low, above=above, high=high)

    return check


workers = whole(0, 4096)  # as many as the largest machines have cores
seed = whole(0, MOST_SEED)
pixels = whole(1, MOST_PIXELS)
seconds = real(above=0, high=LONGEST)


# ---- options that several commands have ----------------------------------------------------------------

OptionalNet = Annotated[
    str | None,
    typer.Option(help=f"The network: {', '.join(nets.NAMES)}; lenet if not given.", metavar="NAME"),
]
LayerDef = Annotated[
    Path | None,
    typer.Option(
        "--layer-def",
        help="Instead of --net: a network in cuda-convnet's files, its layers.",
        metavar="FILE",
    ),
]
LayerParams = Annotated[
    Path | None,
    typer.Option("--layer-params", help="The parameters that go with --layer-def.", metavar="FILE"),
]
Crop = Annotated[
    int | None,
    typer.Option(
        "--crop",
        help="With --layer-def: the side in pixels of the squares cut out of the images; whole images if not "
        "given.",
        metavar="PIXELS",
        callback=pixels,
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="A folder of images (train/CLASS/*.jpg and test/CLASS/*.jpg), of shards, of ILSVRC-2012's or "
        "WebDataset tars, of MNIST's or CIFAR-10's files, or 'digits', the embedded default.",
        metavar="FOLDER",
    ),
]
DeviceNames = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="cuda:0, cpu:0, emulator:0, or several with commas. Without it a GPU if there is one.",
        metavar="NAMES",
    ),
]
Places = Annotated[
    str | None,
    typer.Option(
        "--place",
        help="Where layers live, such as conv3=1,fc6=cpu:1: a number counts the devices of --device. Others "
        "live where their input does.",
        metavar="LAYER=DEVICE",
    ),
]
_PRECISION = "What products are computed in: fp32, tf32 (GPUs) or bf16"
Precision = Annotated[str | None, typer.Option(help=f"{_PRECISION}; fp32 if not given.", metavar="NAME")]
RunPrecision = Annotated[
    str | None, typer.Option("--precision", help=f"{_PRECISION}; the run's if not given.", metavar="NAME")
]
Batch = Annotated[
    int | None,
    typer.Option(help="Images per step; the network's own if not given.", metavar="N", callback=whole()),
]
Size = Annotated[
    int | None,
    typer.Option(
        help="The side in pixels that stored images are brought to.", metavar="PIXELS", callback=pixels
    ),
]
RunPath = Annotated[
    Path, typer.Option("--run", help="The folder of a run, or one of its checkpoints.", metavar="RUN")
]
Views = Annotated[
    str,
    typer.Option(
        help="center, or ten: the corners and the centre, each with its mirror image, whose probabilities "
        "are averaged.",
        metavar="NAME",
    ),
]
Best = Annotated[bool, typer.Option("--best", help="Take the run's best checkpoint instead of its newest.")]
Workers = Annotated[
    int | None,
    typer.Option(help="Processes that decode images; chosen if not given.", metavar="N", callback=workers),
]


def _checked_json(where: str | None) -> str | None:
    """The file of --json, if it can be written."""
    if where is not None and where != "-":
        check_output(where, "json")
    return where


def checked_picture(path: Path | None) -> Path | None:
    """A picture's file, if it can be written."""
    if path is not None:
        check_output(path, path.suffix.removeprefix(".").lower())
    return path


Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        help="Write the results as JSON to this file (-: standard output).",
        metavar="FILE",
        callback=_checked_json,
    ),
]

Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot", help="Draw the results: .png, .svg, .pdf.", metavar="FILE", callback=checked_picture
    ),
]


def device_names(devices: str | None) -> list[str] | None:
    return None if devices is None else [name.strip() for name in devices.split(",")]


def parsed_places(text: str | None) -> dict[str, int | str] | None:
    if text is None:
        return None
    places: dict[str, int | str] = {}
    for part in text.split(","):
        layer, equals, device = (piece.strip() for piece in part.partition("="))
        if not (layer and equals and device):
            raise ValueError(f"--place must be like conv3=1,fc6=cpu:1, not {text!r}")
        if not _DEVICE.fullmatch(device):
            raise ValueError(f"--place must be like conv3=1,fc6=cpu:1, not {text!r}")
        places[layer] = int(device) if checks.is_number(device) else device
    return places


def write_json(where: str, value: Any) -> None:
    """Writes JSON to a file, or to standard output where `where` is ``-``."""
    if where == "-":
        sys.stdout.write(json.dumps(value, indent=2) + "\n")
    else:
        outputs.write_json(Path(where), value)


def print_table(title: str, columns: list[str], rows: list[list[str]], right: set[str]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    # Where nobody watches, no column is cut to a terminal's width.
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table(title=title or None, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
