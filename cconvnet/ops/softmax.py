"""Softmax and cross-entropy."""

from __future__ import annotations

from cconvnet._problem import SoftmaxProblem
from cconvnet.checks import real, whole
from cconvnet.devices import Device
from cconvnet.operations.softmax import (
    SOFTMAX_CROSS_ENTROPY,
    SOFTMAX_CROSS_ENTROPY_BACKWARD,
    SOFTMAX_CROSS_ENTROPY_FORWARD,
    SOFTMAX_FORWARD,
    WATCH_LOSSES,
)
from cconvnet.ops.arguments import Array
from cconvnet.ops.call import Call


def _problem(call: Call, name: str, ignore: int | None = None, smoothing: float = 0.0) -> SoftmaxProblem:
    n, k = call.shape(name)
    ignored = None if ignore is None else whole("ignore", ignore, -(2**31))
    return SoftmaxProblem(n, k, ignored, real("smoothing", smoothing))


def softmax_forward(logits: Array, *, out: Array | None = None, device: str | Device | None = None) -> Array:
    """Return probabilities[N,K], float32, of logits[N,K].

    In place allowed (``out=logits``) if those are float32, too.
    """
    call = Call(SOFTMAX_FORWARD, device, logits=logits)
    return call.run(_problem(call, "logits"), out=out)


def softmax_cross_entropy_forward(
    logits: Array, labels: Array, *, ignore: int | None = None, smoothing: float = 0.0,
    device: str | Device | None = None,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Return probabilities[N,K], losses and ranks of logits[N,K] for int32 labels[N].

    A row's loss[N] is -log(probability of the label); it and the probabilities are float32. A row's rank[N],
    int32, is the number of classes before its label by falling logit, of equal ones by rising class: the row
    is wrong at top-t if rank >= t. A label outside [0, K) gives NaN and rank K. Rows with the label `ignore`
    have loss and rank 0.

    With `smoothing`, from 0 to 1, a row's loss is the sum over the classes of -target *
    log(probability). The targets are smoothing / K, and 1 - smoothing more for the label's class. Ranks are
    those without smoothing. Source: Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer
    Vision", section 7.
    """
    call = Call(SOFTMAX_CROSS_ENTROPY_FORWARD, device, logits=logits, labels=labels)
    probabilities, loss, rank = call.run(_problem(call, "logits", ignore, smoothing))
    return probabilities, loss, rank


def softmax_cross_entropy_backward(
    probabilities: Array, labels: Array, scale: float = 1.0, *, ignore: int | None = None,
    smoothing: float = 0.0, out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``dlogits[N,K]`` = scale * (probabilities - targets), of float32 probabilities.

    The targets are onehot(labels), or with smoothing those of softmax_cross_entropy_forward. Rows with the
    label `ignore` have the gradient 0.

    In place allowed (``out=probabilities``). Another `out` may be of bfloat16.
    """
    call = Call(SOFTMAX_CROSS_ENTROPY_BACKWARD, device, probabilities=probabilities, labels=labels)
    return call.run(_problem(call, "probabilities", ignore, smoothing), out=out, scale=real("scale", scale))


def softmax_cross_entropy(
    logits: Array, labels: Array, scale: float = 1.0, *, ignore: int | None = None,
    smoothing: float = 0.0, out: Array | None = None, device: str | Device | None = None,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """Return the results of softmax_cross_entropy_forward, and ``dlogits`` of the backward pass, in one pass.

    `dlogits` is `out` if that is given, and has the type of the logits.
    """
    call = Call(SOFTMAX_CROSS_ENTROPY, device, logits=logits, labels=labels)
    results = call.run(_problem(call, "logits", ignore, smoothing), out=out, scale=real("scale", scale))
    probabilities, loss, rank, dlogits = results
    return probabilities, loss, rank, dlogits


def watch_losses(loss: Array, *, device: str | Device | None = None) -> Array:
    """Return ``halt`` (int32[1]): 1 if any of the losses is infinite or NaN, else 0."""
    return Call(WATCH_LOSSES, device, loss=loss).run()


def top_k_error(rank: Array, k: int = 1) -> float:
    """Return the share of rows whose label is not among the first `k` classes.

    `rank` is that of softmax_cross_entropy_forward.
    """
    return float((rank >= whole("k", k, 1)).sum()) / len(rank)  # in every library of arrays
