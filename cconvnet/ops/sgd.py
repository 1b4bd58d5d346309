"""The update of stochastic gradient descent with momentum and weight decay."""

from __future__ import annotations

from cconvnet._problem import SgdProblem
from cconvnet.checks import real
from cconvnet.devices import Device
from cconvnet.operations.sgd import SGD_UPDATE
from cconvnet.ops.arguments import Array
from cconvnet.ops.call import Call


def sgd_update(
    g: Array, v: Array, w: Array, *, lr: float, momentum: float = 0.0, weight_decay: float = 0.0,
    nesterov: bool = False, w_bf16: Array | None = None, device: str | Device | None = None,
) -> None:  # fmt: skip
    """Update the velocity v and the weights w: v = momentum*v - lr*(g + weight_decay*w), then w = w + v.

    With Nesterov's momentum, the second is w = w + momentum*v - lr*(g + weight_decay*w), with the new v and
    the old w.

    All are float32 and of one shape. `w_bf16`, if given, receives the new w as bfloat16s.
    """
    call = Call(SGD_UPDATE, device, g=g, v=v, w=w, w_bf16=w_bf16)
    call.run(
        SgdProblem(
            call.size("g"),
            real("lr", lr),
            real("momentum", momentum),
            real("weight_decay", weight_decay),
            nesterov,
        )
    )
