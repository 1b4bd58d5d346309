"""Response normalisation and the max pooling after it in one operation."""

from __future__ import annotations

import pytest

from cconvnet._problem import LrnProblem, PoolProblem
from cconvnet.devices import Device
from cconvnet.testing.check import check, check_fused
from cconvnet.testing.problems import LRN_POOL


@pytest.mark.parametrize("data", ["real", "integers"])
@pytest.mark.parametrize("name", LRN_POOL)
def test_forward(device: Device, element: str, name: str, data: str) -> None:
    check("lrn_maxpool_forward", LRN_POOL[name], device, element=element, data=data)
    check_fused("lrn_maxpool_forward", LRN_POOL[name], device, element=element, data=data)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("data", ["real", "integers"])
@pytest.mark.parametrize("name", LRN_POOL)
def test_backward(device: Device, element: str, name: str, data: str, relu: bool) -> None:
    check_fused("lrn_maxpool_backward", LRN_POOL[name], device, element=element, data=data, relu=relu)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    "pool", [PoolProblem(2, 7, 9, 13), PoolProblem(2, 8, 6, 16, (2, 2), (2, 2))], ids=repr
)
def test_no_normalisation_is_max_pooling(device: Device, element: str, pool: PoolProblem, relu: bool) -> None:
    """With alpha = 0 and k = 1 every factor is 1."""
    problem = LrnProblem(pool.n, pool.h, pool.w, pool.c, alpha=0.0, k=1.0), pool
    check("lrn_maxpool_forward", problem, device, element=element)
    check("lrn_maxpool_backward", problem, device, element=element, relu=relu, nonzero=0.05)


@pytest.mark.parametrize("offset", [2, 4, 8])
@pytest.mark.parametrize("name", ["alexnet", "tail"])
def test_any_alignment(device: Device, element: str, name: str, offset: int) -> None:
    problem = LRN_POOL[name]
    check("lrn_maxpool_forward", problem, device, element=element, data="real", offset=offset)
    check_fused("lrn_maxpool_backward", problem, device, element=element, offset=offset)


@pytest.mark.parametrize(
    ("lrn", "pool"),
    [
        (LrnProblem(1, 6, 6, 8, region="same_map"), PoolProblem(1, 6, 6, 8)),
        (LrnProblem(1, 6, 6, 8), PoolProblem(2, 6, 6, 8)),
        (LrnProblem(1, 6, 6, 8), PoolProblem(1, 5, 6, 8)),
        (LrnProblem(1, 6, 6, 8), PoolProblem(1, 6, 7, 8)),
        (LrnProblem(1, 6, 6, 8), PoolProblem(1, 6, 6, 4)),
    ],
    ids=repr,
)
@pytest.mark.parametrize("operation", ["lrn_maxpool_forward", "lrn_maxpool_backward"])
def test_problems_that_do_not_fit_are_refused(
    device: Device, operation: str, lrn: LrnProblem, pool: PoolProblem
) -> None:
    if device.module.build_kind() == "numpy":
        pytest.skip("NumPy checks nothing")
    x, y = device.zeros(lrn.x_shape), device.zeros(pool.y_shape)
    backward = (x, y, y, False, device.zeros(lrn.x_shape), None) if "backward" in operation else (x, y)
    with device, pytest.raises(ValueError, match=r"(lrn|pool|region)"):
        getattr(device.module, operation)(lrn, pool, *backward)
