"""The commands ``cconvnet describe``, ``gradcheck`` and ``augment``, which examine networks."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer

from cconvnet import nets
from cconvnet.cli.options import (
    Area,
    Batch,
    ColorNoise,
    Crop,
    Data,
    DeviceNames,
    Distort,
    Json,
    LayerDef,
    LayerParams,
    Mirror,
    OptionalNet,
    Pad,
    Places,
    Precision,
    RandomCrop,
    RandomResizedCrop,
    Size,
    Workers,
    checked_picture,
    device_names,
    parsed_places,
    print_table,
    real,
    whole,
    write_json,
)
from cconvnet.cli.options import seed as check_seed


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
        typer.Option(help="Show the differences between two networks instead.", metavar="A B"),
    ] = None,
    to_json: Json = None,
) -> None:
    """Show a network's layers: shapes, parameters, multiply-adds, devices, and the copies between devices.

    The JSON contains the network itself as "spec": the file is a network for --net.
    """
    from cconvnet.formats.netfiles import chosen, resolve
    from cconvnet.formats.networks import build_spec
    from cconvnet.nets import compare as differences
    from cconvnet.network import table
    from cconvnet.network.footprint import Plan

    if compare is not None:
        one, other = compare
        changes = differences(*(resolve(net).build_sized(size)[0] for net in compare))
        if to_json:
            keys = ("layer", "value", one, other)
            write_json(to_json, [dict(zip(keys, row, strict=True)) for row in changes])
        if to_json != "-":
            print_table("", ["layer", "value", one, other], changes, set())
        return
    wanted = chosen(net, layer_def, layer_params, crop) or resolve("lenet")
    spec, notes = wanted.build_sized(size)
    spec, count = build_spec(spec, batch, precision, None, parsed_places(place))
    network = Plan(
        spec,
        batch=count,
        devices=device_names(device),
        precision="fp32" if precision is None else precision,
    )
    description = network.describe()
    if to_json:
        write_json(to_json, description)
    if to_json == "-":
        return
    columns, rows = table(description)
    print_table("", columns, rows, {"output", "parameters", "multiply-adds"})
    print(
        f"{description['net']}: {description['parameters']:,} parameters, "
        f"{description['multiply_adds']:,} multiply-adds per image, batch {description['batch']}, "
        f"{description['precision']}, {description['device']}, {description['memory_bytes'] / 1e6:,.1f} MB"
    )
    for note in notes:
        print(note)
    for copy in description["copies"]:
        print(
            f"copy into {copy['layer']}: {copy['source']} from {copy['from']} to {copy['to']}, "
            f"{copy['bytes']:,} bytes, gradient {copy['gradient_bytes']:,} bytes"
        )
    if any(layer["type"] == "concat" for layer in description["layers"]):
        print(
            f"concatenated by copies in a training step: {description['concatenated_bytes_per_step']:,} bytes"
        )
    if description["copies"]:
        print(f"copied in a training step: {description['copied_bytes_per_step'] / 1e6:,.2f} MB")


def gradcheck(
    net: OptionalNet = None,
    layer_def: LayerDef = None,
    layer_params: LayerParams = None,
    crop: Crop = None,
    device: DeviceNames = None,
    width: Annotated[
        float | None,
        typer.Option(
            help="Multiply the numbers of filters and hidden units by this factor, for speed.",
            metavar="FACTOR",
            callback=real(above=0, high=1000),
        ),
    ] = None,
    size: Size = None,
    batch: Annotated[int, typer.Option(help="Images in the batch.", metavar="N", callback=whole())] = 2,
    seed: Annotated[
        int, typer.Option(help="Random seed for weights and images.", metavar="N", callback=check_seed)
    ] = 0,
    to_json: Json = None,
) -> None:
    """Check gradients against finite differences and a float64 reference.

    A network for large images is made smaller unless --width or --size sets its size. With --layer-def,
    --size sets only the size of the images. Each device is checked on its own. The exit code is 1 if a
    gradient is wrong.
    """
    from cconvnet.formats.netfiles import NetFiles, chosen, resolve
    from cconvnet.network import gradcheck as checking

    wanted = chosen(net, layer_def, layer_params, crop) or resolve("lenet")
    spec, _ = wanted.build_sized(size if isinstance(wanted, NetFiles) else None)
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


def augment(
    out: Annotated[Path, typer.Option(help="File of the picture, .png.", metavar="FILE")],
    net: Annotated[
        str,
        typer.Option(
            help=f"Network: {', '.join(nets.NAMES)}; or a file: .py, .json, .onnx, .prototxt.", metavar="NAME"
        ),
    ] = "alexnet",
    data: Data = None,
    size: Size = None,
    crop: Crop = None,
    random_crop: RandomCrop = None,
    random_resized_crop: RandomResizedCrop = None,
    area: Area = None,
    pad: Pad = None,
    mirror: Mirror = None,
    color_noise: ColorNoise = None,
    distort: Distort = None,
    images: Annotated[
        int,
        typer.Option(help="Number of training images, the rows of the sheet.", metavar="N", callback=whole()),
    ] = 6,
    epochs: Annotated[
        int,
        typer.Option(help="Number of epochs, the columns after the first.", metavar="N", callback=whole()),
    ] = 8,
    seed: Annotated[
        int,
        typer.Option(
            help="Random seed for crops, mirror images, colour noise and distortion.",
            metavar="N",
            callback=check_seed,
        ),
    ] = 0,
    workers: Workers = None,
) -> None:
    """Draw training images with augmentation: crops, mirror images, colour noise and distortion.

    The options of augmentation are those of train. The mean image is not subtracted, and the zeros of --pad
    are black.
    """
    from cconvnet import data as sources
    from cconvnet.data.workers import surplus
    from cconvnet.formats.netfiles import chosen
    from cconvnet.plots import augmentation as sheets
    from cconvnet.training.option_values import parse_area, parse_distort
    from cconvnet.training.options import Options

    if out.suffix.lower() != ".png":
        raise ValueError(f"--out must end with .png, not {out.name!r}")
    checked_picture(out)
    options = Options(
        random_crop=random_crop,
        random_resized_crop=random_resized_crop,
        area=None if area is None else parse_area(area),
        pad=pad,
        mirror=mirror,
        color_noise=color_noise,
        distort=None if distort is None else parse_distort(distort),
    )
    options.check()
    wanted = chosen(net, None, None, crop)
    assert wanted is not None
    source = sources.open_source(data, wanted.stored_size if size is None else size, workers=workers)
    if source.ranges is not None and (note := surplus(workers, max(len(source.train), len(source.test)))):
        print(note)
    spec, _ = wanted.build(source.image_shape, len(source.classes))
    settings = options.settings(spec.recipe)
    kept = ("crop", "random_resized_crop", "area", "pad", "mirror", "color_noise", "distort")
    augmentation = {name: settings[name] for name in kept}
    spec = dataclasses.replace(spec, recipe=dataclasses.replace(spec.recipe, **augmentation))
    sheets.write_sheet(out, source, spec, images=images, epochs=epochs, seed=seed, workers=workers, say=print)
    print(out)
