"""The commands ``cconvnet import`` and ``cconvnet export`` for files of other programs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cconvnet import nets
from cconvnet.checks import MAX_TOWERS
from cconvnet.cli.options import (
    Batch,
    Best,
    Crop,
    LayerDef,
    LayerParams,
    NewRun,
    OptionalNet,
    Size,
    whole,
)
from cconvnet.cli.weight_options import (
    Bgr,
    ClassesFile,
    Deviation,
    Except,
    Mean,
    read_classes,
    reading_of,
)
from cconvnet.system.outputs import check_folder, check_output

if TYPE_CHECKING:
    from cconvnet.console import Reporter
    from cconvnet.formats.netfiles import ChosenNet
    from cconvnet.nets import NetSpec
    from cconvnet.training.options import Options

_CUDA_CONVNET = "cuda-convnet"


def import_(
    checkpoint: Annotated[
        Path, typer.Argument(help="The file of weights, or a folder of cuda-convnet's.", metavar="FILE")
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder of the data it was trained on, for its classes and mean image. A file of "
            "cuda-convnet's needs it; if its batches.meta contains a mean image, that is used.",
            metavar="FOLDER",
        ),
    ] = None,
    net: Annotated[
        str | None,
        typer.Option(
            help=f"Network of the weights: {', '.join(nets.NAMES)}; or a file: .py, .json, .onnx, .prototxt.",
            metavar="NAME",
        ),
    ] = None,
    layer_def: LayerDef = None,
    layer_params: LayerParams = None,
    crop: Crop = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Format of the file: torch, safetensors, onnx, caffe or cuda-convnet; that of its content "
            "if not given.",
            metavar="NAME",
        ),
    ] = None,
    classes: ClassesFile = None,
    leave: Except = None,
    bgr: Bgr = None,
    mean: Mean = None,
    deviation: Deviation = None,
    batch: Batch = None,
    out: NewRun = None,
) -> None:
    """Make a run of another program's weights, for evaluate, predict, report and train --resume.

    Tensors of PyTorch's files and of safetensors are found by torchvision's names, or by those of our layers.
    ONNX's and Caffe's files contain their network; a .caffemodel's is the .prototxt beside it. Of
    cuda-convnet's checkpoints, which need --data, momentum is kept too. Without --data, classes are
    numbers unless --classes names them.
    """
    from cconvnet.console import reporter
    from cconvnet.errors import nearest
    from cconvnet.formats.netfiles import chosen
    from cconvnet.formats.weights import FORMATS, format_of
    from cconvnet.training.imported import checkpoint_of, weights_of, write_run
    from cconvnet.training.options import Options
    from cconvnet.training.session import begin_with

    if kind not in (None, _CUDA_CONVNET, *FORMATS):
        raise ValueError(nearest("--format", kind, [_CUDA_CONVNET, *FORMATS]))
    if kind is None and (checkpoint.is_dir() or format_of(checkpoint) is None):
        kind = _CUDA_CONVNET
    wanted = chosen(net, layer_def, layer_params, crop)
    options = Options(
        net=net,
        layer_def=layer_def,
        layer_params=layer_params,
        crop=crop,
        data=data,
        batch=batch,
        out=out,
    )
    reading = reading_of(leave, mean, deviation, bgr)
    if data is not None and classes is not None:
        raise ValueError("--classes names the classes of weights without --data; give one of them")
    with reporter() as report:
        if kind == _CUDA_CONVNET:
            path = _from_cuda_convnet(checkpoint, options, report)
        else:
            weights = weights_of(checkpoint, kind)
            if data is not None:
                if wanted is None and weights.spec is not None:
                    options = dataclasses.replace(options, net=weights.spec)
                path = begin_with(options, report, fits=lambda spec: reading.fitted(weights, spec))
            else:
                found, notes = checkpoint_of(weights, wanted, reading, read_classes(classes), batch)
                for note in notes:
                    report.say(f"weights: {note}")
                path = write_run(found, out)
    print(f"files: {path}")


def _from_cuda_convnet(checkpoint: Path, options: Options, report: Reporter) -> Path:
    """Make a run of a checkpoint of cuda-convnet."""
    from cconvnet.errors import CheckpointError
    from cconvnet.formats import cuda_convnet_checkpoint
    from cconvnet.training.preparation import chosen_net
    from cconvnet.training.session import begin_with

    wanted = chosen_net(options)
    if wanted is None:
        raise ValueError("a network is needed: --net, or --layer-def and --layer-params")
    layers = cuda_convnet_checkpoint.read_checkpoint(checkpoint)
    if options.data is None:
        raise ValueError("--data is needed: a checkpoint of cuda-convnet does not contain the mean image")
    shared = cuda_convnet_checkpoint.shared_weights(layers)
    if shared:
        report.say(
            f"shared weights ({', '.join(shared)}) are copied to each layer: training makes them differ"
        )
    try:
        return begin_with(
            options,
            report,
            weights=lambda network: cuda_convnet_checkpoint.network_weights(network, layers),
        )
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint} does not fit {wanted}: {error}") from error


def export(
    out: Annotated[
        Path,
        typer.Option(
            help="File for the weights; of cuda-convnet, the folder for its files, of which none is "
            "overwritten.",
            metavar="FILE",
        ),
    ],
    net: OptionalNet = None,
    layer_def: LayerDef = None,
    layer_params: LayerParams = None,
    crop: Crop = None,
    run: Annotated[
        Path | None, typer.Option(help="Run whose network is exported, instead of --net.", metavar="RUN")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Format of the files: torch, safetensors, onnx or cuda-convnet. If not given: by the ending "
            "of --out, .pth, .safetensors or .onnx, else cuda-convnet.",
            metavar="NAME",
        ),
    ] = None,
    best: Best = False,
    size: Size = None,
    towers: Annotated[
        int,
        typer.Option(
            help="Of cuda-convnet: number of devices that split layers are distributed over.",
            metavar="N",
            callback=whole(1, MAX_TOWERS),
        ),
    ] = 2,
) -> None:
    """Write a network's weights for PyTorch, or the network to ONNX or to files of cuda-convnet.

    torch writes a .pth that torch.load reads, and safetensors a .safetensors, in the names and layouts of
    torchvision's model where there is one. Of --net they are random first weights.

    onnx writes a .onnx with the network and its weights. Its input is float images [N, C, H, W], pixels from
    0 to 255, of the size that the network reads: it subtracts the mean itself, and crops nothing.

    cuda-convnet writes layers.cfg and layer-params.cfg. Comments in the files keep its name, the size of its
    images and its recipe. ``train --layer-def`` reads them, so training needs no further options to have the
    same result.
    """
    from cconvnet.errors import nearest
    from cconvnet.formats.netfiles import chosen
    from cconvnet.formats.weights import FORMATS, write_weights
    from cconvnet.network.footprint import Plan
    from cconvnet.training.imported import weights_of

    wanted = chosen(net, layer_def, layer_params, crop)
    if (wanted is None) == (run is None):
        raise ValueError("exactly one network is needed: --net, --layer-def or --run")
    written = [_CUDA_CONVNET, *(name for name, one in FORMATS.items() if one.write is not None)]
    if kind not in (None, *written):
        raise ValueError(nearest("--format", kind, written))
    if kind is None:
        kind = next((name for name, one in FORMATS.items() if out.suffix in one.endings), _CUDA_CONVNET)
    if kind == _CUDA_CONVNET:
        _to_cuda_convnet(out, wanted, run, size, towers)
        return
    check_output(out, out.suffix.removeprefix("."))
    _check_new(out)
    if run is not None:
        weights = weights_of(run, best=best)
        assert weights.spec is not None
        spec, tensors = weights.spec, weights.tensors
    else:
        assert wanted is not None
        spec = _built(wanted, size)
        tensors = Plan(spec, batch=1, devices="cpu:0").state({})
    for note in write_weights(out, kind, spec, tensors):
        print(note)
    print(out)


def _built(net: ChosenNet, size: int | None) -> NetSpec:
    """Return a network without a run, and print notes on it."""
    spec, notes = net.build_sized(size)
    for note in notes:
        print(note)
    return spec


def _check_new(file: Path) -> None:
    if file.exists() or file.is_symlink():
        raise ValueError(f"{file} already exists; choose another --out")


def _to_cuda_convnet(
    out: Path, wanted: ChosenNet | None, run: Path | None, size: int | None, towers: int
) -> None:
    """Write a network, that of a run or the wanted one, to cuda-convnet's two files."""
    from cconvnet import runs
    from cconvnet.formats import cuda_convnet_writer
    from cconvnet.training.settings import Settings

    check_folder(out)
    if run is not None:
        config = runs.read_config(runs.folder_of(run))
        spec, settings = nets.spec_from_dict(config["spec"]), Settings.from_dict(config["settings"])
        spec = dataclasses.replace(spec, recipe=settings.recipe(spec.recipe))
        for layer, factor in settings.lr_scale.items():
            print(f"{layer}: the files do not contain --lr-scale {layer}={factor:g}")
    else:
        assert wanted is not None
        spec = _built(wanted, size)
    files = out / "layers.cfg", out / "layer-params.cfg"
    for file in files:
        _check_new(file)
    cuda_convnet_writer.write(spec, *files, towers=towers)
    for file in files:
        print(file)
