"""A few small problems that run every operation and every row of its selection table once or twice.

Sanitizers run these, since each launch then costs many times its usual time (`make sanitize`):

    CCONVNET_TEST_GUARD=0 compute-sanitizer --tool memcheck python tests/helpers/basic_shapes.py cuda:0

CCONVNET_TEST_GUARD=0 leaves out the guard bands, which would hide an access beyond an array.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from cconvnet._problem import (
    BatchNormProblem,
    BiasProblem,
    ConvProblem,
    DropoutProblem,
    FilterBlocksProblem,
    InputProblem,
    L2CostProblem,
    LarsProblem,
    LrnProblem,
    NeuronProblem,
    NormLimitProblem,
    SgdProblem,
    SoftmaxProblem,
    TreeSumProblem,
)
from cconvnet.devices import PRECISIONS, Device, get_device
from cconvnet.operations import OPERATIONS
from cconvnet.testing.check import check, own_impls
from cconvnet.testing.problems import (
    CONTRAST_NORM,
    CONV,
    DEPTHWISE,
    FC,
    FC_WARP_GROUPS,
    LOCAL,
    LRN,
    LRN_POOL,
    POOL,
    with_precision,
)

_WHOLE_LINES = ConvProblem(1, 6, 7, 64, 64, 3, 3, padding=(1, 1))  # of channels, which warp groups want
_SPLIT = [FC_WARP_GROUPS["split"], FC_WARP_GROUPS["split_back"]]  # for the rows of clusters alone
_GROUPS_OF_48 = ConvProblem(1, 6, 7, 96, 128, 3, 3, padding=(1, 1), groups=2)
_DEPTHWISE = [DEPTHWISE[name] for name in ("3x3", "5x5_strided", "dilated", "scalar")]
# By an operation's name or its first word. Of each, one that fills blocks and one that leaves threads over.
_PROBLEMS: dict[str, list[Any]] = {
    "conv": [
        CONV["plain"],
        CONV["tail"],
        CONV["unequal_and_dilated"],
        CONV["rgb"],
        _WHOLE_LINES,
        _GROUPS_OF_48,
        *_DEPTHWISE,
    ],
    "local": [LOCAL["plain"], LOCAL["tail"]],
    "fc": [FC["plain"], FC["tail"], *_SPLIT],
    "batch": [BatchNormProblem(64, 32), BatchNormProblem(7, 13, 5)],
    "bias": [BiasProblem(64, 32), BiasProblem(7, 13)],
    "neuron": [NeuronProblem(1024, "tanh", 1.5, 0.5), NeuronProblem(131, "abs")],
    "relu_bias_backward": [BiasProblem(64, 32), BiasProblem(7, 13)],
    "watch": [NeuronProblem(256), NeuronProblem(131)],
    "filters": [FilterBlocksProblem(32, 11, 11, 3, 4), FilterBlocksProblem(5, 7, 6, 2, 3)],
    "lrn_maxpool_forward": [LRN_POOL["alexnet"], LRN_POOL["tail"]],
    # Where nothing rounds, so that maxima are those of the reference.
    "lrn_maxpool_backward": [
        (LrnProblem(2, 9, 9, 32, alpha=0.0), LRN_POOL["alexnet"][1]),
        (LrnProblem(3, 6, 5, 13, alpha=0.0), LRN_POOL["tail"][1]),
    ],
    "lrn": [LRN["paper"], LRN["tail"], LRN["same_map"], LRN["same_map_3_vectors"]],
    "contrast": [CONTRAST_NORM["plain"], CONTRAST_NORM["even_window"]],
    "maxpool": [POOL["plain"], POOL["overlapping"], POOL["ceil_padded"]],
    "maxunpool": [POOL["plain"], POOL["overlapping"], POOL["ceil_padded"]],
    "avgpool": [POOL["plain"], POOL["overlapping"], POOL["ceil_padded"], POOL["count_padding_below"]],
    "dropout": [DropoutProblem(4096, 0.5, 2.0, 1, 2), DropoutProblem(130, 0.5, 2.0, 1, 2, 13, 31, 5)],
    "softmax": [SoftmaxProblem(3, 10), SoftmaxProblem(5, 257, ignore=0, smoothing=0.1)],
    "l2": [L2CostProblem(16, 64), L2CostProblem(5, 13)],
    "sgd": [SgdProblem(1024, 0.01, 0.9, 0.0005), SgdProblem(131, 0.01, 0.9, 0.0005, nesterov=True)],
    "lars": [LarsProblem(4096, 0.001, 0.0005, 1e-9), LarsProblem(131, 0.001)],
    "limit": [
        NormLimitProblem(30, 64, 4.0),
        NormLimitProblem(3, 75, 8.0),
        NormLimitProblem(6, 64, 4.0, 2.0, True),
    ],
    "tree": [
        TreeSumProblem(1024, [0, 1, 0, 2, 0, 1, 0, 3, 1], 0.5),
        TreeSumProblem(131, [0, 0, 0, 0, 0, 0, 0, 0, 8, 1]),
    ],
    "input": [
        InputProblem(2, 12, 12, 4, 8, 8),
        InputProblem(3, 5, 7, 3, 5, 6),
        InputProblem(2, 12, 11, 3, 9, 7, block=4, pad=2),
        InputProblem(4, 6, 7, 3, 6, 5, margin=3),
    ],
}


# Operations without a problem of their own: as many elements.
_ELEMENTS = [NeuronProblem(1024), NeuronProblem(131)]


def _problems(operation: str) -> list[Any]:
    return _PROBLEMS.get(operation) or _PROBLEMS.get(operation.split("_")[0]) or _ELEMENTS


def basic_cases(device: Device) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Operation, problem and further arguments of one check each: every row of a selection table in the
    precision it is for, plain and with all that goes along with a product, every element type."""
    for operation, spec in OPERATIONS.items():
        for problem in _problems(operation):
            if not spec.has_impls:
                yield operation, problem, {}
                if spec.has_elements and device.serves("bf16"):
                    yield operation, problem, {"element": "bf16"}
                if "db" in spec.keywords:
                    masked = {"masked": True} if "masked_by" in spec.keywords else {}
                    yield operation, problem, {"db": True, **masked}
                continue
            fused = {
                "fprop": {"dropout": "part", "relu": True},
                "dgrad": {"db": True, "masked": True},
                "wgrad": {"update": "full"},
            }
            for precision in PRECISIONS:
                if device.serves(precision):
                    product = with_precision(problem, precision)
                    for impl in own_impls(operation, product, device):
                        if problem not in _SPLIT or "_cluster_" in impl:
                            yield operation, product, {"impl": impl}
                    if problem in _SPLIT:
                        continue
                    if more := fused.get(operation.split("_")[1]):
                        yield operation, product, more


def main(name: str) -> None:
    device = get_device(name)
    if device.kind == "cuda":
        # An allocation of its own for each array, of its very size, instead of a piece of a pool.
        device.xp.cuda.set_allocator(None)
    count = 0
    for operation, problem, arguments in basic_cases(device):
        # The bytes of images are drawn as such; everything else that rounds is compared as real data is.
        data = "exact" if operation == "input_transform" else "real"
        check(operation, problem, device, data=data, nonzero=0, **arguments)
        count += 1
    print(f"{count} basic shapes on {device.name} ({device.reason})")


if __name__ == "__main__":
    main(*sys.argv[1:])
