"""Values of options: their ranges, their texts on the command line, and their plain forms in files.

A plain form is what TOML and JSON have: a text, a number, a list or a table. Each function ``parse_...``
reads an option's text and its plain form; :func:`plain` is the way back.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from cconvnet import checks
from cconvnet.checks import MAX_FLOAT32, MAX_INT32
from cconvnet.errors import nearest
from cconvnet.nets import CONSTANT, NO_DISTORTION, Distortion, LrStep, RateCurve, as_area

_DEVICE = re.compile(r"[0-9]{1,9}|[a-z]+(?::[0-9]{1,9})?")
_TENTH = 0.1  # the factor of an epoch that --lr-steps names


# ---- texts and plain forms -------------------------------------------------------------------------------


def _parts(given: Any) -> list[Any]:
    """Return the parts of a text with commas, or the items of a list; of anything else an empty text."""
    if isinstance(given, str):
        return [part.strip() for part in given.split(",")]
    return list(given) if isinstance(given, list | tuple) and given else [""]


def _pairs(given: Any) -> list[tuple[str, Any]]:
    """Return the pairs of a text such as "a=1,b=2", or of a table."""
    if isinstance(given, Mapping):
        return [(str(key), value) for key, value in given.items()]
    parts = [str(part).partition("=") for part in _parts(given)]
    return [(key.strip(), value.strip()) for key, _, value in parts]


def _number(given: Any) -> float:
    """Return a number, or that of a text; NaN if it is none."""
    try:
        return math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def parse_device_names(given: Any) -> list[str]:
    """Split the names of devices, such as "cuda:0,cuda:1"; or take a list of names."""
    return [str(name) for name in _parts(given)]


def parse_places(given: Any) -> dict[str, int | str]:
    """Read the devices of layers from a text such as "conv3=1,fc6=cpu:1", or from a table.

    Raises:
        ValueError: It has another form.
    """
    places: dict[str, int | str] = {}
    for layer, device in _pairs(given):
        text = str(device)
        if not (layer and _DEVICE.fullmatch(text)):
            raise ValueError(f"--place must be like conv3=1,fc6=cpu:1, not {given!r}")
        places[layer] = int(text) if checks.is_number(text) else text
    return places


def parse_lr_steps(given: Any) -> tuple[LrStep, ...] | None:
    """Read the epochs at which the rate is divided by 10 from a text such as "60,75"; "none" is no epoch.

    A list may contain numbers, and tables with the fields of LrStep.

    Raises:
        ValueError: It has another form.
    """
    if given is None or given in ("none", (), []):
        return None if given is None else ()
    steps = []
    for part in _parts(given):
        if isinstance(part, LrStep):
            steps.append(part)
        elif isinstance(part, Mapping):
            steps.append(_of_table(LrStep, "--lr-steps", part))
        else:
            epoch = _number(part)
            rises = epoch > max([0.0, *(step.epoch for step in steps if step.factor == _TENTH)])
            if not (rises and math.isfinite(epoch)):
                raise ValueError(f"--lr-steps must be rising epochs such as 60,75, or none, not {given!r}")
            steps.append(LrStep(epoch, _TENTH))
    return tuple(steps)


def parse_lr_plateau(given: Any) -> int | None:
    """Read a number of epochs from a text such as "5", or take a number; "none" is 0.

    Raises:
        ValueError: It has another form.
    """
    if given is None or given == "none":
        return None if given is None else 0
    if isinstance(given, int) and not isinstance(given, bool):
        return checks.whole("--lr-plateau", given, 0)
    if not isinstance(given, str) or not checks.is_number(given) or int(given) < 1:
        raise ValueError(f"--lr-plateau must be a number of epochs from 1 on, or none, not {given!r}")
    return checks.whole("--lr-plateau", int(given), 1)


def parse_lr_schedule(given: Any) -> RateCurve:
    """Read a curve from a text such as "cosine" or "cosine:0.01", or from a table with RateCurve's fields.

    The number after a colon is the last rate as a part of the first. Of "poly" it is the power, and of
    "epochs" what each epoch multiplies, with the last rate behind another colon.

    Raises:
        ValueError: It has another form.
    """
    if isinstance(given, RateCurve):
        curve = given
    elif isinstance(given, Mapping):
        curve = _of_table(RateCurve, "--lr-schedule", given)
    else:
        curve = _curve_of_text(given)
    if curve.noise:
        raise ValueError("--lr-schedule must be without noise, which is for the rates of layers")
    return curve


def _curve_of_text(given: Any) -> RateCurve:
    kind, colon, number = str(given).partition(":")
    value = _number(number)
    if kind == "constant" and not colon:
        return CONSTANT
    if kind in ("cosine", "linear") and not colon:
        return RateCurve(kind, None)
    if kind in ("cosine", "linear", "exp") and 0 < value <= 1:
        return RateCurve(kind, 1 / value)
    if kind == "poly" and 0 < value <= MAX_FLOAT32:
        return RateCurve(kind, None, power=value)
    if kind == "epochs":
        each, colon, end = number.partition(":")
        factor, last = _number(each), _number(end) if colon else 1.0
        if 0 < factor < 1 and 0 < last <= 1:
            return RateCurve(kind, 1 / last if colon else None, power=factor)
    raise ValueError(
        "--lr-schedule must be constant, cosine, linear or poly:POWER, which end at 0, or cosine:END, "
        "linear:END, exp:END or epochs:FACTOR:END with END the last rate's part of the first and FACTOR "
        f"what each epoch multiplies, not {given!r}"
    )


def parse_area(given: Any) -> tuple[float, float]:
    """Read the least and the largest part of an area from a text such as "0.08,1", or from a list.

    Raises:
        ValueError: It has another form.
    """
    parts = [_number(part) for part in _parts(given)]
    if len(parts) != 2 or any(map(math.isnan, parts)):
        raise ValueError(f"--area must be like 0.08,1, not {given!r}")
    return as_area("--area", parts)


def parse_distort(given: Any) -> Distortion:
    """Read limits from a text such as "rotation=15,alpha=36", or from a table with Distortion's fields.

    Raises:
        ValueError: It has another form.
    """
    if isinstance(given, Distortion):
        return given
    if given == "none":
        return NO_DISTORTION
    limits = {name: _number(value) for name, value in _pairs(given)}
    fields = [field.name for field in dataclasses.fields(Distortion)]
    for name, value in limits.items():
        if name not in fields:
            raise ValueError(nearest("--distort: a limit", name, fields))
        if math.isnan(value):
            raise ValueError(f"--distort must be like rotation=15,alpha=36, or none, not {given!r}")
    return cast(Distortion, _of_table(Distortion, "--distort", limits))


def parse_lr_scale(given: Any) -> dict[str, float]:
    """Read the factors of layers' rates from a text such as "conv1=0.1,fc8=2", or from a table.

    Raises:
        ValueError: It has another form.
    """
    factors = {}
    for layer, number in _pairs(given):
        factor = _number(number)
        if not layer or not 0 <= factor <= MAX_FLOAT32:
            raise ValueError(
                f"--lr-scale must be like conv1=0.1,fc8=2, with factors from 0 on, not {given!r}"
            )
        factors[layer] = factor
    return factors


def parse_freeze(given: Any) -> tuple[str, ...]:
    """Read the names of layers from a text such as "conv1,conv2", or take a list of names.

    Raises:
        ValueError: It has another form.
    """
    return _layers("--freeze", given)


def parse_except(given: Any) -> tuple[str, ...]:
    """Read the names of layers, or patterns of them, as :func:`parse_freeze` does."""
    return _layers("--except", given)


def _layers(flag: str, given: Any) -> tuple[str, ...]:
    layers = tuple(_parts(given))
    if not all(isinstance(layer, str) and layer for layer in layers):
        raise ValueError(f"{flag} must be layers such as conv1,conv2, not {given!r}")
    return layers


def _of_table(kind: type[Any], flag: str, table: Mapping[str, Any]) -> Any:
    """Make an object of a dataclass from a table of its fields."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in table:
        if key not in fields:
            raise ValueError(nearest(f"{flag}: a key", key, fields))
    for name, field in fields.items():
        if name not in table and field.default is dataclasses.MISSING:
            raise ValueError(f"{flag}: the key {name!r} is missing")
    try:
        return kind(**table)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{flag}: {error}") from None


def plain(value: Any) -> Any:
    """Return the plain form of an option's value, which its ``parse_...`` reads as the same value."""
    match value:
        case Path():
            return str(value)
        case Distortion():
            return "none" if value == NO_DISTORTION else dataclasses.asdict(value)
        case LrStep(factor=factor, layers=(), of="both") if factor == _TENTH:
            return int(value.epoch) if float(value.epoch).is_integer() else value.epoch
        case LrStep():
            given = {"epoch": value.epoch, "factor": value.factor, "layers": list(value.layers)}
            return {**{key: item for key, item in given.items() if item != []}, "of": value.of}
        case RateCurve(kind="constant"):
            return "constant"
        case RateCurve(kind="cosine" | "linear", factor=None):
            return value.kind
        case RateCurve():
            return {key: item for key, item in dataclasses.asdict(value).items() if item is not None}
        case list() | tuple():
            return [plain(item) for item in value]
        case Mapping():
            return {key: plain(item) for key, item in value.items()}
    return value


# ---- ranges ----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Whole:
    """The range of a whole number."""

    low: int = 1
    high: int = MAX_INT32

    def check(self, flag: str, value: Any) -> int:
        """Return the number if it is in the range; the error names the flag.

        Raises:
            TypeError, NumberError: As :func:`cconvnet.checks.whole`.
        """
        return checks.whole(flag, value, self.low, self.high)


@dataclasses.dataclass(frozen=True)
class Real:
    """The range of a finite number: `low` is allowed, `above` is not."""

    low: float = -MAX_FLOAT32
    above: float | None = None
    high: float = MAX_FLOAT32

    def check(self, flag: str, value: Any) -> float:
        """Return the number if it is in the range; the error names the flag.

        Raises:
            TypeError, NumberError: As :func:`cconvnet.checks.real`.
        """
        return checks.real(flag, value, low=self.low, above=self.above, high=self.high)


@dataclasses.dataclass(frozen=True)
class RealOfEach:
    """The range of each value of a mapping."""

    range: Real

    def check(self, flag: str, values: Mapping[str, Any]) -> None:
        """Check each value; the error names the flag and the key.

        Raises:
            TypeError, NumberError: As :func:`cconvnet.checks.real`.
        """
        for key, value in values.items():
            self.range.check(f"{flag} of {key}", value)


Range = Whole | Real | RealOfEach
