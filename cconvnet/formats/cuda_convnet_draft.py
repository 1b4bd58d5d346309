"""A network under construction: the layers read so far, with their outputs and shapes."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from typing import Any

from cconvnet.errors import nearest
from cconvnet.formats.cuda_convnet_sections import Sections
from cconvnet.formats.ini import Section
from cconvnet.nets import DATA, LayerSpec, Neuron
from cconvnet.nets.shapes import Shape, output_shape

NEURONS: dict[str, int] = {  # the number of values in brackets
    **dict.fromkeys(("ident", "relu", "logistic", "abs", "softrelu", "square", "sqrt"), 0),
    **{"tanh": 2, "linear": 2, "brelu": 1},
}
_OTHER_NEURONS = ("abstanh", "drelu", "nrelu")


class Draft:
    """The layers read so far from cuda-convnet's files.

    Args:
        outputs, shapes: By section, the name of the layer that its readers read, and the shape of that.
        lr, momentum: The network's, of which each layer has a factor.
        replicas: Lists of devices, each with the layers that have it.
    """

    def __init__(self, files: Sections) -> None:
        self.files = files
        self.layers: list[LayerSpec] = []
        self.classes = 0
        self.lr, self.momentum = 0.01, 0.0
        self.outputs: dict[str, str] = {}
        self.shapes: dict[str, Shape] = {}
        self.replicas: dict[str, list[str]] = {}

    def add_behind(self, output: str, spec: LayerSpec) -> str:
        """Add a layer that a section implies, reading `output`, and return its name."""
        name = self._free_name(spec.name)
        self.layers.append(dataclasses.replace(spec, name=name, inputs=(output,)))
        return name

    def add(self, section: Section, spec: LayerSpec) -> Shape:
        """Add a section's layer and return its output shape."""
        try:
            shape = output_shape(spec, self.input_shapes(section))
        except ValueError as error:
            raise section.error(str(error).removeprefix(f"layer {spec.name}: ")) from None
        self.layers.append(spec)
        return shape

    def input_shapes(self, section: Section) -> list[Shape]:
        """Return the shapes of a section's inputs."""
        return [self.shapes[name] for name in self.files.inputs[section.name]]

    def _free_name(self, wish: str) -> str:
        return free_name(wish, {*self.files.sections, *(layer.name for layer in self.layers)})

    def common(self, section: Section) -> dict[str, Any]:
        """Return the values that every spec has: name, inputs, device."""
        if section.name == DATA:
            raise section.error(f"only the images can be called {DATA}")
        inputs = tuple(self.outputs[name] for name in self.files.inputs[section.name])
        return {"name": section.name, "inputs": inputs, "device": self.device(section)}

    def device(self, section: Section) -> int | None:
        """Return the device of a section; None if it names none."""
        if "gpu" not in section:
            return None
        text = section.text("gpu")
        devices = section.values_of("gpu", int, text.count(",") + 1, low=0)
        if len(devices) > 1:
            self.replicas.setdefault(text, []).append(section.name)
        return devices[0]

    def neuron(self, section: Section) -> Neuron | None:
        """Return the function of ``neuron=``; None for ident, which is none."""
        text = section.text("neuron", "ident") or "ident"
        match = re.fullmatch(r"(\w+)\s*(?:\[(.*)\])?", text)
        kind = match.group(1) if match else text
        if kind in _OTHER_NEURONS:
            raise section.error(f"neuron={text} is not supported", "neuron")
        if kind not in NEURONS:
            raise section.error(nearest("neuron", kind, NEURONS), "neuron")
        parts = match.group(2).split(",") if match and match.group(2) is not None else []
        try:
            values = [float(part) for part in parts]
        except ValueError:
            values = [math.nan]
        if len(values) != NEURONS[kind] or not all(map(math.isfinite, values)):
            wanted = kind + ("", "[a]", "[a,b]")[NEURONS[kind]]
            raise section.error(f"neuron must be {wanted}, with numbers, not {text!r}", "neuron")
        return None if kind == "ident" else Neuron(kind, *values)

    def check_channels(self, section: Section, index: int, channels: int) -> None:
        """Check a layer's `channels` against the shape of its input, known from the layers before."""
        name = self.files.inputs[section.name][index]
        h, w, c = self.shapes[name]
        if channels != c:
            raise section.error(
                f"channels must be {c}, as many as layer {name} puts out ({h}x{w}x{c}), not {channels}",
                "channels",
            )


def free_name(wish: str, taken: set[str]) -> str:
    """Return `wish`, with a number appended if it is taken."""
    if wish not in taken:
        return wish
    return next(name for i in itertools.count(1) if (name := f"{wish}.{i}") not in taken)
