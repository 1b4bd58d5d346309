"""The update of stochastic gradient descent."""

from __future__ import annotations

from cconvnet import bfloat16
from cconvnet._problem import SgdProblem
from cconvnet.checks import real
from cconvnet.devices import Device
from cconvnet.ops.call import Array, Call


def sgd_update(
    g: Array, v: Array, w: Array, *, lr: float, momentum: float = 0.0, weight_decay: float = 0.0,
    w_bf16: Array | None = None, device: str | Device | None = None,
) -> None:  # fmt: skip
    """v = momentum*v - lr*(g + weight_decay*w), then w = w + v: both are written. Any shape, the same for
    all; all float32. `w_bf16`, if given, receives the new w as bfloat16s."""
    call = Call(device, g=g, v=v, w=w, w_bf16=w_bf16)
    g = call.get("g", "any")
    problem = SgdProblem(
        g.size, real("lr", lr), real("momentum", momentum), real("weight_decay", weight_decay)
    )
    # Checked as outputs: writable, and none of the three over another.
    arrays = {name: call.arrays.pop(name) for name in ("v", "w", "w_bf16") if name in call.arrays}
    v = call.output(arrays["v"], g.shape, name="v")
    w = call.output(arrays["w"], g.shape, name="w")
    if w_bf16 is not None:
        w_bf16 = call.output(arrays["w_bf16"], g.shape, name="w_bf16", dtype=bfloat16.BITS)
    call.module.sgd_update(problem, g, v, w, call.stream, w_bf16=w_bf16)
