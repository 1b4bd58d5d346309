"""Options that several commands share, and functions by which commands print and write results."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from cconvnet.checks import MAX_FLOAT32, MAX_INT32, MAX_SEED, MAX_SIDE
from cconvnet.system import outputs
from cconvnet.system.outputs import check_output
from cconvnet.training.option import RUN
from cconvnet.training.option_values import Range, Real, Whole, parse_device_names, parse_places
from cconvnet.training.options import DESCRIPTIONS, MAX_WORKERS, Options

if TYPE_CHECKING:
    from cconvnet.console import Reporter

MAX_SECONDS = 366 * 24 * 3600.0  # of a measurement: a year


def example(*lines: str) -> str:
    """Return the epilog of a command's help, with these commands as examples."""
    return "\n\n".join(["[bold]Example[/bold]", *(f"[cyan]{line}[/cyan]" for line in lines)])


# ---- checks of values, before a command begins ----------------------------------------------------------


def _within(allowed: Range) -> Callable[..., Any]:
    """Make a callback that checks a number; the error names the option."""

    def check(parameter: typer.CallbackParam, value: Any) -> Any:
        return None if value is None else allowed.check(parameter.opts[0], value)

    return check


def whole(low: int = 1, high: int = MAX_INT32) -> Callable[..., int | None]:
    """Make a callback that checks a whole number; the error names the option."""
    return _within(Whole(low, high))


def real(
    *, low: float = -MAX_FLOAT32, above: float | None = None, high: float = MAX_FLOAT32
) -> Callable[..., float | None]:
    """Make a callback that checks a finite number; the error names the option."""
    return _within(Real(low, above, high))


workers = whole(0, MAX_WORKERS)
seed = whole(0, MAX_SEED)
pixels = whole(1, MAX_SIDE)
seconds = real(above=0, high=MAX_SECONDS)


# ---- the options of a training ---------------------------------------------------------------------------


def _of_training(name: str, help: str | None = None, panel: str | None = None) -> Any:
    """Make typer's description of a field of :class:`cconvnet.training.options.Options`."""
    option = DESCRIPTIONS[name]
    # The range of an option that is parsed is that of its value, not of its text.
    allowed = None if option.parse is not None else option.range
    return typer.Option(
        option.flag,
        help=help or option.help,
        metavar=option.metavar,
        callback=None if allowed is None else _within(allowed),
        autocompletion=None if option.choices is None else _completing(option.choices),
        rich_help_panel=panel,
    )


def _completing(names: Sequence[str]) -> Callable[[str], list[str]]:
    """Make the function by which a shell completes a word to one of these names."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="File of options in TOML, such as a run's run.toml, which repeats the run. Its keys are the "
        "names of options, its relative paths are relative to the file. Options on the command line replace "
        "its own.",
        metavar="FILE",
        rich_help_panel=RUN,
    ),
]


def takes_options(without: Sequence[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that turns a function of `options: Options` into a command.

    The command has a flag for each field of Options, and --config, a file of options. The other parameters
    of the function become flags too.

    Args:
        without: Fields that have no flag.
    """
    return functools.partial(_with_flags, [name for name in DESCRIPTIONS if name not in without])


def _with_flags(fields: list[str], command: Callable[..., None]) -> Callable[..., None]:
    """Return a function of `options: Options` as a command with flags for these fields."""
    hints = get_type_hints(Options)
    own = get_type_hints(command, include_extras=True)
    parameters: list[tuple[str, Any, Any]] = []
    for name in fields:
        option = DESCRIPTIONS[name]
        kind = str | None if option.parse else hints[name]
        default = getattr(Options, name)  # a dataclass keeps the defaults of its fields so
        parameters.append((name, default, Annotated[kind, _of_training(name, panel=option.panel)]))
    parameters += [("config", None, Config), ("context", None, typer.Context)]
    for name, parameter in inspect.signature(command).parameters.items():
        if name != "options":
            parameters.append((name, parameter.default, own[name]))

    def run(**given: Any) -> None:
        config, context = given.pop("config", None), given.pop("context", None)
        values = {name: given.pop(name) for name in fields}
        for name, value in values.items():
            parse = DESCRIPTIONS[name].parse
            if parse is not None and value is not None:
                values[name] = parse(value)
        if config is not None:
            values |= _of_file(config, context)
        command(Options(**values), **given)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {name: annotation for name, _, annotation in parameters}
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, default, annotation in parameters
        ]
    )
    return run


def _of_file(path: Path, context: typer.Context) -> dict[str, Any]:
    """Return the values of a file of options that the command line does not replace."""
    from cconvnet.training import option_files

    replaced = {name for name in DESCRIPTIONS if _is_given(context, name)}
    if "lr_schedule" in replaced:
        replaced |= {"lr_steps", "lr_plateau"}  # a file of a run has them beside its own schedule
    return {name: value for name, value in option_files.read(path).items() if name not in replaced}


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


# ---- options that several commands have ------------------------------------------------------------------

OptionalNet = Annotated[str | None, _of_training("net")]
MeasuredNet = Annotated[
    str | None,
    typer.Option(
        "--net",
        help="Network as for `train`. If not given: alexnet.",
        metavar="NAME",
    ),
]
LayerDef = Annotated[Path | None, _of_training("layer_def")]
LayerParams = Annotated[Path | None, _of_training("layer_params")]
Crop = Annotated[int | None, _of_training("crop")]
RandomCrop = Annotated[bool | None, _of_training("random_crop")]
RandomResizedCrop = Annotated[bool | None, _of_training("random_resized_crop")]
Area = Annotated[str | None, _of_training("area")]
Pad = Annotated[int | None, _of_training("pad")]
Mirror = Annotated[bool | None, _of_training("mirror")]
ColorNoise = Annotated[float | None, _of_training("color_noise")]
Distort = Annotated[str | None, _of_training("distort")]
Data = Annotated[str | None, _of_training("data")]
DeviceNames = Annotated[str | None, _of_training("devices")]
OneDevice = Annotated[
    str | None,
    typer.Option(help="cuda:0, cpu:0 or emulator:0. If not given: a GPU if there is one.", metavar="NAME"),
]
Places = Annotated[str | None, _of_training("place")]
Precision = Annotated[str | None, _of_training("precision")]
RunPrecision = Annotated[
    str | None,
    _of_training(
        "precision",
        help="Precision of products: fp32, fp32x3 or tf32 (GPUs), or bf16; the run's if not given.",
    ),
]
Batch = Annotated[int | None, _of_training("batch")]
Size = Annotated[int | None, _of_training("size")]
Wire = Annotated[str | None, _of_training("wire", help="With --ranks: as for `train`.")]
Exchange = Annotated[str | None, _of_training("exchange", help="With --ranks: as for `train`.")]
Parallel = Annotated[str | None, _of_training("parallel", help="With --ranks: as for `train`.")]
Shards = Annotated[
    int | None,
    _of_training(
        "shards",
        help="Equal parts of each batch, as for `train`; the run's own, or as many as ranks, if not given.",
    ),
]
ShardWire = Annotated[str | None, _of_training("wire", help="Of several shards: as for `train`.")]
ShardReduction = Annotated[str | None, _of_training("reduction", help="Of several shards: as for `train`.")]
ShardExchange = Annotated[str | None, _of_training("exchange", help="Of several shards: as for `train`.")]
ShardParallel = Annotated[str | None, _of_training("parallel", help="Of several shards: as for `train`.")]
Workers = Annotated[int | None, _of_training("workers")]
NewRun = Annotated[Path | None, _of_training("out")]
RunPath = Annotated[
    Path, typer.Option("--run", help="Folder of a run, or one of its checkpoints.", metavar="RUN")
]
OptionalRun = Annotated[
    Path | None, typer.Option("--run", help="Folder of a run, or one of its checkpoints.", metavar="RUN")
]
RunFolder = Annotated[Path, typer.Argument(help="Folder of a run, or one of its checkpoints.", metavar="RUN")]
OnePicture = Annotated[
    Path | None,
    typer.Option(
        "--out", help="File of the picture, .png, .svg or .pdf; in the run if not given.", metavar="FILE"
    ),
]
Views = Annotated[
    str,
    typer.Option(
        help="Parts of an image whose probabilities are averaged. center: the centre alone. ten: the "
        "corners, the centre, and their mirror images.",
        metavar="NAME",
    ),
]
Folded = Annotated[
    bool,
    typer.Option(
        "--folded",
        help="Fold batch normalisations into the products before them: faster, and equal but for rounding.",
    ),
]
Dense = Annotated[
    bool,
    typer.Option(
        "--dense",
        help="Classify every place of whole stored images instead of crops, and average the probabilities: "
        "fully connected layers become convolutions. With label images: test whole pictures of any size.",
    ),
]
DenseFine = Annotated[
    bool,
    typer.Option(
        "--dense-fine",
        help="Like --dense, with the last pooling at every offset: places are as close as what it reads.",
    ),
]
Best = Annotated[bool, typer.Option("--best", help="Use the run's best checkpoint instead of its newest.")]


def _checked(kind: str) -> Callable[[str | None], str | None]:
    """Make a callback that refuses a file of this kind that cannot be written."""

    def check(where: str | None) -> str | None:
        if where is not None and where != "-":
            check_output(where, kind)
        return where

    return check


def checked_picture(path: Path | None) -> Path | None:
    """Refuse a picture's file that cannot be written."""
    if path is not None:
        check_output(path, path.suffix.removeprefix(".").lower())
    return path


Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        help="Write the results to this file as JSON (-: standard output).",
        metavar="FILE",
        callback=_checked("json"),
    ),
]

Csv = Annotated[
    str | None,
    typer.Option(
        "--csv",
        help="Write the table to this file as CSV (-: standard output).",
        metavar="FILE",
        callback=_checked("csv"),
    ),
]

Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        help="Draw the results to this file, .png, .svg or .pdf.",
        metavar="FILE",
        callback=checked_picture,
    ),
]


def check_pictures(*pictures: Path | None) -> None:
    """Raise PlotError for files that cannot be drawn, before the measurement instead of after it."""
    from cconvnet import plots

    for picture in filter(None, pictures):
        plots.check(picture)


def device_names(devices: str | None) -> list[str] | None:
    """Split the text of --device."""
    return None if devices is None else parse_device_names(devices)


def parsed_places(text: str | None) -> dict[str, int | str] | None:
    """Read the text of --place."""
    return None if text is None else parse_places(text)


def write_json(where: str, value: Any) -> None:
    """Write a value as JSON to a file, or to standard output if `where` is ``-``."""
    if where == "-":
        sys.stdout.write(json.dumps(value, indent=2) + "\n")
    else:
        outputs.write_json(Path(where), value)


def keep_json(to_json: str | None, result: Any) -> None:
    """Write the results so far, so that an interrupted measurement keeps them."""
    if to_json and to_json != "-" and outputs.is_plain(to_json):
        write_json(to_json, result)


def measured_on(result: Mapping[str, Any]) -> str:
    """Return the device of a measurement and its chip."""
    about = result["machine"]
    return f"{result['device']}: {about.get('chip', '')} ({about['module']})"


def write_csv(where: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table as CSV to a file, or to standard output if `where` is ``-``."""
    if where == "-":
        sys.stdout.writelines(outputs.csv_lines(columns, rows))
    else:
        outputs.write_csv(Path(where), columns, rows)


def reporter_for(to_json: str | None, quiet: bool = False) -> Reporter:
    """Return a reporter on standard output, or on standard error if `to_json` sends JSON to the former."""
    from cconvnet.console import reporter

    return reporter(sys.stderr if to_json == "-" else sys.stdout, quiet)


def print_table(
    title: str,
    columns: list[str],
    rows: list[list[str]],
    right: set[str],
    cut: Mapping[str, int] | None = None,
) -> None:
    """Print a table.

    Args:
        title: The title, or nothing.
        columns: The names of the columns.
        rows: The texts of the cells.
        right: The names of columns that are aligned to the right.
        cut: If not None, the table is one of many columns: without lines, in 100 columns of text where there
            is no terminal, cells cut to their column, and columns to these widths.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    dense = cut is not None
    # Without a terminal no column is cut to its width, unless the table is dense.
    console = Console(width=None if sys.stdout.isatty() else 100 if dense else 160)
    table = Table(title=title or None, title_justify="left")
    if dense:
        table.box, table.padding, table.pad_edge = None, (0, 1, 0, 0), False
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in right else "left",
            overflow="ellipsis" if dense else "fold",
            no_wrap=dense,
            max_width=(cut or {}).get(column),
        )
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
