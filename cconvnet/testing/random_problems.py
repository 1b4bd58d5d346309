"""Random problems: one random check of any operation for each seed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cconvnet._problem import (
    BatchNormProblem,
    BiasProblem,
    ContrastNormProblem,
    ConvProblem,
    DropoutProblem,
    FcProblem,
    FilterBlocksProblem,
    InputProblem,
    L2CostProblem,
    LarsProblem,
    LocalProblem,
    LrnProblem,
    NeuronProblem,
    NormLimitProblem,
    PoolProblem,
    SgdProblem,
    SoftmaxProblem,
    TreeSumProblem,
)
from cconvnet.devices import PRECISIONS
from cconvnet.testing.problems import with_precision


def _size(random: np.random.Generator, largest: int) -> int:
    """Draw a size from 1 to `largest`, often small, often a multiple of 4 as fast kernels require."""
    size = int(np.exp(random.uniform(0, np.log(largest + 1))))
    return min(largest, max(1, size if random.random() < 0.5 else -(-size // 4) * 4))


def _pair(random: np.random.Generator, low: int, high: int) -> tuple[int, int]:
    first, second = (int(v) for v in random.integers(low, high + 1, 2))
    return (first, second) if random.random() < 0.5 else (first, first)


def _one_of(random: np.random.Generator, values: list[Any]) -> Any:
    return values[random.integers(len(values))]


def _image(random: np.random.Generator, window: tuple[int, int], padding: tuple[int, int]) -> dict[str, int]:
    """Draw a height and width that contain at least one window."""
    return {
        name: max(1, size - 2 * pad, int(random.integers(1, 15)))
        for name, size, pad in zip("hw", window, padding, strict=True)
    }


def _rounding(random: np.random.Generator) -> str:
    return str(random.choice(["floor", "ceil"]))


def random_conv(
    random: np.random.Generator, kind: type[Any] = ConvProblem, images: int = 5, channels: int = 48
) -> Any:
    """Draw a ConvProblem, perhaps dilated, or a LocalProblem, of at most `images` and input `channels`."""
    groups = int(random.choice([1, 1, 1, 2, 3, 4]))
    window, padding = _pair(random, 1, 5), _pair(random, 0, 3)
    dilation = (1, 1) if kind is LocalProblem or random.random() < 0.6 else _pair(random, 1, 4)
    extent = (window[0] - 1) * dilation[0] + 1, (window[1] - 1) * dilation[1] + 1
    arguments: dict[str, Any] = {
        "n": _size(random, images),
        **_image(random, extent, padding),
        "c": groups * _size(random, channels // groups),
        "k": groups * _size(random, 2 * channels // groups),
        "r": window[0],
        "s": window[1],
        "stride": _pair(random, 1, 4),
        "padding": padding,
        "groups": groups,
        "rounding": _rounding(random),
        "dilation": dilation,
    }
    unequal = random.random()
    if unequal < 0.2:
        arguments["padding"] = tuple((pad, pad + int(random.integers(0, 3))) for pad in padding)
    elif unequal < 0.4:
        plain = kind(**arguments)
        arguments["outputs"] = tuple(int(random.integers(1, most + 2)) for most in (plain.p, plain.q))
    elif unequal > 0.9 and kind is ConvProblem:
        arguments["groups"] = arguments["k"] = arguments["c"]  # a filter for each channel
    return kind(**arguments)


def random_pool(random: np.random.Generator, window: tuple[int, int] | None = None) -> PoolProblem:
    """Draw a pooling, with a given window or any."""
    window = window or _pair(random, 1, 5)
    low = int(random.choice([0, 0, -3]))  # below 0 the first window begins inside the image
    padding = int(random.integers(low, window[0])), int(random.integers(low, window[1]))
    arguments: dict[str, Any] = {
        "n": _size(random, 4),
        **_image(random, window, padding),
        "c": _size(random, 70),
        "window": window,
        "stride": _pair(random, 1, 4),
        "padding": padding,
    }
    if min(padding) >= 0 and random.random() < 0.4:
        fewest = (
            max(0, window[0] - padding[0] - arguments["h"]),
            max(0, window[1] - padding[1] - arguments["w"]),
        )
        ends = (int(random.integers(low, size)) for low, size in zip(fewest, window, strict=True))
        arguments["padding"] = tuple(zip(padding, ends, strict=True))
        arguments["count_padding"] = bool(random.random() < 0.7)
    if random.random() < 0.75:
        return PoolProblem(**arguments, rounding=_rounding(random))
    p, q = (
        int(random.integers(1, (arguments[size] - 1 + pad) // stride + 2))
        for size, pad, stride in zip("hw", padding, arguments["stride"], strict=True)
    )
    return PoolProblem(**arguments, outputs=(p, q))


def random_merges(random: np.random.Generator, parts: int) -> list[int]:
    """Draw the merges of a TreeSumProblem."""
    merges, sums = [], 0
    for part in range(parts):
        sums += 1
        # Eight sums may wait for another part.
        fewest = max(0, sums - 8) if part < parts - 1 else sums - 1
        merges.append(int(random.integers(fewest, sums)))
        sums -= merges[-1]
    return merges


def random_lrn(random: np.random.Generator) -> LrnProblem:
    """Draw a normalisation across channels or in the same map."""
    groups = int(random.choice([1, 1, 2, 3]))
    return LrnProblem(
        n=_size(random, 4),
        h=_size(random, 9),
        w=_size(random, 9),
        c=groups * _size(random, 70 // groups),
        size=int(random.integers(1, 10)),
        alpha=float(random.choice([1e-4, 0.01, 0.2])),
        beta=float(random.choice([0.75, 0.75, 0.5, 0.6])),
        k=float(random.choice([1.0, 2.0])),
        groups=groups,
        region=str(random.choice(["across_channels", "same_map"])),
    )


def random_lrn_pool(
    random: np.random.Generator, alpha: float | None = None
) -> tuple[LrnProblem, PoolProblem]:
    """Draw a normalisation across channels and the pooling behind it; a given `alpha` goes with k = 1."""
    pool = random_pool(random)
    divisors = [groups for groups in (1, 2, 3) if pool.c % groups == 0]
    lrn = LrnProblem(
        *(pool.n, pool.h, pool.w, pool.c),
        size=int(random.integers(1, 10)),
        alpha=float(random.choice([1e-4, 0.01, 0.2])) if alpha is None else alpha,
        beta=float(random.choice([0.75, 0.75, 0.5, 0.6])),
        k=float(random.choice([1.0, 2.0])) if alpha is None else 1.0,
        groups=int(random.choice(divisors)),
    )
    return lrn, pool


def random_contrast_norm(random: np.random.Generator) -> ContrastNormProblem:
    """Draw a contrast normalisation."""
    n, h, w, c = (_size(random, largest) for largest in (4, 9, 9, 70))
    return ContrastNormProblem(
        *(n, h, w, c),
        size=int(random.integers(1, 10)),
        alpha=float(random.choice([1e-4, 0.01, 0.2])),
        beta=float(random.choice([0.75, 0.75, 0.5, 0.6])),
        k=float(random.choice([1.0, 2.0])),
    )


def _random_neuron(random: np.random.Generator, data: str) -> NeuronProblem:
    exact = ["linear", "relu", "abs", "square", "sqrt", "brelu"]
    neurons = exact if data == "exact" else [*exact, "tanh", "logistic", "softrelu", "silu"]
    a, b = random.choice([0.5, 1.0, 2.0, 3.0], 2)
    return NeuronProblem(_size(random, 3000), str(random.choice(neurons)), float(a), float(b))


# Operations whose problems are not those of the others with their first word.
_OF_ITS_OWN = ("relu_bias_backward", "lrn_maxpool_forward", "lrn_maxpool_backward")


def random_case(seed: int, operations: dict[str, Any]) -> tuple[str, Any, dict[str, Any]]:
    """Return the operation, problem and further arguments of one random check (cconvnet.testing.check).

    They are a function of the seed alone. `operations` is cconvnet.operations.OPERATIONS.
    """
    random = np.random.default_rng(seed)
    # Seeds in a row draw every operation equally often, however many there are.
    names = sorted(operations)
    operation = str(np.random.default_rng(seed // len(names)).permutation(names)[seed % len(names)])
    arguments: dict[str, Any] = {"seed": seed, "data": str(random.choice(["exact", "real"]))}
    problem: Any
    match operation if operation in _OF_ITS_OWN else operation.split("_")[0]:
        case "conv":
            problem = random_conv(random)
        case "local":
            problem = random_conv(random, LocalProblem, images=12, channels=12)
        case "fc":
            problem = FcProblem(_size(random, 70), _size(random, 600), _size(random, 150))
        case "bias" | "relu_bias_backward":
            problem = BiasProblem(_size(random, 2000), _size(random, 150))
        case "batch":
            # Of two rows the gradient cancels, and either side may be lucky.
            rows, k = 7 + _size(random, 2000), _size(random, 150)
            counted, eps = int(random.integers(8, rows + 1)), float(random.choice([1e-5, 1e-3]))
            problem, arguments["data"] = BatchNormProblem(rows, k, counted, eps), "real"
        case "neuron":
            problem = _random_neuron(random, arguments["data"])
        case "lrn_maxpool_backward":
            # A maximum is recognised by its bits. They are the reference's only if nothing rounds.
            problem, arguments["data"] = random_lrn_pool(random, alpha=0.0), "real"
        case "lrn_maxpool_forward":
            problem, arguments["data"] = random_lrn_pool(random), "real"
        case "lrn":
            problem, arguments["data"] = random_lrn(random), "real"
        case "contrast":
            problem, arguments["data"] = random_contrast_norm(random), "real"
        case "maxpool" | "maxunpool":
            problem = random_pool(random)
        case "avgpool":
            problem, arguments["data"] = random_pool(random), "real"
        case "dropout":
            keep, scale = float(random.choice([0.25, 0.5, 0.9, 1.0])), float(random.choice([1.0, 2.0]))
            draws = (int(v) for v in random.integers(0, 2**63, 2))
            rows, columns = _size(random, 70), _size(random, 70)
            part: dict[str, int] = {}
            if random.random() < 0.5:
                # Whole rows now and then.
                first, behind = (int(v) for v in random.integers(0, 50, 2) * random.integers(0, 2))
                part = {"columns": columns, "row_stride": first + columns + behind, "first": first}
                part["first_row"] = int(random.integers(0, 50))
            problem = DropoutProblem(rows * columns, keep, scale, *draws, **part)
        case "softmax":
            n, k = _size(random, 60), _size(random, 300)
            ignored = None if random.random() < 0.5 else int(random.choice([-1, 0, 255]))
            smoothing = float(_one_of(random, [0.0, 0.1, 0.5]))
            problem, arguments["data"] = SoftmaxProblem(n, k, ignored, smoothing), "real"
        case "l2":
            problem = L2CostProblem(_size(random, 60), _size(random, 300))
        case "sgd":
            # Powers of two, so that the order of the products does not matter.
            lr, momentum, decay = (float(v) for v in 2.0 ** -random.integers(0, 4, 3))
            nesterov = bool(random.random() < 0.5)
            problem = SgdProblem(_size(random, 5000), lr, momentum, decay, nesterov)
        case "lars":
            decay, eps = (float(_one_of(random, [0.0, 1e-3, 1.0])) for _ in range(2))
            problem, arguments["data"] = LarsProblem(_size(random, 20_000), 0.001, decay, eps), "real"
        case "limit":
            # About half of the rows are too long for either kind of data, fewer are too short.
            rows, columns = _size(random, 60), _size(random, 2000)
            limit = 2.0 ** math.floor(math.log2(columns) / 2) * 2.0 ** random.integers(-1, 2)
            low = float(_one_of(random, [0.0, 0.5, 1.0])) * float(limit)
            problem = NormLimitProblem(rows, columns, float(limit), low, bool(random.random() < 0.5))
        case "tree":
            scale = float(_one_of(random, [1.0, 0.5, 3.0]))
            problem = TreeSumProblem(_size(random, 3000), random_merges(random, _size(random, 40)), scale)
        case "input":
            h, w = _size(random, 12), _size(random, 12)
            crop = int(random.integers(1, h + 1)), int(random.integers(1, w + 1))
            block = int(random.choice([1, 1, 2, 3, 4]))
            pad = int(random.integers(0, 4)) if block > 1 else 0
            images = _size(random, 6), h, w, _size(random, 5)
            margin = int(random.choice([0, 0, 1, 2, 5]))
            problem = InputProblem(*images, *crop, block=block, pad=pad, margin=margin)
            arguments["data"] = "exact"
        case "filters":
            k, r, s, c = (_size(random, largest) for largest in (40, 12, 12, 8))
            problem = FilterBlocksProblem(k, r, s, c, int(random.integers(1, 6)))
        case "watch":
            problem = NeuronProblem(_size(random, 700))
            arguments["bad"] = _one_of(random, [None, np.inf, -np.inf, np.nan])
        case _ if not operations[operation].has_problem:
            problem = NeuronProblem(_size(random, 5000))
        case _:
            raise ValueError(f"no random problems are known for {operation}")
    sums = operation.startswith(("conv", "local", "fc", "bias"))
    if sums and min(math.prod(shape) for shape in operations[operation].output_shapes(problem).values()) < 64:
        # The errors of a few long sums prove nothing: either side may be lucky.
        arguments["data"] = "exact"
    if hasattr(problem, "precision"):
        problem = with_precision(problem, str(random.choice(PRECISIONS)))
    elif random.random() < 0.5 and operations[operation].has_elements:
        arguments["element"] = "bf16"
    if operation in ("batch_norm_forward", "batch_norm_backward"):
        option = "shortcut" if operation == "batch_norm_forward" else "dshortcut"
        arguments["relu"], wanted = (bool(v) for v in random.integers(0, 2, 2))
        # In bfloat16 the sum with a shortcut is rounded twice, which tests of fused operations check.
        arguments[option] = wanted and (option == "dshortcut" or "element" not in arguments)
    if operation == "bias_add":
        arguments["relu"] = bool(random.integers(0, 2))
    if operation == "add" and random.random() < 0.5:
        # Few enough bits that every product and sum of integers is exact.
        arguments["alpha"], arguments["beta"] = (float(v) for v in random.choice([-1, 0, 0.5, 1, 3], 2))
    if operation.endswith("fprop"):
        arguments["bias"], arguments["relu"] = (bool(v) for v in random.integers(0, 2, 2))
        arguments["dropout"] = _one_of(random, [None, None, "whole", "rows", "part", "odd_part"])
    if operation == "conv_fprop" and random.random() < 0.3:
        arguments["counted"] = int(random.integers(0, problem.n * problem.p * problem.q + 1))
    if operation.endswith("wgrad"):
        arguments["update"] = _one_of(random, [None, None, "plain", "full", "halted"])
        arguments["nesterov"] = arguments["update"] is not None and bool(random.random() < 0.5)
    if operation == "sgd_update":
        arguments["update"] = _one_of(random, ["plain", "full", "halted"])
    fused = arguments.get("dropout") or arguments.get("update")
    if getattr(problem, "precision", None) == "tf32" and not fused and arguments["data"] == "real":
        arguments["data"] = _one_of(random, ["real", "unrounded"])
    if operation == "lrn_maxpool_backward":
        arguments["relu"] = bool(random.integers(0, 2))
    if operation == "dropout" and random.random() < 0.5:
        arguments["step"] = int(random.integers(0, 2**63))
    if operation == "input_transform":
        arguments["mean"], arguments["shift"] = (bool(v) for v in random.integers(0, 2, 2))
    if random.random() < 0.25:
        arguments["offset"] = 4
    spec, element = operations[operation], arguments.get("element", "fp32")
    output = next(iter(spec.output_shapes(problem)))
    # An array of floats and one of bfloat16s are never the same, and one that is left out is none.
    places = [
        name
        for name in spec.in_place
        if spec.dtype(name, element) == spec.dtype(output, element) and arguments.get(name, True)
    ]
    if places and random.random() < 0.3:
        arguments["in_place"] = str(random.choice(places))
    if operation.endswith(("dgrad", "maxpool_backward")) and arguments["data"] == "exact":
        arguments["db"] = bool(random.integers(0, 2))
        if operation != "lrn_maxpool_backward":
            arguments["masked"] = bool(random.integers(0, 2))
    # Many zeros are right: few elements kept, windows in the padding. tests/kernels/test_random.py counts
    # them over all seeds.
    arguments["nonzero"] = 0.0
    return operation, problem, arguments
