"""The commands ``cconvnet bench scaling`` and ``bench exchange``: growth with batches, images and ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cconvnet.checks import is_number
from cconvnet.cli.options import (
    Exchange,
    Json,
    OneDevice,
    OptionalNet,
    Parallel,
    Plot,
    Precision,
    Wire,
    check_pictures,
    device_names,
    keep_json,
    measured_on,
    print_table,
    reporter_for,
    whole,
    write_json,
)
from cconvnet.cli.options import seconds as check_seconds

_UNITS = {"K": 2**10, "M": 2**20}


def bench_scaling(
    net: OptionalNet = None,
    device: OneDevice = None,
    precision: Precision = None,
    batch_max: Annotated[
        int | None,
        typer.Option(
            help="Largest batch; the largest that fits if not given.", metavar="N", callback=whole()
        ),
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(
            help="Sides of stored images in pixels, such as 64,96,128; from half to twice the network's own "
            "if not given.",
            metavar="PIXELS,...",
        ),
    ] = None,
    ranks: Annotated[
        bool,
        typer.Option(
            "--ranks",
            help="Predict the speed of 1 to 64 ranks instead, from the measured steps of one. The link "
            "between ranks is measured if mpiexec started several.",
        ),
    ] = False,
    batch: Annotated[
        int | None,
        typer.Option(
            help="With --ranks: images for each rank of weak scaling, and for all of strong scaling; the "
            "network's own if not given.",
            metavar="N",
            callback=whole(),
        ),
    ] = None,
    link: Annotated[
        str | None,
        typer.Option(
            help="With --ranks: bandwidth of the link in GB/s, or a file that bench exchange wrote.",
            metavar="GB/S",
        ),
    ] = None,
    wire: Wire = None,
    exchange: Exchange = None,
    parallel: Parallel = None,
    seconds: Annotated[
        float,
        typer.Option(
            help="Seconds for the whole measurement; points that would take too long are skipped.",
            metavar="S",
            callback=check_seconds,
        ),
    ] = 60.0,
    to_json: Json = None,
    plot: Plot = None,
) -> None:
    """Time training steps at growing batches and image sizes, and fit the growth of time and memory.

    With --ranks: predict the efficiency of training on several ranks. Only the steps of one rank are
    measured, and the link if several ranks run this.
    """
    way = {"wire": wire, "exchange": exchange, "parallel": parallel}
    of_ranks = {"--batch": batch, "--link": link, **{f"--{name}": value for name, value in way.items()}}
    of_growth = {"--batch-max": batch_max, "--sizes": sizes}
    for name, value in (of_growth if ranks else of_ranks).items():
        if value is not None:
            raise ValueError(f"{name} cannot be given {'with' if ranks else 'without'} --ranks")
    check_pictures(plot)
    if ranks:
        options = {"batch": batch, "precision": precision, **way}
        _predict_ranks(net or "lenet", device, _link(link), seconds, options, to_json, plot)
        return
    from cconvnet.bench import scaling

    with reporter_for(to_json) as report:

        def measured(result: dict[str, Any], what: str) -> None:
            report.say(what)
            keep_json(to_json, result)

        result = scaling.scaling(
            net or "lenet",
            device=device,
            precision=precision,
            batch_max=batch_max,
            sizes=_numbers("--sizes", sizes),
            seconds=seconds,
            measured=measured,
        )
    if to_json != "-":
        print(f"{result['net']}, {result['precision']}, {measured_on(result)}")
        for series in ("batch", "size"):
            header, rows = scaling.table(result, series)
            print_table("", header, rows, set(header))
            for line in scaling.verdict(result, series):
                print(line)
    if to_json:
        write_json(to_json, result)
    if plot:
        from cconvnet.bench import charts

        charts.scaling(result, plot)


def _predict_ranks(
    net: str,
    device: str | None,
    link: float | Path | None,
    seconds: float,
    options: dict[str, Any],
    to_json: str | None,
    plot: Path | None,
) -> None:
    from cconvnet.bench import rank_scaling
    from cconvnet.ranks import join

    world = join()
    with reporter_for(to_json, quiet=not world.first) as report:
        result = rank_scaling.rank_scaling(
            net,
            world=world,
            devices=device_names(device),
            link=link,
            seconds=seconds,
            say=report.say,
            **options,
        )
    world.close()
    if world.first:
        _show(rank_scaling, result, to_json, ("link", "scaling"))
        if plot:
            from cconvnet.bench import rank_charts

            rank_charts.ranks(result, plot)


def bench_exchange(
    device: OneDevice = None,
    sizes: Annotated[
        str | None,
        typer.Option(
            help="Bytes of gradients, such as 4K,1M,243900000 (K: 1,024; M: 1,024 K); from 4K to 256M by "
            "factors of 4 if not given.",
            metavar="BYTES,...",
        ),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(
            help="Seconds for each size and algorithm, in turns.", metavar="S", callback=check_seconds
        ),
    ] = 1.0,
    to_json: Json = None,
    plot: Plot = None,
) -> None:
    """Time exchanges of gradients between ranks by size: training's own, and MPI's, side by side.

    Several processes run it together: mpiexec -n 2 cconvnet bench exchange. The sums are checked first.
    """
    from cconvnet.bench import exchange as bench
    from cconvnet.ranks import join

    check_pictures(plot)
    chosen = bench.SIZES if sizes is None else _numbers("--sizes", sizes, _UNITS) or ()
    world = join()
    with reporter_for(to_json, quiet=not world.first) as report:
        report.begin("sizes", len(chosen))

        def measured(result: dict[str, Any]) -> None:
            report.step(len({row["bytes"] for row in result["rows"]}), "sizes")
            if world.first:
                keep_json(to_json, result)

        result = bench.exchange(
            world, devices=device_names(device), sizes=chosen, seconds=seconds, measured=measured
        )
        report.end()
    world.close()
    if world.first:
        _show(bench, result, to_json, ())
        if plot:
            from cconvnet.bench import rank_charts

            rank_charts.exchange(result, plot)


def _show(bench: Any, result: dict[str, Any], to_json: str | None, left: tuple[str, ...]) -> None:
    """Print a result and write it; the columns in `left` are texts."""
    if to_json != "-":
        print(bench.headline(result))
        header, rows = bench.table(result)
        print_table("", header, rows, set(header) - set(left))
        print(*bench.verdict(result), sep="\n")
    if to_json:
        write_json(to_json, result)


def _link(text: str | None) -> float | Path | None:
    """Read the text of --link: a number, or a file."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return Path(text)


def _numbers(option: str, text: str | None, units: dict[str, int] | None = None) -> list[int] | None:
    """Read whole numbers separated by commas, each with a unit or without."""
    if text is None:
        return None
    found = []
    for part in (part.strip() for part in text.split(",")):
        unit = (units or {}).get(part[-1:].upper(), 1)
        digits = part if unit == 1 else part[:-1]
        if not is_number(digits):
            raise ValueError(f"{option} must be whole numbers separated by commas, not {text!r}")
        found.append(unit * int(digits))
    return found
