"""Batch normalisation."""

from __future__ import annotations

from cconvnet._problem import BatchNormProblem
from cconvnet.checks import real, whole
from cconvnet.devices import Device
from cconvnet.operations.batch_norm import BATCH_NORM_BACKWARD, BATCH_NORM_FORWARD, BATCH_NORM_STATISTICS
from cconvnet.ops.arguments import Array
from cconvnet.ops.call import Call


def _problem(call: Call, counted: int | None, eps: float) -> BatchNormProblem:
    """Return the problem of x[N, ..., K], of whose first axis `counted` entries count."""
    size, shape = call.size("x"), call.shape("x")
    if len(shape) < 2:
        raise ValueError(f"x must have at least 2 axes [..., K], not shape {shape}")
    if counted is None:
        counted = shape[0]
    elif whole("counted", counted, 1) > shape[0]:
        raise ValueError(f"counted must be at most {shape[0]}, the first axis of x, not {counted}")
    rows = size // shape[-1]
    return BatchNormProblem(rows, shape[-1], rows // shape[0] * counted, real("eps", eps))


def batch_norm_statistics(
    x: Array, *, counted: int | None = None, device: str | Device | None = None
) -> tuple[Array, Array, Array]:
    """Return ``mean[K]``, ``variance[K]`` and ``unbiased[K]`` of the channels of x[N, ..., K], all float32.

    `variance` is the mean of (x - mean)^2, by which a batch is normalised. `unbiased` divides the sum of
    these squares by one less than their number. Running averages usually take that one.

    >>> import numpy as np
    >>> x = np.array([[1, 10], [3, 10], [5, 40]], np.float32)
    >>> mean, variance, unbiased = batch_norm_statistics(x, counted=2)
    >>> print(mean, variance, unbiased)
    [ 2. 10.] [1. 0.] [2. 0.]

    Args:
        x: The values.
        counted: How many entries of the first axis count, such as the images of a short batch; None means
            all.
        device: The device, if it is not that of the arrays.
    """
    call = Call(BATCH_NORM_STATISTICS, device, x=x)
    mean, variance, unbiased = call.run(_problem(call, counted, 1e-5))
    return mean, variance, unbiased


def batch_norm_forward(
    x: Array, mean: Array, variance: Array, gamma: Array, beta: Array, *, shortcut: Array | None = None,
    relu: bool = False, eps: float = 1e-5, counted: int | None = None, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``y`` = gamma * (x - mean) / sqrt(variance + eps) + beta for x[N, ..., K].

    The statistics are those of batch_norm_statistics in training, and running averages of them later.
    In place allowed (``out=x`` or ``out=shortcut``).

    >>> import numpy as np
    >>> x = np.array([[1, 10], [3, 14]], np.float32)
    >>> mean, variance, _ = batch_norm_statistics(x)
    >>> gamma, beta = np.array([1, 2], np.float32), np.array([0, 5], np.float32)
    >>> print(batch_norm_forward(x, mean, variance, gamma, beta).round(3))
    [[-1.  3.]
     [ 1.  7.]]

    Args:
        x: The values.
        mean: [K].
        variance: [K].
        gamma: The factors [K].
        beta: The summands [K].
        shortcut: An array of x's shape, which is added to the result, or None.
        relu: True for max(0, .) of the sum.
        eps: A number above 0, which is added to the variance.
        counted: How many entries of the first axis count; y is 0 in the others. None means all.
        out: The array to write to.
        device: The device, if it is not that of the arrays.
    """
    arrays = {"mean": mean, "variance": variance, "gamma": gamma, "beta": beta, "shortcut": shortcut}
    call = Call(BATCH_NORM_FORWARD, device, x=x, **arrays)
    return call.run(_problem(call, counted, eps), out=out, relu=bool(relu))


def batch_norm_backward(
    x: Array, dy: Array, mean: Array, variance: Array, gamma: Array, *, y: Array | None = None,
    dshortcut: Array | None = None, eps: float = 1e-5, counted: int | None = None, out: Array | None = None,
    device: str | Device | None = None,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Return ``dx[N, ..., K]``, ``dgamma[K]`` and ``dbeta[K]`` of a training's batch normalisation.

    The mean and the variance are those of x, which depend on x: `dx` is the gradient through them too. In
    place allowed (``out=dy``).

    >>> import numpy as np
    >>> x, dy = np.array([[1], [3], [5]], np.float32), np.array([[1], [0], [0]], np.float32)
    >>> mean, variance, _ = batch_norm_statistics(x)
    >>> dx, dgamma, dbeta = batch_norm_backward(x, dy, mean, variance, np.ones(1, np.float32), eps=1/3)
    >>> print(dx.ravel().round(3), dgamma.round(3), dbeta)
    [ 0.111 -0.192  0.081] [-1.155] [1.]

    Args:
        x: The values.
        dy: The gradient of the output.
        mean: [K], of batch_norm_statistics.
        variance: [K], of batch_norm_statistics.
        gamma: The factors [K].
        y: The output, if batch_norm_forward had `relu`: the gradient passes where it is positive.
        dshortcut: An array to which the gradient of a shortcut is written, or None.
        eps: That of batch_norm_forward.
        counted: That of batch_norm_forward; gradients are 0 in the entries that do not count.
        out: The array to write dx to.
        device: The device, if it is not that of the arrays.
    """
    arrays = {"mean": mean, "variance": variance, "gamma": gamma, "dshortcut": dshortcut}
    call = Call(BATCH_NORM_BACKWARD, device, x=x, y=y, dy=dy, **arrays)
    dx, dgamma, dbeta = call.run(_problem(call, counted, eps), out=out)
    return dx, dgamma, dbeta
