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
    Precision,
    Size,
    device_names,
    example,
    parsed_places,
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
    to_json: Json = None,
) -> None:
    """Time whole training steps on random images: load, forward, backward, update."""
    from cconvnet.bench.step import step
    from cconvnet.formats.netfiles import chosen
    from cconvnet.report import reporter

    wanted = chosen(net, layer_def, layer_params, crop) or "lenet"
    with reporter(sys.stderr if to_json == "-" else sys.stdout) as report:
        report.begin("steps", warmup + steps)
        result = step(
            wanted,
            devices=device_names(device),
            batch=batch,
            precision=precision,
            size=size,
            places=parsed_places(place),
            steps=steps,
            warmup=warmup,
            stepped=lambda done: report.step(done, "steps", f"{done}/{warmup + steps}"),
        )
        report.end()
        report.say(
            f"{result['net']}, batch {result['batch']}, {result['precision']}, {result['device']} "
            f"({result['device_reason']})\n"
            f"median step {1e3 * result['step_seconds']:,.2f} ms, fastest "
            f"{1e3 * result['step_seconds_min']:,.2f} ms, {result['images_per_second']:,.1f} images/s, "
            f"peak memory {result['peak_rss_bytes'] / 1e6:,.0f} MB"
        )
    if to_json:
        write_json(to_json, result)
