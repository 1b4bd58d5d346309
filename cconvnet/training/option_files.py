"""Files of options: TOML with a key for each option, named as on the command line.

    net = "alexnet"
    data = "../imagenet"
    lr-steps = [30, 60, 80]
    lr-scale = { conv1 = 0.1 }
    mirror = true

A value is written as TOML has it, or as the text of the command line. Relative paths are relative to the
file. Every run contains such a file, ``run.toml``, which repeats it.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from cconvnet.checks import real, whole
from cconvnet.errors import nearest
from cconvnet.nets import NAMES as NETS
from cconvnet.training.option_values import plain
from cconvnet.training.options import AUTO, DESCRIPTIONS, Options

if TYPE_CHECKING:
    from cconvnet.training.settings import Settings

NAME = "run.toml"  # in a run's folder

_NAMES = {option.name.removeprefix("--"): name for name, option in DESCRIPTIONS.items()}
_CONFIG, _ARRAYS = "config.json", "arrays"
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


# ---- reading ---------------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Any]:
    """Return the values that a file gives to options, by the fields of Options.

    Args:
        path: The file, or a run's folder, which contains ``run.toml``.

    Raises:
        ValueError: The file cannot be read, or contains something that is no option or no value of one. The
            text names the file and the option.
    """
    path = path / NAME if path.is_dir() else path
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"--config {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {path} is not TOML: {error}") from None
    try:
        return values_of(values, path.parent)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def values_of(given: Mapping[str, Any], base: Path = Path()) -> dict[str, Any]:
    """Return the values of options, by the fields of Options, from their texts and plain forms.

    Args:
        given: By the name on the command line without its dashes, or by the field.
        base: The folder of relative paths.

    Raises:
        TypeError, ValueError: There is no such option, or a value is not one of its own.
    """
    values = {}
    for key, value in given.items():
        name = key if key in DESCRIPTIONS else _NAMES.get(key.replace("_", "-"))
        if name is None:
            raise ValueError(nearest("an option", key, _NAMES))
        values[name] = _value(name, value, base)
    return values


def _value(name: str, given: Any, base: Path) -> Any:
    """Return the value of an option from its text or plain form."""
    option, kinds = DESCRIPTIONS[name], _kinds(name)
    if name == "net" and isinstance(given, str):
        value = _located(name, given, base)
    elif option.parse is not None:
        value = option.parse(given)
    elif bool in kinds:
        if not isinstance(given, bool):
            raise ValueError(f"{option.name} must be true or false, not {given!r}")
        value = given
    elif int in kinds:
        value = whole(option.name, given)
    elif float in kinds:
        value = real(option.name, given)
    elif isinstance(given, str | Path):
        value = _located(name, given, base)
    else:
        raise ValueError(f"{option.name} must be a text, not {given!r}")
    if option.range is not None:
        option.range.check(option.name, value)
    return value


def _kinds(name: str) -> tuple[Any, ...]:
    hint = get_type_hints(Options)[name]
    return get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _located(name: str, given: str | Path, base: Path) -> Any:
    """Return a text, or a path relative to `base`."""
    if Path in _kinds(name):
        return Path(given) if Path(given) == AUTO else base / given
    text = str(given)
    is_path = name == "data" and (text != "digits" or (base / text).is_dir())
    is_path = is_path or (name == "net" and text.endswith((".py", ".json")))
    return str(base / text) if is_path else text


# ---- writing ---------------------------------------------------------------------------------------------


def text_of_run(options: Options, settings: Settings) -> str:
    """Return the content of a run's file: all that decides what it computes, whatever the defaults become.

    Args:
        options: The options with which it begins.
        settings: The settings that they and the network's recipe gave.
    """
    values: dict[str, Any] = {}
    for name, option in DESCRIPTIONS.items():
        kept = option.on_resume is not None
        values[name] = getattr(settings, option.setting) if kept else getattr(options, name)
    values |= dict.fromkeys(("freeze", "out", "resume"))
    values["lr_scale"] = settings.lr_scale or None
    if options.layer_def is None and (options.net is None or options.net in NETS):
        values["net"] = settings.net
    else:  # files may change, so the network is that which the run's configuration contains
        values |= {"net": _CONFIG, "layer_def": None, "layer_params": None, "crop": None}
    if settings.data == _ARRAYS:
        values["data"] = f"{_ARRAYS}.npz"  # in the run's folder, unless it was not to be kept
    lines = ["# The options of this run. To repeat it: cconvnet train --config FILE"]
    panel = None
    for field in dataclasses.fields(Options):
        option, value = DESCRIPTIONS[field.name], values[field.name]
        if value is None or (option.on_resume is None and value == field.default):
            continue
        if option.panel != panel:
            panel = option.panel
            lines += ["", f"# {panel}"]
        lines.append(f"{option.name.removeprefix('--')} = {_toml(plain(value))}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """Return a value as TOML."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            # A JSON string but for what TOML wants escaped; what is no character, such as a byte of a file's
            # name, is replaced.
            text = value.encode("utf-8", "replace").decode()
            return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
        case list():
            return f"[{', '.join(map(_toml, value))}]"
        case dict():
            pairs = (
                f"{key if _BARE_KEY.fullmatch(key) else _toml(key)} = {_toml(item)}"
                for key, item in value.items()
            )
            return f"{{ {', '.join(pairs)} }}" if value else "{}"
    return repr(value)
