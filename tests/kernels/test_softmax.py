"""Softmax and cross-entropy."""

from __future__ import annotations

import numpy as np
import pytest

from cconvnet._problem import NeuronProblem, SoftmaxProblem
from cconvnet.devices import Device
from cconvnet.testing.check import check, check_fused, run

OPERATIONS = [
    "softmax_forward",
    "softmax_cross_entropy_forward",
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy",
]
PROBLEMS = [
    SoftmaxProblem(1, 1),
    SoftmaxProblem(4, 2),
    SoftmaxProblem(3, 10),
    SoftmaxProblem(33, 31),
    SoftmaxProblem(2, 33),
    SoftmaxProblem(7, 257),
    SoftmaxProblem(5, 1000),
    SoftmaxProblem(2, 5000),
    SoftmaxProblem(40, 21, ignore=255),
    SoftmaxProblem(9, 200, ignore=0),
]


@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_real(device: Device, element: str, operation: str, problem: SoftmaxProblem) -> None:
    check(operation, problem, device, element=element, data="real")


@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_ranks_with_ties(device: Device, element: str, problem: SoftmaxProblem) -> None:
    """Logits of nine different values have many ties."""
    check("softmax_cross_entropy_forward", problem, device, element=element, data="integers")


@pytest.mark.parametrize("problem", PROBLEMS[2:5], ids=repr)
def test_in_place_and_any_alignment(device: Device, problem: SoftmaxProblem) -> None:
    for operation in OPERATIONS:
        check(operation, problem, device, data="real", offset=4)
    for offset in (0, 4):
        arguments = {"data": "real", "offset": offset}
        check("softmax_forward", problem, device, in_place="logits", **arguments)
        check(
            "softmax_cross_entropy_backward",
            problem,
            device,
            in_place="probabilities",
            **arguments,
        )


@pytest.mark.parametrize("offset", [0, 4])
@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_both_in_one_pass(device: Device, element: str, problem: SoftmaxProblem, offset: int) -> None:
    for data in ("real", "integers"):
        check_fused(
            "softmax_cross_entropy", problem, device, element=element, data=data, offset=offset, scale=0.3
        )


@pytest.mark.parametrize("bad", [None, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("count", [1, 31, 128, 256, 1027])
def test_bad_losses_are_seen(device: Device, count: int, bad: float | None) -> None:
    for seed in range(3):
        check("watch_losses", NeuronProblem(count), device, bad=bad, seed=seed)


def test_a_bad_loss_at_either_end_is_seen(device: Device) -> None:
    for count in (5, 1024, 3000):
        for place in (0, count - 1):
            loss = np.ones(count, np.float32)
            loss[place] = np.nan
            assert run("watch_losses", NeuronProblem(count), device, {"loss": loss})["halt"].item() == 1


def cross_entropy(
    device: Device, logits: list[list[float]], labels: list[int], ignore: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    values, wanted = np.array(logits, np.float32), np.array(labels, np.int32)
    problem = SoftmaxProblem(*values.shape, ignore)
    results = run("softmax_cross_entropy_forward", problem, device, {"logits": values, "labels": wanted})
    inputs = {"probabilities": results["probabilities"], "labels": wanted, "scale": 1.0}
    gradient = run("softmax_cross_entropy_backward", problem, device, inputs)["dlogits"]
    given = {"logits": values, "labels": wanted, "scale": 1.0}
    for name, value in run("softmax_cross_entropy", problem, device, given).items():
        np.testing.assert_array_equal(value, gradient if name == "dlogits" else results[name])
    return results["probabilities"], results["loss"], results["rank"], gradient


def test_large_logits_give_a_finite_loss(device: Device) -> None:
    probabilities, loss, rank, gradient = cross_entropy(
        device, [[3e4, 0, -3e4], [-1e30, 1e30, 0], [0, 0, 0]], [2, 1, 1]
    )
    np.testing.assert_array_equal(probabilities[:2], [[1, 0, 0], [0, 1, 0]])
    np.testing.assert_allclose(loss, [6e4, 0, np.log(3)], rtol=1e-6)
    assert rank.tolist() == [2, 0, 1]
    np.testing.assert_allclose(gradient[:2], [[1, 0, -1], [0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("label", [-1, 3, 2**31 - 1, -(2**31)])
def test_a_label_that_is_no_class(device: Device, label: int) -> None:
    """Only its own row is marked, and nothing is read out of bounds."""
    probabilities, loss, rank, gradient = cross_entropy(
        device, [[1, 2, 3], [1, 2, 3], [1, 2, 3]], [0, label, 2]
    )
    assert np.isfinite(probabilities).all()
    assert np.isnan(loss).tolist() == [False, True, False]
    assert rank.tolist() == [2, 3, 0]
    assert np.isnan(gradient).all(axis=1).tolist() == [False, True, False]
    assert np.isfinite(gradient[[0, 2]]).all()


@pytest.mark.parametrize("ignored", [-1, 1, 255])
def test_an_ignored_label_counts_for_nothing_whatever_its_logits(device: Device, ignored: int) -> None:
    logits = [[1, 2, 3], [1, np.nan, 3], [np.inf, 2, 3], [1, 2, 3]]
    _, loss, rank, gradient = cross_entropy(device, logits, [0, ignored, ignored, 7], ignored)
    assert np.isnan(loss).tolist() == [False, False, False, True] and loss[0] > 0
    assert rank.tolist() == [2, 0, 0, 3]
    assert loss[1:3].tolist() == [0, 0] and not gradient[1:3].any()
    assert np.isnan(gradient[3]).all() and gradient[0].all()


def test_a_row_with_nan_has_rank_k(device: Device) -> None:
    _, loss, rank, _ = cross_entropy(device, [[1, np.nan, 3], [3, 2, 1]], [2, 0])
    assert rank.tolist() == [3, 0]
    assert np.isnan(loss).tolist() == [True, False]
