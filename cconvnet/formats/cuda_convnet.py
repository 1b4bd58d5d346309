"""cuda-convnet's configuration files: a network in two INI files, read into a NetSpec.

The layer file has a section per layer, named like the layer; the parameter file has a section of the same
name for each layer that learns or has other values. What each key means, and what stands for a missing one,
is what the original program of 2012 makes of it, and for keys it no longer or not yet had, cuda-convnet and
cuda-convnet2.

Where these files and a NetSpec speak differently:

- `filters` counts the filters of one group; a spec counts all.
- A response norm's `scale` is divided by the window's size (:func:`cconvnet.nets.lrn_alpha`).
- `start` is where the first pooling window begins: a padding with the other sign.
- Output sizes are rounded up. Where the number of windows is not the one a spec's own rule gives, it is set.
- Rates stand with each layer. The recipe's rate and momentum are the first that is not zero of the first
  layer with weights, and every layer has its factor.
- A softmax is a layer of its own, which the cost reads. In a spec both are one layer, named like the cost; it
  keeps the softmax's name.
- `neuron=` on a layer without weights becomes a layer of its own, NAME_neuron, as in the original.
- ``pass`` is no layer: its readers read its input. ``nailbed`` is pooling with windows of one pixel.
- ``randSparse`` becomes a layer that deals the channels out, NAME_sparse; ``dropout=`` of a layer becomes one
  behind it, NAME_dropout.
- Of a list of devices, ``gpu=0,1``, the first computes the whole batch, with the same result.
- Neither the size of the images nor how long to train is in the files.
- `dropout` is what the original calls hs: it multiplies by keep at test time. cuda-convnet2 knows that as
  dropout2, and its own `dropout` divides by keep in training; a note says which one was read.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet.errors import nearest
from cconvnet.formats.ini import ConfigError, Section, read_sections
from cconvnet.formats.rates import Rate, read_curve, read_rates
from cconvnet.nets import (
    DATA,
    BlurSpec,
    ConcatSpec,
    ContrastNormSpec,
    ConvSpec,
    DropoutSpec,
    FcSpec,
    InputSpec,
    LayerSpec,
    LocalSpec,
    LrnSpec,
    MaxSpec,
    NetSpec,
    Neuron,
    NeuronSpec,
    PoolSpec,
    SelectSpec,
    SoftmaxCostSpec,
    SumSpec,
    TrainRecipe,
    gaussian,
    lrn_alpha,
)
from cconvnet.nets.shapes import Shape, output_shape, pool_outputs

__all__ = ["ConfigError", "read"]

# ---- which keys there are ------------------------------------------------------------------------------

_INPUTS = ("type", "inputs", "neuron", "gpu", "dropout")
_WEIGHTS = (*_INPUTS, "initW", "initB", "initWFunc", "initBFunc", "weightSource")
_FILTERS = (
    *_WEIGHTS,
    *("channels", "filters", "filterSize", "padding", "stride", "groups"),
    *("randSparse", "filterChannels", "initCFunc"),
)
# Older programs had a norm's `size` as `sizeX`, its values here, and LRN as rnorm with `crossMap`.
_OLD_NORM = ("sizeX", "scale", "pow", "minDiv")
_NORM = (*_INPUTS, "channels", "size", "blocked", *_OLD_NORM)

LAYER_KEYS: dict[str, tuple[str, ...]] = {
    "data": ("type", "dataIdx", "gpu"),
    "conv": (*_FILTERS, "sharedBiases", "partialSum", "sumWidth"),
    "local": _FILTERS,
    "fc": (*_WEIGHTS, "outputs"),
    "pool": (*_INPUTS, "pool", "channels", "sizeX", "stride", "start", "outputsX"),
    "cmrnorm": _NORM,
    "rnorm": (*_NORM, "crossMap"),
    "cnorm": _NORM,
    "neuron": _INPUTS,
    "eltsum": (*_INPUTS, "coeffs"),
    "eltmax": _INPUTS,
    "dropout": (*_INPUTS, "keep"),
    "dropout2": (*_INPUTS, "keep"),
    "hs": (*_INPUTS, "keep"),
    "pass": _INPUTS,
    "concat": _INPUTS,
    "blur": (*_INPUTS, "channels", "filterSize", "stdev"),
    "nailbed": (*_INPUTS, "channels", "start", "stride"),
    "softmax": ("type", "inputs", "neuron", "gpu"),
    "cost.logreg": ("type", "inputs", "neuron", "gpu"),
}
_QUANT = ("quantF", "quantB")
_RATES = (
    *("epsW", "epsB", "momW", "momB", "wc", "wball", "sched", "schedW", "schedB", "superEps", "superMom"),
    *("updatePeriod", "dropout", *_QUANT),
)
PARAM_KEYS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(LAYER_KEYS, ("dropout", *_QUANT)),
    **dict.fromkeys(("data", "softmax"), _QUANT),
    "pool": ("doMax", "dropout", *_QUANT),
    "conv": (*_RATES, "wcNormMin", "wcNormMax", "wcnorm"),
    "local": _RATES,
    "fc": _RATES,
    **dict.fromkeys(("cmrnorm", "rnorm", "cnorm"), ("scale", "pow", "minDiv", "dropout", *_QUANT)),
    **dict.fromkeys(("dropout", "dropout2", "hs"), ("keep", "enable", *_QUANT)),
    "cost.logreg": ("coeff", "topk", *_QUANT),
}

# Keys that steer the old kernels or what the old program printed.
_NO_EFFECT = ("partialSum", "sumWidth", "filterChannels", "superMom", "topk")
_FALSE, _ZERO, _EMPTY = ("0", "no", "false", "off"), ("0",), ("",)
# Keys of what is not there: only these values, with which they change nothing.
_ONLY: dict[str, tuple[str, ...]] = {
    **{
        "blocked": _FALSE,
        "weightSource": _EMPTY,
        "superEps": _ZERO,
        "wcnorm": _ZERO,
        "updatePeriod": ("0", "1"),
    },
    **dict.fromkeys(_QUANT, ("default",)),
    "doMax": _FALSE,  # of pool=rand
}
# Keys that name functions of the user's own Python.
_CODE = ("initWFunc", "initBFunc", "initCFunc")
# Layers of the old programs that are not there. The name is known, so that nobody looks for a typing error.
_OTHER_TYPES = (
    *("crop", "href", "resize", "rgb2lab", "rgb2yuv", "rscale"),
    *("splitfc", "treefc", "cmpool", "sum", "cost.bce", "cost.crossent", "cost.crossent2", "cost.dce"),
    *("cost.gsum2", "cost.msm", "cost.rflickr", "cost.sum2", "cost.tica"),
)
_NEEDS_PARAMS = ("conv", "local", "fc", "cost.logreg")
_OTHER_NEURONS = ("abstanh", "drelu", "nrelu")
_OTHER_POOLS = ("maxabs", "rand")

NEURONS: dict[str, int] = {  # how many values stand in brackets
    **dict.fromkeys(("ident", "relu", "logistic", "abs", "softrelu", "square", "sqrt"), 0),
    **{"tanh": 2, "linear": 2, "brelu": 1},
}
_NORMS = {"cmrnorm": "across_channels", "rnorm": "same_map", "cnorm": "same_map"}
_POOLS = ("max", "avg")
BLURS = (3, 5, 7, 9)  # the original's sizes
_PER_INPUT = ("channels", "filters", "padding", "stride", "filterSize", "groups", "initW")

# ---- reading -------------------------------------------------------------------------------------------


def read(
    layer_def: Path,
    layer_params: Path,
    *,
    image_shape: tuple[int, int] | tuple[int, int, int],
    crop: int | None = None,
    classes: int | None = None,
    name: str | None = None,
    recipe: TrainRecipe | None = None,
) -> tuple[NetSpec, list[str]]:
    """The network of a layer file and a parameter file, and notes on what in them changes no result.

    Args:
        image_shape: (H, W, C) of the stored images; (H, W): C is what the first layer that reads the images
            says, 3 if none does.
        crop: the side of the squares cut out of them; None: the network sees whole images.
        classes: how many labels there are; None: as many as the softmax has inputs.
        name: the network's; None: the layer file's name, or its folder's where it is called layers.cfg.
        recipe: how to train, except for the rate and the momentum, which are in the files. None: 90 epochs
            of batches of 128, random crops and mirror images if there is a crop.

    Raises:
        ConfigError: ``FILE:LINE: layer NAME: ...`` where the files cannot be used.
        OSError: one of them cannot be read.
    """
    reader = _Reader(read_sections(Path(layer_def)), read_sections(Path(layer_params)), Path(layer_params))
    reader.look_for(Path(layer_def))
    height, width, *rest = image_shape
    channels = rest[0] if rest else reader.image_channels()
    if crop is not None and not 1 <= crop <= min(height, width):
        raise ValueError(f"crop must be from 1 to {min(height, width)}, the images' side, not {crop}")
    # The old programs' data providers that crop subtract the centre of the mean image from every crop.
    image = InputSpec(crop or height, crop or width, channels, center_mean=crop is not None)
    reader.build(image, classes)
    cropped = crop is not None
    recipe = recipe or TrainRecipe(batch=128, epochs=90, lr=0.01, crop=cropped, mirror=cropped)
    stem = Path(layer_def).stem
    spec = NetSpec(
        name=name or (Path(layer_def).absolute().parent.name if stem == "layers" else stem),
        layers=tuple(reader.layers),
        input=image,
        stored=(height, width),
        classes=reader.classes,
        recipe=dataclasses.replace(recipe, lr=reader.lr, momentum=reader.momentum),
    )
    return spec, reader.notes()


class _Reader:
    """Goes through the sections and collects the layers."""

    def __init__(self, sections: dict[str, Section], params: dict[str, Section], params_file: Path) -> None:
        self.sections = sections
        self.params = params
        self.params_file = params_file
        self.layers: list[LayerSpec] = []
        self.classes = 0
        self.lr, self.momentum = 0.01, 0.0
        self.costs: list[Section] = []
        self._type: dict[str, str] = {}  # by section
        self._inputs: dict[str, list[str]] = {}
        self._output: dict[str, str] = {}  # the name of the spec's layer that a section's readers read
        self._shape: dict[str, Shape] = {}  # by section, of what they read
        self._no_effect: dict[str, list[str]] = {}  # key: layers
        self._replicas: dict[str, list[str]] = {}  # gpu: layers
        self._of_no_layer: list[Section] = []

    # -- before any layer is built --

    def look_for(self, file: Path) -> None:
        """Checks types, keys, and that the sections are all there is and are joined to one network."""
        for section in self.sections.values():
            self._look_at(section)
        needed = [name for name, kind in self._type.items() if kind in _NEEDS_PARAMS]
        for section in self.params.values():
            if section.name in self.sections:
                self._check_keys(section, PARAM_KEYS[self._type[section.name]])
            elif all(name in self.params for name in needed):
                # As in the old programs, which look up the layers' sections and no others.
                self._of_no_layer.append(section)
            else:
                raise section.error(nearest("a layer", section.name, self.sections))
        sources: dict[int, Section] = {}
        for section in self._of_type("data"):
            index = section.value("dataIdx", int)
            if index not in (0, 1):
                raise section.error(f"dataIdx must be 0, images, or 1, labels, not {index}", "dataIdx")
            if index in sources:
                raise section.error(
                    f"dataIdx={index} is already layer {sources[index].name}'s, line {sources[index].line}",
                    "dataIdx",
                )
            sources[index] = section
        for index, what in enumerate(("the images", "the labels")):
            if index not in sources:
                raise ConfigError(f"{file}: there is no layer of type=data with dataIdx={index}, {what}")
        self.images, self.labels = sources[0], sources[1]
        self.costs = list(self._of_type("cost.logreg"))
        if not self.costs:
            raise ConfigError(f"{file}: there is no layer of type=cost.logreg")
        if len(self.costs) > 1:
            raise self.costs[1].error(
                f"there is one cost too many; the first is layer {self.costs[0].name}, line "
                f"{self.costs[0].line}"
            )
        for section in self.sections.values():
            for name in self._inputs[section.name]:
                if name not in self.sections:
                    raise section.error(nearest("an input", name, self.sections), "inputs")
                if section is self.costs[0]:
                    continue
                if name == self.labels.name or self._type[name] in ("softmax", "cost.logreg"):
                    raise section.error(f"only a cost can read layer {name}", "inputs")
        self.order = self._ordered()  # first, since in a circle somebody else's reader may be missing
        read = {name for inputs in self._inputs.values() for name in inputs}
        for section in self.sections.values():
            if section.name not in read and section is not self.costs[0]:
                raise section.error("no layer reads it")

    def _look_at(self, section: Section) -> None:
        kind = section.text("type")
        if kind in _OTHER_TYPES:
            raise section.error(f"type={kind} is a layer of cuda-convnet that is not supported here", "type")
        if kind not in LAYER_KEYS:
            raise section.error(nearest("type", kind, LAYER_KEYS), "type")
        self._type[section.name] = kind
        self._check_keys(section, LAYER_KEYS[kind])
        self._inputs[section.name] = []
        if kind != "data":
            names = [name.strip() for name in section.text("inputs").split(",")]
            several = dict.fromkeys(("eltsum", "eltmax", "concat"), (2, None)) | {"cost.logreg": (2, 2)}
            count = several.get(kind, (1, None if kind in ("conv", "local", "fc") else 1))
            if len(names) < count[0] or (count[1] is not None and len(names) > count[1]):
                wanted = f"{count[0]}" if count[1] is not None else f"at least {count[0]}"
                raise section.error(f"inputs must be {wanted} in number, not {len(names)}", "inputs")
            self._inputs[section.name] = names

    def _check_keys(self, section: Section, allowed: Iterable[str]) -> None:
        kind = self._type[section.name]
        spelled = {key.lower(): key for key in allowed}
        for low, value in section.values.items():
            if low not in spelled:
                text = nearest(f"a key of type={kind}", value.key, spelled.values())
                raise section.error(text, low)
            key = spelled[low]
            if key in _NO_EFFECT and not (key == "filterChannels" and _is_sparse(section)):
                self._no_effect.setdefault(key, []).append(section.name)
                section.values_of(key, int if key != "superMom" else float, value.text.count(",") + 1)
            elif key in _CODE and value.text:
                raise section.error(
                    f"{key}={value.text} names a function of the user's own Python, which is not run; leave "
                    "it empty and give initW and initB",
                    key,
                )
            elif key in _ONLY:
                for part in value.text.split(","):
                    if not _is_one_of(part.strip(), _ONLY[key]):
                        raise section.error(
                            f"{key}={value.text} is not supported; only {key}={_ONLY[key][0]} is", key
                        )

    def _of_type(self, *kinds: str) -> Iterable[Section]:
        return (section for section in self.sections.values() if self._type[section.name] in kinds)

    def image_channels(self) -> int:
        """How many channels the images have by the first layer that reads them and says so."""
        for section in self.sections.values():
            inputs = self._inputs[section.name]
            if self.images.name in inputs and "channels" in section:
                return section.values_of("channels", int, len(inputs), low=1)[inputs.index(self.images.name)]
        return 3

    def _ordered(self) -> list[Section]:
        """The sections, each after those it reads, otherwise as they stand in the file."""
        done: dict[str, Section] = {}
        path: list[str] = []

        def visit(section: Section) -> None:
            if section.name in done:
                return
            if section.name in path:
                circle = [*path[path.index(section.name) :], section.name]
                raise section.error(f"reads its own output: {' <- '.join(circle)}", "inputs")
            path.append(section.name)
            for name in self._inputs[section.name]:
                visit(self.sections[name])
            path.pop()
            done[section.name] = section

        for section in self.sections.values():
            if section is not self.costs[0]:
                visit(section)
        visit(self.costs[0])
        return list(done.values())

    # -- layer by layer --

    def build(self, image: InputSpec, classes: int | None) -> None:
        self._find_rates(
            section for section in self.order if self._type[section.name] in ("conv", "local", "fc")
        )
        self._output[self.images.name] = DATA
        self._shape[self.images.name] = (image.height, image.width, image.channels)
        for section in self.order:
            kind = self._type[section.name]
            if kind == "data":
                continue
            if kind == "softmax":
                if section.text("neuron", "ident") != "ident":
                    raise section.error("a softmax cannot have a neuron", "neuron")
                self._shape[section.name] = self._shapes(section)[0]
                continue
            if kind == "cost.logreg":
                self._cost(section, classes)
                continue
            neuron = self._neuron(section) if kind != "neuron" else None
            dropped = self._dropped(section)
            if kind == "pass":
                # Copies between devices are the network's own affair.
                self._device(section)
                (source,) = self._inputs[section.name]
                output, shape = self._output[source], self._shape[source]
            else:
                # A layer takes its function along, unless something else stands between them.
                inside = kind in ("conv", "local", "fc") and not (
                    dropped and neuron and neuron.kind != "relu"
                )
                spec = _BUILDERS[kind](self, section, neuron if inside else None)
                output, shape = spec.name, self._add(section, spec)
                neuron = None if inside else neuron
            if dropped:
                output = self._behind(output, DropoutSpec(name=f"{section.name}_dropout", keep=1 - dropped))
            if neuron is not None:
                output = self._behind(output, NeuronSpec(name=f"{section.name}_neuron", neuron=neuron))
            self._output[section.name], self._shape[section.name] = output, shape

    def _behind(self, output: str, spec: LayerSpec) -> str:
        """Adds a layer that a section only implies, which reads `output`; returns its name."""
        name = self._unused(spec.name)
        self.layers.append(dataclasses.replace(spec, name=name, inputs=(output,)))
        return name

    def _dropped(self, section: Section) -> float:
        """The part that ``dropout=`` drops of a layer's output in training, before its neuron."""
        params = self.params.get(section.name)
        where = params if params is not None and "dropout" in params else section
        if where is params and "dropout" in section:
            raise section.error("dropout must stand in one of the two files, not in both", "dropout")
        part = where.value("dropout", float, 0.0)
        if not 0 <= part < 1:
            raise where.error(f"dropout must be at least 0 and below 1, not {part:g}", "dropout")
        return part

    def _add(self, section: Section, spec: LayerSpec) -> Shape:
        try:
            shape = output_shape(spec, self._shapes(section))
        except ValueError as error:
            raise section.error(str(error).removeprefix(f"layer {spec.name}: ")) from None
        self.layers.append(spec)
        return shape

    def _shapes(self, section: Section) -> list[Shape]:
        return [self._shape[name] for name in self._inputs[section.name]]

    def _unused(self, wish: str) -> str:
        return free_name(wish, {*self.sections, *(layer.name for layer in self.layers)})

    def _common(self, section: Section) -> dict[str, Any]:
        """What every spec has: name, inputs, device."""
        if section.name == DATA:
            raise section.error(f"only the images can be called {DATA}")
        inputs = tuple(self._output[name] for name in self._inputs[section.name])
        return {"name": section.name, "inputs": inputs, "device": self._device(section)}

    def _device(self, section: Section) -> int | None:
        if "gpu" not in section:
            return None
        text = section.text("gpu")
        devices = section.values_of("gpu", int, text.count(",") + 1, low=0)
        if len(devices) > 1:
            self._replicas.setdefault(text, []).append(section.name)
        return devices[0]

    def _neuron(self, section: Section) -> Neuron | None:
        """The function of ``neuron=``; None for ident, which is none."""
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

    def _channels(self, section: Section, index: int, channels: int) -> None:
        """Checks a layer's `channels` against the shape of its input, known from the layers before."""
        name = self._inputs[section.name][index]
        h, w, c = self._shape[name]
        if channels != c:
            raise section.error(
                f"channels must be {c}, as many as layer {name} puts out ({h}x{w}x{c}), not {channels}",
                "channels",
            )

    # -- weights --

    def _rates(self, section: Section) -> Section:
        """The layer's section of the parameter file."""
        if section.name not in self.params:
            raise section.error(f"needs a section [{section.name}] in {self.params_file}")
        return self.params[section.name]

    def _find_rates(self, weighted: Iterable[Section]) -> None:
        """The network's rate and momentum."""
        for key, target in (("epsW", "lr"), ("momW", "momentum")):
            for section in self.sections.values():
                if self._type[section.name] not in ("conv", "local", "fc"):
                    continue
                count = len(self._inputs[section.name])
                rates = read_rates(self._rates(section), key, count)
                first = next((value for value, _ in rates if value), None)
                if first is not None:
                    setattr(self, target, first)
                    break

    def _weights(
        self, section: Section, each: Sequence[dict[str, Any]], counts: Sequence[int]
    ) -> dict[str, Any]:
        """What the specs of layers with weights share.

        `each` holds the values that differ by input, `counts` how many weights an output has for each.
        """
        params, n = self._rates(section), len(each)
        initial = section.values_of("initW", float, n, 0.01 if self._type[section.name] == "fc" else None, 0)
        eps = self._curved(params, "epsW", "schedW", n)
        ((eps_b, curve_b),) = self._curved(params, "epsB", "schedB", 1)
        momentum = params.values_of("momW", float, n, low=0)
        decay = params.values_of("wc", float, n, 0.0, low=0)
        ball = params.values_of("wball", float, n, 0.0, low=0)
        contrast = self._contrast_limits(params, counts)
        rows = [
            {
                **each[i],
                "init": gaussian(initial[i]),
                "lr_scale": rate_factor(eps[i][0], self.lr),
                "lr_curve": eps[i][1],
                "weight_decay": decay[i],
                "momentum": None if momentum[i] == self.momentum else momentum[i],
                "norm_limit": norm_limit_of(ball[i], counts[i]),
                "contrast_limits": contrast[i],
            }
            for i in range(n)
        ]
        momentum_b = params.value("momB", float, low=0)
        return {
            **merged(rows),
            "bias": section.value("initB", float, 0.0),
            "bias_lr_scale": rate_factor(eps_b, self.lr),
            "bias_lr_curve": curve_b,
            "bias_momentum": None if momentum_b == self.momentum else momentum_b,
        }

    def _curved(self, params: Section, key: str, sched: str, count: int) -> list[Rate]:
        """The rates of one key, with the curve that a key of the original gives to all of them."""
        rates = read_rates(params, key, count)
        # An old version of the original had one key for weights and biases.
        sched = "sched" if "sched" in params and sched not in params else sched
        curve = read_curve(params, sched)
        if curve is not None and any(own for _, own in rates):
            raise params.error(f"{key} has a curve already, so {sched} must be default", sched)
        return [(rate, own or curve) for rate, own in rates]

    def _contrast_limits(self, params: Section, counts: Sequence[int]) -> list[tuple[float, float] | None]:
        """The limits of each input's filters; the file's are of the norm divided by the number of weights."""
        least, most = (
            params.values_of(key, float, len(counts), 0.0, low=0) for key in ("wcNormMin", "wcNormMax")
        )
        limits: list[tuple[float, float] | None] = []
        for low, high, count in zip(least, most, counts, strict=True):
            if low > high:
                raise params.error(f"wcNormMin must be at most wcNormMax, {high:g}, not {low:g}", "wcNormMin")
            limits.append((norm_limit_of(low, count), norm_limit_of(high, count)) if high else None)
        return limits

    def _fc(self, section: Section, neuron: Neuron | None) -> LayerSpec:
        inputs = self._shapes(section)
        values = self._weights(section, [{} for _ in inputs], [math.prod(shape) for shape in inputs])
        outputs = section.value("outputs", int, low=1)
        return FcSpec(**self._common(section), **values, outputs=outputs, neuron=neuron)

    def _filters(self, section: Section, neuron: Neuron | None) -> LayerSpec:
        """A conv or local layer."""
        inputs = self._shapes(section)
        n = len(inputs)
        channels = section.values_of("channels", int, n, low=1)
        per_group = section.values_of("filters", int, n, low=1)
        groups = section.values_of("groups", int, n, 1, low=1)
        sides = section.values_of("filterSize", int, n, low=1)
        strides = section.values_of("stride", int, n, 1, low=1)
        padding = section.values_of("padding", int, n, 0, low=0)
        sparse = section.values_of("randSparse", bool, n, False)
        each, counts = [], []
        common = self._common(section)
        for i in range(n):
            self._channels(section, i, channels[i])
            if sparse[i]:
                common["inputs"] = self._sparse(section, i, groups[i], common["inputs"])
                channels[i] = self._shape[common["inputs"][i]][2]
            if channels[i] % groups[i]:
                raise section.error(f"groups must divide channels, {channels[i]}, not {groups[i]}", "groups")
            pair = {"window": sides[i], "stride": strides[i], "padding": padding[i]}
            each.append(
                {
                    **{key: (side, side) for key, side in pair.items()},
                    "groups": groups[i],
                    "rounding": "ceil",
                }
            )
            counts.append(sides[i] ** 2 * (channels[i] // groups[i]))
        filters = {count * group for count, group in zip(per_group, groups, strict=True)}
        if len(filters) != 1:
            listed = ", ".join(map(str, sorted(filters)))
            raise section.error(
                f"filters times groups must be the same for every input, not {listed}", "filters"
            )
        values = {**common, **self._weights(section, each, counts)}
        if self._type[section.name] == "local":
            return LocalSpec(**values, filters=filters.pop(), neuron=neuron)
        shared = section.value("sharedBiases", bool, True)
        return ConvSpec(**values, filters=filters.pop(), neuron=neuron, shared_bias=shared)

    def _sparse(self, section: Section, index: int, groups: int, inputs: tuple[str, ...]) -> tuple[str, ...]:
        """The inputs, one of them replaced by the channels that each group of filters reads at random.

        Each of groups * filterChannels / channels permutations deals all channels out to groups. The original
        drew them anew for every network; here they follow from the layer's name, and the spec lists them.
        """
        name = self._inputs[section.name][index]
        channels, n = self._shape[name][2], len(inputs)
        own = section.values_of("filterChannels", int, n, low=1)[index] if "filterChannels" in section else 0
        own = own or channels // groups
        if groups < 2:
            raise section.error("randSparse needs groups above 1", "randSparse")
        if channels % own or groups * own % channels:
            raise section.error(
                f"filterChannels must divide channels, {channels}, and times groups, {groups}, be a multiple "
                f"of it, not {own}",
                "filterChannels",
            )
        draws = np.random.Generator(np.random.Philox(key=zlib.crc32(f"{section.name}.{index}".encode())))
        picked = np.concatenate([draws.permutation(channels) for _ in range(groups * own // channels)])
        suffix = f".{index}" if n > 1 else ""
        spec = SelectSpec(name=f"{section.name}_sparse{suffix}", channels=tuple(map(int, picked)))
        chosen = self._behind(inputs[index], dataclasses.replace(spec, device=self._device(section)))
        self._shape[chosen] = (*self._shape[name][:2], len(picked))
        return (*inputs[:index], chosen, *inputs[index + 1 :])

    # -- without weights --

    def _concat(self, section: Section, neuron: Neuron | None) -> LayerSpec:
        return ConcatSpec(**self._common(section))

    def _blur(self, section: Section, neuron: Neuron | None) -> LayerSpec:
        (shape,) = self._shapes(section)
        self._channels(section, 0, section.value("channels", int, low=1))
        size, stdev = section.value("filterSize", int, low=1), section.value("stdev", float)
        if size not in BLURS:
            raise section.error(
                f"filterSize must be one of {', '.join(map(str, BLURS))}, not {size}", "filterSize"
            )
        if size > min(shape[:2]):
            raise section.error(
                f"filterSize must be at most the image's side, {min(shape[:2])}", "filterSize"
            )
        if not stdev > 0:
            raise section.error(f"stdev must be above 0, not {stdev:g}", "stdev")
        return BlurSpec(**self._common(section), stdev=stdev, size=size)

    def _nailbed(self, section: Section, neuron: Neuron | None) -> LayerSpec:
        """Every stride-th pixel: pooling with windows of one pixel, in the middle without `start`."""
        (shape,) = self._shapes(section)
        self._channels(section, 0, section.value("channels", int, low=1))
        stride = section.value("stride", int, low=1)
        if "start" in section:
            start = section.value("start", int, low=0)
            if start >= min(shape[:2]):
                raise section.error(
                    f"start must be below the image's side, {min(shape[:2])}, not {start}", "start"
                )
        else:
            start = (shape[0] - 1) % stride // 2
        counts = tuple(-(-(side - start) // stride) for side in shape[:2])
        return PoolSpec(
            **self._common(section),
            pool="avg",
            window=(1, 1),
            stride=(stride, stride),
            padding=(-start, -start),
            rounding="ceil",
            outputs=(counts[0], counts[1]),
        )

    def _pool(self, section: Section, neuron: Neuron | None) -> LayerSpec:
        (shape,) = self._shapes(section)
        self._channels(section, 0, section.value("channels", int, low=1))
        kind = section.text("pool")
        if kind in _OTHER_POOLS:
            raise section.error(f"pool={kind} is not supported", "pool")
        if kind not in _POOLS:
            raise section.error(nearest("pool", kind, _POOLS), "pool")
        side = section.value("sizeX", int, low=1)
        stride = section.value("stride", int, low=1)
        start = section.value("start", int, 0)
        outputs = section.value("outputsX", int, 0, low=0)
        if side > min(shape[:2]):
            raise section.error(
                f"sizeX must be at most the image's side, {min(shape[:2])}, not {side}", "sizeX"
            )
        if stride > side:
            raise section.error(f"stride must be at most sizeX, {side}, not {stride}", "stride")
        if not -side < start < min(shape[:2]):
            raise section.error(
                f"start must be above {-side} and below {min(shape[:2])}, not {start}", "start"
            )
        spec = PoolSpec(
            **self._common(section),
            pool=kind,
            window=(side, side),
            stride=(stride, stride),
            padding=(-start, -start),
            rounding="ceil",
        )
        by_rule = [max(1, 1 - (start + side - size) // stride) for size in shape[:2]]
        counts = (outputs, outputs) if outputs else (by_rule[0], by_rule[1])
        for size, count in zip(shape, counts, strict=False):
            if start + (count - 1) * stride >= size:
                raise section.error(
                    f"outputsX must be at most {1 + (size - 1 - start) // stride}, not {count}: further "
                    f"windows would begin beyond the image, {shape[0]}x{shape[1]}",
                    "outputsX",
                )
        if outputs or counts != pool_outputs(spec, shape):
            spec = dataclasses.replace(spec, outputs=counts)
        return spec

    def _norm(self, section: Section, neuron: Neuron | None) -> LayerSpec:
        (shape,) = self._shapes(section)
        self._channels(section, 0, section.value("channels", int, low=1))
        kind = self._type[section.name]
        if section.value("crossMap", bool, False):
            kind = "cmrnorm"
        if "size" in section and "sizeX" in section:
            raise section.error("size and sizeX are the same; give one", "sizeX")
        key = "sizeX" if "sizeX" in section else "size"
        size = section.value(key, int, low=1)
        most = shape[2] if kind == "cmrnorm" else min(shape[:2])
        if size > most:
            what = "channels" if kind == "cmrnorm" else "the image's side"
            raise section.error(f"{key} must be at most {most}, {what}, not {size}", key)
        old = [key for key in ("scale", "pow", "minDiv") if key in section]
        params = section if old else self._rates(section)
        for key in old:
            if key in self.params.get(section.name, ()):
                raise section.error(f"{key} must stand in one of the two files, not in both", key)
        region = _NORMS[kind]
        values = {
            **self._common(section),
            "size": size,
            "alpha": lrn_alpha(params.value("scale", float), size, region),
            "beta": params.value("pow", float),
            "k": params.value("minDiv", float, 1.0),
        }
        return ContrastNormSpec(**values) if kind == "cnorm" else LrnSpec(**values, region=region)

    def _neuron_layer(self, section: Section, neuron: Neuron | None) -> LayerSpec:
        section.text("neuron")
        function = self._neuron(section) or Neuron("linear")
        return NeuronSpec(**self._common(section), neuron=function)

    def _sum(self, section: Section, neuron: Neuron | None) -> LayerSpec:
        inputs = self._inputs[section.name]
        coeffs = section.values_of("coeffs", float, len(inputs), 1.0)
        return SumSpec(**self._common(section), coeffs=() if set(coeffs) == {1.0} else tuple(coeffs))

    def _max(self, section: Section, neuron: Neuron | None) -> LayerSpec:
        return MaxSpec(**self._common(section))

    def _dropout(self, section: Section, neuron: Neuron | None) -> LayerSpec:
        params = self.params.get(section.name)
        if self._type[section.name] == "hs":
            # The original's, which has a default for neither value.
            keep, enabled = section.value("keep", float), self._rates(section).value("enable", bool)
        else:
            where = params if params is not None and "keep" in params else section
            if where is params and "keep" in section:
                raise section.error("keep must stand in one of the two files, not in both", "keep")
            keep = where.value("keep", float, 0.5)
            enabled = True if params is None else params.value("enable", bool, True)
        if not 0 < keep <= 1:
            raise section.error(f"keep must be above 0 and at most 1, not {keep:g}", "keep")
        return DropoutSpec(**self._common(section), keep=keep, enabled=enabled)

    def _cost(self, section: Section, classes: int | None) -> None:
        labels, softmax = self._inputs[section.name]
        if labels != self.labels.name:
            raise section.error(f"the first input must be the labels, {self.labels.name}", "inputs")
        if self._type[softmax] != "softmax":
            raise section.error(f"the second input must be a softmax, not layer {softmax}", "inputs")
        reader = self.sections[softmax]
        (source,) = self._inputs[softmax]
        self.classes = math.prod(self._shape[softmax])
        if classes is not None and classes != self.classes:
            raise reader.error(
                f"its input must have one value for each of the {classes} classes, not {self.classes}",
                "inputs",
            )
        device = self._device(section)
        self.layers.append(
            SoftmaxCostSpec(
                name=section.name,
                inputs=(self._output[source],),
                device=self._device(reader) if device is None else device,
                coeff=self._rates(section).value("coeff", float),
                softmax=softmax,
            )
        )

    def notes(self) -> list[str]:
        """What a reader of the files may want to know, each thing once."""
        notes = [
            f"{key} changes no result and is not used: {', '.join(names)}"
            for key, names in self._no_effect.items()
        ]
        notes += [note for file in (self.sections, self.params) for s in file.values() for note in s.repeats]
        notes += [
            f"{section.file}:{section.line}: [{section.name}] is no layer's and is not used"
            for section in self._of_no_layer
        ]
        notes += [
            f"gpu={gpu}: a replica on each would compute a part of the batch; the first device computes all "
            f"of it: {', '.join(names)}"
            for gpu, names in self._replicas.items()
        ]
        dropout = ", ".join(section.name for section in self._of_type("dropout"))
        if dropout:
            notes.append(
                f"dropout multiplies by keep at test time, like hs and unlike cuda-convnet2's: {dropout}"
            )
        return notes


_BUILDERS: dict[str, Callable[[_Reader, Section, Neuron | None], LayerSpec]] = {
    "blur": _Reader._blur,
    "concat": _Reader._concat,
    "nailbed": _Reader._nailbed,
    "conv": _Reader._filters,
    "local": _Reader._filters,
    "fc": _Reader._fc,
    "pool": _Reader._pool,
    **dict.fromkeys(_NORMS, _Reader._norm),
    "neuron": _Reader._neuron_layer,
    "eltsum": _Reader._sum,
    "eltmax": _Reader._max,
    **dict.fromkeys(("dropout", "dropout2", "hs"), _Reader._dropout),
}


def _is_sparse(section: Section) -> bool:
    text = section.text("randSparse", "false")
    return any(section.values_of("randSparse", bool, text.count(",") + 1, False))


def free_name(wish: str, taken: set[str]) -> str:
    """`wish`, or with a number behind it the first that is free."""
    if wish not in taken:
        return wish
    return next(name for i in itertools.count(1) if (name := f"{wish}.{i}") not in taken)


def _is_one_of(text: str, allowed: tuple[str, ...]) -> bool:
    """Whether a value is one of those allowed; 0.00 is 0."""
    try:
        return f"{float(text):g}" in allowed
    except ValueError:
        return text.lower() in allowed


def rate_factor(eps: float, lr: float) -> float:
    """A layer's factor of the network's rate, without the last digits, which the division makes up."""
    return float(f"{eps / lr:.15g}")


def norm_limit_of(ball: float, count: int) -> float:
    """The norm's limit: `wball` is meant for each of an output's weights."""
    return float(f"{ball * count:.15g}")


def merged(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The values of the first input, and in ``per_input`` how those of each differ from them."""
    first = dict(rows[0])
    differing = tuple({key: value for key, value in row.items() if value != first[key]} for row in rows)
    return {**first, "per_input": differing if any(differing) else ()}
