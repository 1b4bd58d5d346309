"""Convolution layers."""

from __future__ import annotations

from cconvnet._problem import (
    ConvProblem,
    InputProblem,
)
from cconvnet.layers.weighted import FilterLayer
from cconvnet.nets import (
    ConvSpec,
    NetSpec,
)


class ConvLayer(FilterLayer):
    type = "conv"
    problem_type = ConvProblem

    @staticmethod
    def blocks(spec: ConvSpec, net: NetSpec, batch: int, precision: str) -> InputProblem | None:
        """How images would lie in blocks, so that this convolution of them has stride 1; None: it does not
        pay or cannot be."""
        own, image = spec.for_input(0), net.input
        (r, s), (block, across), (pad, sideways) = own.window, own.stride, own.padding
        if (
            block != across
            or block == 1
            or pad != sideways
            or min(r, s) < block
            or own.groups != 1
            or image.channels > 4
        ):
            return None
        given = (batch, image.height, image.width, image.channels)
        plain = ConvProblem(*given, 1, r, s, own.stride, own.padding, 1, own.rounding, precision)
        problem = InputProblem(
            batch, *net.stored_shape, image.height, image.width, image.center_mean, block, pad
        )
        # Windows beyond the blocks, as ceil rounding makes, would read what is not there.
        _, h, w, _ = problem.y_shape
        over_blocks = (h - -(-r // block) + 1, w - -(-s // block) + 1)
        return problem if over_blocks == (plain.p, plain.q) else None
