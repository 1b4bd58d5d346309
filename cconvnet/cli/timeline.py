"""The command ``cconvnet plot timeline``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cconvnet import nets
from cconvnet.cli.options import (
    Batch,
    DeviceNames,
    Json,
    Places,
    Precision,
    ShardExchange,
    ShardParallel,
    ShardReduction,
    Shards,
    ShardWire,
    Size,
    device_names,
    parsed_places,
    whole,
    write_json,
)
from cconvnet.system.outputs import check_output
from cconvnet.training.options import Options

if TYPE_CHECKING:
    from cconvnet.network import Network
    from cconvnet.ranks import World


def timeline(
    run: Annotated[
        Path | None,
        typer.Argument(help="Run whose network, batch, shards and precision are used.", metavar="RUN"),
    ] = None,
    net: Annotated[
        str | None,
        typer.Option(
            help=f"Network to trace instead of a run's: {', '.join(nets.NAMES)}; or a file: .py, .json, "
            ".onnx, .prototxt.",
            metavar="NAME",
        ),
    ] = None,
    device: DeviceNames = None,
    place: Places = None,
    precision: Precision = None,
    batch: Batch = None,
    shards: Shards = None,
    wire: ShardWire = None,
    reduction: ShardReduction = None,
    exchange: ShardExchange = None,
    parallel: ShardParallel = None,
    size: Size = None,
    steps: Annotated[int, typer.Option(help="Number of traced steps.", metavar="N", callback=whole())] = 5,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File of the picture; timeline.png in the run or the working directory if not given.",
            metavar="FILE",
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Write the step to this file as trace events, which ui.perfetto.dev opens.", metavar="FILE"
        ),
    ] = None,
    to_json: Json = None,
) -> None:
    """Draw the time of a training step: each layer's passes, updates, and copies between devices.

    Steps use random images, and the run is not changed. The picture shows the median of several steps.

    Several processes draw one step together: mpiexec -n 4 cconvnet plot timeline RUN. The picture has the
    exchanges of each rank, and which rank it waits for.
    """
    from cconvnet import plots, runs
    from cconvnet.console import reporter
    from cconvnet.network import rank_tracing, tracing
    from cconvnet.ranks import join

    if (run is None) == (net is None):
        raise ValueError("one of the two is needed: a run's folder, or --net")
    options = Options(
        batch=batch, shards=shards, wire=wire, reduction=reduction, exchange=exchange, parallel=parallel
    )
    options.check()
    names = device_names(device)
    target = out or (Path() if run is None else runs.folder_of(run)) / "timeline.png"
    world, job = join(), None
    if world.first:
        if trace is not None:
            check_output(trace, "json")
        job = _job(run, net, options, precision, size, parsed_places(place), world)
        plots.check(target)
    network = _network(world.broadcast(job), names, world)
    warmup = 2
    with reporter(sys.stderr, quiet=not world.first) as report:
        report.begin("steps", warmup + 2 * steps)

        def stepped(done: int) -> None:
            report.step(done, "steps", f"{done}/{warmup + 2 * steps}")

        found: tracing.Record | rank_tracing.RanksRecord
        if world.size == 1:
            found = tracing.record(network, steps, warmup, stepped)
        else:
            found = rank_tracing.record(network, steps, warmup, stepped)
    world.close()
    if not world.first:
        return
    if isinstance(found, tracing.Record):
        said = plots.timeline(found, target)
    else:
        said = plots.rank_timeline(found, target)
    if trace is not None:
        write_json(str(trace), found.chrome_trace())
    if to_json:
        write_json(to_json, found.to_dict())
    if to_json != "-":
        print(said)
        print(target)


def _job(
    run: Path | None,
    net: str | None,
    options: Options,
    precision: str | None,
    size: int | None,
    places: dict[str, int | str] | None,
    world: World,
) -> dict[str, Any]:
    """Return what all ranks must know to build a network, as JSON values."""
    from cconvnet import runs
    from cconvnet.formats.networks import build_spec
    from cconvnet.training.preparation import check_shards

    settings: dict[str, Any] = {}
    device, batch = None, options.batch
    chosen: Any = net
    if run is not None:
        config = runs.read_config(runs.folder_of(run))
        if size is not None:
            raise ValueError("--size goes with --net; a run has its own size")
        settings, device, chosen = config["settings"], config["device"], nets.spec_from_dict(config["spec"])
        batch = settings["batch"] if batch is None else batch
    spec, batch = build_spec(chosen, batch, precision, size, places)
    own = settings.get("shards", 1)
    shards = options.shards or (own if own > 1 else world.size)
    check_shards(shards, world)
    if options.batch is not None and batch % shards:
        raise ValueError(f"--batch {batch:,} must be a multiple of --shards {shards:,}")
    return {
        "spec": nets.spec_to_dict(spec),
        "precision": precision or settings.get("precision", "fp32"),
        "towers": settings.get("towers"),
        "device": device,
        "batch": max(batch // shards, 1),
        "shards": shards,
        "wire": options.wire or settings.get("wire", "fp32"),
        "reduction": options.reduction or settings.get("reduction", "tree"),
        "exchange": options.exchange or settings.get("exchange", "auto"),
        "parallel": options.parallel or settings.get("parallel", "data"),
    }


def _network(job: dict[str, Any], names: list[str] | None, world: World) -> Network:
    """Build the network of this rank, and connect it with those of the others."""
    from cconvnet.devices import devices_of
    from cconvnet.network import Network
    from cconvnet.ranks.cores import divide_cores, own_devices
    from cconvnet.ranks.shares import Share

    divide_cores(world)
    if names is None and job["device"] is not None and (world.size == 1 or "cuda" not in job["device"]):
        names = job["device"].split(",")  # of several ranks each has a GPU of its own
    devices = [device.name for device in devices_of(own_devices(names, world))]
    share = None
    if job["shards"] > 1:
        how = {name: job[name] for name in ("wire", "reduction", "exchange", "parallel")}
        share = Share(world, job["shards"], **how)
    towers = job["towers"]
    network = Network(
        nets.spec_from_dict(job["spec"]),
        batch=job["batch"],
        devices=devices,
        towers=None if towers is None else max(towers, len(devices)),
        precision=job["precision"],
        share=share,
    )
    network.connect()
    return network
