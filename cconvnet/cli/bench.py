"""The commands ``cconvnet bench ...``, which measure speed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cconvnet.cli.help import App
from cconvnet.cli.options import (
    Batch,
    Crop,
    Data,
    DeviceNames,
    Json,
    LayerDef,
    LayerParams,
    MeasuredNet,
    OneDevice,
    OptionalNet,
    Places,
    Plot,
    Precision,
    Size,
    Workers,
    check_pictures,
    checked_picture,
    device_names,
    example,
    keep_json,
    measured_on,
    parsed_places,
    print_table,
    reporter_for,
    whole,
    write_json,
)
from cconvnet.cli.options import seconds as check_seconds
from cconvnet.cli.scaling import bench_exchange, bench_scaling
from cconvnet.system.outputs import check_folder

app = App(help="Measure speed: kernels, training steps, data and checkpoints.", no_args_is_help=False)


@app.callback(invoke_without_command=True)
def bench_level(context: typer.Context) -> None:
    """Print the help if there is no command."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command(
    "kernels",
    epilog=example(
        "cconvnet bench kernels --net alexnet --json kernels.json --plot kernels.png",
        "cconvnet bench kernels --net vgg16 --batch 8 --only conv2_*,fc6 --device cpu:0",
    ),
)
def bench_kernels(
    net: MeasuredNet = None,
    layer_def: LayerDef = None,
    layer_params: LayerParams = None,
    crop: Crop = None,
    device: OneDevice = None,
    batch: Annotated[
        int | None,
        typer.Option(
            help="Images in the batch. If not given: 128 on a GPU, as many as suit the network on a CPU.",
            metavar="N",
            callback=whole(),
        ),
    ] = None,
    precision: Precision = None,
    size: Size = None,
    only: Annotated[
        str | None,
        typer.Option(
            help="Layers or passes, separated by commas, with wildcards: conv2,wgrad,lrn*. All if not given.",
            metavar="PATTERNS",
        ),
    ] = None,
    impl: Annotated[
        str | None,
        typer.Option(
            help="Measure this kernel instead of the one that the selection table chooses.", metavar="NAME"
        ),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(
            help="Seconds of computation for each side of each row.", metavar="S", callback=check_seconds
        ),
    ] = 1.0,
    peers: Annotated[
        str | None,
        typer.Option(
            help="Libraries to compare with, separated by commas: cudnn and pytorch on a GPU, otherwise "
            "pytorch. All if not given.",
            metavar="NAMES",
        ),
    ] = None,
    no_peer: Annotated[bool, typer.Option("--no-peer", help="Compare with no other library.")] = False,
    verify: Annotated[
        str | None,
        typer.Option(
            help="Check of results. full: compare with the host. finite: all elements are written and "
            "finite. If not given: finite on a GPU, otherwise full.",
            metavar="HOW",
        ),
    ] = None,
    to_json: Json = None,
    plot: Plot = None,
) -> None:
    """Time every layer and pass of a network against cuDNN's and PyTorch's kernels.

    Layers with the same problem are timed once. Results are checked first. If one of this library is wrong,
    its error is shown instead of its time, and the exit code is 1.
    """
    from cconvnet.bench.cases import Case, chosen_net
    from cconvnet.bench.kernels import Table, failed, kernels, peers_for
    from cconvnet.devices import get_device

    if no_peer and peers is not None:
        raise ValueError("--no-peer and --peers exclude each other")
    wanted = chosen_net(net, layer_def, layer_params, crop)
    chosen_peers = peers_for(get_device(device).kind, [] if no_peer else device_names(peers))
    check_pictures(plot)
    table: Table
    with reporter_for(to_json) as report:

        def begun(result: dict[str, Any], cases: list[Case]) -> None:
            nonlocal table
            table = Table(result, [case.label for case in cases])
            for line in table.head():
                report.say(line)
            report.begin("kernels", len(cases))

        def measured(result: dict[str, Any], row: dict[str, Any]) -> None:
            for line in table.row(row):
                report.say(line)
            report.step(len(result["rows"]), "kernels")
            keep_json(to_json, result)

        result = kernels(
            wanted,
            device=device,
            batch=batch,
            precision=precision,
            size=size,
            only=only,
            impl=impl,
            seconds=seconds,
            peers=chosen_peers,
            verify=verify,
            begun=begun,
            measured=measured,
        )
        report.end()
        for line in table.foot():
            report.say(line)
    if to_json:
        write_json(to_json, result)
    if plot:
        from cconvnet.bench.charts import kernel_bars

        kernel_bars(result, plot)
    if failed(result):
        raise typer.Exit(1)


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
    steps: Annotated[int, typer.Option(help="Number of timed steps.", metavar="N", callback=whole())] = 20,
    warmup: Annotated[
        int, typer.Option(help="Number of untimed steps before them.", metavar="N", callback=whole(0))
    ] = 3,
    peer: Annotated[bool, typer.Option("--peer/--no-peer", help="Also time PyTorch's step.")] = True,
    forms: Annotated[
        str | None,
        typer.Option(
            help="Forms of PyTorch's step, such as nchw,channels_last+compiled. Each is nchw or "
            "channels_last, followed by any of +lrn_by_hand, +compiled, +graph, +bf16_model, and +fp32, "
            "+tf32 or +bf16 for another precision than --precision. If not given: those that may be the "
            "fastest, in --precision and in fp32.",
            metavar="FORMS",
        ),
    ] = None,
    to_json: Json = None,
    plot: Plot = None,
) -> None:
    """Time training steps on random images against PyTorch's: load, forward, backward, update."""
    from cconvnet.bench import charts
    from cconvnet.bench import step as bench
    from cconvnet.formats.netfiles import chosen, resolve

    wanted = chosen(net, layer_def, layer_params, crop) or resolve("lenet")
    check_pictures(plot)
    with reporter_for(to_json) as report:
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
            found=lambda result: keep_json(to_json, result),
        )
        report.end()
        report.say(
            f"{result['net']}, batch {result['batch']}, {result['precision']}, {result['device']} "
            f"({result['device_reason']})"
        )
    if to_json != "-":
        columns, rows = bench.table(result)
        print_table("", columns, rows, set(columns) - {"side", "form"})
        for line in bench.verdict(result):
            print(line)
    if to_json:
        write_json(to_json, result)
    if plot:
        charts.step_bars(result, plot)


@app.command(
    "roofline",
    epilog=example(
        "cconvnet bench roofline --net alexnet --json roofline.json --plot roofline.png --stack step.png"
    ),
)
def bench_roofline(
    net: OptionalNet = None,
    layer_def: LayerDef = None,
    layer_params: LayerParams = None,
    crop: Crop = None,
    device: DeviceNames = None,
    place: Places = None,
    precision: Precision = None,
    batch: Batch = None,
    size: Size = None,
    steps: Annotated[
        int,
        typer.Option(
            help="Number of steps with timed operations, and of steps without.",
            metavar="N",
            callback=whole(),
        ),
    ] = 10,
    warmup: Annotated[
        int, typer.Option(help="Number of untimed steps before them.", metavar="N", callback=whole(0))
    ] = 2,
    to_json: Json = None,
    plot: Plot = None,
    stack: Annotated[
        Path | None,
        typer.Option(
            "--stack",
            help="Draw the shares of the step's time to this file.",
            metavar="FILE",
            callback=checked_picture,
        ),
    ] = None,
) -> None:
    """Time every operation within training steps against the limits measured on this device."""
    from cconvnet.bench import roofline
    from cconvnet.formats.netfiles import chosen, resolve

    wanted = chosen(net, layer_def, layer_params, crop) or resolve("lenet")
    check_pictures(plot, stack)
    total = warmup + 2 * steps
    with reporter_for(to_json) as report:
        report.begin("steps", total)
        result = roofline.roofline(
            wanted,
            devices=device_names(device),
            batch=batch,
            precision=precision,
            size=size,
            places=parsed_places(place),
            steps=steps,
            warmup=warmup,
            stepped=lambda done: report.step(done, "steps", f"{done}/{total}"),
            found=lambda result: keep_json(to_json, result),
        )
        report.end()
    if to_json != "-":
        print(f"{result['net']}, batch {result['batch']}, {result['precision']}, {measured_on(result)}")
        header, rows = roofline.table(result)
        print_table("", header, rows, set(header) - {"layer", "device", "pass", "operation", "kernel"})
        print(*roofline.verdict(result), sep="\n")
    if to_json:
        write_json(to_json, result)
    if plot or stack:
        from cconvnet.bench import charts

        if plot:
            charts.roofline(result, plot)
        if stack:
            charts.step_stack(result, stack)


app.command(
    "scaling",
    epilog=example(
        "cconvnet bench scaling --net alexnet --seconds 120 --json scaling.json --plot scaling.png",
        "mpiexec -n 2 cconvnet bench scaling --ranks --net alexnet --batch 128",
        "cconvnet bench scaling --ranks --net alexnet --batch 128 --link exchange.json",
    ),
)(bench_scaling)
app.command(
    "exchange",
    epilog=example("mpiexec -n 2 cconvnet bench exchange --json exchange.json --plot exchange.png"),
)(bench_exchange)


@app.command("checkpoint", epilog=example("cconvnet bench checkpoint --net alexnet --json checkpoint.json"))
def bench_checkpoint(
    net: OptionalNet = None,
    layer_def: LayerDef = None,
    layer_params: LayerParams = None,
    crop: Crop = None,
    device: DeviceNames = None,
    precision: Precision = None,
    batch: Batch = None,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder on the disk to measure; all files are removed at the end.", metavar="FOLDER"
        ),
    ] = Path(),
    steps: Annotated[
        int, typer.Option(help="Number of timed steps without a checkpoint.", metavar="N", callback=whole())
    ] = 5,
    saves: Annotated[int, typer.Option(help="Number of checkpoints.", metavar="N", callback=whole())] = 5,
    to_json: Json = None,
) -> None:
    """Time checkpoints during training: the pause of the training and the duration of the write."""
    from cconvnet.bench import checkpoint as bench
    from cconvnet.formats.netfiles import chosen, resolve

    if not out.is_dir():
        raise ValueError(f"--out {out} is not a folder")
    check_folder(out)
    with reporter_for(to_json) as report:
        report.begin("steps and checkpoints", steps + saves)
        result = bench.checkpoint(
            chosen(net, layer_def, layer_params, crop) or resolve("lenet"),
            devices=device_names(device),
            batch=batch,
            precision=precision,
            folder=out,
            steps=steps,
            saves=saves,
            stepped=lambda done: report.step(done, "steps and checkpoints"),
        )
        report.end()
    if to_json != "-":
        print(f"{result['net']}, batch {result['batch']}, {result['precision']}, {measured_on(result)}")
        print(*bench.lines(result), sep="\n")
    if to_json:
        write_json(to_json, result)


@app.command(
    "data", epilog=example("cconvnet bench data --data photos --net alexnet --batch 128 --json data.json")
)
def bench_data(
    net: OptionalNet = None,
    layer_def: LayerDef = None,
    layer_params: LayerParams = None,
    crop: Crop = None,
    data: Data = None,
    device: OneDevice = None,
    precision: Precision = None,
    batch: Batch = None,
    size: Size = None,
    workers: Workers = None,
    seconds: Annotated[
        float,
        typer.Option(help="Seconds for each stage, in several turns.", metavar="S", callback=check_seconds),
    ] = 10.0,
    peer: Annotated[bool, typer.Option("--peer/--no-peer", help="Also time PyTorch's DataLoader.")] = True,
    to_json: Json = None,
    plot: Plot = None,
) -> None:
    """Time decoding, loading and copying of images to the device, and find what limits training."""
    from cconvnet.bench import data as bench
    from cconvnet.formats.netfiles import chosen, resolve

    wanted = chosen(net, layer_def, layer_params, crop) or resolve("lenet")
    check_pictures(plot)
    with reporter_for(to_json) as report:
        result = bench.bench_data(
            wanted,
            data,
            device=device,
            batch=batch,
            precision=precision,
            size=size,
            workers=workers,
            seconds=seconds,
            peer=bench.PYTORCH if peer else None,
            say=report.say,
            measured=report.counted("turns"),
        )
        report.end()
    if to_json != "-":
        print(bench.headline(result))
        columns, rows = bench.table(result)
        print_table("", columns, rows, set(columns) - {"stage", "what"})
        print(*bench.verdict(result), sep="\n")
    if to_json:
        write_json(to_json, result)
    if plot:
        from cconvnet.bench import charts

        charts.data_bars(result, plot)
