"""The command ``cconvnet profile``, which predicts what binds each kernel on a GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cconvnet.cli.options import (
    Batch,
    Crop,
    Json,
    LayerDef,
    LayerParams,
    MeasuredNet,
    Plot,
    Precision,
    Size,
    print_table,
    reporter_for,
    whole,
    write_json,
)


def profile(
    net: MeasuredNet = None,
    layer_def: LayerDef = None,
    layer_params: LayerParams = None,
    crop: Crop = None,
    batch: Batch = None,
    precision: Precision = None,
    size: Size = None,
    layer: Annotated[
        str,
        typer.Option(
            help="Layers, separated by commas, with wildcards. All if not given.", metavar="PATTERNS"
        ),
    ] = "",
    part: Annotated[
        str,
        typer.Option(
            "--pass",
            help="Passes: fprop, dgrad, wgrad, forward, backward, update. All if not given.",
            metavar="PATTERNS",
        ),
    ] = "",
    arch: Annotated[
        str, typer.Option(help="Architecture of the GPU: sm_90a, sm_80 or sm_120.", metavar="NAME")
    ] = "sm_90a",
    impl: Annotated[
        str, typer.Option(help="Row of the selection tables to profile where it serves.", metavar="NAME")
    ] = "",
    blocks: Annotated[
        int, typer.Option(help="Blocks of each launch that are counted.", metavar="N", callback=whole())
    ] = 2,
    runners_up: Annotated[
        bool, typer.Option("--runners-up/--no-runners-up", help="Predict the row that would be next, too.")
    ] = True,
    constants: Annotated[
        Path | None,
        typer.Option(help="File of constants of the model, in place of the package's.", metavar="FILE"),
    ] = None,
    objects: Annotated[
        Path | None,
        typer.Option(
            help="Folder of nvcc's objects to profile. If not given: the checkout's, else what the package "
            "knows of its kernels.",
            metavar="FOLDER",
        ),
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(
            help="Result of `bench kernels --json` or `bench step --json` on the GPU, or a file of such "
            "lines in a report of `make gpu-report`. Adds what was measured and the model's error.",
            metavar="FILE",
        ),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Compare two results of --json and do nothing else.", metavar="FILE FILE"),
    ] = None,
    to_json: Json = None,
    plot: Plot = None,
) -> None:
    """Predict what binds each kernel of a training step on a GPU, and its time. No GPU is needed.

    Registers, instructions, blocks, memory sectors and bank conflicts are exact: from machine code, and
    counted in the emulator. Cycles and times are a model's. With --layer and --pass each kernel is shown in
    detail.
    """
    from cconvnet.bench.cases import chosen_net
    from cconvnet.profile import measure, tables
    from cconvnet.profile.result import profile as profiled

    if compare is not None:
        before, after = compare
        _compare(_loaded(before), _loaded(after), to_json)
        return
    wanted = chosen_net(net, layer_def, layer_params, crop)
    observe = _observer(blocks, arch, constants)
    with reporter_for(to_json) as report:

        def stepped(done: int, total: int) -> None:
            if done == 0:
                report.begin("operations", total)
            report.step(done, "operations")

        result = profiled(
            wanted,
            batch=batch,
            precision=precision or "fp32",
            size=size,
            arch=arch,
            layer=layer,
            part=part,
            impl=impl,
            constants=constants,
            objects=objects,
            observe=observe,
            runners_up=runners_up,
            by_line=bool(layer and part),
            stepped=stepped,
        )
        report.end()
    if measured is not None:
        measure.add(result, measure.load(measured, result))
    if to_json:
        write_json(to_json, result)
    if plot is not None:
        from cconvnet.profile.picture import draw

        draw(result, plot)
    if to_json == "-":
        return
    if layer and part:
        for row in result["kernels"]:
            print(*tables.kernel_lines(row), "", sep="\n")
    else:
        print_table("", *tables.step_table(result), tables.NUMBERS, tables.WIDTHS)
    print(*tables.step_lines(result), sep="\n")


def _observer(blocks: int, arch: str, constants: Path | None) -> Any:
    """Return what counts launches; None, after a line that says why, if the counting emulator is missing."""
    from cconvnet.errors import DeviceUnavailable
    from cconvnet.profile.chips import chip_of
    from cconvnet.profile.walk import observer

    multiprocessors = int(chip_of(arch, constants)["multiprocessors"])
    try:
        return observer(blocks, multiprocessors)
    except DeviceUnavailable as error:
        print(f"nothing is counted or predicted: {error}", file=sys.stderr)
        return None


def _loaded(path: Path) -> dict[str, Any]:
    """Return a result that a command wrote."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(value, dict) or "what" not in value:
        raise ValueError(f"{path} is no result of a command of cconvnet")
    return value


def _compare(before: dict[str, Any], after: dict[str, Any], to_json: str | None) -> None:
    from cconvnet.profile import tables

    for result in (before, after):
        if result["what"] != "profile":
            raise ValueError(
                f"--compare needs two results of `cconvnet profile`, not one of {result['what']}"
            )
    header, rows = tables.compare_table(before, after)
    if to_json:
        write_json(to_json, {"what": "profile comparison", "columns": header, "rows": rows})
    if to_json != "-":
        print_table("", header, rows, tables.NUMBERS, tables.WIDTHS)
        print(*tables.compare_lines(before, after), sep="\n")
