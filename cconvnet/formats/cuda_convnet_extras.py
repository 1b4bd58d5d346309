"""Comments of cuda-convnet's configuration files, which keep what the format cannot say.

``# cconvnet: batch=128`` is a comment to every other program. The layer file has such lines for the name of
the network and its images, the parameter file for the recipe. Values are JSON. Rates and momentum are the
files' own.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cconvnet.errors import nearest
from cconvnet.formats.ini import ConfigError
from cconvnet.nets import InputSpec, NetSpec, TrainRecipe, recipe_from_dict
from cconvnet.nets.values import Pair

_LINE = re.compile(r"[#;]\s*cconvnet:\s*(\w+)\s*=\s*(.*?)\s*$")
# What the files say in their own words.
_OF_THE_FILES = ("lr", "momentum")
# Keys with their types, as annotations spell them.
_RECIPE = {f.name: str(f.type) for f in dataclasses.fields(TrainRecipe) if f.name not in _OF_THE_FILES}
_IMAGE = {f.name: str(f.type) for f in dataclasses.fields(InputSpec)}
_KINDS: dict[str, tuple[str, Any]] = {
    "int": ("a whole number", int),
    "float": ("a number", int | float),
    "bool": ("true or false", bool),
    "str": ("a text", str),
    "None": ("null", type(None)),
    "tuple": ("a list", list),
}


@dataclass(frozen=True)
class Extras:
    """The comments of two files.

    Attributes:
        name: The network's name, or None.
        stored: The height and width of the stored images, or None.
        input: The images as the first layer reads them, or None.
        recipe: The recipe, with any rate and momentum, or None.
    """

    name: str | None = None
    stored: Pair | None = None
    input: InputSpec | None = None
    recipe: TrainRecipe | None = None

    @property
    def crop(self) -> Pair | None:
        """The height and width of the crops, or None where the network sees whole images."""
        if self.input is None or self.stored in (None, (self.input.height, self.input.width)):
            return None
        return self.input.height, self.input.width


def layer_comments(spec: NetSpec) -> list[str]:
    """Return the comments of a network's layer file."""
    values = {"name": spec.name, "stored": list(spec.stored), **dataclasses.asdict(spec.input)}
    return [_comment(key, value) for key, value in values.items() if value is not None]


def recipe_comments(recipe: TrainRecipe) -> list[str]:
    """Return the comments of a network's parameter file."""
    values = dataclasses.asdict(recipe)
    return [_comment(key, values[key]) for key in _RECIPE]


def _comment(key: str, value: Any) -> str:
    return f"cconvnet: {key}={json.dumps(value)}"


def read_extras(layer_def: Path, layer_params: Path) -> Extras:
    """Read the comments of two files; those of another program have none.

    Raises:
        ConfigError: Naming file, line and key of a comment that cannot be used.
        OSError: A file cannot be read.
    """
    image = _values(layer_def, {"name": "str", "stored": "tuple", **_IMAGE})
    recipe = _values(layer_params, _RECIPE)
    name, stored = image.pop("name", None), image.pop("stored", None)
    try:
        return Extras(
            None if name is None else str(name),
            None if stored is None else _pair(stored),
            InputSpec(**image) if image else None,
            recipe_from_dict({"lr": 0.0, **recipe}) if recipe else None,
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{layer_def}, {layer_params}: a comment of cconvnet: {error}") from None


def _pair(value: list[Any]) -> Pair:
    if len(value) != 2 or not all(type(side) is int for side in value):
        raise ValueError(f"stored must be [height, width], not {json.dumps(value)}")
    return value[0], value[1]


def _values(path: Path, keys: dict[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        match = _LINE.match(line)
        if match is None:
            continue
        key, text = match.groups()
        if key not in keys:
            raise ConfigError(f"{path}:{number}: {nearest('a key of a comment for cconvnet', key, keys)}")
        try:
            values[key] = _of_type(json.loads(text), keys[key])
        except ValueError as error:
            wanted = str(error) if isinstance(error, _WrongType) else "a value of JSON"
            raise ConfigError(f"{path}:{number}: {key} must be {wanted}, not {text}") from None
    return values


class _WrongType(ValueError):
    """A value has another type; the text names the types that it may have."""


def _of_type(value: Any, annotation: str) -> Any:
    kinds = [_KINDS.get(part.strip().partition("[")[0]) for part in annotation.split("|")]
    known = [kind for kind in kinds if kind is not None]
    if len(known) < len(kinds):
        return value  # what builds the object checks the others
    if not any(isinstance(value, kind) and isinstance(value, bool) <= (kind is bool) for _, kind in known):
        raise _WrongType(" or ".join(name for name, _ in known))
    return value
