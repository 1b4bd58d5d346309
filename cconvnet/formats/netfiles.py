"""Networks as a user chooses them: by name, or in two files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cconvnet import nets
from cconvnet.formats import cuda_convnet
from cconvnet.nets import NetSpec


@dataclass(frozen=True)
class NetFiles:
    """A network in cuda-convnet's files, with the side `crop` of the squares cut out of images."""

    layer_def: Path
    layer_params: Path
    crop: int | None = None

    def __str__(self) -> str:
        return str(self.layer_def)


def chosen(
    net: str | None, layer_def: Path | None, layer_params: Path | None, crop: int | None
) -> str | NetFiles | None:
    """Return the network that command-line options choose; None if they choose none.

    Raises:
        ValueError: Where they do not go together.
    """
    if net == "":
        raise ValueError("--net must name a network")
    if layer_def is None:
        for name, value in (("--layer-params", layer_params), ("--crop", crop)):
            if value is not None:
                raise ValueError(f"{name} goes with --layer-def")
        return net
    if layer_params is None:
        raise ValueError("--layer-def goes with --layer-params, the file of rates and initial values")
    if net is not None:
        raise ValueError("--net and --layer-def are two networks; give one")
    return NetFiles(layer_def, layer_params, crop)


def stored_size(net: str | NetFiles) -> int | None:
    """Return the side that images are resized to for this network; None if they keep theirs."""
    return nets.stored_size(net) if isinstance(net, str) else None


def build(
    net: str | NetFiles, image_shape: tuple[int, int, int] | None = None, classes: int | None = None
) -> tuple[NetSpec, list[str]]:
    """Build the network for images of this shape (H, W, C), with notes on its files.

    Without `image_shape` it is for the images it was made for. Files do not say which these are.

    Raises:
        ValueError: As :func:`cconvnet.nets.build` and :func:`cconvnet.formats.cuda_convnet.read`.
    """
    if isinstance(net, str):
        return nets.build(net, image_shape, classes), []
    if image_shape is None:
        raise ValueError(f"--size is needed: {net} does not say how large the images are")
    return cuda_convnet.read(
        net.layer_def, net.layer_params, image_shape=image_shape, crop=net.crop, classes=classes
    )


def build_sized(net: str | NetFiles, size: int | None) -> tuple[NetSpec, list[str]]:
    """Build the network without data, for square images of side `size` or its own size."""
    if size is not None and size < 1:
        raise ValueError(f"--size must be at least 1, not {size}")
    if isinstance(net, NetFiles):
        if size is None:
            return build(net)
        # The files say how many channels they want.
        return cuda_convnet.read(net.layer_def, net.layer_params, image_shape=(size, size), crop=net.crop)
    spec = nets.build(net)
    return (spec if size is None else nets.build(net, (size, size, spec.input.channels))), []
