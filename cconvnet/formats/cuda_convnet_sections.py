"""The sections of cuda-convnet's two files, with the keys and inputs they may have."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cconvnet.errors import nearest
from cconvnet.formats.ini import ConfigError, Section, read_sections

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


class Sections:
    """The checked sections of both files.

    Args:
        sections, params: Those of the layer file and of the parameter file.
        kinds, inputs: The type of each section's layer and the names of the layers that it reads.
        images, labels, cost: The sections of the data and of the cost.
        order: The sections, each after those that it reads.
        no_effect: Keys that change no result, each with the layers that have it.
        of_no_layer: Sections of the parameter file that no layer has.
    """

    def __init__(self, layer_def: Path, layer_params: Path) -> None:
        self.sections = read_sections(layer_def)
        self.params = read_sections(layer_params)
        self.params_file = layer_params
        self.kinds: dict[str, str] = {}
        self.inputs: dict[str, list[str]] = {}
        self.no_effect: dict[str, list[str]] = {}
        self.of_no_layer: list[Section] = []
        self._check(layer_def)

    def _check(self, file: Path) -> None:
        """Check types and keys, and that all sections are joined to one network."""
        for section in self.sections.values():
            self._read_type(section)
        needed = [name for name, kind in self.kinds.items() if kind in _NEEDS_PARAMS]
        for section in self.params.values():
            if section.name in self.sections:
                self._check_keys(section, PARAM_KEYS[self.kinds[section.name]])
            elif all(name in self.params for name in needed):
                # As in the old programs, which look up the layers' sections and no others.
                self.of_no_layer.append(section)
            else:
                raise section.error(nearest("a layer", section.name, self.sections))
        sources: dict[int, Section] = {}
        for section in self.of_kind("data"):
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
        costs = list(self.of_kind("cost.logreg"))
        if not costs:
            raise ConfigError(f"{file}: there is no layer of type=cost.logreg")
        if len(costs) > 1:
            raise costs[1].error(
                f"there is one cost too many; the first is layer {costs[0].name}, line {costs[0].line}"
            )
        self.cost = costs[0]
        for section in self.sections.values():
            for name in self.inputs[section.name]:
                if name not in self.sections:
                    raise section.error(nearest("an input", name, self.sections), "inputs")
                if section is self.cost:
                    continue
                if name == self.labels.name or self.kinds[name] in ("softmax", "cost.logreg"):
                    raise section.error(f"only a cost can read layer {name}", "inputs")
        self.order = self._ordered()  # first, since in a circle somebody else's reader may be missing
        read = {name for inputs in self.inputs.values() for name in inputs}
        for section in self.sections.values():
            if section.name not in read and section is not self.cost:
                raise section.error("no layer reads it")

    def _read_type(self, section: Section) -> None:
        kind = section.text("type")
        if kind in _OTHER_TYPES:
            raise section.error(f"type={kind} is a layer of cuda-convnet that is not supported here", "type")
        if kind not in LAYER_KEYS:
            raise section.error(nearest("type", kind, LAYER_KEYS), "type")
        self.kinds[section.name] = kind
        self._check_keys(section, LAYER_KEYS[kind])
        self.inputs[section.name] = []
        if kind != "data":
            names = [name.strip() for name in section.text("inputs").split(",")]
            several = dict.fromkeys(("eltsum", "eltmax", "concat"), (2, None)) | {"cost.logreg": (2, 2)}
            count = several.get(kind, (1, None if kind in ("conv", "local", "fc") else 1))
            if len(names) < count[0] or (count[1] is not None and len(names) > count[1]):
                wanted = f"{count[0]}" if count[1] is not None else f"at least {count[0]}"
                raise section.error(f"inputs must be {wanted} in number, not {len(names)}", "inputs")
            self.inputs[section.name] = names

    def _check_keys(self, section: Section, allowed: Iterable[str]) -> None:
        kind = self.kinds[section.name]
        spelled = {key.lower(): key for key in allowed}
        for low, value in section.values.items():
            if low not in spelled:
                text = nearest(f"a key of type={kind}", value.key, spelled.values())
                raise section.error(text, low)
            key = spelled[low]
            if key in _NO_EFFECT and not (key == "filterChannels" and _is_sparse(section)):
                self.no_effect.setdefault(key, []).append(section.name)
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

    def of_kind(self, *kinds: str) -> Iterable[Section]:
        """Yield the sections of these types."""
        return (section for section in self.sections.values() if self.kinds[section.name] in kinds)

    def image_channels(self) -> int:
        """Return the images' channels according to the first layer that reads them; 3 if none does."""
        for section in self.sections.values():
            inputs = self.inputs[section.name]
            if self.images.name in inputs and "channels" in section:
                return section.values_of("channels", int, len(inputs), low=1)[inputs.index(self.images.name)]
        return 3

    def _ordered(self) -> list[Section]:
        """Sort the sections, each after those it reads, otherwise in the order of the file."""
        done: dict[str, Section] = {}
        path: list[str] = []

        def visit(section: Section) -> None:
            if section.name in done:
                return
            if section.name in path:
                circle = [*path[path.index(section.name) :], section.name]
                raise section.error(f"reads its own output: {' <- '.join(circle)}", "inputs")
            path.append(section.name)
            for name in self.inputs[section.name]:
                visit(self.sections[name])
            path.pop()
            done[section.name] = section

        for section in self.sections.values():
            if section is not self.cost:
                visit(section)
        visit(self.cost)
        return list(done.values())

    def params_of(self, section: Section) -> Section:
        """Return the layer's section of the parameter file."""
        if section.name not in self.params:
            raise section.error(f"needs a section [{section.name}] in {self.params_file}")
        return self.params[section.name]


def _is_sparse(section: Section) -> bool:
    text = section.text("randSparse", "false")
    return any(section.values_of("randSparse", bool, text.count(",") + 1, False))


def _is_one_of(text: str, allowed: tuple[str, ...]) -> bool:
    """Return True if a value is one of those allowed; 0.00 is 0."""
    try:
        return f"{float(text):g}" in allowed
    except ValueError:
        return text.lower() in allowed
