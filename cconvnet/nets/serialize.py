"""A network's spec as JSON values, as checkpoints and runs store it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeVar

from cconvnet.errors import nearest
from cconvnet.nets.layer_spec import LayerSpec
from cconvnet.nets.recipe import InputSpec, LrStep, NetSpec, TrainRecipe
from cconvnet.nets.specs import LAYER_TYPES
from cconvnet.nets.values import AREA, NO_DISTORTION, Distortion, Init, Neuron, RateCurve

T = TypeVar("T")

# Fields that layers, inputs and recipes did not always have, with the values by which they compute as before.
# These are left out, so that the networks of older versions are described as ever.
_LATER: dict[str, Any] = {
    "dilation": (1, 1),
    "count_padding": False,
    "train_only": False,
    "per_pixel": False,
    "ignore": None,
    "smoothing": 0.0,
    "mean": None,
    "deviation": None,
    "distort": dataclasses.asdict(NO_DISTORTION),
    "nesterov": False,
    "random_resized_crop": False,
    "area": AREA,
}


def spec_to_dict(spec: NetSpec) -> dict[str, Any]:
    """Return the network as JSON values; :func:`spec_from_dict` makes an equal network of them."""
    values = dataclasses.asdict(spec)
    for layer, layer_values in zip(spec.layers, values["layers"], strict=True):
        layer_values["type"] = layer.type
    for part in (*values["layers"], values["input"], values["recipe"]):
        for name, default in _LATER.items():
            if name in part and part[name] == default:
                del part[name]
    # asdict keeps tuples. JSON gives lists back, and both forms must be the same.
    return _lists(values)  # type: ignore[no-any-return]


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_lists(item) for item in value]
    return value


def spec_from_dict(values: dict[str, Any]) -> NetSpec:
    """Return the network that :func:`spec_to_dict` described.

    Raises:
        ValueError: naming an unknown or missing key.
    """
    return _build(
        NetSpec,
        "network",
        values,
        layers=lambda layers: tuple(_layer_from_dict(layer) for layer in layers),
        input=lambda image: _build(InputSpec, "input", image),
        stored=_tuple,
        recipe=recipe_from_dict,
    )


def recipe_from_dict(values: dict[str, Any]) -> TrainRecipe:
    """Return the recipe that :func:`spec_to_dict` described.

    Raises:
        ValueError: naming an unknown or missing key.
    """
    return _build(
        TrainRecipe,
        "recipe",
        values,
        steps=lambda steps: tuple(_build(LrStep, "recipe: steps", step) for step in steps),
        schedule=lambda curve: _build(RateCurve, "recipe: schedule", curve),
        distort=lambda limits: _build(Distortion, "recipe: distort", limits),
    )


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def _layer_from_dict(values: dict[str, Any]) -> LayerSpec:
    values = dict(values)
    where = f"layer {values.get('name', '?')}"
    kind = values.pop("type", None)
    if kind not in LAYER_TYPES:
        raise ValueError(nearest(f"{where}: type", kind, LAYER_TYPES))
    return _build(
        LAYER_TYPES[kind],
        where,
        values,
        neuron=lambda neuron: neuron and _build(Neuron, f"{where}: neuron", neuron),
        init=lambda init: _build(Init, f"{where}: init", init),
        lr_curve=lambda curve: curve and _build(RateCurve, f"{where}: lr_curve", curve),
        bias_lr_curve=lambda curve: curve and _build(RateCurve, f"{where}: bias_lr_curve", curve),
        per_input=lambda inputs: tuple(_input_from_dict(where, values) for values in inputs),
    )


def _input_from_dict(where: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return one entry of per_input."""
    kinds = {"init": Init, "lr_curve": RateCurve}
    return {
        name: _build(kinds[name], f"{where}: {name}", value) if name in kinds and value else _tuple(value)
        for name, value in values.items()
    }


def _build(kind: type[T], where: str, values: dict[str, Any], **convert: Callable[[Any], Any]) -> T:
    """Return an object of a dataclass from a dictionary, each value through its converter."""
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    names = [f.name for f in fields]
    required = [
        f.name
        for f in fields
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    for name in values:
        if name not in names:
            raise ValueError(nearest(f"{where}: a key", name, names))
    for name in required:
        if name not in values:
            raise ValueError(f"{where}: the key {name!r} is missing")
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{where}: {name} must be finite, not {value}")
    return kind(**{name: convert.get(name, _tuple)(value) for name, value in values.items()})
