"""The squared distance of rows from their targets."""

from __future__ import annotations

from cconvnet._problem import L2CostProblem
from cconvnet.checks import real
from cconvnet.devices import Device
from cconvnet.operations.l2_cost import L2_COST_BACKWARD, L2_COST_FORWARD
from cconvnet.ops.arguments import Array
from cconvnet.ops.call import Call


def l2_cost_forward(x: Array, target: Array, *, device: str | Device | None = None) -> Array:
    """Return loss[N] = 0.5 * the sum over each row of (x - target)^2, float32, of x[N,K] and target[N,K].

    The targets are float32; x may be of bfloat16.
    """
    call = Call(L2_COST_FORWARD, device, x=x, target=target)
    return call.run(L2CostProblem(*call.shape("x")))


def l2_cost_backward(
    x: Array, target: Array, scale: float = 1.0, *, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``dx[N,K]`` = scale * (x - target), of the type of x; in place allowed (``out=x``)."""
    call = Call(L2_COST_BACKWARD, device, x=x, target=target)
    return call.run(L2CostProblem(*call.shape("x")), out=out, scale=real("scale", scale))
