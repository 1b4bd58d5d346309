"""Writing a network as cuda-convnet's configuration files."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cconvnet.formats.cuda_convnet_draft import NEURONS, free_name
from cconvnet.formats.cuda_convnet_extras import layer_comments, recipe_comments
from cconvnet.formats.cuda_convnet_layers import BLURS
from cconvnet.formats.cuda_convnet_weights import merged, norm_limit_of, rate_factor
from cconvnet.formats.ini import ConfigError
from cconvnet.formats.rates import CURVES, curve_text, has_text
from cconvnet.nets import (
    DATA,
    BatchNormSpec,
    BlurSpec,
    ConcatSpec,
    ContrastNormSpec,
    ConvSpec,
    DeconvSpec,
    DropoutSpec,
    FcSpec,
    LayerSpec,
    LocalSpec,
    LrnSpec,
    MaxSpec,
    NetSpec,
    Neuron,
    NeuronSpec,
    PoolSpec,
    RbfSpec,
    SelectSpec,
    SoftmaxCostSpec,
    SumSpec,
    UnpoolSpec,
    lrn_alpha,
)
from cconvnet.nets.shapes import Shape, fan_in, plain_init, pool_outputs, shapes
from cconvnet.nets.transform import towers as as_towers
from cconvnet.nets.values import Padding
from cconvnet.system.outputs import write_output


def write(spec: NetSpec, layer_def: Path, layer_params: Path, *, towers: int = 2) -> None:
    """Write a network as two files, which :func:`read` reads as its :func:`normal_form`.

    Layers that are split become `towers` layers each. The name of the network, its images and how to train it
    are comments, which other programs ignore.

    Raises:
        ConfigError: Naming the layer and what the files cannot say.
    """
    normal = normal_form(spec, towers)
    writer = _Writer(normal)
    for path, text in ((layer_def, writer.layer_file()), (layer_params, writer.params_file())):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_output(Path(path), [text.encode()])


def normal_form(spec: NetSpec, towers: int = 2) -> NetSpec:
    """Return the network as writing and reading the files changes it.

    Split layers are written out, all output sizes are rounded up, weights drawn as He et al. do have a plain
    standard deviation, and rates are counted from the first layer's. Pixels are scaled by a linear layer,
    since the files' images are not.

    Raises:
        ConfigError: Naming the layer and what the files cannot say.
    """
    try:
        spec = as_towers(spec, towers)
        shapes(spec)
    except ValueError as error:
        raise ConfigError(f"{spec.name}: {error}") from None
    _only_cost(spec)
    spec = _unscaled(spec)
    found = shapes(spec)
    layers = [_NORMAL[type(layer)](layer, found) for layer in spec.layers]
    weighted = [layer for layer in layers if isinstance(layer, _WEIGHTED)]
    old = spec.recipe
    rates = [[_eps(old.lr * own.lr_scale) for own in _each(layer)] for layer in weighted]
    momenta = [
        [old.momentum if own.momentum is None else own.momentum for own in _each(layer)] for layer in weighted
    ]
    lr = next((rate for row in rates for rate in row if rate), 0.01)
    momentum = next((value for row in momenta for value in row if value), 0.0)
    for layer, layer_rates, layer_momenta in zip(weighted, rates, momenta, strict=True):
        rows = [
            {
                **{key: getattr(own, key) for key in layer._EACH_INPUT},
                "lr_scale": rate_factor(rate, lr),
                "momentum": None if value == momentum else value,
            }
            for own, rate, value in zip(_each(layer), layer_rates, layer_momenta, strict=True)
        ]
        own_momentum = old.momentum if layer.bias_momentum is None else layer.bias_momentum
        changed = dataclasses.replace(
            layer,
            **merged(rows),
            bias_lr_scale=rate_factor(_eps(old.lr * layer.bias_lr_scale), lr),
            bias_momentum=None if own_momentum == momentum else own_momentum,
        )
        layers[layers.index(layer)] = changed
    return dataclasses.replace(
        spec, layers=tuple(layers), recipe=dataclasses.replace(old, lr=lr, momentum=momentum)
    )


def _unscaled(spec: NetSpec) -> NetSpec:
    """Return the network with a layer of its own that scales the pixels."""
    scale = spec.input.scale
    if scale == 1:
        return spec
    name = free_name("scaled", {layer.name for layer in spec.layers})
    first = NeuronSpec(name=name, inputs=(DATA,), neuron=Neuron("linear", scale))
    layers = (
        dataclasses.replace(layer, inputs=tuple(name if one == DATA else one for one in layer.inputs))
        for layer in spec.layers
    )
    return dataclasses.replace(
        spec, layers=(first, *layers), input=dataclasses.replace(spec.input, scale=1.0)
    )


_WEIGHTED = (ConvSpec, LocalSpec, FcSpec)


def _each(layer: Any) -> list[Any]:
    return [layer.for_input(index) for index in range(len(layer.inputs))]


def _eps(rate: float) -> float:
    """Round a rate as it is written: the product of two rates, without its last digits."""
    return float(f"{rate:.12g}")


def _cannot(layer: LayerSpec, text: str) -> ConfigError:
    return ConfigError(f"layer {layer.name}: {text}")


def _side(layer: LayerSpec, what: str, pair: Padding) -> int:
    """Return a size that both directions have."""
    side, other = pair
    if not (isinstance(side, int) and isinstance(other, int)):
        raise _cannot(layer, f"{what}={pair}: the files' is the same on all sides")
    if side != other:
        raise _cannot(layer, f"{what}={side}x{other}: the files know only squares")
    return side


def _checked(layer: LayerSpec) -> LayerSpec:
    """Check what holds for all layers."""
    if not re.fullmatch(r"[^\s,;#\[\]]+", layer.name) or layer.name == "DEFAULT":
        raise _cannot(layer, "its name cannot be a section's")
    if isinstance(layer.device, str) or (layer.device is not None and layer.device < 0):
        raise _cannot(layer, f"device={layer.device!r}: the files number devices from 0")
    neuron = getattr(layer, "neuron", None)
    if neuron is not None:
        if neuron.kind not in NEURONS:
            raise _cannot(layer, f"neuron={neuron.kind}: the files have no such neuron")
        count = NEURONS[neuron.kind]
        plain = Neuron(neuron.kind, *(neuron.a, neuron.b)[:count])
        layer = dataclasses.replace(layer, neuron=plain)  # type: ignore[call-arg]
    return layer


def _normal_weights(layer: Any, found: Mapping[str, Shape]) -> LayerSpec:
    layer = _checked(layer)
    if layer.bias is None:
        raise _cannot(layer, "bias=None: in the files every layer with weights has a bias")
    if layer.bias_weight_decay:
        raise _cannot(layer, f"bias_weight_decay={layer.bias_weight_decay:g}: the files' biases do not decay")
    rows = []
    for index, (own, name) in enumerate(zip(_each(layer), layer.inputs, strict=True)):
        row = {key: getattr(own, key) for key in layer._EACH_INPUT}
        count = fan_in(layer, index, found[name])
        row["init"] = plain_init(own.init, count)
        row["norm_limit"] = norm_limit_of(_eps(own.norm_limit / count), count)
        if own.contrast_limits is not None:
            low, high = own.contrast_limits
            row["contrast_limits"] = (
                norm_limit_of(_eps(low / count), count),
                norm_limit_of(_eps(high / count), count),
            )
        if not isinstance(layer, FcSpec):
            if own.dilation != (1, 1):
                raise _cannot(layer, f"dilation={own.dilation[0]}x{own.dilation[1]}: the files know none")
            window, stride, padding = (_side(layer, key, row[key]) for key in ("window", "stride", "padding"))
            if padding < 0:
                raise _cannot(layer, f"padding={padding}: the files' is not negative")
            for size in found[name][:2]:
                if own.rounding == "floor" and (size + 2 * padding - window) % stride:
                    raise _cannot(
                        layer,
                        f"rounding='floor': windows of {window} in steps of {stride} do not fill "
                        f"{size} + 2 x {padding}, and the files round up",
                    )
            row["rounding"] = "ceil"
        rows.append(row)
    return dataclasses.replace(layer, **merged(rows))  # type: ignore[no-any-return]


def _is_nailbed(layer: LayerSpec) -> bool:
    """Return True if a pooling layer takes every n-th pixel and nothing else."""
    return isinstance(layer, PoolSpec) and layer.window == (1, 1) and layer.stride[0] > 1


def _normal_nailbed(layer: PoolSpec, shape: Shape) -> LayerSpec:
    stride, start = layer.stride[0], -_side(layer, "padding", layer.padding)
    _side(layer, "stride", layer.stride)
    if start < 0:
        raise _cannot(layer, f"padding={-start}: a nailbed of the files begins inside the image")
    counts = (-(-(shape[0] - start) // stride), -(-(shape[1] - start) // stride))
    if pool_outputs(layer, shape) != counts:
        raise _cannot(layer, f"outputs={layer.outputs}: a nailbed of the files goes to the image's end")
    return dataclasses.replace(layer, pool="avg", rounding="ceil", outputs=counts)


def _normal_blur(layer: Any, found: Mapping[str, Shape]) -> LayerSpec:
    if layer.size not in BLURS:
        raise _cannot(layer, f"size={layer.size}: the files' is one of {', '.join(map(str, BLURS))}")
    return _checked(layer)


def _no_select(layer: Any, found: Mapping[str, Shape]) -> LayerSpec:
    raise _cannot(layer, "the files deal channels out at random and cannot list them")


def _no_batch_norm(layer: Any, found: Mapping[str, Shape]) -> LayerSpec:
    raise _cannot(layer, "the files have no batch normalisation; a folded network has none either")


def _no_deconv(layer: Any, found: Mapping[str, Shape]) -> LayerSpec:
    raise _cannot(layer, "the files have no transposed convolution")


def _no_unpool(layer: Any, found: Mapping[str, Shape]) -> LayerSpec:
    raise _cannot(layer, "the files have no unpooling")


def _no_rbf(layer: Any, found: Mapping[str, Shape]) -> LayerSpec:
    raise _cannot(layer, "the files have no distances from codes")


def _normal_pool(layer: Any, found: Mapping[str, Shape]) -> LayerSpec:
    layer = _checked(layer)
    shape = found[layer.inputs[0]]
    if layer.count_padding:
        raise _cannot(layer, "count_padding=True: the files' means are of pixels within the image")
    if _is_nailbed(layer):
        return _normal_nailbed(layer, shape)
    window, stride, _ = (_side(layer, key, getattr(layer, key)) for key in ("window", "stride", "padding"))
    if stride > window:
        raise _cannot(layer, f"stride={stride}: the files' is at most the window, {window}")
    if window > min(shape[:2]):
        raise _cannot(layer, f"window={window}: the files' is at most the image's side, {min(shape[:2])}")
    counts = pool_outputs(layer, shape)
    rounded_up = dataclasses.replace(layer, rounding="ceil")
    if layer.outputs is None and (counts != pool_outputs(rounded_up, shape) or layer.padding[0]):
        # The files' own count is another one where the first window does not begin at the edge.
        rounded_up = dataclasses.replace(rounded_up, outputs=counts)
    if rounded_up.outputs is not None:
        _side(layer, "outputs", counts)
    return rounded_up  # type: ignore[no-any-return]


def _normal_norm(layer: Any, found: Mapping[str, Shape]) -> LayerSpec:
    layer = _checked(layer)
    region = "same_map" if isinstance(layer, ContrastNormSpec) else layer.region
    if isinstance(layer, LrnSpec) and layer.groups != 1:
        raise _cannot(layer, f"groups={layer.groups}: the files' norms know no groups, only split layers")
    shape = found[layer.inputs[0]]
    most = shape[2] if region == "across_channels" else min(shape[:2])
    if layer.size > most:
        raise _cannot(layer, f"size={layer.size}: the files' is at most {most} here")
    return dataclasses.replace(layer, alpha=lrn_alpha(_norm_scale(layer), layer.size, region))  # type: ignore


def _norm_scale(layer: LrnSpec | ContrastNormSpec) -> float:
    region = "same_map" if isinstance(layer, ContrastNormSpec) else layer.region
    return _eps(layer.alpha / lrn_alpha(1, layer.size, region))


def _normal_dropout(layer: Any, found: Mapping[str, Shape]) -> LayerSpec:
    if layer.inverted:
        raise _cannot(layer, "inverted=True: the files' dropout multiplies by keep at test time")
    return _checked(layer)


def _normal_sum(layer: Any, found: Mapping[str, Shape]) -> LayerSpec:
    layer = _checked(layer)
    return dataclasses.replace(layer, coeffs=() if set(layer.coeffs) <= {1.0} else layer.coeffs)  # type: ignore


_NORMAL: dict[type[LayerSpec], Callable[[Any, Mapping[str, Shape]], LayerSpec]] = {
    **dict.fromkeys(_WEIGHTED, _normal_weights),
    PoolSpec: _normal_pool,
    **dict.fromkeys((LrnSpec, ContrastNormSpec), _normal_norm),
    DropoutSpec: _normal_dropout,
    SumSpec: _normal_sum,
    BlurSpec: _normal_blur,
    SelectSpec: _no_select,
    RbfSpec: _no_rbf,
    DeconvSpec: _no_deconv,
    UnpoolSpec: _no_unpool,
    BatchNormSpec: _no_batch_norm,
    **dict.fromkeys((NeuronSpec, MaxSpec, ConcatSpec, SoftmaxCostSpec), lambda layer, found: _checked(layer)),
}

_Values = dict[str, Any]


def _only_cost(spec: NetSpec) -> SoftmaxCostSpec:
    """Return the cost of a network that the files can describe: they have one, and no heads."""
    if not spec.costs:
        raise _cannot(spec.answer, "is the end of a network without a cost: the files need one")
    for cost in spec.costs:
        if cost.train_only:
            raise _cannot(cost, "is a head, in training only: the files run every cost in tests too")
        if not isinstance(cost, SoftmaxCostSpec):
            raise _cannot(cost, f"the files know no {cost.type}")
        if cost.per_pixel:
            raise _cannot(cost, "per_pixel=True: the files' labels are those of images")
        if cost.ignore is not None:
            raise _cannot(cost, f"ignore={cost.ignore}: the files' costs ignore no label")
        if cost.smoothing:
            raise _cannot(cost, f"smoothing={cost.smoothing:g}: the files' costs smooth no labels")
    assert isinstance(spec.answer, SoftmaxCostSpec)
    return spec.answer


class _Writer:
    """The two files of a network in normal form."""

    def __init__(self, spec: NetSpec) -> None:
        self.spec = spec
        self.found = shapes(spec)
        taken = {layer.name for layer in spec.layers}
        self.labels = free_name("labels", taken)
        self.cost = _only_cost(spec)
        self.softmax = self.cost.softmax
        if self.softmax in {*taken, self.labels, DATA}:
            raise _cannot(self.cost, f"softmax={self.softmax!r} is the name of another layer")
        self.sections: dict[str, _Values] = {
            DATA: {"type": "data", "dataIdx": 0},
            self.labels: {"type": "data", "dataIdx": 1},
        }
        self.params: dict[str, _Values] = {}
        for layer in spec.layers:
            self._add(layer)

    def layer_file(self) -> str:
        image, stored = self.spec.input, self.spec.stored
        seen = f"{image.height}x{image.width}x{image.channels}"
        cut = "" if stored == (image.height, image.width) else f", cut out of {stored[0]}x{stored[1]}"
        title = f"{self.spec.name}: layers, for images of {seen}{cut}"
        return _file([title, *layer_comments(self.spec)], self.sections)

    def params_file(self) -> str:
        recipe = self.spec.recipe
        lines = [f"{self.spec.name}: parameters, for {recipe.epochs} epochs of batches of {recipe.batch}"]
        for step in recipe.steps:
            of = {"weight": "epsW", "bias": "epsB", "both": "epsW and epsB"}[step.of]
            of += f" of {', '.join(step.layers)}" if step.layers else ""
            lines.append(f"from epoch {step.epoch:g}: {of} times {step.factor:g}")
        return _file([*lines, *recipe_comments(recipe)], self.params)

    def _add(self, layer: LayerSpec) -> None:
        values: _Values = {"type": _TYPES[type(layer)], "inputs": ",".join(layer.inputs)}
        params: _Values = {}
        shape = self.found[layer.inputs[0]]
        if isinstance(layer, SoftmaxCostSpec):
            self.sections[self.softmax] = {"type": "softmax", "inputs": values["inputs"]}
            values["inputs"] = f"{self.labels},{self.softmax}"
            params["coeff"] = layer.coeff
        elif isinstance(layer, _WEIGHTED):
            self._weights(layer, values, params)
        elif _is_nailbed(layer):
            assert isinstance(layer, PoolSpec)
            values.update(
                type="nailbed",
                channels=shape[2],
                start=-_side(layer, "padding", layer.padding),
                stride=layer.stride[0],
            )
        elif isinstance(layer, BlurSpec):
            values.update(channels=shape[2], filterSize=layer.size, stdev=layer.stdev)
        elif isinstance(layer, PoolSpec):
            values.update(
                pool=layer.pool,
                channels=shape[2],
                sizeX=layer.window[0],
                stride=layer.stride[0],
                start=-_side(layer, "padding", layer.padding),
                outputsX=layer.outputs[0] if layer.outputs else 0,
            )
        elif isinstance(layer, LrnSpec | ContrastNormSpec):
            if isinstance(layer, LrnSpec) and layer.region == "same_map":
                values["type"] = "rnorm"
            values.update(channels=shape[2], size=layer.size)
            params.update(scale=_norm_scale(layer), pow=layer.beta, minDiv=layer.k)
        elif isinstance(layer, DropoutSpec):
            values["keep"] = layer.keep
            params["enable"] = layer.enabled
        elif isinstance(layer, SumSpec) and layer.coeffs:
            values["coeffs"] = list(layer.coeffs)
        neuron = getattr(layer, "neuron", None)
        if neuron is not None:
            given = (neuron.a, neuron.b)[: NEURONS[neuron.kind]]
            values["neuron"] = neuron.kind + (f"[{','.join(map(repr, given))}]" if given else "")
        if layer.device is not None:
            values["gpu"] = layer.device
        self.sections[layer.name] = values
        if params:
            self.params[layer.name] = params

    def _weights(self, layer: Any, values: _Values, params: _Values) -> None:
        each = _each(layer)
        recipe = self.spec.recipe
        if isinstance(layer, FcSpec):
            values["outputs"] = layer.outputs
        else:
            values.update(
                channels=[self.found[name][2] for name in layer.inputs],
                filters=[layer.filters // own.groups for own in each],
                filterSize=[own.window[0] for own in each],
                padding=[own.padding[0] for own in each],
                stride=[own.stride[0] for own in each],
                groups=[own.groups for own in each],
            )
        values.update(initW=[own.init.sigma for own in each], initB=layer.bias)
        if isinstance(layer, ConvSpec):
            # partialSum changes no result, but the original asks for it; 0 leaves the choice to its kernels.
            values.update(sharedBiases=layer.shared_bias, partialSum=0)
        counts = [fan_in(layer, index, self.found[name]) for index, name in enumerate(layer.inputs)]
        bias_momentum = recipe.momentum if layer.bias_momentum is None else layer.bias_momentum
        eps: list[Any] = [_eps(recipe.lr * own.lr_scale) for own in each]
        curves = [own.lr_curve for own in each]
        for curve in (*curves, layer.bias_lr_curve):
            if not has_text(curve):
                raise _cannot(layer, f"lr_curve: the files know {', '.join(CURVES)}, none that falls to 0")
        if len(set(curves)) > 1:
            if any(curve and curve.noise for curve in curves):
                raise _cannot(layer, "lr_curve: inputs whose curves differ cannot have noise in the files")
            eps = [
                rate if curve is None else curve_text(curve, rate)
                for rate, curve in zip(eps, curves, strict=True)
            ]
        params.update(
            epsW=eps,
            epsB=_eps(recipe.lr * layer.bias_lr_scale),
            momW=[recipe.momentum if own.momentum is None else own.momentum for own in each],
            momB=bias_momentum,
            wc=[own.weight_decay for own in each],
            wball=[_eps(own.norm_limit / count) for own, count in zip(each, counts, strict=True)],
        )
        if any(own.contrast_limits for own in each):
            limits = [own.contrast_limits or (0.0, 0.0) for own in each]
            for key, side in (("wcNormMin", 0), ("wcNormMax", 1)):
                params[key] = [_eps(pair[side] / count) for pair, count in zip(limits, counts, strict=True)]
        if len(set(curves)) == 1 and curves[0] is not None:
            params["schedW"] = curve_text(curves[0])
        if layer.bias_lr_curve is not None:
            params["schedB"] = curve_text(layer.bias_lr_curve)


_TYPES: dict[type[LayerSpec], str] = {
    ConvSpec: "conv",
    LocalSpec: "local",
    FcSpec: "fc",
    PoolSpec: "pool",
    LrnSpec: "cmrnorm",
    ContrastNormSpec: "cnorm",
    NeuronSpec: "neuron",
    SumSpec: "eltsum",
    MaxSpec: "eltmax",
    ConcatSpec: "concat",
    BlurSpec: "blur",
    DropoutSpec: "hs",
    SoftmaxCostSpec: "cost.logreg",
}


def _file(comments: Sequence[str], sections: Mapping[str, _Values]) -> str:
    lines = [f"# {comment}" for comment in comments]
    for name, values in sections.items():
        lines += ["", f"[{name}]", *(f"{key}={_text(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_text, value))
    if isinstance(value, bool):
        return "true" if value else "false"
    return (
        str(int(value))
        if isinstance(value, float) and value.is_integer() and abs(value) < 1e6
        else str(value)
    )
