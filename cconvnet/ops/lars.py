"""The rate of a tensor by LARS."""

from __future__ import annotations

from cconvnet._problem import LarsProblem
from cconvnet.checks import real
from cconvnet.devices import Device
from cconvnet.operations.lars import LARS_RATE
from cconvnet.ops.arguments import Array
from cconvnet.ops.call import Call


def lars_rate(
    w: Array, g: Array, rates: Array, *, eta: float, weight_decay: float = 0.0, eps: float = 0.0,
    out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return the learning rate and the momentum of a tensor by layer-wise adaptive rate scaling.

    The learning rate is lr * eta * |w| / (|g| + weight_decay * |w| + eps), by the Euclidean norms of the
    weights and of their gradient. Where one of them is 0 or NaN it is lr. In place allowed (``out=rates``).

    Args:
        w: The weights, of any shape.
        g: Their gradient, of w's shape.
        rates: The learning rate and the momentum [lr, momentum], both as the schedule gives them.
        eta: The ratio of a step to the weights.
        weight_decay: That of the update.
        eps: What keeps the rate finite where the gradient is tiny and weights do not decay.
        out: The array to write to.
        device: The device of host arrays.
    """
    call = Call(LARS_RATE, device, w=w, g=g, rates=rates)
    numbers = real("eta", eta), real("weight_decay", weight_decay), real("eps", eps)
    return call.run(LarsProblem(call.size("w"), *numbers), out=out)
