"""The module of the reference device: fused passes are those of separate calls, in float64."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.float64 import assert_same, normal

from cconvnet._problem import DropoutProblem, FcProblem, SgdProblem
from cconvnet.devices import PRECISIONS, get_device


def test_the_numpy_module_finishes_products() -> None:
    module, problem = get_device("reference:0").module, FcProblem(4, 5, 6)
    x, w, bias = normal(problem.x_shape), normal(problem.w_shape, 1), normal(6, 2)
    dropout, step = DropoutProblem(24, 0.5, 2.0, 1, 2), np.array([3])
    plain, y = np.empty(problem.y_shape), np.empty(problem.y_shape)
    module.fc_fprop(problem, x, w, bias, True, plain, None)
    module.dropout(dropout, plain, plain, 0, step=step)
    module.fc_fprop(problem, x, w, bias, True, y, None, 0, None, dropout=dropout, step=step)
    assert_same(y, plain)
    assert y.any()


@pytest.mark.parametrize("halted", [0, 1])
def test_the_numpy_module_updates_behind_a_gradient(halted: int) -> None:
    module, problem = get_device("reference:0").module, FcProblem(4, 5, 6)
    x, dy, rates = normal(problem.x_shape), normal(problem.y_shape, 1), np.array([0.1, 0.9])
    sgd, halt = SgdProblem(30, 9.0, 9.0, 0.01), np.array([halted], np.int32)
    dw, states = np.empty(problem.w_shape), []
    for fused in (False, True):
        v, w, w_bf16 = (
            normal(problem.w_shape, 2),
            normal(problem.w_shape, 3),
            np.zeros(problem.w_shape, np.uint16),
        )
        if fused:
            module.fc_wgrad(problem, x, dy, dw, None, update=(sgd, v, w, w_bf16, rates, halt))
        else:
            module.fc_wgrad(problem, x, dy, dw, None)
            module.sgd_update(sgd, dw, v, w, 0, w_bf16=w_bf16, rates=rates, halt=halt)
        states.append((v, w, w_bf16))
    for a, b in zip(*states, strict=True):
        assert_same(a, b)
    assert bool(states[0][2].any()) == (not halted)
    assert (states[0][1] == normal(problem.w_shape, 3)).all() == bool(halted)


def test_the_numpy_module_serves_floats() -> None:
    module = get_device("reference:0").module
    assert [module.serves(precision) for precision in PRECISIONS] == [True, False, False, False]
    with pytest.raises(ValueError, match="precision must be one of fp32, fp32x3, tf32, bf16, not 'fp16'"):
        module.serves("fp16")
    assert not get_device("reference:0").serves("fp16")
