"""The update of weights by momentum and weight decay."""

from __future__ import annotations

import numpy as np
import pytest

from cconvnet import bfloat16
from cconvnet._problem import SgdProblem
from cconvnet.devices import Device
from cconvnet.testing import reference
from cconvnet.testing.check import check, check_fused, make_inputs, run

# Powers of two: every product of integers is exact, in any order.
EXACT = [
    SgdProblem(1, 0.5, 0.5, 0.25),
    SgdProblem(5, 1.0),
    SgdProblem(130, 0.25, 0.5, 0.0),
    SgdProblem(1024, 0.5, 1.0, 0.5),
    SgdProblem(3001, 0.5, 0.25, 0.125),
    SgdProblem(1030, 0.5, 0.25, 0.125, nesterov=True),
]


@pytest.mark.parametrize("offset", [0, 4])
@pytest.mark.parametrize("problem", EXACT, ids=repr)
def test_exact(device: Device, problem: SgdProblem, offset: int) -> None:
    check("sgd_update", problem, device, offset=offset)


@pytest.mark.parametrize("offset", [0, 2, 4])
@pytest.mark.parametrize("update", ["full", "halted"])
@pytest.mark.parametrize("problem", EXACT, ids=repr)
def test_rates_and_a_halt_on_the_device(
    device: Device, problem: SgdProblem, update: str, offset: int
) -> None:
    """The rounded copy of the weights is written too; a halt leaves everything unchanged."""
    check("sgd_update", problem, device, update=update, offset=offset)
    check_fused("sgd_update", problem, device, update=update, offset=offset)


@pytest.mark.parametrize("left_out", ["w_bf16", "rates", "halt"])
def test_each_of_them_may_be_missing(device: Device, left_out: str) -> None:
    problem = SgdProblem(1030, 0.5, 0.25, 0.125)
    inputs = make_inputs("sgd_update", problem, update="full")
    del inputs[left_out]
    v, w = reference.sgd_update(
        problem, *(inputs[name] for name in "gvw"), **{n: inputs[n] for n in ("rates",) if n in inputs}
    )
    results = run("sgd_update", problem, device, inputs)
    np.testing.assert_array_equal(results["v"], v)
    np.testing.assert_array_equal(results["w"], w)
    if left_out != "w_bf16":
        np.testing.assert_array_equal(results["w_bf16"], bfloat16.pack(w))


@pytest.mark.parametrize("count", [7, 4096])
def test_real(device: Device, count: int) -> None:
    for nesterov in (False, True):
        check("sgd_update", SgdProblem(count, 0.01, 0.9, 0.0005, nesterov), device, data="real")


@pytest.mark.parametrize("nesterov", [False, True])
def test_twenty_steps_follow_the_reference(device: Device, nesterov: bool) -> None:
    problem = SgdProblem(257, 0.01, 0.9, 0.0005, nesterov)
    inputs = make_inputs("sgd_update", problem, data="real")
    v, w = inputs["v"], inputs["w"]
    wanted_v, wanted_w = v.astype(np.float64), w.astype(np.float64)
    for step in range(20):
        g = make_inputs("sgd_update", problem, data="real", seed=step)["g"]
        v, w = run("sgd_update", problem, device, {"g": g, "v": v, "w": w}).values()
        wanted_v, wanted_w = reference.sgd_update(problem, g, wanted_v, wanted_w)
    # Twenty roundings of each, each at most half an ulp of a number below 8.
    assert np.abs(v - wanted_v).max() <= 20 * 4.8e-7
    assert np.abs(w - wanted_w).max() <= 20 * 4.8e-7


@pytest.mark.parametrize("nesterov", [False, True])
def test_twenty_steps_are_those_of_pytorch(device: Device, nesterov: bool) -> None:
    """At a constant rate PyTorch's buffer times the rate is the velocity, with the other sign."""
    torch = pytest.importorskip("torch")
    problem = SgdProblem(257, 0.01, 0.9, 0.0005, nesterov)
    w, v = make_inputs("sgd_update", problem, data="real")["w"], np.zeros(257, np.float32)
    theirs = torch.from_numpy(w.copy()).requires_grad_()
    optimizer = torch.optim.SGD([theirs], lr=0.01, momentum=0.9, weight_decay=0.0005, nesterov=nesterov)
    for step in range(20):
        g = make_inputs("sgd_update", problem, data="real", seed=step)["g"]
        v, w = run("sgd_update", problem, device, {"g": g, "v": v, "w": w}).values()
        theirs.grad = torch.from_numpy(g)
        optimizer.step()
    assert np.abs(w - theirs.detach().numpy()).max() <= 1e-6 * np.abs(w).max()
