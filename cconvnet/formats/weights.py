"""Trained weights from files of other programs, fitted to a network, and networks written for them.

:func:`read_weights` reads a file of any of the FORMATS. :func:`fit` finds each tensor of a network in it, by
the names of :mod:`cconvnet.formats.layer_names` and in the layouts of :mod:`cconvnet.formats.layouts`:

    >>> weights = read_weights(Path("resnet50.pth"))
    >>> fitted = fit(weights, nets.build("resnet50"))
    >>> network.load_state(network.state() | fitted.tensors)
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet.errors import CheckpointError, nearest
from cconvnet.formats import (
    caffe_reader,
    onnx_reader,
    onnx_writer,
    safetensors_files,
    torch_files,
    torch_writer,
)
from cconvnet.formats.drafts import MEAN_IMAGE, Imported
from cconvnet.formats.layer_names import CAFFE, Naming, Pixels, namings
from cconvnet.formats.layouts import Part, Sizes, check_dropout, parts
from cconvnet.formats.pixel_weights import as_filters, begins_anew, classifiers_last
from cconvnet.nets import NAMES, NetSpec

Array = np.ndarray[Any, Any]

_COUNTERS = "num_batches_tracked"  # PyTorch counts the batches of a normalisation, for nothing here


@dataclass(frozen=True)
class Weights:
    """Trained weights as a file has them.

    Attributes:
        path: The file.
        tensors: By name, in PyTorch's layouts; with `spec`, in those of its network, and perhaps MEAN_IMAGE.
        spec: The network, of a file that contains it; its layers have the tensors' names.
        pixels: That the weights were trained on, if the file or its format says so.
        notes: Lines for people.
    """

    path: Path
    tensors: Mapping[str, Array]
    spec: NetSpec | None = None
    pixels: Pixels | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Format:
    """A format of files with weights.

    Attributes:
        about: The kind of files, for people.
        endings: Of names of new files.
        matches: Returns True for files of this format, by their path and their first 16 bytes.
        read: Reads a file.
        write: Writes a network's parameters, by name without momentum, and returns lines for people.
    """

    about: str
    endings: tuple[str, ...]
    matches: Callable[[Path, bytes], bool]
    read: Callable[[Path], Weights] | None = None
    write: Callable[[Path, NetSpec, Mapping[str, Array]], list[str]] | None = None


@dataclass(frozen=True)
class Fitted:
    """Weights in the layouts of a network.

    Attributes:
        spec: The network, which computes what the other program's does.
        tensors: By name, as Network.state() has them, but for momentum. Layers that were left out lack.
        notes: Lines for people.
    """

    spec: NetSpec
    tensors: dict[str, Array]
    notes: list[str] = field(default_factory=list)


# ---- reading ---------------------------------------------------------------------------------------------


def read_weights(path: Path, kind: str | None = None) -> Weights:
    """Read a file of weights.

    Args:
        path: The file.
        kind: One of FORMATS; None: that of the file's content.

    Raises:
        CheckpointError, PickleError, DataError: It is damaged, or of no format that is read.
        ValueError: There is no such format.
        OSError: It cannot be read.
    """
    readers = {name: one.read for name, one in FORMATS.items() if one.read is not None}
    if kind is None:
        kind = format_of(path)
        if kind not in readers:
            known = ", ".join(FORMATS[name].about for name in readers)
            raise CheckpointError(f"{path} is not a file of weights that is read: {known}")
    if kind not in readers:
        raise ValueError(nearest("--format", kind, readers))
    return readers[kind](path)


def format_of(path: Path) -> str | None:
    """Return the name of a file's format in FORMATS, None if it has none of them.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(16)
    return next((name for name, one in FORMATS.items() if one.matches(path, start)), None)


def read_tensors(path: Path) -> dict[str, Array]:
    """Read the named tensors of a file of weights, in float32, without prefixes, wrappers and counters.

    Raises:
        CheckpointError, PickleError, OSError: As :func:`read_weights`.
    """
    return dict(read_weights(path).tensors)


def _read_torch(path: Path) -> Weights:
    return Weights(path, _without_counters(torch_files.read(path)))


def _read_safetensors(path: Path) -> Weights:
    found: dict[str, Array] = {}
    for name, tensor in safetensors_files.read(path).items():
        short = torch_files.without_prefixes(name)
        if short in found:
            raise CheckpointError(f"{path} has two tensors of the name {short}")
        found[short] = tensor
    return Weights(path, _without_counters(found))


def _read_onnx(path: Path) -> Weights:
    found = onnx_reader.read(path)
    return Weights(path, found.tensors, _renamed(found), notes=tuple(found.notes))


def _read_caffe(path: Path) -> Weights:
    """Read weights with their network, a .prototxt of the same name, or the only one in the folder."""
    there = sorted(path.parent.glob("*.prototxt"))
    net = path.with_suffix(".prototxt")
    if net not in there and len(there) == 1:
        net = there[0]
    if net not in there:
        raise CheckpointError(f"{path}: its network is missing, {net.name} in the same folder")
    found = caffe_reader.read(net, path)
    spec, image = _renamed(found), found.spec.input
    if image.channels != 3:
        return Weights(path, found.tensors, spec, notes=tuple(found.notes))
    mean = image.mean if image.mean and any(image.mean) else CAFFE.mean[::-1]
    # In the file blue is first, and in a spec red.
    spec = dataclasses.replace(spec, input=dataclasses.replace(image, mean=mean[::-1]))
    pixels = Pixels(mean[::-1], (1 / image.scale,) * 3, bgr=True)
    return Weights(path, found.tensors, spec, pixels, tuple(found.notes))


def _renamed(found: Imported) -> NetSpec:
    """Return a network under a name that no built-in one has, whose layers have other names."""
    spec = found.spec
    return dataclasses.replace(spec, name=f"{spec.name}_imported") if spec.name in NAMES else spec


def _without_counters(tensors: Mapping[str, Array]) -> dict[str, Array]:
    return {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[2] != _COUNTERS}


# ---- fitting ---------------------------------------------------------------------------------------------


def fit(
    weights: Weights,
    spec: NetSpec,
    leave: Sequence[str] = (),
    *,
    mean: Sequence[float] | None = None,
    deviation: Sequence[float] | None = None,
    bgr: bool | None = None,
) -> Fitted:
    """Find each tensor of a network among weights.

    Matrices of FC layers become filters where the network has a convolution of this name and as many weights,
    as in the dense form of a classifier. A network that answers for each pixel may have layers that the
    weights lack, if these begin with zeros or an interpolation, and needs no last layer of a classifier.

    What is not given of the pixels that the weights were trained on is that of the file or of the names in
    it, else the network's own.

    Args:
        weights: The weights.
        spec: The network.
        leave: Layers that stay as they are, by their names here or there; ``fc*`` is all that begin so.
        mean: Of each channel of these pixels, red first, from 0 to 255.
        deviation: Likewise.
        bgr: Whether the first layer reads blue, green, red.

    Raises:
        CheckpointError: A tensor is missing, is one too many, has another shape, or contains values that
            cannot be; the text names file, tensor and layer.
        ValueError: `leave` names no layer, or the pixels are not those of the network's channels.
    """
    naming = Naming("cconvnet", {})
    if weights.spec is None:
        found = {
            one: sum(_there(part, one) in weights.tensors for part in parts(spec)) for one in namings(spec)
        }
        naming = max(found, key=lambda one: found[one])
        if not found[naming]:
            raise CheckpointError(
                f"{weights.path} has no tensor of {spec.name}: {_few(weights.tensors)} there, "
                f"{_few(_there(part, naming) for part in parts(spec))} here"
            )
    own = weights.pixels or naming.pixels
    if own is not None and len(own.mean) != spec.input.channels:
        own = None
    pixels = weights.pixels if spec.input.mean is not None else own
    if pixels is not None and (len(pixels.mean) != spec.input.channels or pixels == Pixels.of(spec)):
        pixels = None
    if mean is not None or deviation is not None:
        own_mean = own.mean if own is not None else spec.input.mean
        if mean is None and own_mean is None:
            raise ValueError("--deviation goes with --mean: the mean of these pixels is not known")
        ones = (1.0,) * spec.input.channels
        pixels = Pixels(
            tuple(own_mean or () if mean is None else mean),
            tuple((own.deviation if own is not None else ones) if deviation is None else deviation),
        )
    flip = (own is not None and own.bgr) if bgr is None else bgr
    return _Fit(weights, spec, naming, leave, pixels, flip).fitted()


def classes_in(weights: Weights, spec: NetSpec) -> int | None:
    """Return how many classes weights are for, by their last layer; None if they lack it."""
    last = [part for part in parts(spec) if part.layer not in spec.train_only and "weight" in part.of][-1]
    value = _value(weights, last, spec)
    return None if value is None else len(value)


def misfits(weights: Weights, spec: NetSpec) -> dict[str, str]:
    """Return the layers of which weights have tensors of other shapes, each with both shapes as a text.

    Raises:
        CheckpointError: No weights of the network fit, so that they are of another one.
    """
    found: dict[str, str] = {}
    fits = False
    for part in parts(spec):
        value, wanted = _value(weights, part, spec), part.there if weights.spec is None else part.shape
        if value is None:
            continue
        if as_filters(part, value, wanted).shape != wanted:
            found.setdefault(part.layer, f"{_text(value.shape)} there and {_text(wanted)} here")
        elif "weight" in part.of and len(wanted) > 1:
            fits = True
    if found and not fits:
        raise CheckpointError(f"{weights.path}: no layer of {spec.name} has weights of these shapes there")
    return found


def _value(weights: Weights, part: Part, spec: NetSpec) -> Array | None:
    """Return a tensor by any of its names; None if there is none."""
    names = [part.name] if weights.spec is not None else [_there(part, one) for one in namings(spec)]
    return next((weights.tensors[name] for name in names if name in weights.tensors), None)


def _there(part: Part, naming: Naming) -> str:
    return f"{naming.names[part.layer]}.{part.of}"


def _few(names: Any) -> str:
    found = list(names)
    return ", ".join(found[:3]) + (", ..." if len(found) > 3 else "") if found else "nothing"


class _Fit:
    """A network, and weights whose names are known."""

    def __init__(
        self,
        weights: Weights,
        spec: NetSpec,
        naming: Naming,
        leave: Sequence[str],
        pixels: Pixels | None,
        flip: bool,
    ) -> None:
        self.of_file = weights.notes
        self.path, self.tensors, self.own = weights.path, weights.tensors, weights.spec is not None
        self.spec, self.notes = naming.adapt(spec)
        self.reshaped: list[str] = []
        self.naming, self.leave, self.pixels, self.flip = naming, leave, pixels, flip
        self.parts = parts(self.spec)
        self.names = {part.name: part.name if self.own else _there(part, naming) for part in self.parts}

    def fitted(self) -> Fitted:
        """Return the network's tensors."""
        left = self._left()
        anew = begins_anew(
            self.spec,
            self.parts,
            lambda part: (self.tensors.get(self.names[part.name]), self._wanted(part)),
        )
        new = left | self._missing_heads() | anew
        found: dict[str, Array] = {}
        taken: set[str] = set()
        for part in self.parts:
            taken.add(self.names[part.name])
            if part.layer not in new:
                found[part.name] = self._tensor(part)
        unused = classifiers_last(self.spec, self.tensors, taken)
        taken |= {MEAN_IMAGE, f"{unused}.weight", f"{unused}.bias"}
        for name in self.tensors:
            if name not in taken and not self._is_left(name.rpartition(".")[0]):
                shape = _text(self.tensors[name].shape)
                raise CheckpointError(
                    f"{self.path}: {name} of {shape} belongs to no layer of {self.spec.name}"
                )
        notes = [*self.of_file, *self.notes]
        if self.reshaped:
            notes.append(f"fully connected there, convolutions here: {', '.join(self.reshaped)}")
        if unused is not None:
            notes.append(f"the classifier's last layer is not used: {unused}")
        if new:
            notes.append(f"at their first values: {', '.join(sorted(new))}")
        return Fitted(self._with_pixels(notes), found, notes)

    def _left(self) -> set[str]:
        """Return the layers that are left as they are."""
        layers = dict.fromkeys(part.layer for part in self.parts)
        for pattern in self.leave:
            there = {name.rpartition(".")[0] for name in self.tensors}
            named = {*layers, *self.naming.names.values(), *there}
            if not fnmatch.filter(named, pattern):
                raise ValueError(nearest("--except: a layer", pattern, layers))
        return {layer for layer in layers if self._is_left(layer, self.naming.names.get(layer, layer))}

    def _is_left(self, *names: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in self.leave)

    def _missing_heads(self) -> set[str]:
        """Return the layers of heads if the file has none of them: they run in training only."""
        heads = {part.layer for part in self.parts} & self.spec.train_only
        there = any(self.names[part.name] in self.tensors for part in self.parts if part.layer in heads)
        return set() if there else set(heads)

    def _wanted(self, part: Part) -> Sizes:
        """Return the shape of a tensor in the file."""
        return part.shape if self.own else part.there

    def _tensor(self, part: Part) -> Array:
        """Return a tensor in the layout here."""
        name = self.names[part.name]
        wanted = self._wanted(part)
        where = f"{name}, of layer {part.layer}," if name.rpartition(".")[0] != part.layer else name
        remedy = f"; --except {part.layer} leaves the layer at its first values"
        if name not in self.tensors:
            raise CheckpointError(f"{self.path} has no {name}, which should be {_text(wanted)}{remedy}")
        value = self.tensors[name]
        if (filters := as_filters(part, value, wanted)) is not value:
            self.reshaped.append(f"{part.layer} ({_text(value.shape)} to {_text(wanted)})")
            value = filters
        if value.shape != wanted:
            raise CheckpointError(
                f"{self.path}: {where} is {_text(value.shape)} there and {_text(wanted)} here{remedy}"
            )
        if value.dtype != np.float32:
            raise CheckpointError(f"{self.path}: {where} is of {value.dtype}, not of floating point")
        if not np.isfinite(value).all():
            raise CheckpointError(f"{self.path}: {where} contains values that are not finite")
        if part.of == "running_var" and (value < 0).any():
            raise CheckpointError(f"{self.path}: {where} contains variances below 0")
        flip = self.flip and part.reads_images
        if self.own:
            return np.ascontiguousarray(value[..., ::-1] if flip else value)
        return part.to_here(value, flip)

    def _with_pixels(self, notes: list[str]) -> NetSpec:
        """Return the network with images of the pixels that the weights were trained on."""
        if self.flip and not any(part.reads_images for part in self.parts):
            raise CheckpointError(
                f"{self.path}: no layer of {self.spec.name} reads all colours, to be exchanged"
            )
        if self.flip:
            notes.append("the first layer's channels are exchanged: BGR there, RGB here")
        if self.pixels is None:
            return self.spec
        mean, deviation = self.pixels.mean, self.pixels.deviation
        image = dataclasses.replace(self.spec.input, mean=mean, deviation=deviation, scale=1.0)
        notes.append(f"pixels: minus {_numbers(mean)}, over {_numbers(deviation)}")
        return dataclasses.replace(self.spec, input=image)


def _numbers(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _text(shape: Sizes) -> str:
    return "x".join(map(str, shape)) or "a scalar"


# ---- writing ---------------------------------------------------------------------------------------------


def write_weights(path: Path, kind: str, spec: NetSpec, tensors: Mapping[str, Array]) -> list[str]:
    """Write a network's parameters to a file, and return lines for people.

    Args:
        path: The file.
        kind: One of FORMATS.
        spec: The network.
        tensors: By name, as Network.state() has them; momentum is left out.

    Raises:
        ValueError: There is no such format, or the network cannot be written so.
        OSError: It cannot be written; an older file is then unchanged.
    """
    writers = {name: one.write for name, one in FORMATS.items() if one.write is not None}
    if kind not in writers:
        raise ValueError(nearest("--format", kind, writers))
    values = {part.name: tensors[part.name] for part in parts(spec)}
    if MEAN_IMAGE in tensors:
        values[MEAN_IMAGE] = tensors[MEAN_IMAGE]
    return writers[kind](path, spec, values)


def torch_tensors(spec: NetSpec, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Return a network's parameters by the other program's names, in its layouts, with counters.

    Raises:
        ValueError: The network has a layer that computes something else there.
    """
    check_dropout(spec)
    naming = namings(spec)[0]
    found: dict[str, Array] = {}
    for part in parts(spec):
        found[_there(part, naming)] = part.to_there(tensors[part.name])
        if part.of == "running_var":
            found[f"{naming.names[part.layer]}.{_COUNTERS}"] = np.zeros((), np.int64)
    return found


def _writer(write: Callable[[Path, Mapping[str, Array]], None]) -> Any:
    def writer(path: Path, spec: NetSpec, tensors: Mapping[str, Array]) -> list[str]:
        write(path, torch_tensors(spec, tensors))
        return list(_advice(spec))

    return writer


def _write_onnx(path: Path, spec: NetSpec, tensors: Mapping[str, Array]) -> list[str]:
    onnx_writer.write(path, spec, tensors, tensors.get(MEAN_IMAGE))
    image = spec.input
    return [
        f"images: data, float [N, {image.channels}, {image.height}, {image.width}], "
        f"{'RGB, ' if image.channels == 3 else ''}pixels from 0 to 255"
    ]


def _advice(spec: NetSpec) -> Iterator[str]:
    """Yield lines on what the file does not say."""
    naming, image = namings(spec)[0], spec.input
    yield f"names of layers: {naming.whose}'s"
    yield from (f"there, but not here: {note}" for note in naming.adapt(spec)[1])
    if image.mean is not None:
        deviation = image.deviation or (1.0,) * image.channels
        scale = "" if image.scale == 1 else f", times {image.scale:g}"
        yield f"pixels, from 0 to 255: minus {_numbers(image.mean)}, over {_numbers(deviation)}{scale}"
    else:
        yield f"pixels, from 0 to 255: minus the mean of the training images, times {image.scale:g}"


FORMATS: dict[str, Format] = {
    "torch": Format(
        "PyTorch's .pth, .pt or .th",
        (".pth", ".pt", ".th"),
        torch_files.is_torch,
        _read_torch,
        _writer(torch_writer.write_tensors),
    ),
    "safetensors": Format(
        ".safetensors",
        (".safetensors",),
        lambda path, start: safetensors_files.is_safetensors(start),
        _read_safetensors,
        _writer(safetensors_files.write_tensors),
    ),
    "onnx": Format(
        "ONNX's .onnx", (".onnx",), lambda path, start: path.suffix == ".onnx", _read_onnx, _write_onnx
    ),
    "caffe": Format(
        "Caffe's .caffemodel", (".caffemodel",), lambda path, start: path.suffix == ".caffemodel", _read_caffe
    ),
}
