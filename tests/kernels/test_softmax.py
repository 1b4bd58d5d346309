"""Softmax and cross-entropy."""

from __future__ import annotations

from typing import Any

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
    SoftmaxProblem(3, 10, smoothing=0.1),
    SoftmaxProblem(7, 257, smoothing=0.9),
    SoftmaxProblem(40, 21, ignore=255, smoothing=0.1),
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
    device: Device, logits: Any, labels: Any, ignore: int | None = None, smoothing: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    values, wanted = np.array(logits, np.float32), np.array(labels, np.int32)
    problem = SoftmaxProblem(*values.shape, ignore, smoothing)
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


def test_smoothing_pulls_the_gradient_and_changes_no_rank(device: Device) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (6, 5)).astype(np.float32)
    labels = np.array([0, 1, 2, 3, 4, 7])
    plain, smooth = (cross_entropy(device, logits, labels, 7, smoothing) for smoothing in (0.0, 0.25))
    for index in (0, 2):  # probabilities and ranks
        np.testing.assert_array_equal(plain[index], smooth[index])
    onehot = np.eye(5)[labels[:5]]
    np.testing.assert_allclose(smooth[3][:5], plain[3][:5] + 0.25 * (onehot - 0.2), atol=1e-6)
    mean = -np.log(plain[0][:5].astype(np.float64)).mean(axis=1)
    np.testing.assert_allclose(smooth[1][:5], 0.75 * plain[1][:5] + 0.25 * mean, rtol=1e-5)
    assert smooth[1][5] == 0 and not smooth[3][5].any()


def test_an_infinite_logit_costs_only_where_it_is_a_target(device: Device) -> None:
    for smoothing, wanted in ((0.0, np.log(2)), (0.1, np.inf)):
        _, loss, rank, gradient = cross_entropy(device, [[1, 1, -np.inf]], [0], None, smoothing)
        assert loss[0] == pytest.approx(wanted) and rank[0] == 0 and np.isfinite(gradient).all()


@pytest.mark.parametrize("ignore", [None, 3])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_smoothing_is_that_of_pytorch(device: Device, smoothing: float, ignore: int | None) -> None:
    torch = pytest.importorskip("torch")
    draws = np.random.default_rng(1)
    logits, labels = draws.normal(0, 3, (50, 20)).astype(np.float32), draws.integers(0, 20, 50)
    _, loss, _, gradient = cross_entropy(device, logits, labels, ignore, smoothing)
    theirs = torch.from_numpy(logits).requires_grad_()
    options = {"ignore_index": -100 if ignore is None else ignore, "label_smoothing": smoothing}
    losses = torch.nn.functional.cross_entropy(theirs, torch.from_numpy(labels), reduction="none", **options)
    losses.sum().backward()
    assert np.abs(loss - losses.detach().numpy()).max() <= 1e-6 * loss.max()
    assert np.abs(gradient - theirs.grad.numpy()).max() <= 1e-6


@pytest.mark.parametrize("smoothing", [-0.1, 1.5, np.nan])
def test_smoothing_beyond_its_range_is_refused(smoothing: float) -> None:
    with pytest.raises(ValueError, match="smoothing must be"):
        SoftmaxProblem(2, 3, smoothing=smoothing)


def test_a_row_with_nan_has_rank_k(device: Device) -> None:
    _, loss, rank, _ = cross_entropy(device, [[1, np.nan, 3], [3, 2, 1]], [2, 0])
    assert rank.tolist() == [3, 0]
    assert np.isnan(loss).tolist() == [True, False]
