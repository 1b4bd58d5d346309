"""The commands ``cconvnet features``, ``plot why``, ``plot features`` and ``plot map``."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cconvnet.cli.options import (
    Best,
    Data,
    DeviceNames,
    OnePicture,
    RunFolder,
    RunPrecision,
    device_names,
    whole,
)
from cconvnet.system.outputs import check_output

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cconvnet.data import Source
    from cconvnet.data import Split as ImageSplit
    from cconvnet.evaluate import Trained

SPLITS = ("test", "train")

Layer = Annotated[str, typer.Option(help="Layer.", metavar="NAME")]
Split = Annotated[str, typer.Option(help="Images: test or train.", metavar="NAME")]


def why(
    run: RunFolder,
    picture: Annotated[Path, typer.Argument(help="JPEG or PNG file.", metavar="PICTURE")],
    wanted: Annotated[
        str | None,
        typer.Option("--class", help="Class to explain; the most probable if not given.", metavar="NAME"),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(
            help="Layer of Grad-CAM; the last one with maps, poolings apart, if not given.", metavar="NAME"
        ),
    ] = None,
    device: DeviceNames = None,
    precision: RunPrecision = None,
    best: Best = False,
    out: OnePicture = None,
) -> None:
    """Draw why a picture gets its class: Grad-CAM, the guided gradient, and what a grey square hides.

    Grad-CAM shows the places of a layer that speak for the class. The guided gradient shows the pixels that
    would raise its score. Occlusion shows how far its probability falls where a square covers the picture.
    """
    from cconvnet import plots, runs
    from cconvnet.console import reporter
    from cconvnet.errors import nearest
    from cconvnet.evaluate import load_trained, not_turned, read_picture
    from cconvnet.plots import analysis
    from cconvnet.seeing.probe import Probe
    from cconvnet.seeing.why import why as reasons

    target = out or runs.folder_of(run) / "why.png"
    plots.check(target)
    trained = load_trained(run, devices=device_names(device), batch=1, best=best, precision=precision)
    if note := not_turned([picture], trained.preprocessing):
        print(f"note: {note}", file=sys.stderr)
    if wanted is not None and wanted not in trained.classes:
        raise ValueError(nearest("--class", wanted, trained.classes))
    image = read_picture(picture, trained.image_shape, trained.preprocessing)
    with reporter(sys.stderr) as report:
        found = reasons(
            Probe(trained, batch=16),
            image,
            None if wanted is None else trained.classes.index(wanted),
            layer,
            report.counted("covering places"),
        )
        report.end()
    title, about = analysis.headline(trained)
    plots.why(found, trained.classes, target, title, f"{about}: {picture.name}")
    print(target)


def features(
    run: RunFolder,
    layer: Layer,
    out: Annotated[Path, typer.Option(help="File of the features, .safetensors or .npy.", metavar="FILE")],
    data: Data = None,
    split: Split = "test",
    images: Annotated[
        int | None,
        typer.Option(
            help="Number of images, evenly spread; all if not given.", metavar="N", callback=whole()
        ),
    ] = None,
    device: DeviceNames = None,
    precision: RunPrecision = None,
    best: Best = False,
) -> None:
    """Write a layer's outputs for images, float32[n, ...], for other programs.

    A .safetensors file has the tensors features, labels and numbers; the last are those of the images in
    their split. The data may have other classes than the network. Unreadable images are left out.
    """
    from cconvnet.seeing import features as of

    of.check_kind(out)
    check_output(out)
    with _opened(run, data, split, images, device, precision, best) as opened:
        found = of.features(opened.trained, opened.split, layer, opened.numbers, opened.stepped)
    of.write(out, *found)
    shape = "x".join(map(str, found[0].shape))
    print(f"{out}: {layer} of {len(found[0]):,} {split} images, float32 {shape}")


def plot_features(
    run: RunFolder,
    layer: Layer,
    data: Data = None,
    split: Split = "test",
    images: Annotated[
        int, typer.Option(help="Number of images to search, evenly spread.", metavar="N", callback=whole())
    ] = 1000,
    channels: Annotated[
        int, typer.Option(help="Number of channels: those that respond most.", metavar="N", callback=whole())
    ] = 12,
    device: DeviceNames = None,
    precision: RunPrecision = None,
    best: Best = False,
    out: OnePicture = None,
) -> None:
    """Draw the patches to which a layer's channels respond most, and what of them they respond to.

    On the left of each channel the response alone goes back through the layers to the pixels, as in figure 2
    of Zeiler and Fergus 2014.
    """
    from cconvnet import plots, runs
    from cconvnet.plots import analysis
    from cconvnet.plots.strongest import strongest as draw
    from cconvnet.seeing.probe import Probe
    from cconvnet.seeing.strongest import strongest

    target = out or runs.folder_of(run) / "features.png"
    plots.check(target)
    with _opened(run, data, split, images, device, precision, best) as opened:
        probe = Probe(opened.trained, layer, batch=16)
        found = strongest(probe, opened.split, opened.numbers, channels, opened.stepped)
    if not found:
        raise ValueError(f"no channel of {layer} responds to any of these images")
    title, about = analysis.headline(opened.trained)
    draw(found, target, title, f"{about}: {layer}, the strongest of {len(opened.numbers):,} {split} images")
    print(target)


def plot_map(
    run: RunFolder,
    layer: Annotated[
        str | None, typer.Option(help="Layer; the last hidden one if not given.", metavar="NAME")
    ] = None,
    method: Annotated[
        str,
        typer.Option(help="pca: principal components; or tsne, which needs scikit-learn.", metavar="NAME"),
    ] = "pca",
    data: Data = None,
    split: Split = "test",
    images: Annotated[
        int, typer.Option(help="Number of images, evenly spread.", metavar="N", callback=whole(3))
    ] = 1000,
    device: DeviceNames = None,
    precision: RunPrecision = None,
    best: Best = False,
    out: OnePicture = None,
) -> None:
    """Draw images in the plane: those with like features of a layer lie together."""
    import numpy as np

    from cconvnet import plots, runs
    from cconvnet.errors import nearest
    from cconvnet.evaluate import readable_names
    from cconvnet.plots import analysis
    from cconvnet.plots.map import draw_map
    from cconvnet.seeing.features import features as of
    from cconvnet.seeing.map import METHODS, plane

    if method not in METHODS:
        raise ValueError(nearest("--method", method, METHODS))
    target = out or runs.folder_of(run) / "map.png"
    plots.check(target)
    with _opened(run, data, split, images, device, precision, best) as opened:
        trained = opened.trained
        layer = layer or analysis.hidden_layer(trained.network.spec)[0]
        values, labels, numbers = of(trained, opened.split, layer, opened.numbers, opened.stepped)
    points = plane(values, method)
    stored, _ = opened.split.read(numbers)
    pictures = np.stack([analysis.center(trained, image) for image in stored])
    title, about = analysis.headline(trained)
    how = {"pca": "principal components", "tsne": "t-SNE"}[method]
    classes = readable_names(opened.source.classes, opened.source.titles)
    draw_map(points, labels, classes, pictures, target, title, f"{about}: {how} of {layer}, {split} images")
    print(target)


@dataclasses.dataclass
class _Opened:
    """A trained network and the images that it is shown."""

    trained: Trained
    source: Source
    split: ImageSplit
    numbers: NDArray[np.int64]
    stepped: Callable[[int, int], None]


@contextlib.contextmanager
def _opened(
    run: Path,
    data: str | None,
    split: str,
    images: int | None,
    device: str | None,
    precision: str | None,
    best: bool,
) -> Iterator[_Opened]:
    """Open a run and its images; progress is shown until the block ends."""
    from cconvnet.console import reporter
    from cconvnet.errors import nearest
    from cconvnet.evaluate import load_trained
    from cconvnet.plots import analysis

    if split not in SPLITS:
        raise ValueError(nearest("--split", split, SPLITS))
    trained = load_trained(run, devices=device_names(device), batch=64, best=best, precision=precision)
    source = analysis.open_any(trained, data)
    own = source.test if split == "test" else source.train
    numbers = analysis.spread(len(own), len(own) if images is None else images)
    with reporter(sys.stderr) as report:
        yield _Opened(trained, source, own, numbers, report.counted("processing images"))
        report.end()
