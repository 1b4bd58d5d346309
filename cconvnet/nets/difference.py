"""The differences between two networks, as a table."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from cconvnet.nets.layer_spec import LayerSpec
from cconvnet.nets.recipe import LrStep, NetSpec
from cconvnet.nets.values import Distortion, Init, Neuron, RateCurve


def compare(one: NetSpec, other: NetSpec) -> list[list[str]]:
    """Return the differences between two networks, in rows of layer, value, the first's, the second's.

    Layers are matched by name and in order; "-" means a layer that one of them lacks. A layer that moved
    because others came or went before it shows as a change of its inputs.
    """
    rows: list[list[str]] = []

    def add(where: str, first: Any, second: Any) -> None:
        mine, theirs = spec_values(first), spec_values(second)
        for key in dict.fromkeys((*mine, *theirs)):
            a, b = (values.get(key, "-") for values in (mine, theirs))
            if a != b:
                rows.append([where, key, str(a), str(b)])

    names = [layer.name for layer in one.layers]
    others = [layer.name for layer in other.layers]
    mine, theirs = dict(zip(names, one.layers, strict=True)), dict(zip(others, other.layers, strict=True))
    for name in _merged(names, others):
        if name not in mine or name not in theirs:
            layer = mine.get(name, theirs.get(name))
            text = f"{getattr(layer, 'type', '')} after {', '.join(layer.inputs) if layer else ''}"
            rows.append([name, "layer", *((text, "-") if name in mine else ("-", text))])
        elif mine[name] != theirs[name]:
            add(name, mine[name], theirs[name])
    if one.input != other.input:
        add("input", one.input, other.input)
    for key in ("stored", "classes"):
        if getattr(one, key) != getattr(other, key):
            rows.append(["input", key, str(getattr(one, key)), str(getattr(other, key))])
    if one.recipe != other.recipe:
        add("recipe", one.recipe, other.recipe)
    return rows


def _merged(one: list[str], other: list[str]) -> list[str]:
    """Return the names of both, each once, in an order that agrees with both as far as they agree."""
    steps = difflib.SequenceMatcher(a=one, b=other, autojunk=False).get_opcodes()
    return list(dict.fromkeys(name for _, a, b, c, d in steps for name in (*one[a:b], *other[c:d])))


def spec_values(part: Any) -> dict[str, Any]:
    """Return the values of a layer, an input or a recipe to be shown: nested ones as short texts."""
    values = {f.name: value_text(getattr(part, f.name)) for f in dataclasses.fields(part) if f.name != "name"}
    return {"type": part.type, **values} if isinstance(part, LayerSpec) else values


def value_text(value: Any) -> Any:
    """Return a value of a spec as a short text; one that is short already as it is."""
    match value:
        case Init(kind="gaussian"):
            return f"gaussian({value.sigma:g})"
        case Init():
            return value.kind
        case Neuron(kind="relu" | "logistic" | "abs" | "square" | "sqrt" | "softrelu" | "silu"):
            return value.kind
        case Neuron():
            return f"{value.kind}[{value.a:g},{value.b:g}]"
        case RateCurve():
            if value.kind == "constant":
                return value.kind
            steps = f" in {value.steps} steps" if value.kind in ("dexp", "jdexp") else ""
            power = f" of power {value.power:g}" if value.kind == "poly" else ""
            if value.kind == "epochs":
                last = "" if value.factor is None else f" down to 1/{value.factor:g}"
                return f"x{value.power:g} an epoch{last}"
            noise = f", noise {value.noise:g}" if value.noise else ""
            end = "0" if value.factor is None else f"1/{value.factor:g}"
            return f"{value.kind} to {end}{steps}{power}{noise}"
        case Distortion():
            limits = dataclasses.asdict(value).items()
            return "none" if value.is_identity else ", ".join(f"{name} {limit:g}" for name, limit in limits)
        case LrStep():
            whose = f" {','.join(value.layers)}" if value.layers else ""
            of = "" if value.of == "both" else f" {value.of}s"
            return f"epoch {value.epoch:g}: x{value.factor:g}{whose}{of}"
        case tuple():
            parts = (
                f"({value_text(item)})" if isinstance(item, tuple) else value_text(item) for item in value
            )
            return ", ".join(map(str, parts))
        case float():
            return f"{value:g}"
    return value
