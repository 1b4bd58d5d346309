"""Transposed convolutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from cconvnet._problem import ConvProblem
from cconvnet.layers.base import InputEpilogue, Site, Tensor
from cconvnet.layers.weighted import Branch, FilterLayer
from cconvnet.nets import DeconvSpec
from cconvnet.nets.shapes import check_deconv, fan_in, transposed, weight_shape


@dataclass(frozen=True)
class TransposedProblem:
    """A transposed convolution of x[N,H,W,C], whose output has the shape of the convolution's images.

    Attributes:
        convolution: the one whose input's gradient it is; its weights and its outputs' shape are x's.
    """

    convolution: ConvProblem

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        """The shape of the output."""
        return self.convolution.x_shape


class DeconvLayer(FilterLayer):
    """A transposed convolution, with the bias and the activation function after it.

    It is a convolution's pass for the input's gradient. Its own input's gradient is the convolution of the
    output's, and the weights' gradient is the convolution's with images and gradients exchanged.
    """

    type = "deconv"
    fuses_bias: ClassVar[bool] = False

    def can_finish(self, index: int, epilogue: InputEpilogue) -> bool:
        """False: a convolution's forward pass masks nothing."""
        return False

    def _workspace(self, name: str, problem: TransposedProblem, *, sums: bool = False) -> int:
        size = getattr(self.device.module, f"conv_{_PASSES[name]}_workspace")
        return int(size(problem.convolution))

    def _pass(self, name: str) -> Callable[..., None]:
        run = getattr(self.device.module, f"conv_{_PASSES[name]}")

        def multiply(problem: TransposedProblem, *arguments: Any, **options: Any) -> None:
            if name == "fprop":  # bias and ReLU are never fused
                x, weights, _, _, y, *rest = arguments
                given = [x, weights, y]
            elif name == "dgrad":
                dy, weights, dx, *rest = arguments
                given = [dy, weights, None, False, dx]
            else:
                x, dy, dw, *rest = arguments
                given = [dy, x, dw]
            run(problem.convolution, *given, *rest, **options)

        return multiply

    def _branch(self, spec: DeconvSpec, x: Tensor, name: str, site: Site) -> Branch:
        _, h, w, c = x.image
        every = slice(None)
        check_deconv(spec, x.of_channels)
        whole = weight_shape(spec, 0, (h, w, x.of_channels))
        problem = TransposedProblem(transposed(spec, x.image, site.precision))
        weight = self._weight(
            spec,
            name,
            site,
            whole=whole,
            view=whole,
            index=(slice(x.first, x.first + c), every, every, every),
            shape=problem.convolution.w_shape,
            fan_in=fan_in(spec, 0, (h, w, x.of_channels)),
        )
        return Branch(x, problem, weight)


# The convolution's pass for each of a transposed one's.
_PASSES = {"fprop": "dgrad", "dgrad": "fprop", "wgrad": "wgrad"}
