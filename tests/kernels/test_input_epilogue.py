"""Gradients of a ReLU and a bias, computed by the backward pass of the layer after them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cconvnet._problem import ConvProblem, FcProblem, LocalProblem, LrnProblem, PoolProblem
from cconvnet.devices import Device
from cconvnet.operations import workspace_size
from cconvnet.testing import compare
from cconvnet.testing.check import check, check_fused, make_inputs, own_impls, run
from cconvnet.testing.problems import CONV, FC, LOCAL, LRN_POOL, POOL, with_precision

PRODUCTS = {
    **{f"conv/{name}": CONV[name] for name in
       ("plain", "tail", "groups_tail", "1x1", "strided", "1x1_strided", "unequal_and_dilated")},
    "conv/several_groups_of_rows": ConvProblem(5, 9, 9, 72, 16, 3, 3, padding=(1, 1)),
    "conv/long_columns": ConvProblem(9, 13, 13, 8, 8, 3, 3, padding=(1, 1)),
    "conv/strided_tail": ConvProblem(3, 9, 11, 40, 8, 3, 3, stride=(2, 2), padding=(1, 1)),
    "conv/depthwise": ConvProblem(3, 9, 11, 16, 16, 3, 3, stride=(2, 2), padding=(1, 1), groups=16),
    "conv/split": ConvProblem(2, 5, 6, 24, 264, 3, 3, padding=(1, 1)),
    **{f"local/{name}": LOCAL[name] for name in ("plain", "tail")},
    **{f"fc/{name}": FC[name] for name in ("plain", "tail", "one_image")},
    "fc/split": FcProblem(40, 64, 1024),
}  # fmt: skip


def family(name: str) -> str:
    return f"{name.split('/')[0]}_dgrad"


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", PRODUCTS)
def test_products(device: Device, precision: str, name: str, masked: bool) -> None:
    operation, problem = family(name), with_precision(PRODUCTS[name], precision)
    for impl in own_impls(operation, problem, device):
        check(operation, problem, device, impl=impl, db=True, masked=masked, nonzero=0.05)
        check(operation, problem, device, impl=impl, db=True, masked=masked, data="real")
        check_fused(operation, problem, device, impl=impl, db=True, masked=masked, scale=1 / 0.7)
    check(operation, problem, device, offset=4, db=True, masked=masked, nonzero=0.05)


@pytest.mark.parametrize("name", [name for name in PRODUCTS if name.startswith(("conv", "fc"))])
def test_rows_of_the_same_arithmetic_give_the_same_sums(device: Device, precision: str, name: str) -> None:
    operation, problem = family(name), with_precision(PRODUCTS[name], precision)
    inputs = make_inputs(operation, problem, "real", db=True, masked=True)
    sums: dict[bool, Any] = {}
    for impl in own_impls(operation, problem, device):
        db = run(operation, problem, device, inputs, impl=impl)["db"]
        on_tensor_cores = precision != "fp32" and not str(impl).endswith("scalar")
        compare.assert_same_bits("db", db, sums.setdefault(on_tensor_cores, db))
    if precision == "fp32":
        db = run(operation, problem, device, inputs, offset=4)["db"]
        compare.assert_same_bits("db", db, sums[False])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", POOL)
@pytest.mark.parametrize("operation", ["maxpool_backward", "avgpool_backward"])
def test_pooling(device: Device, element: str, operation: str, name: str, masked: bool) -> None:
    check(operation, POOL[name], device, element=element, db=True, masked=masked, data="real")
    for offset in (0, 4):
        check_fused(
            operation,
            POOL[name],
            device,
            element=element,
            db=True,
            masked=masked,
            scale=1 / 0.7,
            offset=offset,
        )


def test_pooling_of_many_pixels(device: Device, element: str) -> None:
    problem = PoolProblem(11, 9, 8, 16, window=(3, 3), stride=(2, 2))
    check("maxpool_backward", problem, device, element=element, db=True, masked=True, nonzero=0.02)
    check_fused("maxpool_backward", problem, device, element=element, db=True, masked=True)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("name", LRN_POOL)
def test_normalisation_and_pooling(device: Device, element: str, name: str, relu: bool) -> None:
    """Without a normalisation, so that the maxima are the reference's."""
    lrn, pool = LRN_POOL[name]
    plain = LrnProblem(lrn.n, lrn.h, lrn.w, lrn.c, size=lrn.size, alpha=0.0, groups=lrn.groups)
    check("lrn_maxpool_backward", (plain, pool), device, element=element, data="real", db=True, relu=relu)
    check_fused("lrn_maxpool_backward", (lrn, pool), device, element=element, db=True, relu=relu)
    check_fused("lrn_maxpool_backward", (lrn, pool), device, element=element, db=True, relu=relu, offset=4)


def test_sums_need_their_workspace(device: Device) -> None:
    """A large matrix is summed in chunks, a small one at once."""
    large, small = PoolProblem(64, 9, 8, 16, (2, 2), (2, 2)), PoolProblem(1, 4, 4, 16, (2, 2), (2, 2))
    for problem in (large, small):
        for operation in ("maxpool_backward", "avgpool_backward"):
            assert workspace_size(device.module, operation, problem) == 0
            size = workspace_size(device.module, operation, problem, sums=True)
            assert (size > 0) == (problem is large and device.kind in ("cuda", "emulator"))
            assert size % 4 == 0


@pytest.mark.parametrize("problem", [ConvProblem(1, 2, 2, 3, 4, 1, 1), FcProblem(2, 3, 4),
                                     LocalProblem(1, 2, 2, 3, 4, 1, 1)], ids=repr)  # fmt: skip
def test_a_mask_without_sums_is_refused(device: Device, problem: Any) -> None:
    if device.kind == "reference":
        pytest.skip("NumPy takes what it is given")
    operation = {"Conv": "conv", "Fc": "fc", "Local": "local"}[type(problem).__name__[:-7]] + "_dgrad"
    inputs = make_inputs(operation, problem, db=True, masked=True)
    del inputs["db"]
    with pytest.raises(ValueError, match="masked_by must not be given without db"):
        run(operation, problem, device, inputs)


def test_a_nan_reaches_the_sum_of_its_channel_alone(device: Device, element: str) -> None:
    problem = PoolProblem(2, 4, 4, 8, window=(2, 2), stride=(2, 2))
    inputs = make_inputs("avgpool_backward", problem, element=element, db=True)
    inputs["dy"][1, 1, 0, 5] = np.nan
    db = run("avgpool_backward", problem, device, inputs, element=element)["db"]
    assert np.isnan(db).tolist() == [channel == 5 for channel in range(8)]
