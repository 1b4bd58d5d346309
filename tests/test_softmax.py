"""Softmax and cross-entropy."""

from __future__ import annotations

import numpy as np
import pytest

from cconvnet._problem import SoftmaxProblem
from cconvnet.backends import Device
from cconvnet.testing.check import check, run

OPERATIONS = [
    "softmax_forward",
    "softmax_cross_entropy_forward",
    "softmax_cross_entropy_backward",
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
]


@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_real(device: Device, operation: str, problem: SoftmaxProblem) -> None:
    check(operation, problem, device, data="real")


@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_ranks_with_ties(device: Device, problem: SoftmaxProblem) -> None:
    """Logits of nine different values tie often."""
    check("softmax_cross_entropy_forward", problem, device, data="integers")


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


def cross_entropy(
    device: Device, logits: list[list[float]], labels: list[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    values, wanted = np.array(logits, np.float32), np.array(labels, np.int32)
    problem = SoftmaxProblem(*values.shape)
    results = run("softmax_cross_entropy_forward", problem, device, {"logits": values, "labels": wanted})
    inputs = {"probabilities": results["probabilities"], "labels": wanted, "scale": 1.0}
    gradient = run("softmax_cross_entropy_backward", problem, device, inputs)["dlogits"]
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
    """Its own row alone is marked, and nothing is read out of bounds."""
    probabilities, loss, rank, gradient = cross_entropy(
        device, [[1, 2, 3], [1, 2, 3], [1, 2, 3]], [0, label, 2]
    )
    assert np.isfinite(probabilities).all()
    assert np.isnan(loss).tolist() == [False, True, False]
    assert rank.tolist() == [2, 3, 0]
    assert np.isnan(gradient).all(axis=1).tolist() == [False, True, False]
    assert np.isfinite(gradient[[0, 2]]).all()


def test_a_row_with_nan_has_rank_k(device: Device) -> None:
    _, loss, rank, _ = cross_entropy(device, [[1, np.nan, 3], [3, 2, 1]], [2, 0])
    assert rank.tolist() == [3, 0]
    assert np.isnan(loss).tolist() == [True, False]
