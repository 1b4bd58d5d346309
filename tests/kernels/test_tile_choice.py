"""The choice of tiles and splits of matrix products by their predicted time."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import subprocess
import sys
from typing import Any

import pytest

from cconvnet._problem import ConvProblem, FcProblem
from cconvnet.devices import get_device
from cconvnet.profile.chips import chip_of
from cconvnet.testing.networks import layers
from cconvnet.testing.problems import CONV, with_precision

MODULE = get_device("emulator:0").module
# The multiprocessors of the GPU that the model describes.
MULTIPROCESSORS = 132
BATCHES = {"alexnet": 128, "vgg16": 64, "resnet50": 128}


def problem_of(name: str, precision: str) -> Any:
    network, layer = name.split("/")
    return with_precision(layers(network)[layer].problem(n=BATCHES[network]), precision)


def choice(operation: str, problem: Any) -> tuple[str, int]:
    """Return the row's type and tile, and the number of splits."""
    first = getattr(MODULE, f"{operation}_impls")(problem)[0]
    outputs = math.prod(problem.w_shape if operation.endswith("wgrad") else problem.y_shape)
    workspace = getattr(MODULE, f"{operation}_workspace")(problem, first)
    name = re.sub(r"^[a-z]+_[a-z]+_(implicit_)?(gemm_)?", "", first)
    return name, max(1, workspace // (4 * outputs))


@pytest.mark.parametrize(
    ("name", "operation", "precision", "tile", "splits"),
    [
        # 144 tiles, which left 45% of the second round of multiprocessors idle.
        ("vgg16/conv4_2", "conv_wgrad", "bf16", "bf16_128x128x64", 5),
        ("vgg16/conv5_1", "conv_wgrad", "bf16", "bf16_128x128x64", 5),
        ("resnet50/layer4_1_conv2", "conv_wgrad", "bf16", "bf16_128x128x64", 3),
        # One split more or less would start another wave.
        ("vgg16/conv2_1", "conv_wgrad", "bf16", "bf16_128x128x64", 52),
        ("alexnet/conv4", "conv_wgrad", "bf16", "bf16_192x96x64", 7),
        # A block alone on a multiprocessor would leave its tensor cores idle between products.
        ("alexnet/conv3", "conv_wgrad", "bf16", "bf16_128x128x64", 7),
        ("alexnet/conv5", "conv_wgrad", "bf16", "bf16_128x128x64", 9),
        # Large grids: the tile that reads least.
        ("vgg16/conv3_2", "conv_fprop", "bf16", "bf16_128x128x64", 1),
        ("alexnet/conv2", "conv_dgrad", "bf16", "bf16_256x48x64", 1),
        ("alexnet/conv2", "conv_dgrad", "tf32", "tf32_256x48x32", 1),
        ("vgg16/conv1_2", "conv_fprop", "bf16", "bf16_256x64x64", 1),
        ("vgg16/conv1_2", "conv_fprop", "tf32", "tf32_256x64x32", 1),
        ("vgg16/conv2_1", "conv_dgrad", "bf16", "bf16_256x64x64", 1),
        ("resnet50/layer1_0_conv2", "conv_dgrad", "tf32", "tf32_256x64x32", 1),
        # The 9 taps of 64 channels are three whole tiles.
        ("vgg16/conv1_2", "conv_wgrad", "bf16", "bf16_64x192x64", 44),
        ("resnet50/layer1_0_conv2", "conv_wgrad", "tf32", "tf32_64x192x32", 88),
        ("alexnet/conv4", "conv_fprop", "bf16", "bf16_192x96x64", 1),
        ("alexnet/conv4", "conv_dgrad", "bf16", "bf16_192x96x32", 1),
        # Few channels: tensor cores read patches.
        ("vgg16/conv1_1", "conv_fprop", "bf16", "few_channels_bf16_128x64", 1),
        ("vgg16/conv1_1", "conv_wgrad", "bf16", "few_channels_bf16_64x32", 262),
        ("resnet50/conv1", "conv_fprop", "bf16", "few_channels_bf16_128x64", 1),
        ("resnet50/conv1", "conv_fprop", "tf32", "few_channels_tf32_128x64", 1),
        ("resnet50/conv1", "conv_wgrad", "bf16", "few_channels_bf16_64x160", 262),
        ("resnet50/conv1", "conv_wgrad", "tf32", "few_channels_tf32_64x160", 262),
        ("alexnet/conv1", "conv_fprop", "bf16", "few_channels_bf16_128x48", 1),
        ("alexnet/conv1", "conv_wgrad", "bf16", "few_channels_bf16_96x128", 88),
        ("alexnet/conv1", "conv_fprop", "tf32", "few_channels_tf32_128x32", 1),
        # Small ones: more blocks before larger ones.
        ("resnet50/layer4_1_conv2", "conv_fprop", "fp32", "fp32_128x64x16", 1),
        ("alexnet/fc8", "fc_fprop", "bf16", "bf16_64x64x64", 4),
        ("alexnet/fc8", "fc_dgrad", "bf16", "bf16_64x64x64", 1),
    ],
)
def test_tile_and_splits(name: str, operation: str, precision: str, tile: str, splits: int) -> None:
    assert choice(operation, problem_of(name, precision)) == (tile, splits)


def filter_gradients() -> list[str]:
    """Return the convolutions of 64 or more input channels, whose filter gradients are split as needed."""
    return [
        f"{network}/{layer.name}"
        for network in BATCHES
        for layer in layers(network).values()
        if layer.kind == "conv" and layer.shape["c"] >= 64
    ]


@pytest.mark.parametrize("precision", ["fp32", "fp32x3", "tf32", "bf16"])
@pytest.mark.parametrize("name", filter_gradients())
def test_filter_gradients_leave_few_multiprocessors_idle(name: str, precision: str) -> None:
    problem = problem_of(name, precision)
    tile, splits = choice("conv_wgrad", problem)
    found = re.search(r"_(\d+)x(\d+)x", tile)
    assert found
    columns = problem.r * problem.s * problem.c // problem.groups
    tiles = -(-problem.k // problem.groups // int(found[1])) * -(-columns // int(found[2]))
    blocks = tiles * splits * problem.groups
    rounds = -(-blocks // MULTIPROCESSORS)
    assert blocks / (rounds * MULTIPROCESSORS) > 0.8, (tile, splits, blocks)


@pytest.mark.parametrize("operation", ["conv_fprop", "conv_dgrad", "conv_wgrad"])
@pytest.mark.parametrize("name", CONV)
def test_all_rows_of_a_problem_have_the_same_splits(operation: str, name: str) -> None:
    """Rows that multiply with the same arithmetic add the same numbers in the same order."""
    for precision in ("fp32", "fp32x3", "tf32", "bf16"):
        problem = with_precision(CONV[name], precision)
        rows = getattr(MODULE, f"{operation}_impls")(problem)
        for kind in ("implicit_gemm", "few_channels"):
            same = [row for row in rows if kind in row]
            assert len({getattr(MODULE, f"{operation}_workspace")(problem, row) for row in same}) <= 1, same


@pytest.mark.parametrize("precision", ["fp32x3", "tf32", "bf16"])
def test_tensor_cores_come_first_where_they_can(precision: str) -> None:
    for problem in (ConvProblem(1, 4, 4, 8, 8, 3, 3), ConvProblem(64, 56, 56, 64, 64, 3, 3)):
        for operation in ("conv_fprop", "conv_dgrad", "conv_wgrad"):
            tile, _ = choice(operation, with_precision(problem, precision))
            assert tile.startswith(precision) and not tile.endswith("scalar")


def test_splits_are_never_short() -> None:
    """A split has 256 terms or more, and a sum of fewer than 512 is whole."""
    for k in (1, 256, 511, 512, 1024, 9216, 25088):
        _, splits = choice("fc_fprop", FcProblem(1, k, 8))
        assert 1 <= splits <= max(1, k // 256)


# ---- rows of warp groups, which wait for a proof by a GPU -------------------------------------------------

WARP_GROUPS = [
    ("alexnet/conv2", "conv_fprop"),
    ("alexnet/conv3", "conv_fprop"),
    ("alexnet/conv3", "conv_dgrad"),
    ("alexnet/conv3", "conv_wgrad"),
    ("vgg16/conv1_2", "conv_fprop"),
    ("vgg16/conv2_1", "conv_fprop"),
    ("vgg16/conv3_2", "conv_fprop"),
    ("vgg16/conv3_2", "conv_dgrad"),
    ("vgg16/conv4_2", "conv_wgrad"),
    ("resnet50/layer3_0_conv2", "conv_fprop"),
    ("resnet50/layer4_1_conv2", "conv_dgrad"),
    ("alexnet/fc6", "fc_fprop"),
    ("alexnet/fc8", "fc_dgrad"),
    ("vgg16/fc6", "fc_wgrad"),
]
_CHOICES = """
import json, sys
from cconvnet.devices import get_device
from cconvnet.testing.networks import layers
from cconvnet.testing.problems import with_precision
module = get_device("emulator:0").module
for name, operation, batch in json.loads(sys.argv[1]):
    network, layer = name.split("/")
    problem = with_precision(layers(network)[layer].problem(n=batch), "bf16")
    print(json.dumps(getattr(module, f"{operation}_impls")(problem)))
"""


@pytest.fixture(scope="module")
def open_rows() -> dict[tuple[str, str], list[str]]:
    """Return the rows of problems, the first choice first, where rows need no proof."""
    asked = [(name, operation, BATCHES[name.split("/")[0]]) for name, operation in WARP_GROUPS]
    done = subprocess.run(
        [sys.executable, "-c", _CHOICES, json.dumps(asked)],
        env=os.environ | {"CCONVNET_ROWS": "unproven"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return dict(zip(WARP_GROUPS, map(json.loads, done.stdout.splitlines()), strict=True))


def cycles_of(row: str, operation: str, problem: Any) -> float:
    """Return the cycles of a row of warp groups by docs/profiling.md, with the profile's constants."""
    chip = chip_of("sm_90a")
    m, n, k = map(int, re.findall(r"_(\d+)x(\d+)x(\d+)", row)[0])
    layer = isinstance(problem, FcProblem)
    groups, taps = (1, 1) if layer else (problem.groups, problem.r * problem.s)
    inputs, filters = problem.c // groups, problem.k // groups
    rows, columns, depth = {
        "fprop": (math.prod(problem.y_shape[:-1]), filters, taps * inputs),
        "dgrad": (math.prod(problem.x_shape[:-1]), inputs, taps * filters),
        "wgrad": (filters, taps * inputs, math.prod(problem.y_shape[:-1])),
    }[operation.split("_")[1]]
    outputs = rows * columns * groups
    splits = max(1, getattr(MODULE, f"{operation}_workspace")(problem, row) // (4 * outputs))
    # A pair shares what its tiles have in common.
    down, across = (2, 1) if "_along_m" in row else (1, 2) if "_along_n" in row else (1, 1)
    tiles = -(-rows // (m * down)) * -(-columns // (n * across)) * groups * splits
    steps = math.ceil(math.ceil(depth / k) / splits)
    products = steps * 2 * m * n * k / (chip["tensor_bf16_wgmma"] * chip["overlap"])
    # Behind the products of the next tile, if weights are streamed.
    stored = 0 if "streamed" in row else 4 * m * n / chip["l2"]
    copied = steps * (m / across + n / down) * k * 2 / (chip["l2"] * chip["overlap"])
    return -(-tiles // (MULTIPROCESSORS // (down * across))) * (max(products, copied) + stored)


@pytest.mark.parametrize(("name", "operation"), WARP_GROUPS)
def test_warp_groups_are_ranked_as_the_profile_predicts(
    name: str, operation: str, open_rows: dict[tuple[str, str], list[str]]
) -> None:
    problem = problem_of(name, "bf16")
    rows = open_rows[name, operation]
    # The splits of clusters have no workspace that would tell their number. Taps that share pixels copy less.
    ranked = [row for row in rows if "_wgmma_" in row and "_cluster_" not in row and "_halo_" not in row]
    assert len(ranked) >= 2
    cycles = [cycles_of(row, operation, problem) for row in ranked]
    # Integers are rounded in the one, and nothing in the other.
    assert all(before <= 1.01 * after for before, after in itertools.pairwise(cycles)), cycles
    # Nothing changes where rows must be proven.
    assert "_wgmma_" not in getattr(MODULE, f"{operation}_impls")(problem)[0]
