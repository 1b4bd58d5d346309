"""The commands ``cconvnet plot ...``, which draw pictures of runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cconvnet.cli.help import App, Group
from cconvnet.cli.options import (
    Best,
    Data,
    DeviceNames,
    OnePicture,
    RunFolder,
    RunPrecision,
    device_names,
    example,
    whole,
)
from cconvnet.cli.seeing import plot_features, plot_map, why
from cconvnet.cli.timeline import timeline


class _CurveUnlessNamed(Group):
    """Group in which ``cconvnet plot RUN`` means ``cconvnet plot curve RUN``."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Insert "curve" unless the first argument is a command or asks for help."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["curve", *args]
        return super().parse_args(ctx, args)


app = App(
    cls=_CurveUnlessNamed,
    help="Draw runs: curves, filters, predictions, what a network saw, the time of a step.",
)


@app.callback(invoke_without_command=True)
def plot_level(context: typer.Context) -> None:
    """Print the help if there is no command."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command(
    epilog=example(
        "cconvnet plot runs/first",
        "cconvnet plot curve runs/first runs/second --x seconds --out both.svg",
        "cconvnet plot curve runs/first --follow",
    )
)
def curve(
    run: Annotated[list[Path], typer.Argument(help="Folders of runs, drawn over each other.", metavar="RUN")],
    x: Annotated[
        str, typer.Option("--x", help="Horizontal axis: epoch, step, or seconds of training.", metavar="NAME")
    ] = "epoch",
    smooth: Annotated[
        int | None,
        typer.Option(
            help="Average training values over N log lines; 1 for no averaging. Chosen automatically if not "
            "given.",
            metavar="N",
            callback=whole(),
        ),
    ] = None,
    log: Annotated[
        bool | None,
        typer.Option(
            "--log/--linear",
            help="Axis of the loss; logarithmic if the loss falls far, if not given.",
            show_default=False,
        ),
    ] = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Redraw as the logs grow, until the runs are complete."),
    ] = False,
    out: OnePicture = None,
) -> None:
    """Draw training curves: loss and errors, with changes of the learning rate and the best epoch.

    Without --out, a picture of several runs is written to the working directory.
    """
    from cconvnet import plots, runs

    folders = [runs.folder_of(path) for path in run]
    how = plots.Curves(x=x, smooth=smooth, log=log)
    target = out or (folders[0] / "curve.png" if len(folders) == 1 else Path("curves.png"))
    plots.check(target)
    if not follow:
        plots.curve(folders, target, how)
    else:
        try:
            plots.follow(folders, target, how, say=lambda text: print(text, flush=True))
        except KeyboardInterrupt:
            return
    print(target)


@app.command(
    epilog=example(
        "cconvnet plot filters runs/first", "cconvnet plot filters runs/first --layer conv2 --scale shared"
    )
)
def filters(
    run: RunFolder,
    layer: Annotated[
        str | None, typer.Option(help="Convolution to draw; the first if not given.", metavar="NAME")
    ] = None,
    scale: Annotated[
        str,
        typer.Option(
            help="Range of brightness. own: of each filter. shared: of all filters.", metavar="NAME"
        ),
    ] = "own",
    best: Best = False,
    out: OnePicture = None,
) -> None:
    """Draw the filters of a layer: in colour and by tower for the first, by channel for a deeper one."""
    from cconvnet import plots, runs

    target = out or runs.folder_of(run) / "filters.png"
    plots.check(target)
    plots.filters(run, target, layer, scale, best)
    print(target)


@app.command(
    epilog=example(
        "cconvnet plot predictions runs/first",
        "cconvnet plot predictions runs/first --picture cat.jpg --picture dog.png --out mine.png",
    )
)
def predictions(
    run: RunFolder,
    data: Data = None,
    images: Annotated[
        int, typer.Option(help="Number of test images, right and wrong ones.", metavar="N", callback=whole())
    ] = 8,
    picture: Annotated[
        list[Path] | None,
        typer.Option(help="JPEG or PNG file to show instead; may be given several times.", metavar="FILE"),
    ] = None,
    among: Annotated[
        int,
        typer.Option(
            help="Number of training images to search for the nearest.", metavar="N", callback=whole()
        ),
    ] = 2000,
    device: DeviceNames = None,
    precision: RunPrecision = None,
    best: Best = False,
    out: OnePicture = None,
) -> None:
    """Draw pictures with their five most probable classes and the nearest training images.

    Nearness is measured in the last hidden layer. Unreadable pictures are listed and skipped; the exit code
    is then 1.
    """
    from cconvnet import plots, runs
    from cconvnet.console import reporter
    from cconvnet.data import DataError
    from cconvnet.evaluate import load_trained, not_turned
    from cconvnet.plots import analysis

    target = out or runs.folder_of(run) / "predictions.png"
    plots.check(target)
    unread: list[DataError] = []
    trained = load_trained(run, devices=device_names(device), batch=64, best=best, precision=precision)
    if note := not_turned(picture or [], trained.preprocessing):
        print(f"note: {note}", file=sys.stderr)
    with reporter(sys.stderr) as report:
        look = analysis.look(
            trained,
            analysis.open_test(trained, data),
            images=images,
            pictures=picture or (),
            among=among,
            unread=unread.append,
            stepped=report.counted("processing images"),
        )
        report.end()
    title, about = analysis.headline(trained)
    plots.predictions(look, target, title, about if picture else f"{about}; the right class in orange")
    print(target)
    for error in unread:
        print(f"error: {error}", file=sys.stderr)
    if unread:
        raise typer.Exit(1)


@app.command(
    epilog=example(
        "cconvnet plot activations runs/first",
        "cconvnet plot activations runs/first --picture cat.jpg --layer pool1",
    )
)
def activations(
    run: RunFolder,
    picture: Annotated[
        Path | None,
        typer.Option(help="JPEG or PNG file; the first test image if not given.", metavar="FILE"),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(
            help="Layer of which all maps are drawn; some maps of every convolution if not given.",
            metavar="NAME",
        ),
    ] = None,
    data: Data = None,
    device: DeviceNames = None,
    precision: RunPrecision = None,
    best: Best = False,
    out: OnePicture = None,
) -> None:
    """Draw the feature maps of a run's convolutions for one picture, brightest first."""
    from cconvnet import plots, runs
    from cconvnet.evaluate import load_trained, not_turned
    from cconvnet.plots import analysis

    target = out or runs.folder_of(run) / "activations.png"
    plots.check(target)
    trained = load_trained(run, devices=device_names(device), batch=1, best=best, precision=precision)
    if note := not_turned([picture] if picture else [], trained.preprocessing):
        print(f"note: {note}", file=sys.stderr)
    name, image = analysis.one_image(trained, picture, data)
    maps = analysis.feature_maps(trained, image, layer)
    title, about = analysis.headline(trained)
    plots.activations(analysis.center(trained, image), maps, target, title, f"{about}: {name}")
    print(target)


app.command("features", epilog=example("cconvnet plot features runs/first --layer conv3 --channels 16"))(
    plot_features
)
app.command(
    "map", epilog=example("cconvnet plot map runs/first", "cconvnet plot map runs/first --method tsne")
)(plot_map)
app.command(
    epilog=example("cconvnet plot why runs/first cat.jpg", "cconvnet plot why runs/first cat.jpg --class dog")
)(why)
app.command(
    epilog=example(
        "cconvnet plot timeline runs/first",
        "cconvnet plot timeline --net alexnet --device cpu:0,cpu:1 --batch 16 --trace step.json",
        "mpiexec -n 4 cconvnet plot timeline --net alexnet --batch 128",
    )
)(timeline)
