"""The commands ``cconvnet bench ...``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cconvnet.cli.options import (
    Batch,
    Crop,
    DeviceNames,
    Json,
    LayerDef,
    LayerParams,
    OptionalNet,
    Places,
    Plot,
    Precision,
    Size,
    check_can_write,
    device_names,
    example,
    parsed_places,
    print_table,
    write_json,
)

app = typer.Typer(help="Measure how fast this machine computes.", no_args_is_help=False)


@app.callback(invoke_without_command=True)
def bench_level(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command(
    "step", epilog=example("cconvnet bench step --net alexnet --batch 128 --device cpu:0 --json step.json")
)
def bench_step(
    net: OptionalNet = None,
    layer_def: LayerDef = None,
    layer_params: LayerParams = None,
    crop: Crop = None,
    device: DeviceNames = None,
    place: Places = None,
    precision: Precision = None,
    batch: Batch = None,
    size: Size = None,
    steps: Annotated[int, typer.Option(help="Timed steps.", metavar="N")] = 20,
    warmup: Annotated[int, typer.Option(help="Untimed steps before them.", metavar="N")] = 3,
    peer: Annotated[bool, typer.Option("--peer/--no-peer", help="Also time PyTorch's step.")] = True,
    forms: Annotated[
        str | None,
        typer.Option(
            help="PyTorch's forms, such as nchw,channels_last+compiled: nchw or channels_last, and with a + "
            "lrn_by_hand, compiled, graph. Without it those that may be the fastest.",
            metavar="FORMS",
        ),
    ] = None,
    to_json: Json = None,
    plot: Plot = None,
) -> None:
    """Time whole training steps on random images, against PyTorch's: load, forward, backward, update."""
    from cconvnet import plots
    from cconvnet.bench import pictures
    from cconvnet.bench import step as bench
    from cconvnet.formats.netfiles import chosen
    from cconvnet.report import reporter

    wanted = chosen(net, layer_def, layer_params, crop) or "lenet"
    for file in (to_json, plot):
        check_can_write(file)
    if plot:
        plots.check(plot)
    with reporter(sys.stderr if to_json == "-" else sys.stdout) as report:
        report.begin("steps", warmup + steps)
        result = bench.step(
            wanted,
            devices=device_names(device),
            batch=batch,
            precision=precision,
            size=size,
            places=parsed_places(place),
            steps=steps,
            warmup=warmup,
            peer=bench.PYTORCH if peer else None,
            forms=None if forms is None else [form.strip() for form in forms.split(",")],
            say=report.say,
            stepped=lambda done: report.step(done, "steps", f"{done}/{warmup + steps}"),
            found=lambda so_far: None if to_json in (None, "-") else write_json(str(to_json), so_far),
        )
        report.end()
        report.say(
            f"{result['net']}, batch {result['batch']}, {result['precision']}, {result['device']} "
            f"({result['device_reason']})"
        )
    if to_json:
        write_json(to_json, result)
    if plot:
        pictures.step_bars(result, plot)
    if to_json != "-":
        columns, rows = bench.table(result)
        print_table("", columns, rows, set(columns) - {"side", "form"})
        for line in bench.verdict(result):
            print(line)
