"""The command ``cconvnet``.

Everything heavy is imported inside the commands, so that ``--help`` answers at once. What a user did wrong is
said in a line on standard error, without a traceback (``CCONVNET_DEBUG=1`` shows it); the exit code is then
2, and 1 where something failed that was asked for rightly.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

import cconvnet
from cconvnet import nets
from cconvnet.checks import MOST_TOWERS
from cconvnet.cli import bench, data, plot, runs
from cconvnet.cli.options import (
    Batch,
    Best,
    Crop,
    Data,
    DeviceNames,
    Json,
    LayerDef,
    LayerParams,
    OptionalNet,
    Places,
    Precision,
    RunPath,
    RunPrecision,
    Size,
    Views,
    Workers,
    checked_picture,
    device_names,
    example,
    parsed_places,
    print_table,
    real,
    whole,
    write_json,
)
from cconvnet.cli.options import seed as check_seed
from cconvnet.cli.train import train
from cconvnet.system.outputs import check_folder

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train AlexNet and smaller networks with hand-written kernels: on one GPU, on two, or on none.",
)
app.command(
    epilog=example(
        "cconvnet train", "cconvnet train --net alexnet --data imagenet --device cuda:0 --out runs/first"
    )
)(train)
app.command(epilog=example("cconvnet runs", "cconvnet runs --sort error"))(runs.runs)
app.command(epilog=example("cconvnet compare runs/first runs/second"))(runs.compare)
app.command(epilog=example("cconvnet report runs/first", "cconvnet report runs/first --open"))(runs.report)
app.add_typer(data.app, name="data")
app.add_typer(plot.app, name="plot")
app.add_typer(bench.app, name="bench")


# ---- evaluate and predict ------------------------------------------------------------------------------


@app.command(
    epilog=example(
        "cconvnet evaluate --run runs/first --views ten",
        "cconvnet evaluate --run runs/first --run runs/second --data FOLDER",
    )
)
def evaluate(
    run: Annotated[
        list[Path],
        typer.Option(
            "--run",
            help="The folder of a run, or one of its checkpoints; given several times: their average too.",
            metavar="RUN",
        ),
    ],
    data: Data = None,
    views: Views = "center",
    device: DeviceNames = None,
    batch: Batch = None,
    precision: RunPrecision = None,
    best: Best = False,
    to_json: Json = None,
) -> None:
    """Print a trained network's error on test images, or that of several whose probabilities are averaged."""
    from cconvnet.console import percent, reporter
    from cconvnet.evaluate import Tally, evaluate_runs
    from cconvnet.runs.data_record import unreadable_lines

    def errors(tally: Tally) -> str:
        return (
            f"top-1 error {percent(tally.error_top1)}, top-5 error {percent(tally.error_top5)}, "
            f"loss {tally.mean_loss:.4f}"
        )

    def values(tally: Tally) -> dict[str, float]:
        return {
            "test_error_top1": tally.error_top1,
            "test_error_top5": tally.error_top5,
            "test_loss": tally.mean_loss,
        }

    with reporter(sys.stderr if to_json == "-" else sys.stdout) as report:

        def stepped(done: int, total: int) -> None:
            if done == 1:
                report.begin("testing", total)
            report.step(done, "testing", f"{done}/{total}")

        source, results, together = evaluate_runs(
            run,
            data,
            devices=device_names(device),
            batch=batch,
            precision=precision,
            best=best,
            views=views,
            say=report.say,
            stepped=stepped,
        )
        report.end()
        where = f"{source.name}, {together.count:,} test images"
        for result in results:
            seen = f"{result.views} view{'s' * (result.views > 1)}"
            report.say(f"{where}, {seen}, {result.path}: {errors(result.tally)}")
        if len(results) > 1:
            report.say(f"{where}, average of {len(results)} networks: {errors(together)}")
        for line in unreadable_lines(source.unreadable()):
            report.say(line)
    if to_json:
        members = [
            {
                "checkpoint": str(result.path),
                "net": result.net,
                "device": result.device,
                "precision": result.precision,
                "views": result.views,
                **values(result.tally),
            }
            for result in results
        ]
        document = {
            "data": source.name,
            "images": together.count,
            "unreadable": [vars(one) for one in source.unreadable()],
            **values(together),
        }
        write_json(to_json, {**document, **(members[0] if len(members) == 1 else {"members": members})})


@app.command(epilog=example("cconvnet predict --run runs/first cat.jpg dog.png"))
def predict(
    run: RunPath,
    pictures: Annotated[list[Path], typer.Argument(help="JPEG or PNG files.", metavar="PICTURE...")],
    top: Annotated[int, typer.Option(help="How many classes to show.", metavar="N", callback=whole())] = 5,
    views: Views = "center",
    device: DeviceNames = None,
    precision: RunPrecision = None,
    best: Best = False,
    to_json: Json = None,
) -> None:
    """Say what a trained network sees in pictures.

    Pictures that cannot be read are named and left out; the exit code is then 1, or 2 if none can be read.
    """
    from cconvnet import evaluate as evaluation
    from cconvnet.data import DataError

    trained = evaluation.load_trained(
        run, devices=device_names(device), batch=min(len(pictures), 64), best=best, precision=precision
    )
    for line in trained.skipped:
        print(f"skipped: {line}", file=sys.stderr)
    if note := evaluation.not_turned(pictures, trained.preprocessing):
        print(f"note: {note}", file=sys.stderr)
    found: list[dict[str, Any]] = []
    rows: list[list[str]] = []
    unread = 0
    for path, result in zip(pictures, evaluation.predict_each(trained, pictures, views), strict=True):
        if isinstance(result, DataError):
            unread += 1
            print(f"error: {result}", file=sys.stderr)
            found.append({"picture": str(path), "error": str(result)})
            continue
        order = (-result).argsort(kind="stable")[:top]
        classes = [{"class": trained.classes[i], "probability": float(result[i])} for i in order]
        found.append({"picture": str(path), "classes": classes})
        rows += [
            [str(path) if place == 0 else "", trained.classes[i], f"{100 * result[i]:.2f}%"]
            for place, i in enumerate(order)
        ]
    if to_json != "-" and rows:
        print_table("", ["picture", "class", "probability"], rows, {"probability"})
    if to_json:
        write_json(to_json, found)
    if unread:
        raise typer.Exit(2 if unread == len(pictures) else 1)


# ---- other programs' files ------------------------------------------------------------------------------


@app.command(
    "import",
    epilog=example("cconvnet import ConvNet__2012-05-01/120.5 --net cifar-18pct --data cifar10-batches"),
)
def import_(
    checkpoint: Annotated[
        Path, typer.Argument(help="The checkpoint, or the folder it lies in.", metavar="CHECKPOINT")
    ],
    data: Annotated[
        str,
        typer.Option(
            help="The data it was trained on; a mean image is taken from batches.meta if there is one there.",
            metavar="FOLDER",
        ),
    ],
    net: Annotated[
        str | None, typer.Option(help=f"Its network: {', '.join(nets.NAMES)}.", metavar="NAME")
    ] = None,
    layer_def: LayerDef = None,
    layer_params: LayerParams = None,
    crop: Crop = None,
    kind: Annotated[str, typer.Option("--format", help="cuda-convnet.", metavar="NAME")] = "cuda-convnet",
    batch: Batch = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; runs/NET-DATA-TIME if not given.", metavar="FOLDER")
    ] = None,
) -> None:
    """Make a run of another program's checkpoint, for evaluate, predict and train --resume.

    Weights and momentum come over; the network must have layers of the same names and shapes.
    """
    from cconvnet.console import reporter
    from cconvnet.formats import cuda_convnet_checkpoint
    from cconvnet.formats.netfiles import chosen
    from cconvnet.runs.checkpoint import CheckpointError
    from cconvnet.training.session import begin_with
    from cconvnet.training.settings import Options

    if kind != "cuda-convnet":
        raise ValueError(f"--format must be cuda-convnet, not {kind!r}")
    wanted = chosen(net, layer_def, layer_params, crop)
    if wanted is None:
        raise ValueError("the network is needed: --net, or --layer-def and --layer-params")
    layers = cuda_convnet_checkpoint.read_checkpoint(checkpoint)
    options = Options(net=wanted, data=data, batch=batch, out=out)
    with reporter() as report:
        shared = cuda_convnet_checkpoint.shared_weights(layers)
        if shared:
            report.say(
                f"shared weights ({', '.join(shared)}) become each layer's own: training moves them apart"
            )
        try:
            path = begin_with(
                options, lambda network: cuda_convnet_checkpoint.network_weights(network, layers), report
            )
        except CheckpointError as error:
            raise CheckpointError(f"{checkpoint} does not fit {wanted}: {error}") from error
    print(f"files: {path}")


# ---- looking at networks -------------------------------------------------------------------------------


@app.command(
    epilog=example(
        "cconvnet describe --net alexnet --device cpu:0,cpu:1 --json -",
        "cconvnet describe --compare alexnet alexnet-2012",
    )
)
def describe(
    net: OptionalNet = None,
    layer_def: LayerDef = None,
    layer_params: LayerParams = None,
    crop: Crop = None,
    device: DeviceNames = None,
    place: Places = None,
    precision: Precision = None,
    batch: Batch = None,
    size: Size = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Show what differs between two networks instead.", metavar="A B"),
    ] = None,
    to_json: Json = None,
) -> None:
    """Show a network's layers, shapes, parameters, devices, and the copies between them."""
    from cconvnet.formats.netfiles import build_sized, chosen
    from cconvnet.nets.specs import compare as differences
    from cconvnet.network import table
    from cconvnet.network.build import build_spec
    from cconvnet.network.footprint import Plan

    if compare is not None:
        one, other = compare
        changes = differences(nets.build(one), nets.build(other))
        if to_json:
            keys = ("layer", "value", one, other)
            write_json(to_json, [dict(zip(keys, row, strict=True)) for row in changes])
        if to_json != "-":
            print_table("", ["layer", "value", one, other], changes, set())
        return
    wanted = chosen(net, layer_def, layer_params, crop) or "lenet"
    notes = build_sized(wanted, size)[1]
    spec, count = build_spec(wanted, batch, precision, size, parsed_places(place))
    network = Plan(
        spec,
        batch=count,
        devices=device_names(device),
        precision="fp32" if precision is None else precision,
        needs=None,
    )
    description = network.describe()
    if to_json:
        write_json(to_json, description)
    if to_json == "-":
        return
    columns, rows = table(description)
    print_table("", columns, rows, {"output", "parameters"})
    print(
        f"{description['net']}: {description['parameters']:,} parameters, batch {description['batch']}, "
        f"{description['precision']}, {description['device']}, {description['memory_bytes'] / 1e6:,.1f} MB"
    )
    for note in notes:
        print(note)
    for copy in description["copies"]:
        print(
            f"copy into {copy['layer']}: {copy['source']} from {copy['from']} to {copy['to']}, "
            f"{copy['bytes']:,} bytes, gradient {copy['gradient_bytes']:,} bytes"
        )
    if description["copies"]:
        print(f"copied in a training step: {description['copied_bytes_per_step'] / 1e6:,.2f} MB")


@app.command(epilog=example("cconvnet gradcheck --net lenet --device emulator:0"))
def gradcheck(
    net: OptionalNet = None,
    layer_def: LayerDef = None,
    layer_params: LayerParams = None,
    crop: Crop = None,
    device: DeviceNames = None,
    width: Annotated[
        float | None,
        typer.Option(
            help="Multiply the numbers of filters and hidden units, for speed.",
            metavar="FACTOR",
            callback=real(above=0, high=1000),
        ),
    ] = None,
    size: Size = None,
    batch: Annotated[int, typer.Option(help="Images in the batch.", metavar="N", callback=whole())] = 2,
    seed: Annotated[
        int, typer.Option(help="Decides weights and images.", metavar="N", callback=check_seed)
    ] = 0,
    to_json: Json = None,
) -> None:
    """Hold a network's gradients against finite differences and a float64 computation.

    A network of large images is made smaller, unless --width or --size says how large. With --layer-def,
    --size is the images' and only --width the network's. Each device is checked on its own; the exit code is
    1 if anything is wrong.
    """
    from cconvnet.formats.netfiles import NetFiles, build_sized, chosen
    from cconvnet.network import gradcheck as checking

    wanted = chosen(net, layer_def, layer_params, crop) or "lenet"
    spec, _ = build_sized(wanted, size if isinstance(wanted, NetFiles) else None)
    small = checking.small_spec(spec, width, None if isinstance(wanted, NetFiles) else size)
    report = checking.gradcheck(small, device_names(device), batch, seed)
    if to_json != "-":
        columns, rows = report.table()
        print_table(f"relative errors of {report.net}, batch {batch}", columns, rows, set(columns[1:]))
    if to_json:
        write_json(to_json, report.to_dict())
    if not report.ok:
        worst = report.failures[0]
        print(
            f"error: {worst.name} is off by {worst.error:.1e} against {worst.against}; "
            f"{worst.bound:.0e} is allowed",
            file=sys.stderr,
        )
        raise typer.Exit(1)


@app.command(
    epilog=example(
        "cconvnet export --net cifar-18pct --out configs/mine",
        "cconvnet export --run runs/first --format cuda-convnet --out FOLDER",
    )
)
def export(
    out: Annotated[
        Path,
        typer.Option(help="The folder the files are written to; nothing is overwritten.", metavar="FOLDER"),
    ],
    net: OptionalNet = None,
    layer_def: LayerDef = None,
    layer_params: LayerParams = None,
    crop: Crop = None,
    run: Annotated[
        Path | None, typer.Option(help="Instead of --net: the network of this run.", metavar="RUN")
    ] = None,
    kind: Annotated[str, typer.Option("--format", help="cuda-convnet.", metavar="NAME")] = "cuda-convnet",
    size: Size = None,
    towers: Annotated[
        int,
        typer.Option(
            help="How many devices split layers are shared out over.",
            metavar="N",
            callback=whole(1, MOST_TOWERS),
        ),
    ] = 2,
) -> None:
    """Write a network in another program's files: layers.cfg and layer-params.cfg."""
    from cconvnet import runs
    from cconvnet.formats import cuda_convnet_writer
    from cconvnet.formats.netfiles import build_sized, chosen

    if kind != "cuda-convnet":
        raise ValueError(f"--format must be cuda-convnet, not {kind!r}")
    check_folder(out)
    wanted = chosen(net, layer_def, layer_params, crop)
    if (wanted is None) == (run is None):
        raise ValueError("one network is needed: --net, --layer-def or --run")
    if run is not None:
        spec = nets.spec_from_dict(runs.read_config(runs.folder_of(run))["spec"])
    else:
        assert wanted is not None
        spec, notes = build_sized(wanted, size)
        for note in notes:
            print(note)
    files = out / "layers.cfg", out / "layer-params.cfg"
    for file in files:
        if file.exists() or file.is_symlink():
            raise ValueError(f"{file} is already there; choose another --out")
    cuda_convnet_writer.write(spec, *files, towers=towers)
    for file in files:
        print(file)


# ---- pictures -------------------------------------------------------------------------------------------


@app.command(
    epilog=example("cconvnet augment --net alexnet --data FOLDER --out sheet.png"),
)
def augment(
    out: Annotated[Path, typer.Option(help="The picture's file, .png.", metavar="FILE")],
    net: Annotated[
        str, typer.Option(help=f"The network: {', '.join(nets.NAMES)}.", metavar="NAME")
    ] = "alexnet",
    data: Data = None,
    size: Size = None,
    images: Annotated[
        int, typer.Option(help="Training images: rows of the sheet.", metavar="N", callback=whole())
    ] = 6,
    epochs: Annotated[
        int, typer.Option(help="Epochs: columns after the first.", metavar="N", callback=whole())
    ] = 8,
    seed: Annotated[
        int, typer.Option(help="Decides crops, mirror images and noise.", metavar="N", callback=check_seed)
    ] = 0,
    workers: Workers = None,
) -> None:
    """Draw training images as a network sees them: crops, mirror images, colour noise."""
    from cconvnet import data as sources
    from cconvnet.data.workers import surplus
    from cconvnet.plots import augmentation as sheets

    if out.suffix.lower() != ".png":
        raise ValueError(f"--out must end with .png, not {out.name!r}")
    checked_picture(out)
    source = sources.open_source(data, nets.stored_size(net) if size is None else size, workers=workers)
    if source.extents is not None and (note := surplus(workers, max(len(source.train), len(source.test)))):
        print(note)
    spec = nets.build(net, image_shape=source.image_shape, classes=len(source.classes))
    sheets.write_sheet(out, source, spec, images=images, epochs=epochs, seed=seed, workers=workers, say=print)
    print(out)


# ---- doctor --------------------------------------------------------------------------------------------


@app.command(epilog=example("cconvnet doctor", "cconvnet doctor --json machine.json"))
def doctor(to_json: Json = None) -> None:
    """Say what works on this machine, why the rest does not, and what mends it.

    The exit code is 1 if no device can train.
    """
    import dataclasses

    from cconvnet import doctor as examination

    findings = examination.examine()
    able = examination.can_train(findings)
    if to_json:
        write_json(
            to_json, {"can_train": able, "findings": [dataclasses.asdict(finding) for finding in findings]}
        )
    if to_json != "-":
        width = max(len(finding.what) for finding in findings)
        for finding in findings:
            mend = f"; to mend it: {finding.mend}" if finding.mend else ""
            print(f"{finding.state:8}{finding.what:{width + 2}}{finding.text}{mend}")
        if not able:
            print("no device can train")
    if not able:
        raise typer.Exit(1)


@app.callback(invoke_without_command=True, epilog=example("cconvnet train", "cconvnet doctor"))
def top_level(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(f"cconvnet {cconvnet.__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


# ---- errors --------------------------------------------------------------------------------------------

# The base of all that typer finds wrong with a command line, wherever this version of typer keeps it.
_UsageError: Any = typer.BadParameter.__mro__[1]


# How writing to standard output fails: nobody reads it, its disk is full, its terminal is gone.
_OF_OUTPUT = (errno.EPIPE, errno.ENOSPC, errno.EIO)


def main() -> None:
    """Runs the command line and exits."""
    _open_streams()
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that a terminal has no letters for, or that is no text, is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = app(standalone_mode=False, prog_name="cconvnet")
        sys.stdout.flush()
    except Exception as error:
        if os.environ.get("CCONVNET_DEBUG") == "1":
            raise
        code = _explain(error)
    except KeyboardInterrupt:
        code = 130
    if code == 130:
        # A shell ends a script, and its loops, only where the command was ended by the signal itself
        # (https://www.cons.org/cracauer/sigint.html). It too calls that 130.
        with contextlib.suppress(OSError):  # the same Ctrl-C may have ended the reader
            sys.stdout.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    sys.exit(code if isinstance(code, int) else 0)


def _open_streams() -> None:
    """Where the caller has closed them; nothing that is opened later may be taken for one of them."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(nowhere, "r" if name == "stdin" else "w", encoding="utf-8"))


def _fail(text: str, code: int) -> int:
    print(f"error: {text}", file=sys.stderr)
    return code


def _explain(error: Exception) -> int:
    """Says what was wrong in a line or two and returns the exit code; an unforeseen error is raised again."""
    if isinstance(error, _UsageError):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "cconvnet"
        return _fail(f"{error.format_message()}\n`{command} --help` tells more", 2)
    if isinstance(error, typer.Abort):
        return 130
    if isinstance(error, OSError) and error.filename is None and error.errno in _OF_OUTPUT:
        from cconvnet.console import silence

        silence(sys.stdout)
        # A reader who has gone wants to hear nothing.
        return 1 if error.errno == errno.EPIPE else _fail(f"standard output: {error.strerror}", 1)
    if isinstance(error, OSError) and error.filename is not None:
        return _fail(f"{error.filename}: {error.strerror}", 1)
    if isinstance(error, MemoryError):
        return _fail(f"not enough memory ({error}); a smaller --batch needs less", 1)

    from cconvnet.devices import CudaError, DeviceUnavailable

    if isinstance(error, DeviceUnavailable):
        return _fail(str(error), 2)
    if isinstance(error, CudaError):
        return _fail(str(error), 1)
    if isinstance(error, ValueError):
        # A plain ValueError names an argument; if it does not, somebody will want to know where it is from.
        hint = "\n(CCONVNET_DEBUG=1 shows where)" if type(error) is ValueError else ""
        return _fail(f"{error}{hint}", 2)

    from cconvnet.bench.processes import WorkerError as SideError
    from cconvnet.data import WorkerError
    from cconvnet.data.downloads import DownloadError
    from cconvnet.training.stopping import TrainingStopped

    if isinstance(error, TrainingStopped | WorkerError | SideError | DownloadError):
        return _fail(str(error), 1)
    raise error
