"""Selection tables: the row that each kind of problem, element type and alignment is served by.

The choices are read from the log that CCONVNET_LOG_KERNELS=1 prints, in one process for each device.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cconvnet._problem import (
    BiasProblem,
    ContrastNormProblem,
    InputProblem,
    LrnProblem,
    NormLimitProblem,
    PoolProblem,
    SoftmaxProblem,
)
from cconvnet.devices import get_device
from cconvnet.testing.problems import DEPTHWISE, with_precision

_LRN_POOL = (LrnProblem(1, 6, 6, 16), PoolProblem(1, 6, 6, 16))
_LRN_POOL_SCALAR = (LrnProblem(1, 6, 6, 6), PoolProblem(1, 6, 6, 6))
_LRN_POOL_WIDE = (LrnProblem(1, 46, 46, 16), PoolProblem(1, 46, 46, 16, (45, 45), (1, 1)))

# Operation, problem, element type, bytes by which the arrays miss a 16-byte boundary, and the row: its name
# after the operation's.
CUDA = [
    ("conv_fprop", DEPTHWISE["3x3"], "fp32", 0, "depthwise_fp32"),
    ("conv_fprop", DEPTHWISE["3x3"], "fp32", 4, "depthwise_fp32_scalar"),
    ("conv_fprop", DEPTHWISE["scalar"], "fp32", 0, "depthwise_fp32_scalar"),
    ("conv_fprop", with_precision(DEPTHWISE["3x3"], "tf32"), "fp32", 0, "depthwise_fp32"),
    ("conv_dgrad", with_precision(DEPTHWISE["3x3"], "bf16"), "bf16", 0, "depthwise_bf16"),
    ("conv_wgrad", with_precision(DEPTHWISE["3x3"], "bf16"), "bf16", 2, "depthwise_bf16_scalar"),
    ("conv_wgrad", DEPTHWISE["7x7"], "fp32", 0, "depthwise_fp32"),
    ("lrn_forward", LrnProblem(1, 2, 2, 16), "fp32", 0, "across_fp32"),
    ("lrn_forward", LrnProblem(1, 2, 2, 24), "bf16", 2, "across_bf16"),
    ("lrn_forward", LrnProblem(1, 2, 2, 8, 5, 1e-4, 0.5), "fp32", 0, "any_fp32"),
    ("lrn_forward", LrnProblem(1, 6, 6, 8, 3, region="same_map"), "bf16", 0, "map_bf16"),
    ("lrn_forward", LrnProblem(1, 6, 5, 8, 3, region="same_map"), "fp32", 4, "any_fp32"),
    ("lrn_backward", LrnProblem(1, 2, 3, 16), "bf16", 0, "across_bf16"),
    ("lrn_backward", LrnProblem(1, 6, 6, 4, 5, region="same_map"), "fp32", 0, "map_fp32"),
    ("lrn_backward", LrnProblem(1, 6, 6, 4, 7, region="same_map"), "fp32", 0, "any_fp32"),
    ("lrn_maxpool_forward", _LRN_POOL, "fp32", 0, "ring_fp32"),
    ("lrn_maxpool_forward", _LRN_POOL_SCALAR, "bf16", 0, "any_bf16"),
    ("lrn_maxpool_forward", _LRN_POOL_WIDE, "fp32", 0, "any_fp32"),
    ("lrn_maxpool_backward", _LRN_POOL, "bf16", 2, "columns_bf16"),
    ("lrn_maxpool_backward", _LRN_POOL_SCALAR, "fp32", 0, "separate_fp32"),
    ("contrast_norm_forward", ContrastNormProblem(1, 4, 4, 8), "bf16", 0, "bf16"),
    ("contrast_norm_forward", ContrastNormProblem(1, 4, 5, 4), "fp32", 4, "fp32_scalar"),
    ("contrast_norm_backward", ContrastNormProblem(1, 4, 6, 4), "fp32", 0, "fp32"),
    ("contrast_norm_backward", ContrastNormProblem(1, 4, 4, 4), "bf16", 0, "bf16_scalar"),
    ("maxpool_forward", PoolProblem(1, 6, 6, 8), "bf16", 0, "bf16"),
    ("maxpool_forward", PoolProblem(1, 6, 6, 4), "bf16", 0, "bf16_scalar"),
    ("maxpool_backward", PoolProblem(1, 6, 6, 4), "fp32", 0, "fp32"),
    ("maxpool_backward", PoolProblem(1, 6, 7, 4), "fp32", 4, "fp32_scalar"),
    ("maxunpool_forward", PoolProblem(1, 6, 6, 4), "fp32", 0, "fp32"),
    ("maxunpool_forward", PoolProblem(1, 6, 6, 4), "fp32", 4, "fp32_scalar"),
    ("maxunpool_backward", PoolProblem(1, 6, 6, 8), "bf16", 0, "bf16"),
    ("maxunpool_backward", PoolProblem(1, 6, 6, 4), "bf16", 0, "bf16_scalar"),
    ("avgpool_forward", PoolProblem(1, 6, 6, 4), "fp32", 0, "fp32"),
    ("avgpool_forward", PoolProblem(1, 6, 6, 3), "fp32", 0, "fp32_scalar"),
    ("avgpool_backward", PoolProblem(1, 6, 6, 8), "bf16", 0, "bf16"),
    ("avgpool_backward", PoolProblem(1, 6, 6, 5), "bf16", 0, "bf16_scalar"),
    ("softmax_forward", SoftmaxProblem(3, 128), "fp32", 0, "warp_fp32"),
    ("softmax_forward", SoftmaxProblem(3, 129), "bf16", 0, "block_bf16"),
    ("softmax_cross_entropy_forward", SoftmaxProblem(3, 10), "bf16", 0, "warp_bf16"),
    ("softmax_cross_entropy_forward", SoftmaxProblem(2, 200), "fp32", 0, "block_fp32"),
    ("softmax_cross_entropy", SoftmaxProblem(3, 10), "fp32", 0, "warp_fp32"),
    ("softmax_cross_entropy", SoftmaxProblem(2, 200), "fp32", 0, "block_fp32"),
    ("bias_grad", BiasProblem(5, 8), "fp32", 0, "fp32"),
    ("bias_grad", BiasProblem(5, 8), "fp32", 4, "fp32_scalar"),
    ("bias_grad", BiasProblem(5, 4), "bf16", 0, "bf16_scalar"),
    ("relu_bias_backward", BiasProblem(5, 8), "bf16", 0, "bf16"),
    ("relu_bias_backward", BiasProblem(5, 6), "fp32", 0, "fp32_scalar"),
    ("limit_norm", NormLimitProblem(3, 8, 4.0), "fp32", 0, "fp32"),
    ("limit_norm", NormLimitProblem(3, 7, 4.0), "fp32", 0, "fp32_scalar"),
    ("input_transform", InputProblem(1, 8, 8, 3, 4, 4), "fp32", 0, "fp32_bands"),
    ("input_transform", InputProblem(1, 7, 7, 3, 4, 4), "fp32", 0, "fp32"),
    ("input_transform", InputProblem(1, 8, 8, 3, 5, 5), "bf16", 0, "bf16_scalar"),
]  # fmt: skip

CPU = [
    ("lrn_forward", LrnProblem(1, 2, 2, 16), "fp32", 0, "across_fp32"),
    ("lrn_forward", LrnProblem(1, 6, 6, 8, 3, region="same_map"), "fp32", 0, "map_fp32"),
    ("lrn_backward", LrnProblem(1, 2, 2, 16), "bf16", 0, "across_bf16"),
    ("lrn_backward", LrnProblem(1, 6, 6, 8, 3, region="same_map"), "bf16", 0, "map_bf16"),
]

CASES = [("emulator:0", *case) for case in CUDA] + [("cpu:0", *case) for case in CPU]

SCRIPT = """
import sys

import test_selection
from cconvnet.testing.check import make_inputs, run

for device, operation, problem, element, offset, _ in test_selection.CASES:
    if device == sys.argv[1]:
        inputs = make_inputs(operation, problem, "real", 0, element)
        run(operation, problem, device, inputs, offset=offset, element=element)
"""


@pytest.fixture(scope="module")
def logs() -> dict[str, list[str]]:
    """Return the lines that each device logs when it runs its cases."""
    kept: dict[str, list[str]] = {}
    for device in ("emulator:0", "cpu:0"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, device],
            env={**os.environ, "CCONVNET_LOG_KERNELS": "1", "PYTHONPATH": str(Path(__file__).parent)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        kept[device] = done.stderr.splitlines()
    return kept


@pytest.mark.parametrize(
    ("where", "operation", "problem", "element", "offset", "row"),
    CASES,
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_the_first_row_that_supports_a_problem_serves_it(
    logs: dict[str, list[str]],
    where: str,
    operation: str,
    problem: object,
    element: str,
    offset: int,
    row: str,
) -> None:
    if get_device(where).module.build_kind() == "numpy":
        pytest.skip("NumPy has no selection tables")
    text = ", ".join(map(repr, problem)) if isinstance(problem, tuple) else repr(problem)
    assert f"cconvnet: {operation}_{row} serves {text}" in logs[where]


# ---- rows that a GPU is to prove ------------------------------------------------------------------------

# In a process of its own, since proofs are of the whole process. Prints the names of the chosen rows.
PROVING = """
import sys

from cconvnet._problem import ConvProblem
from cconvnet.devices import get_device
from cconvnet.testing.check import impls

device = get_device("emulator:0")
proven = sys.argv[1].split()
device.module.prove_rows(proven)
needing, unproven = set(device.module.rows_to_prove()), set(device.module.unproven_rows())
assert unproven == needing - set(proven) and len(needing) > 10
problem = ConvProblem(128, 13, 13, 256, 384, 3, 3, padding=(1, 1), precision="bf16")
for operation in ("conv_fprop", "conv_dgrad", "conv_wgrad"):
    rows = impls(operation, problem, device)
    assert len(needing.intersection(rows)) > 1
    print(rows[0])
"""


def chosen(proven: str = "", **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROVING, proven],
        env={name: value for name, value in os.environ.items() if name != "CCONVNET_ROWS"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_rows_that_no_gpu_has_proven_are_not_chosen_by_themselves() -> None:
    assert [row for row in chosen() if "wgmma" in row] == []
    assert [row for row in chosen(CCONVNET_ROWS="1") if "wgmma" in row] == []
    opened = chosen(CCONVNET_ROWS="unproven")
    assert len(opened) == 3 and all("_wgmma_" in row for row in opened)
    # Of the cheapest only the named one is opened, and so are rows that are dearer than other open ones.
    assert [row for row in chosen(opened[1]) if "wgmma" in row] == [opened[1]]
    assert chosen(" ".join(opened)) == opened
