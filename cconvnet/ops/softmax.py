"""Softmax and cross-entropy."""

from __future__ import annotations

import numpy as np

from cconvnet._problem import SoftmaxProblem
from cconvnet.checks import real, whole
from cconvnet.devices import Device
from cconvnet.ops.call import Array, Call


def softmax_forward(logits: Array, *, out: Array | None = None, device: str | Device | None = None) -> Array:
    """Probabilities[N,K], float32, of logits[N,K]; in place allowed (``out=logits``) where those are, too."""
    call = Call(device, logits=logits)
    logits = call.numbers("logits", "N,K")
    problem = SoftmaxProblem(*logits.shape)
    in_place = ("logits",) if call.element == np.float32 else ()
    probabilities = call.output(out, logits.shape, in_place=in_place)
    call.module.softmax_forward(problem, logits, probabilities, call.stream)
    return probabilities


def softmax_cross_entropy_forward(
    logits: Array, labels: Array, *, device: str | Device | None = None
) -> tuple[Array, Array, Array]:
    """Probabilities[N,K], loss[N] = -log(probability of the label) and rank[N] (int32) of logits[N,K]; the
    first two are float32.

    `labels` are int32[N]. A row's rank is the number of classes before its label by falling logit (ties: by
    rising class); the row is wrong at top-t when rank >= t. A label outside [0, K) gives NaN and rank K.
    """
    call = Call(device, logits=logits, labels=labels)
    logits = call.numbers("logits", "N,K")
    problem = SoftmaxProblem(*logits.shape)
    labels = call.shaped("labels", (problem.n,), np.int32)
    probabilities = call.output(None, logits.shape)
    loss = call.output(None, (problem.n,))
    rank = call.output(None, (problem.n,), dtype=np.int32)
    call.module.softmax_cross_entropy_forward(problem, logits, labels, probabilities, loss, rank, call.stream)
    return probabilities, loss, rank


def softmax_cross_entropy_backward(
    probabilities: Array, labels: Array, scale: float = 1.0, *, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dlogits[N,K]`` = scale * (probabilities - onehot(labels)), of float32 probabilities; in place allowed
    (``out=probabilities``). Another `out` may be of bfloat16."""
    call = Call(device, probabilities=probabilities, labels=labels)
    probabilities = call.get("probabilities", "N,K")
    problem = SoftmaxProblem(*probabilities.shape)
    labels = call.shaped("labels", (problem.n,), np.int32)
    dtype = call.element_of("out", out)
    dlogits = call.output(out, probabilities.shape, in_place=("probabilities",), dtype=dtype)
    call.module.softmax_cross_entropy_backward(
        problem, probabilities, labels, real("scale", scale), dlogits, call.stream
    )
    return dlogits


def softmax_cross_entropy(
    logits: Array, labels: Array, scale: float = 1.0, *, out: Array | None = None,
    device: str | Device | None = None,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """Probabilities, loss and rank of softmax_cross_entropy_forward, and ``dlogits`` (`out`) of the backward
    pass, of the logits' type, in one."""
    call = Call(device, logits=logits, labels=labels)
    logits = call.numbers("logits", "N,K")
    problem = SoftmaxProblem(*logits.shape)
    labels = call.shaped("labels", (problem.n,), np.int32)
    probabilities = call.output(None, logits.shape)
    loss = call.output(None, (problem.n,))
    rank = call.output(None, (problem.n,), dtype=np.int32)
    dlogits = call.output(out, logits.shape, dtype=call.element)
    call.module.softmax_cross_entropy(
        problem, logits, labels, real("scale", scale), probabilities, loss, rank, dlogits, call.stream
    )
    return probabilities, loss, rank, dlogits


def watch_losses(loss: Array, *, device: str | Device | None = None) -> Array:
    """``halt`` (int32[1]): 1 if any of the losses is infinite or NaN, else 0."""
    call = Call(device, loss=loss)
    loss = call.get("loss", "any")
    halt = call.output(None, (1,), dtype=np.int32)
    call.module.watch_losses(loss, halt, call.stream)
    return halt


def top_k_error(rank: Array, k: int = 1) -> float:
    """The share of rows whose label is not among the first `k` classes, from softmax_cross_entropy_forward's
    rank."""
    return float((rank >= whole("k", k, 1)).mean())
