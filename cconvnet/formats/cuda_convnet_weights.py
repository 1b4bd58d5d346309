"""Initial values, rates and limits of the layers with weights in cuda-convnet's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cconvnet.formats.cuda_convnet_draft import Draft
from cconvnet.formats.ini import Section
from cconvnet.formats.rates import Rate, read_curve, read_rates
from cconvnet.nets import gaussian


def weights(
    draft: Draft, section: Section, each: Sequence[dict[str, Any]], counts: Sequence[int]
) -> dict[str, Any]:
    """Return the values that specs of all layers with weights share.

    `each` holds the values that differ by input, `counts` how many weights an output has for each.
    """
    params, n = draft.files.params_of(section), len(each)
    default = 0.01 if draft.files.kinds[section.name] == "fc" else None
    initial = section.values_of("initW", float, n, default, 0)
    eps = _curved(params, "epsW", "schedW", n)
    ((eps_b, curve_b),) = _curved(params, "epsB", "schedB", 1)
    momentum = params.values_of("momW", float, n, low=0)
    decay = params.values_of("wc", float, n, 0.0, low=0)
    ball = params.values_of("wball", float, n, 0.0, low=0)
    contrast = _contrast_limits(params, counts)
    rows = [
        {
            **each[i],
            "init": gaussian(initial[i]),
            "lr_scale": rate_factor(eps[i][0], draft.lr),
            "lr_curve": eps[i][1],
            "weight_decay": decay[i],
            "momentum": None if momentum[i] == draft.momentum else momentum[i],
            "norm_limit": norm_limit_of(ball[i], counts[i]),
            "contrast_limits": contrast[i],
        }
        for i in range(n)
    ]
    momentum_b = params.value("momB", float, low=0)
    return {
        **merged(rows),
        "bias": section.value("initB", float, 0.0),
        "bias_lr_scale": rate_factor(eps_b, draft.lr),
        "bias_lr_curve": curve_b,
        "bias_momentum": None if momentum_b == draft.momentum else momentum_b,
    }


def _curved(params: Section, key: str, sched: str, count: int) -> list[Rate]:
    """Return the rates of one key, with the curve that an original key sets for all of them."""
    rates = read_rates(params, key, count)
    # An old version of the original had one key for weights and biases.
    sched = "sched" if "sched" in params and sched not in params else sched
    curve = read_curve(params, sched)
    if curve is not None and any(own for _, own in rates):
        raise params.error(f"{key} has a curve already, so {sched} must be default", sched)
    return [(rate, own or curve) for rate, own in rates]


def _contrast_limits(params: Section, counts: Sequence[int]) -> list[tuple[float, float] | None]:
    """Return the limits of each input's filters.

    The file's limits are of the norm divided by the number of weights.
    """
    least, most = (
        params.values_of(key, float, len(counts), 0.0, low=0) for key in ("wcNormMin", "wcNormMax")
    )
    limits: list[tuple[float, float] | None] = []
    for low, high, count in zip(least, most, counts, strict=True):
        if low > high:
            raise params.error(f"wcNormMin must be at most wcNormMax, {high:g}, not {low:g}", "wcNormMin")
        limits.append((norm_limit_of(low, count), norm_limit_of(high, count)) if high else None)
    return limits


def rate_factor(eps: float, lr: float) -> float:
    """Return a layer's factor of the network's rate, without the rounding of the division."""
    return float(f"{eps / lr:.15g}")


def norm_limit_of(ball: float, count: int) -> float:
    """Return the norm's limit: `wball` is per weight of an output."""
    return float(f"{ball * count:.15g}")


def merged(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the first input's values, with each input's differences in ``per_input``."""
    first = dict(rows[0])
    differing = tuple({key: value for key, value in row.items() if value != first[key]} for row in rows)
    return {**first, "per_input": differing if any(differing) else ()}
