"""Digests of the CPU's results, printed as JSON, which test_threads.py compares between processes.

    OMP_NUM_THREADS=3 python -m tests.helpers.thread_results [WORD ...]

A word is the first of an operation's name, or "train". Without words all are computed.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
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
from cconvnet.devices import get_device
from cconvnet.nets import (
    RELU,
    ConvSpec,
    DropoutSpec,
    FcSpec,
    InputSpec,
    LocalSpec,
    LrnSpec,
    NetSpec,
    PoolSpec,
    SoftmaxCostSpec,
    TrainRecipe,
    chain,
)
from cconvnet.network import Network
from cconvnet.operations import OPERATIONS
from cconvnet.testing.check import make_inputs, run
from cconvnet.testing.problems import with_precision

DEVICE = "cpu:0"

# Large enough that five threads share each; sizes that neither vectors nor slices divide.
_ELEMENTS = [NeuronProblem(300_001)]
_LRN_POOL = [(LrnProblem(6, 13, 12, 64, alpha=0.1), PoolProblem(6, 13, 12, 64))]
_PROBLEMS: dict[str, list[Any]] = {
    "conv": [
        ConvProblem(67, 13, 12, 16, 24, 3, 3, padding=(1, 1), groups=2),
        ConvProblem(9, 31, 30, 3, 32, 5, 5, stride=(2, 2)),
        ConvProblem(1, 40, 40, 32, 32, 3, 3),
        ConvProblem(5, 13, 12, 48, 64, 5, 5, padding=(2, 2)),
        ConvProblem(9, 23, 22, 48, 48, 5, 5, stride=(2, 2), padding=(2, 2), groups=48),
        ConvProblem(9, 13, 12, 48, 48, 3, 3, padding=(2, 2), groups=48, dilation=(2, 2)),
    ],
    "local": [LocalProblem(5, 12, 12, 8, 16, 3, 3), LocalProblem(70, 2, 2, 300, 12, 2, 2)],
    "fc": [FcProblem(33, 700, 1100), FcProblem(140, 1030, 10)],
    "batch": [BatchNormProblem(5000, 67, 4967), BatchNormProblem(40_000, 3)],
    "bias": [BiasProblem(5000, 67)],
    "relu_bias_backward": [BiasProblem(5000, 67)],
    "neuron": [NeuronProblem(300_001, "tanh", 1.5, 0.5)],
    "filters": [FilterBlocksProblem(96, 11, 11, 3, 4)],
    "lrn_maxpool_forward": _LRN_POOL,
    "lrn_maxpool_backward": _LRN_POOL,
    "lrn": [
        LrnProblem(7, 13, 12, 64, alpha=0.1),
        LrnProblem(7, 13, 13, 60, size=4, alpha=0.1, beta=0.6),
        LrnProblem(7, 13, 13, 60, alpha=0.1, region="same_map"),
    ],
    "contrast": [ContrastNormProblem(7, 13, 13, 60, alpha=0.1)],
    "maxpool": [PoolProblem(7, 23, 23, 60)],
    "maxunpool": [PoolProblem(7, 23, 23, 60)],
    "avgpool": [PoolProblem(7, 23, 23, 60)],
    "dropout": [DropoutProblem(300_001, 0.5, 2.0, 1, 2)],
    "softmax": [SoftmaxProblem(301, 257)],
    "l2": [L2CostProblem(301, 257)],
    "sgd": [SgdProblem(300_001, 0.01, 0.9, 0.0005)],
    "lars": [LarsProblem(300_001, 0.001, 0.0005)],
    "limit": [NormLimitProblem(301, 1025, 30.0), NormLimitProblem(301, 1025, 33.0, 31.0, True)],
    "tree": [TreeSumProblem(70_001, [0, 1, 0, 2, 1], 0.2)],
    "input": [InputProblem(7, 70, 70, 3, 64, 64)],
}


def _digest(arrays: Iterable[Any]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def operations(words: Sequence[str] = ()) -> dict[str, str]:
    """Return a digest of each operation's outputs, in float32 and, where supported, bfloat16."""
    device = get_device(DEVICE)
    results = {}
    for operation, spec in OPERATIONS.items():
        word = operation.split("_")[0]
        if words and word not in words:
            continue
        for number, problem in enumerate(_PROBLEMS.get(operation) or _PROBLEMS.get(word, _ELEMENTS)):
            product = hasattr(problem, "precision")
            for precision in ("fp32", "bf16"):
                if not (device.serves(precision) if product else precision == "fp32" or spec.has_elements):
                    continue
                of = with_precision(problem, precision) if product else problem
                element = "fp32" if product else precision
                inputs = make_inputs(operation, of, "real", element=element)
                outputs = run(operation, of, device, inputs, element=element)
                results[f"{operation} {number} {precision}"] = _digest(outputs.values())
    return results


def _net() -> NetSpec:
    """Every layer whose sums threads might share."""
    layers = chain(
        ConvSpec(name="conv1", filters=16, window=(5, 5), padding=(2, 2), neuron=RELU),
        LrnSpec(name="norm1", alpha=1e-2),
        PoolSpec(name="pool1"),
        ConvSpec(name="conv2", filters=32, window=(3, 3), padding=(1, 1), groups=2, neuron=RELU),
        LocalSpec(name="local3", filters=16, window=(3, 3), neuron=RELU),
        DropoutSpec(name="drop3"),
        FcSpec(name="fc4", outputs=300, neuron=RELU),
        FcSpec(name="fc5", outputs=10),
        SoftmaxCostSpec(name="cost"),
    )
    recipe = TrainRecipe(batch=50, epochs=1, lr=0.1)
    return NetSpec("threads", layers, InputSpec(24, 24, 3, scale=1 / 64), (26, 26), 10, recipe)


def training(precision: str) -> str:
    """Return a digest of a network's weights after three steps."""
    spec, random = _net(), np.random.default_rng(0)
    network = Network(spec, batch=spec.recipe.batch, devices=[DEVICE], seed=0, precision=precision)
    for step in range(3):
        images = random.integers(0, 256, (network.batch, *spec.stored_shape), np.uint8)
        network.load(images, random.integers(0, spec.classes, network.batch))
        network.train_step(step, 0.01, 0.9)
    state = network.state()
    return _digest(state[name] for name in sorted(state))


def main(words: Sequence[str]) -> None:
    device = get_device(DEVICE)
    results = operations(words) if words != ["train"] else {}
    if not words or "train" in words:
        results |= {f"train {p}": training(p) for p in ("fp32", "bf16") if device.serves(p)}
    print(json.dumps({"device": device.reason, "results": results}))


if __name__ == "__main__":
    main(sys.argv[1:])
