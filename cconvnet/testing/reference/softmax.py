"""Softmax and cross-entropy in NumPy."""

# Ufuncs return Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet.testing.reference.base import Array, to_float


def softmax_forward(problem: Any, logits: Array) -> Array:
    """Return probabilities[N,K] of logits[N,K]."""
    logits = to_float(logits, (problem.n, problem.k))
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def _onehot(problem: Any, labels: Array) -> tuple[Array, Array]:
    """Return onehot bool[N,K], and valid bool[N], True if the label is a class."""
    labels = np.asarray(labels).reshape(problem.n)
    onehot = labels[:, None] == np.arange(problem.k)
    return onehot, onehot.any(axis=1)


def _targets(problem: Any, labels: Array) -> Array:
    """Return the targets[N,K], with the problem's smoothing."""
    onehot, _ = _onehot(problem, labels)
    return (1 - problem.smoothing) * to_float(onehot) + problem.smoothing / problem.k


def _ignored(problem: Any, labels: Array) -> Array:
    """Return bool[N], True for the label that the problem ignores."""
    labels = np.asarray(labels).reshape(problem.n)
    return np.zeros(problem.n, bool) if problem.ignore is None else labels == problem.ignore


def softmax_cross_entropy_forward(problem: Any, logits: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Return (probabilities[N,K], loss[N], rank int32[N]) of logits[N,K] and labels[N].

    loss = -log(probability of the label), or with smoothing the sum of -target * log(probability). rank is
    the number of classes before the label in the order of falling logits, ties by rising class. Both are 0
    where the label is the one that is ignored.
    """
    logits = to_float(logits, (problem.n, problem.k))
    onehot, valid = _onehot(problem, labels)
    label = np.where(valid, onehot.argmax(axis=1), 0)[:, None]

    shifted = logits - logits.max(axis=1, keepdims=True)
    own = np.take_along_axis(shifted, label, axis=1)
    expected = own[:, 0]
    if problem.smoothing > 0:  # else other logits may be infinite
        expected = (_targets(problem, labels) * shifted).sum(axis=1)
    loss = np.log(np.exp(shifted).sum(axis=1)) - expected
    before = (shifted > own) | ((shifted == own) & (np.arange(problem.k) < label))
    rank = before.sum(axis=1)

    ignored = _ignored(problem, labels)
    countable = valid & ~np.isnan(logits).any(axis=1)
    return (
        softmax_forward(problem, logits),
        np.where(ignored, 0.0, np.where(valid, loss, np.nan)),
        np.where(ignored, 0, np.where(countable, rank, problem.k)).astype(np.int32),
    )


def softmax_cross_entropy_backward(problem: Any, probabilities: Array, labels: Array, scale: float) -> Array:
    """Return dlogits[N,K] = scale * (probabilities - targets), which are onehot(label) without smoothing.

    It is NaN where the label is no class, and 0 where it is the one that is ignored.
    """
    _, valid = _onehot(problem, labels)
    dlogits = scale * (to_float(probabilities, (problem.n, problem.k)) - _targets(problem, labels))
    dlogits = np.where(valid[:, None], dlogits, np.nan)
    return np.where(_ignored(problem, labels)[:, None], 0.0, dlogits)


def softmax_cross_entropy(
    problem: Any, logits: Array, labels: Array, scale: float
) -> tuple[Array, Array, Array, Array]:
    """Return (probabilities[N,K], loss[N], rank int32[N], dlogits[N,K]), forward and backward."""
    probabilities, loss, rank = softmax_cross_entropy_forward(problem, logits, labels)
    dlogits = softmax_cross_entropy_backward(problem, probabilities, labels, scale)
    return probabilities, loss, rank, dlogits


def watch_losses(loss: Array) -> Array:
    """Return int32[1]: 1 if any of the losses is infinite or NaN, else 0."""
    return np.array([not np.isfinite(loss).all()], np.int32)
