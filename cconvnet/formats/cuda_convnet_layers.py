"""The layers of cuda-convnet's configuration files, a function for each type."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable

import numpy as np

from cconvnet.errors import nearest
from cconvnet.formats.cuda_convnet_draft import Draft
from cconvnet.formats.cuda_convnet_weights import weights
from cconvnet.formats.ini import Section
from cconvnet.nets import (
    BlurSpec,
    ConcatSpec,
    ContrastNormSpec,
    ConvSpec,
    DropoutSpec,
    FcSpec,
    LayerSpec,
    LocalSpec,
    LrnSpec,
    MaxSpec,
    Neuron,
    NeuronSpec,
    PoolSpec,
    SelectSpec,
    SoftmaxCostSpec,
    SumSpec,
    lrn_alpha,
)
from cconvnet.nets.shapes import pool_outputs

BLURS = (3, 5, 7, 9)  # the original's sizes
_NORMS = {"cmrnorm": "across_channels", "rnorm": "same_map", "cnorm": "same_map"}
_POOLS = ("max", "avg")
_OTHER_POOLS = ("maxabs", "rand")


def _fc(draft: Draft, section: Section, neuron: Neuron | None) -> LayerSpec:
    inputs = draft.input_shapes(section)
    values = weights(draft, section, [{} for _ in inputs], [math.prod(shape) for shape in inputs])
    outputs = section.value("outputs", int, low=1)
    return FcSpec(**draft.common(section), **values, outputs=outputs, neuron=neuron)


def _filters(draft: Draft, section: Section, neuron: Neuron | None) -> LayerSpec:
    """Build a conv or local layer."""
    inputs = draft.input_shapes(section)
    n = len(inputs)
    channels = section.values_of("channels", int, n, low=1)
    per_group = section.values_of("filters", int, n, low=1)
    groups = section.values_of("groups", int, n, 1, low=1)
    sides = section.values_of("filterSize", int, n, low=1)
    strides = section.values_of("stride", int, n, 1, low=1)
    padding = section.values_of("padding", int, n, 0, low=0)
    sparse = section.values_of("randSparse", bool, n, False)
    each, counts = [], []
    common = draft.common(section)
    for i in range(n):
        draft.check_channels(section, i, channels[i])
        if sparse[i]:
            common["inputs"] = _sparse(draft, section, i, groups[i], common["inputs"])
            channels[i] = draft.shapes[common["inputs"][i]][2]
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
        raise section.error(f"filters times groups must be the same for every input, not {listed}", "filters")
    values = {**common, **weights(draft, section, each, counts)}
    if draft.files.kinds[section.name] == "local":
        return LocalSpec(**values, filters=filters.pop(), neuron=neuron)
    shared = section.value("sharedBiases", bool, True)
    return ConvSpec(**values, filters=filters.pop(), neuron=neuron, shared_bias=shared)


def _sparse(
    draft: Draft, section: Section, index: int, groups: int, inputs: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the inputs, one replaced by the channels that each group of filters reads at random.

    Each of groups * filterChannels / channels permutations deals all channels out to groups. The original
    drew them anew for every network; here they follow from the layer's name, and the spec lists them.
    """
    name = draft.files.inputs[section.name][index]
    channels, n = draft.shapes[name][2], len(inputs)
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
    chosen = draft.add_behind(inputs[index], dataclasses.replace(spec, device=draft.device(section)))
    draft.shapes[chosen] = (*draft.shapes[name][:2], len(picked))
    return (*inputs[:index], chosen, *inputs[index + 1 :])


def _concat(draft: Draft, section: Section, neuron: Neuron | None) -> LayerSpec:
    return ConcatSpec(**draft.common(section))


def _blur(draft: Draft, section: Section, neuron: Neuron | None) -> LayerSpec:
    (shape,) = draft.input_shapes(section)
    draft.check_channels(section, 0, section.value("channels", int, low=1))
    size, stdev = section.value("filterSize", int, low=1), section.value("stdev", float)
    if size not in BLURS:
        raise section.error(
            f"filterSize must be one of {', '.join(map(str, BLURS))}, not {size}", "filterSize"
        )
    if size > min(shape[:2]):
        raise section.error(f"filterSize must be at most the image's side, {min(shape[:2])}", "filterSize")
    if not stdev > 0:
        raise section.error(f"stdev must be above 0, not {stdev:g}", "stdev")
    return BlurSpec(**draft.common(section), stdev=stdev, size=size)


def _nailbed(draft: Draft, section: Section, neuron: Neuron | None) -> LayerSpec:
    """Build pooling with windows of one pixel: every stride-th, in the middle without `start`."""
    (shape,) = draft.input_shapes(section)
    draft.check_channels(section, 0, section.value("channels", int, low=1))
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
        **draft.common(section),
        pool="avg",
        window=(1, 1),
        stride=(stride, stride),
        padding=(-start, -start),
        rounding="ceil",
        outputs=(counts[0], counts[1]),
    )


def _pool(draft: Draft, section: Section, neuron: Neuron | None) -> LayerSpec:
    (shape,) = draft.input_shapes(section)
    draft.check_channels(section, 0, section.value("channels", int, low=1))
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
        raise section.error(f"sizeX must be at most the image's side, {min(shape[:2])}, not {side}", "sizeX")
    if stride > side:
        raise section.error(f"stride must be at most sizeX, {side}, not {stride}", "stride")
    if not -side < start < min(shape[:2]):
        raise section.error(f"start must be above {-side} and below {min(shape[:2])}, not {start}", "start")
    spec = PoolSpec(
        **draft.common(section),
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


def _norm(draft: Draft, section: Section, neuron: Neuron | None) -> LayerSpec:
    (shape,) = draft.input_shapes(section)
    draft.check_channels(section, 0, section.value("channels", int, low=1))
    kind = draft.files.kinds[section.name]
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
    params = section if old else draft.files.params_of(section)
    for key in old:
        if key in draft.files.params.get(section.name, ()):
            raise section.error(f"{key} must be in one of the two files, not in both", key)
    region = _NORMS[kind]
    values = {
        **draft.common(section),
        "size": size,
        "alpha": lrn_alpha(params.value("scale", float), size, region),
        "beta": params.value("pow", float),
        "k": params.value("minDiv", float, 1.0),
    }
    return ContrastNormSpec(**values) if kind == "cnorm" else LrnSpec(**values, region=region)


def _neuron_layer(draft: Draft, section: Section, neuron: Neuron | None) -> LayerSpec:
    section.text("neuron")
    function = draft.neuron(section) or Neuron("linear")
    return NeuronSpec(**draft.common(section), neuron=function)


def _sum(draft: Draft, section: Section, neuron: Neuron | None) -> LayerSpec:
    inputs = draft.files.inputs[section.name]
    coeffs = section.values_of("coeffs", float, len(inputs), 1.0)
    return SumSpec(**draft.common(section), coeffs=() if set(coeffs) == {1.0} else tuple(coeffs))


def _max(draft: Draft, section: Section, neuron: Neuron | None) -> LayerSpec:
    return MaxSpec(**draft.common(section))


def _dropout(draft: Draft, section: Section, neuron: Neuron | None) -> LayerSpec:
    params = draft.files.params.get(section.name)
    if draft.files.kinds[section.name] == "hs":
        # The original's, which has a default for neither value.
        keep, enabled = section.value("keep", float), draft.files.params_of(section).value("enable", bool)
    else:
        where = params if params is not None and "keep" in params else section
        if where is params and "keep" in section:
            raise section.error("keep must be in one of the two files, not in both", "keep")
        keep = where.value("keep", float, 0.5)
        enabled = True if params is None else params.value("enable", bool, True)
    if not 0 < keep <= 1:
        raise section.error(f"keep must be above 0 and at most 1, not {keep:g}", "keep")
    return DropoutSpec(**draft.common(section), keep=keep, enabled=enabled)


def add_cost(draft: Draft, section: Section, classes: int | None) -> None:
    """Add the softmax cost and set the number of classes."""
    labels, softmax = draft.files.inputs[section.name]
    if labels != draft.files.labels.name:
        raise section.error(f"the first input must be the labels, {draft.files.labels.name}", "inputs")
    if draft.files.kinds[softmax] != "softmax":
        raise section.error(f"the second input must be a softmax, not layer {softmax}", "inputs")
    reader = draft.files.sections[softmax]
    (source,) = draft.files.inputs[softmax]
    draft.classes = math.prod(draft.shapes[softmax])
    if classes is not None and classes != draft.classes:
        raise reader.error(
            f"its input must have one value for each of the {classes} classes, not {draft.classes}",
            "inputs",
        )
    device = draft.device(section)
    draft.layers.append(
        SoftmaxCostSpec(
            name=section.name,
            inputs=(draft.outputs[source],),
            device=draft.device(reader) if device is None else device,
            coeff=draft.files.params_of(section).value("coeff", float),
            softmax=softmax,
        )
    )


BUILDERS: dict[str, Callable[[Draft, Section, Neuron | None], LayerSpec]] = {
    "blur": _blur,
    "concat": _concat,
    "nailbed": _nailbed,
    "conv": _filters,
    "local": _filters,
    "fc": _fc,
    "pool": _pool,
    **dict.fromkeys(_NORMS, _norm),
    "neuron": _neuron_layer,
    "eltsum": _sum,
    "eltmax": _max,
    **dict.fromkeys(("dropout", "dropout2", "hs"), _dropout),
}
