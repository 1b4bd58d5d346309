"""All commands of ``cconvnet``, and the function that runs them."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

import cconvnet
from cconvnet.cli import bench, data, plot, runs
from cconvnet.cli.ablate import ablate
from cconvnet.cli.doctor import doctor
from cconvnet.cli.errors import explain
from cconvnet.cli.evaluate import evaluate, predict
from cconvnet.cli.exchange import export, import_
from cconvnet.cli.help import DATA, LOOK, MEASURE, NETWORKS, TRAIN, App
from cconvnet.cli.networks import augment, describe, gradcheck
from cconvnet.cli.options import example
from cconvnet.cli.profile import profile
from cconvnet.cli.ranks import run_as_rank
from cconvnet.cli.runs import compare, report
from cconvnet.cli.seeing import features
from cconvnet.cli.train import train
from cconvnet.ranks import RanksError, launched

app = App(
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train AlexNet and smaller networks with hand-written kernels: on one GPU, on two, or on none.",
)


def _add(panel: str, command: Callable[..., Any], *examples: str, name: str | None = None) -> None:
    """Add a command to a panel of the help, with examples below its own."""
    app.command(name, rich_help_panel=panel, epilog=example(*examples))(command)


_add(
    TRAIN,
    train,
    "cconvnet train",
    "cconvnet train --net alexnet --data imagenet --device cuda:0 --out runs/first",
    "cconvnet train --net cifar-quick --data cifar10 --lr-schedule cosine --warmup 1 --pad 4 --mirror",
    "cconvnet train --config runs/first/run.toml --lr 0.005",
    "cconvnet train --net vgg16 --data flowers --weights vgg16.pth --except fc8 --lr 0.001",
)
_add(
    TRAIN,
    ablate,
    "cconvnet ablate --net alexnet --data imagenet --what relu,lrn,overlap,dropout,towers,augmentation",
    "cconvnet ablate --net cifar-11pct --data cifar10 --epochs 10 --out runs/ablation",
    "cconvnet ablate --out runs/ablation",
)
app.add_typer(runs.app, name="runs", rich_help_panel=LOOK)
_add(LOOK, compare, "cconvnet compare runs/first runs/second")
_add(LOOK, report, "cconvnet report runs/first", "cconvnet report runs/first --open")
_add(
    LOOK,
    evaluate,
    "cconvnet evaluate --run runs/first --views ten",
    "cconvnet evaluate --run runs/first --run runs/second --data FOLDER",
    "cconvnet evaluate --run runs/first --confusion --per-class --worst 20",
)
_add(
    LOOK,
    predict,
    "cconvnet predict --run runs/first cat.jpg dog.png",
    "cconvnet predict --weights resnet50.pth --net resnet50 --classes imagenet.txt cat.jpg",
)
_add(
    LOOK,
    features,
    "cconvnet features runs/first --layer fc7 --out features.safetensors",
    "cconvnet features runs/first --layer fc7 --split train --images 2000 --out train.npy",
)
app.add_typer(plot.app, name="plot", rich_help_panel=LOOK)
app.add_typer(data.app, name="data", rich_help_panel=DATA)
_add(DATA, augment, "cconvnet augment --net alexnet --data FOLDER --out sheet.png")
_add(
    NETWORKS,
    describe,
    "cconvnet describe --net alexnet --device cpu:0,cpu:1 --json -",
    "cconvnet describe --compare alexnet alexnet-2012",
)
_add(NETWORKS, gradcheck, "cconvnet gradcheck --net lenet --device emulator:0")
_add(
    NETWORKS,
    import_,
    "cconvnet import resnet50.pth --net resnet50 --classes imagenet.txt --out runs/resnet50",
    "cconvnet import ConvNet__2012-05-01/120.5 --net cifar-18pct --data cifar10-batches",
    name="import",
)
_add(
    NETWORKS,
    export,
    "cconvnet export --net cifar-18pct --out configs/mine",
    "cconvnet export --run runs/first --format cuda-convnet --out FOLDER",
    "cconvnet export --run runs/first --out first.pth",
)
app.add_typer(bench.app, name="bench", rich_help_panel=MEASURE)
_add(
    MEASURE,
    profile,
    "cconvnet profile --net alexnet --batch 128 --precision bf16",
    "cconvnet profile --net alexnet --batch 128 --precision bf16 --layer conv2 --pass dgrad",
    "cconvnet profile --compare before.json after.json",
)
_add(
    MEASURE,
    doctor,
    "cconvnet doctor",
    "cconvnet doctor --json machine.json",
    "mpiexec -n 2 cconvnet doctor --ranks",
)


@app.callback(invoke_without_command=True, epilog=example("cconvnet train", "cconvnet doctor"))
def top_level(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Compute fp32 convolutions on the CPU as plain sums, without Winograd.",
        ),
    ] = False,
) -> None:
    """Print the version, or the help if there is no command."""
    if strict:
        # Modules are not loaded yet, and processes that a command starts shall compute the same.
        os.environ["CCONVNET_STRICT"] = "1"
    if version:
        print(f"cconvnet {cconvnet.__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Run the command line and exit.

    The exit code is 0, 2 if the user made a mistake, 1 for any other failure, 130 after Ctrl-C.
    """
    _open_streams()
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names that a terminal cannot show, or that are not valid text, must not make a command fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        launch = launched()
    except RanksError as error:
        sys.exit(explain(error))
    if not launch.alone:
        sys.exit(run_as_rank(launch, _run))
    code = _run(explain)
    if code == 130:
        # A shell ends a script and its loops only if the signal itself ended the command
        # (https://www.cons.org/cracauer/sigint.html). The shell reports that as 130, too.
        with contextlib.suppress(OSError):  # the same Ctrl-C may have ended the reader
            sys.stdout.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    sys.exit(code)


def _run(explain: Callable[[Exception], int]) -> int:
    """Run the command and return the exit code, for exceptions that of `explain`."""
    try:
        code = app(standalone_mode=False, prog_name="cconvnet")
        sys.stdout.flush()
    except Exception as error:
        code = explain(error)
    except KeyboardInterrupt:
        code = 130
    return code if isinstance(code, int) else 0


def _open_streams() -> None:
    """Open the standard streams that the caller closed, so that no later file gets their descriptors."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(nowhere, "r" if name == "stdin" else "w", encoding="utf-8"))
