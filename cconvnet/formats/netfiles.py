"""Networks as a user chooses them: a NetSpec, a name, a file of one's own, or cuda-convnet's two files.

:func:`resolve` turns each of them into a :class:`ChosenNet`, which makes the NetSpec for given data:

    >>> chosen = resolve("my_net.py")        # or "alexnet", "net.json", a Path, a NetSpec
    >>> source = data.open_source(where, chosen.stored_size)
    >>> spec, notes = chosen.build(source.image_shape, len(source.classes))
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from cconvnet import nets
from cconvnet.formats import cuda_convnet
from cconvnet.formats.cuda_convnet_extras import read_extras
from cconvnet.formats.own_nets import PythonFile, read_json
from cconvnet.nets import NetSpec
from cconvnet.nets.costs import check_data
from cconvnet.nets.shapes import Shape, text_of
from cconvnet.nets.transform import scaled


class ChosenNet(ABC):
    """A network that is chosen, but not yet made for certain images and classes.

    Its text is that by which the user chose it.
    """

    @property
    def stored_size(self) -> int | None:
        """The side that images are resized to for this network; None if they keep theirs."""
        return None

    @abstractmethod
    def build(
        self, image_shape: Shape | None = None, classes: int | None = None
    ) -> tuple[NetSpec, list[str]]:
        """Make the network, with notes for the user.

        Args:
            image_shape: (H, W, C) of the stored images, before any crop; None: those it was made for.
            classes: How many labels there are; None: as many as it was made for.

        Raises:
            ValueError: It cannot be made for them.
        """

    @abstractmethod
    def build_sized(self, size: int | None) -> tuple[NetSpec, list[str]]:
        """Make the network without data, for square images of side `size` or its own size.

        Raises:
            ValueError: It cannot be made for them.
        """


@dataclass(frozen=True)
class NamedNet(ChosenNet):
    """A built-in network."""

    name: str

    def __str__(self) -> str:
        return self.name

    @property
    def stored_size(self) -> int | None:
        """The side that images are resized to for this network; None if they keep theirs."""
        return nets.stored_size(self.name)

    def build(
        self, image_shape: Shape | None = None, classes: int | None = None
    ) -> tuple[NetSpec, list[str]]:
        """Make the network; see :func:`cconvnet.nets.build`."""
        return nets.build(self.name, image_shape, classes), []

    def build_sized(self, size: int | None) -> tuple[NetSpec, list[str]]:
        """Make the network for square images of side `size`."""
        spec = nets.build(self.name)
        return spec if size is None else nets.build(self.name, (size, size, spec.input.channels)), []


@dataclass(frozen=True)
class FixedNet(ChosenNet):
    """A network of one size.

    Attributes:
        spec: The network.
        origin: The file that it comes from; empty: none.
        remedy: Ends the text of an error about other images or classes.
    """

    spec: NetSpec
    origin: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        return self.origin or self.spec.name

    @property
    def stored_size(self) -> int | None:
        """The side of its images if they are square, so that data of other sizes is resized to them."""
        height, width = self.spec.stored
        return height if height == width else None

    def build(
        self, image_shape: Shape | None = None, classes: int | None = None
    ) -> tuple[NetSpec, list[str]]:
        """Return the network, if it is made for these images and classes."""
        if classes is not None:
            check_data(self.spec, str(self))
        own = (self.spec.stored_shape, self.spec.classes)
        given = (image_shape or own[0], own[1] if classes is None else classes)
        if given != own:
            raise ValueError(
                f"{self} is for images of {text_of([own[0]])} and {own[1]} classes, but the data has "
                f"{text_of([given[0]])} and {given[1]}{self.remedy}"
            )
        return self.spec, []

    def build_sized(self, size: int | None) -> tuple[NetSpec, list[str]]:
        """Return the network for square images of side `size`, with the same layers."""
        return self.spec if size is None else scaled(self.spec, image=(size, size)), []


@dataclass(frozen=True)
class BuiltNet(ChosenNet):
    """A network that a function of the user's file builds."""

    file: PythonFile

    def __str__(self) -> str:
        return str(self.file.path)

    def build(
        self, image_shape: Shape | None = None, classes: int | None = None
    ) -> tuple[NetSpec, list[str]]:
        """Call the function, and check that its network is for these images and classes."""
        spec = self.file.build(image_shape, classes)
        return FixedNet(spec, f"{self}: the network of build()").build(image_shape, classes)

    def build_sized(self, size: int | None) -> tuple[NetSpec, list[str]]:
        """Call the function for square images of side `size`, in colour unless its default is grey."""
        return self.file.build(None if size is None else self.file.square(size), None), []


@dataclass(frozen=True)
class NetFiles(ChosenNet):
    """A network in cuda-convnet's files, with the side `crop` of the squares cut out of images."""

    layer_def: Path
    layer_params: Path
    crop: int | None = None

    def __str__(self) -> str:
        return str(self.layer_def)

    @property
    def stored_size(self) -> int | None:
        """The side of the images that files of this package were exported for, if they are square."""
        stored = read_extras(self.layer_def, self.layer_params).stored
        return stored[0] if stored is not None and stored[0] == stored[1] else None

    def build(
        self, image_shape: Shape | None = None, classes: int | None = None
    ) -> tuple[NetSpec, list[str]]:
        """Read the files; see :func:`cconvnet.formats.cuda_convnet.read`."""
        shape = image_shape or read_extras(self.layer_def, self.layer_params).stored
        if shape is None:
            raise ValueError(f"--size is needed: {self} does not say how large the images are")
        return cuda_convnet.read(
            self.layer_def, self.layer_params, image_shape=shape, crop=self.crop, classes=classes
        )

    def build_sized(self, size: int | None) -> tuple[NetSpec, list[str]]:
        """Read the files, which say how many channels they want."""
        if size is None:
            return self.build()
        return cuda_convnet.read(self.layer_def, self.layer_params, image_shape=(size, size), crop=self.crop)


@dataclass(frozen=True)
class CroppedNet(ChosenNet):
    """A network for squares that are cut out of the images, at random places in training.

    Attributes:
        net: The network for whole images, or for crops of a size of its own.
        crop: The side of the squares.
    """

    net: ChosenNet
    crop: int

    def __str__(self) -> str:
        return str(self.net)

    @property
    def stored_size(self) -> int | None:
        """The side that images are resized to before the crop; None if they keep theirs."""
        return self.net.stored_size

    def build(
        self, image_shape: Shape | None = None, classes: int | None = None
    ) -> tuple[NetSpec, list[str]]:
        """Make the network for images of this shape, before the crop."""
        spec, notes = self.net.build(image_shape, classes)
        seen = (spec.input.height, spec.input.width)
        if isinstance(self.net, NamedNet | BuiltNet) and seen == spec.stored and self.crop <= min(seen):
            # Its layers may depend on the size that they read.
            small, notes = self.net.build((self.crop, self.crop, spec.input.channels), spec.classes)
            spec = dataclasses.replace(small, stored=spec.stored)
        return self._cut(spec), notes

    def build_sized(self, size: int | None) -> tuple[NetSpec, list[str]]:
        """Make the network for square images of side `size`, before the crop."""
        if size is None:
            return self.build()
        channels = self.net.build_sized(size)[0].input.channels
        return self.build((size, size, channels))

    def _cut(self, spec: NetSpec) -> NetSpec:
        if self.crop > min(spec.stored):
            height, width = spec.stored
            raise ValueError(f"--crop {self.crop} is larger than the images, {height}x{width}")
        seen = dataclasses.replace(spec.input, height=self.crop, width=self.crop)
        recipe = dataclasses.replace(
            spec.recipe, crop=spec.recipe.crop or (self.crop, self.crop) != spec.stored
        )
        cut = dataclasses.replace(spec, input=seen, recipe=recipe)
        cut.table()  # refuses layers that do not fit
        return cut


AnyNet = ChosenNet | NetSpec | str | Path


def resolve(net: AnyNet) -> ChosenNet:
    """Return the network that a user means.

    Args:
        net: A network; the name of a built-in one; or a file: ``.py``, which is run, or ``.json``, see
            :mod:`cconvnet.formats.own_nets`; or another program's, ``.onnx`` or ``.prototxt``.

    Raises:
        ValueError: There is no such network, or the file contains none.
        OSError: The file cannot be read.
    """
    if isinstance(net, ChosenNet):
        return net
    if isinstance(net, NetSpec):
        return FixedNet(net)
    if Path(net).suffix == ".json":
        return FixedNet(read_json(Path(net)), str(net))
    if Path(net).suffix in (".onnx", ".prototxt"):
        return FixedNet(_of_another_program(Path(net)), str(net))
    if Path(net).suffix == ".py":
        file = PythonFile(Path(net))
        if file.net is None:
            return BuiltNet(file)
        return FixedNet(file.net, str(net), "; define build(image_shape, classes) instead of net")
    if str(net) not in nets.NAMES and ("/" in str(net) or "." in str(net)):
        raise ValueError(
            f"net must be a name, or a file that ends with .py, .json, .onnx or .prototxt, not {str(net)!r}"
        )
    for path in (f"{net}.py", f"{net}.json"):
        if str(net) not in nets.NAMES and Path(path).is_file():
            raise ValueError(f"net {str(net)!r} is not built in; a file is named with its ending, {path}")
    nets.stored_size(str(net))  # refuses a name that is none
    return NamedNet(str(net))


def _of_another_program(path: Path) -> NetSpec:
    """Read a network of another program, without its weights."""
    from cconvnet.formats import caffe_reader, onnx_reader

    return (onnx_reader.read(path) if path.suffix == ".onnx" else caffe_reader.read(path)).spec


def check_choice(
    net: AnyNet | None, layer_def: Path | None, layer_params: Path | None, crop: int | None
) -> None:
    """Check that command-line options choose at most one network, without reading a file.

    Raises:
        ValueError: The options do not go together.
    """
    if net == "":
        raise ValueError("--net must name a network")
    if layer_def is None:
        if layer_params is not None:
            raise ValueError("--layer-params goes with --layer-def")
        if crop is not None and net is None:
            raise ValueError("--crop goes with --layer-def or --net")
    elif layer_params is None:
        raise ValueError("--layer-def goes with --layer-params, the file of rates and initial values")
    elif net is not None:
        raise ValueError("--net and --layer-def are two networks; give one")


def chosen(
    net: AnyNet | None, layer_def: Path | None, layer_params: Path | None, crop: int | None
) -> ChosenNet | None:
    """Return the network that command-line options choose; None if they choose none.

    Raises:
        ValueError: The options do not go together, or there is no such network.
    """
    check_choice(net, layer_def, layer_params, crop)
    if layer_def is not None and layer_params is not None:
        return NetFiles(layer_def, layer_params, crop)
    if net is None:
        return None
    return resolve(net) if crop is None else CroppedNet(resolve(net), crop)
