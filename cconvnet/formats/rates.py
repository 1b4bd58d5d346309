"""The learning rates of cuda-convnet's parameter files: numbers, and curves over a run.

Three forms mean the same: ``schedW=dexp[tgtFactor=250,noiseStdev=0,numSteps=4]`` of the original program,
beside ``epsW=0.04``; its older ``schedW=dexp[250,0,4]``, or ``dexp[250,4]`` without noise; and
cuda-convnet2's ``epsW=dexp[base=0.04;tgtFactor=250;numSteps=4]``. A list with commas has a rate for each
input.
"""

from __future__ import annotations

import re

from cconvnet.formats.ini import Section
from cconvnet.nets import RateCurve

Rate = tuple[float, RateCurve | None]

CURVES = ("linear", "exp", "dexp", "jdexp")  # the kinds that the files know
_STEPPED = ("dexp", "jdexp")
_FORM = re.compile(r"(\w+)\s*(?:\[(.*)\])?")
# The values in brackets, by position: without noise, and with it.
_NAMES = {
    "linear": (("tgtFactor",), ("tgtFactor", "noiseStdev")),
    "exp": (("tgtFactor",), ("tgtFactor", "noiseStdev")),
    **dict.fromkeys(_STEPPED, (("tgtFactor", "numSteps"), ("tgtFactor", "noiseStdev", "numSteps"))),
}
_ALL_NAMES = ("base", "tgtFactor", "noiseStdev", "numSteps")


def read_rates(section: Section, key: str, count: int) -> list[Rate]:
    """Read the rates under `key`, one for each of `count` inputs.

    Raises:
        ConfigError: The file and line of the first fault.
    """
    text = section.text(key)
    if "[" not in text:
        return [(rate, None) for rate in section.values_of(key, float, count, low=0)]
    parts = re.split(r",(?![^\[]*\])", text)
    if len(parts) != count:
        raise section.error(f"{key} must have one value per input, {count}, not {len(parts)}", key)
    rates: list[Rate] = []
    for part in (part.strip() for part in parts):
        if "[" in part:
            kind, values = _read(section, key, part, ("const", *CURVES))
            if "base" not in values:
                raise section.error(f"{key}={part}: base is missing", key)
            rates.append(
                (values.pop("base"), None if kind == "const" else _curve(section, key, part, kind, values))
            )
        else:
            rates.append((section.convert(key, part, float, 0), None))
    return rates


def read_curve(section: Section, key: str) -> RateCurve | None:
    """Read the curve under `key`; None where there is none or it is ``default``.

    Raises:
        ConfigError: The file and line of the first fault.
    """
    text = section.text(key, "default")
    if text.lower() == "default":
        return None
    kind, values = _read(section, key, text, CURVES)
    if "base" in values:
        raise section.error(f"{key}={text}: base is for epsW and epsB", key)
    return _curve(section, key, text, kind, values)


def has_text(curve: RateCurve | None) -> bool:
    """Return True if the files can have this curve: not a cosine, and none that falls to 0."""
    return curve is None or (curve.kind in CURVES and curve.factor is not None)


def curve_text(curve: RateCurve | None, base: float | None = None) -> str:
    """Format a curve as the original does; with a base, a rate as cuda-convnet2 does, without noise.

    The curve must be one that the files can have; see :func:`has_text`.
    """
    if curve is None:
        return "default" if base is None else repr(base)
    assert curve.factor is not None
    values: list[tuple[str, float]] = [] if base is None else [("base", base)]
    values.append(("tgtFactor", curve.factor))
    if base is None:
        values.append(("noiseStdev", curve.noise))
    if curve.kind in _STEPPED:
        values.append(("numSteps", curve.steps))
    separator = "," if base is None else ";"
    return f"{curve.kind}[{separator.join(f'{name}={value:.15g}' for name, value in values)}]"


def _read(section: Section, key: str, text: str, kinds: tuple[str, ...]) -> tuple[str, dict[str, float]]:
    """Read the kind of a curve and the values in its brackets, by name."""
    match = _FORM.fullmatch(text.strip())
    kind = match.group(1).lower() if match else text
    if match is None or kind not in kinds:
        raise section.error(
            f"{key} must be one of {', '.join(kinds)} with values in brackets, not {text!r}", key
        )
    parts = [part.strip() for part in re.split("[,;]", match.group(2) or "") if part.strip()]
    if all("=" in part for part in parts):
        pairs = [tuple(part.split("=", 1)) for part in parts]
    else:
        names = next((names for names in _NAMES.get(kind, ()) if len(names) == len(parts)), None)
        if names is None or any("=" in part for part in parts):
            forms = " or ".join(f"{kind}[{','.join(names)}]" for names in _NAMES.get(kind, ()))
            raise section.error(f"{key} must be {forms or f'{kind}[base=...]'}, not {text!r}", key)
        pairs = list(zip(names, parts, strict=True))
    spelled = {name.lower(): name for name in _ALL_NAMES}
    values: dict[str, float] = {}
    for name, value in pairs:
        known = spelled.get(name.strip().lower())
        if known is None:
            raise section.error(f"{key}={text}: {name.strip()} must be one of {', '.join(_ALL_NAMES)}", key)
        kind_of_value: type[float] = int if known == "numSteps" else float
        values[known] = section.convert(f"{key}: {known}", value.strip(), kind_of_value, 0, where=key)
    return kind, values


def _curve(section: Section, key: str, text: str, kind: str, values: dict[str, float]) -> RateCurve:
    for name in ("tgtFactor", *(["numSteps"] if kind in _STEPPED else [])):
        if name not in values:
            raise section.error(f"{key}={text}: {name} is missing", key)
    try:
        return RateCurve(
            kind, values["tgtFactor"], int(values.get("numSteps", 1)), values.get("noiseStdev", 0.0)
        )
    except ValueError as error:
        names = {"factor": "tgtFactor", "steps": "numSteps", "noise": "noiseStdev"}
        word, _, rest = str(error).partition(" ")
        raise section.error(f"{key}={text}: {names.get(word, word)} {rest}", key) from None
