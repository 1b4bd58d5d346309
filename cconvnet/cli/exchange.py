"""The commands ``cconvnet import`` and ``cconvnet export`` for files of other programs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from cconvnet import nets
from cconvnet.checks import MAX_TOWERS
from cconvnet.cli.options import Batch, Crop, LayerDef, LayerParams, NewRun, OptionalNet, Size, whole
from cconvnet.system.outputs import check_folder


def import_(
    checkpoint: Annotated[
        Path, typer.Argument(help="The checkpoint, or the folder that contains it.", metavar="CHECKPOINT")
    ],
    data: Annotated[
        str,
        typer.Option(
            help="Folder of the data it was trained on. If its batches.meta contains a mean image, that is "
            "used.",
            metavar="FOLDER",
        ),
    ],
    net: Annotated[
        str | None,
        typer.Option(
            help=f"Network of the checkpoint: {', '.join(nets.NAMES)}; or a file, .py or .json.",
            metavar="NAME",
        ),
    ] = None,
    layer_def: LayerDef = None,
    layer_params: LayerParams = None,
    crop: Crop = None,
    kind: Annotated[
        str, typer.Option("--format", help="Format of the files: cuda-convnet.", metavar="NAME")
    ] = "cuda-convnet",
    batch: Batch = None,
    out: NewRun = None,
) -> None:
    """Convert another program's checkpoint to a run, for evaluate, predict and train --resume.

    Weights and momentum are kept. The network must have layers with the same names and shapes.
    """
    from cconvnet.console import reporter
    from cconvnet.errors import CheckpointError
    from cconvnet.formats import cuda_convnet_checkpoint
    from cconvnet.formats.netfiles import chosen
    from cconvnet.training.options import Options
    from cconvnet.training.session import begin_with

    if kind != "cuda-convnet":
        raise ValueError(f"--format must be cuda-convnet, not {kind!r}")
    wanted = chosen(net, layer_def, layer_params, crop)
    if wanted is None:
        raise ValueError("a network is needed: --net, or --layer-def and --layer-params")
    layers = cuda_convnet_checkpoint.read_checkpoint(checkpoint)
    options = Options(
        net=net,
        layer_def=layer_def,
        layer_params=layer_params,
        crop=crop,
        data=data,
        batch=batch,
        out=out,
    )
    with reporter() as report:
        shared = cuda_convnet_checkpoint.shared_weights(layers)
        if shared:
            report.say(
                f"shared weights ({', '.join(shared)}) are copied to each layer: training makes them differ"
            )
        try:
            path = begin_with(
                options, lambda network: cuda_convnet_checkpoint.network_weights(network, layers), report
            )
        except CheckpointError as error:
            raise CheckpointError(f"{checkpoint} does not fit {wanted}: {error}") from error
    print(f"files: {path}")


def export(
    out: Annotated[
        Path,
        typer.Option(help="Folder for the files; nothing is overwritten.", metavar="FOLDER"),
    ],
    net: OptionalNet = None,
    layer_def: LayerDef = None,
    layer_params: LayerParams = None,
    crop: Crop = None,
    run: Annotated[
        Path | None, typer.Option(help="Run whose network is exported, instead of --net.", metavar="RUN")
    ] = None,
    kind: Annotated[
        str, typer.Option("--format", help="Format of the files: cuda-convnet.", metavar="NAME")
    ] = "cuda-convnet",
    size: Size = None,
    towers: Annotated[
        int,
        typer.Option(
            help="Number of devices that split layers are distributed over.",
            metavar="N",
            callback=whole(1, MAX_TOWERS),
        ),
    ] = 2,
) -> None:
    """Write a network to files of another program: layers.cfg and layer-params.cfg.

    Comments in the files keep its name, the size of its images and its recipe. ``train --layer-def`` reads
    them, so training needs no further options to have the same result.
    """
    from cconvnet import runs
    from cconvnet.formats import cuda_convnet_writer
    from cconvnet.formats.netfiles import chosen
    from cconvnet.training.settings import Settings

    if kind != "cuda-convnet":
        raise ValueError(f"--format must be cuda-convnet, not {kind!r}")
    check_folder(out)
    wanted = chosen(net, layer_def, layer_params, crop)
    if (wanted is None) == (run is None):
        raise ValueError("exactly one network is needed: --net, --layer-def or --run")
    if run is not None:
        config = runs.read_config(runs.folder_of(run))
        spec, settings = nets.spec_from_dict(config["spec"]), Settings.from_dict(config["settings"])
        spec = dataclasses.replace(spec, recipe=settings.recipe(spec.recipe))
        for layer, factor in settings.lr_scale.items():
            print(f"{layer}: the files do not contain --lr-scale {layer}={factor:g}")
    else:
        assert wanted is not None
        spec, notes = wanted.build_sized(size)
        for note in notes:
            print(note)
    files = out / "layers.cfg", out / "layer-params.cfg"
    for file in files:
        if file.exists() or file.is_symlink():
            raise ValueError(f"{file} already exists; choose another --out")
    cuda_convnet_writer.write(spec, *files, towers=towers)
    for file in files:
        print(file)
