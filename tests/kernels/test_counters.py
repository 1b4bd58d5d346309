"""Counts of the kernels' memory accesses in the emulator, and races.

The counts are exact and the same everywhere. So promises about them stand here, and a kernel that breaks one
fails: bank conflicts, and sectors beyond the least. Where a kernel is not perfect, its present figure is the
bound.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from helpers.basic_shapes import basic_cases

from cconvnet import ops
from cconvnet._problem import ConvProblem, FcProblem, SoftmaxProblem
from cconvnet.bfloat16 import BITS
from cconvnet.devices import PRECISIONS, get_device
from cconvnet.devices.counting import Access, Record, counting
from cconvnet.operations import OPERATIONS
from cconvnet.testing.check import check, make_inputs, own_impls, run
from cconvnet.testing.problems import FC_WARP_GROUPS, with_precision

pytestmark = pytest.mark.usefixtures("counting_build")

# Wavefronts of shared memory for each that would be needed without conflicts, by the source file of the
# access. nvcc joins neighbouring loads of floats into wide ones; the counts take them one by one.
CONFLICTS = {
    # Sums are transposed behind many steps: of a warp's stores, two lanes or four meet on a bank.
    "kernels/gemm/halo_wgrad_tile.cuh": 2,
    # Lanes that leave out a row of padding read taps of others; a GPU's warp goes through the rows together.
    "kernels/conv_depthwise.cu": 1.02,
    "kernels/conv_few_channels.cu": 1.23,
    "kernels/gemm/gemm_tile.cuh": 1.014,
    "kernels/lrn.cu": 1.41,
    "kernels/lrn_maxpool.cu": 1.11,
}


def totals(accesses: Iterable[Access]) -> dict[str, tuple[int, int]]:
    """Return what was needed and what is least by the source file of the access, for one kind of memory."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for access in accesses:
        total = sums[access.line.file]
        total[0] += access.sectors + access.wavefronts
        total[1] += access.least_sectors + access.least_wavefronts
    return {file: (needed, least) for file, (needed, least) in sums.items()}


def of(record: Record, space: str) -> list[Access]:
    return [a for launch in record.launches for a in launch.accesses if a.instruction.space == space]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_kernels_are_free_of_races_and_bank_conflicts(operation: str) -> None:
    """Every row of every selection table on the basic shapes, in all precisions.

    One schedule is enough: neither counts nor races depend on it.
    """
    device = get_device("emulator:0")
    data = "exact" if operation == "input_transform" else "real"
    with counting() as record:
        cases = [case for case in basic_cases(device) if case[0] == operation]
        for _, problem, options in cases:
            row = {name: options.pop(name) for name in ("impl", "element") if name in options}
            inputs = make_inputs(operation, problem, data, element=row.get("element", "fp32"), **options)
            run(operation, problem, device, inputs, **row)
    record.raise_races()
    assert len(record.launches) >= len(cases)
    for file, (needed, least) in totals(of(record, "shared")).items():
        assert needed <= CONFLICTS.get(file, 1) * least, (file, needed / least)


def test_softmax_in_place_is_free_of_races() -> None:
    """A lane overwrites the logit that others read; only a __syncwarp orders them."""
    problem, device = SoftmaxProblem(5, 20), get_device("emulator:0")
    with counting() as record:
        check("softmax_cross_entropy_forward", problem, device, data="real", nonzero=0, in_place="logits")
    assert record.launches
    record.raise_races()


@pytest.mark.parametrize("operation", ["conv_fprop", "conv_dgrad", "conv_wgrad"])
def test_products_of_warp_groups_and_copies_beside_them_are_free_of_races(operation: str) -> None:
    """Each row has more steps than stages, so that copies follow products in every one of them."""
    problem = ConvProblem(4, 8, 9, 64, 64, 3, 3, padding=(1, 1), precision="bf16")
    device = get_device("emulator:0")
    inputs = make_inputs(operation, problem)
    with counting() as record:
        rows = [row for row in own_impls(operation, problem, device) if "wgmma" in str(row)]
        for row in rows:
            run(operation, problem, device, inputs, impl=row)
    assert len(rows) >= 6 and len(record.launches) >= len(rows)
    record.raise_races()


def test_streamed_weights_are_free_of_races() -> None:
    """Blocks go round the stages of factors and of weights."""
    problem, device = FcProblem(130, 264, 136, precision="bf16"), get_device("emulator:0")
    row = "fc_wgrad_wgmma_streamed_bf16_128x128x64"
    with counting() as record:
        for update in ({}, {"update": "full"}):
            run("fc_wgrad", problem, device, make_inputs("fc_wgrad", problem, **update), impl=row)
    record.raise_races()
    for file, (needed, least) in totals(of(record, "shared")).items():
        assert needed == least > 0, file


@pytest.mark.parametrize(("operation", "name"), [("fc_fprop", "split"), ("fc_dgrad", "split_back")])
def test_splits_of_a_cluster_are_free_of_races(operation: str, name: str) -> None:
    problem, device = with_precision(FC_WARP_GROUPS[name], "bf16"), get_device("emulator:0")
    row = f"{operation}_wgmma_cluster_bf16_128x128x64"
    with counting() as record:
        run(operation, problem, device, make_inputs(operation, problem), impl=row)
    record.raise_races()
    for file, (needed, least) in totals(of(record, "shared")).items():
        assert needed == least > 0, file


# Sectors of global memory for each that is necessary, in rows that load bfloat16s one by one.
SCALAR_BF16 = 2.0


def _first_block(operation: str, impl: str | None, precision: str) -> Record:
    """Return the record of the first block of a product whose every block, line and vector is whole."""
    element = BITS if precision == "bf16" else np.float32
    x, dy = np.zeros((8, 16, 16, 128), element), np.zeros((8, 16, 16, 128), element)
    w = np.zeros((128, 3, 3, 128), element)
    arguments = {"padding": 1, "impl": impl, "device": "emulator:0", "precision": precision}
    with counting(blocks=1, races=False) as record:
        if operation == "conv_fprop":
            ops.conv_fprop(x, w, **arguments)
        elif operation == "conv_dgrad":
            ops.conv_dgrad(dy, w, x.shape, **arguments)
        else:
            ops.conv_wgrad(x, dy, 3, **arguments)
    return record


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("operation", ["conv_fprop", "conv_dgrad", "conv_wgrad"])
def test_tiles_of_products_move_whole_sectors_without_conflicts(operation: str, precision: str) -> None:
    problem = ConvProblem(8, 16, 16, 128, 128, 3, 3, padding=(1, 1), precision=precision)
    with counting():
        rows = own_impls(operation, problem, get_device("emulator:0"))
    for impl in rows:
        record = _first_block(operation, impl, precision)
        tiles = ("kernels/gemm/tensor_tile.cuh", "kernels/gemm/gemm_tile.cuh")
        if "wgmma" not in str(impl):  # there the copy engine loads, whose requests are not a warp's
            (loaded,) = (total for file, total in totals(of(record, "global")).items() if file in tiles)
            scalar = precision == "bf16" and str(impl).endswith("_scalar")
            assert loaded[0] <= (SCALAR_BF16 if scalar else 1) * loaded[1], impl
        for file, (needed, least) in totals(of(record, "shared")).items():
            assert needed <= CONFLICTS.get(file, 1) * least, (impl, file, needed / least)
        stored = totals(a for a in of(record, "global") if a.instruction.kind == "store")
        for needed, least in stored.values():
            assert needed == least, impl


def test_a_product_that_is_measured_is_not_read_again() -> None:
    problem, device = ConvProblem(2, 16, 16, 64, 64, 1, 1, precision="bf16"), get_device("emulator:0")
    with counting() as record:
        run("conv_fprop", problem, device, make_inputs("conv_fprop", problem, counted=500))
    record.raise_races()
    product, reduction = (launch.kernel for launch in record.launches)
    assert "conv_fprop" in product and "column_pairs" in reduction and "Pairs<" in reduction


@pytest.mark.parametrize("element", [np.float32, BITS])
def test_elementwise_kernels_touch_each_sector_once(element: Any) -> None:
    x = np.zeros(64 * 1024, element)
    with counting(races=False) as record:
        ops.add(x, x, device="emulator:0")
    (total,) = totals(of(record, "global")).values()
    assert total == (3 * x.nbytes // 32, 3 * x.nbytes // 32)
