"""Fully connected layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from cconvnet._problem import FcProblem
from cconvnet.layers.base import Site, Tensor, length
from cconvnet.layers.weighted import Branch, WeightedLayer
from cconvnet.nets import DropoutSpec, FcSpec


class FcLayer(WeightedLayer):
    """A fully connected layer, with the bias, the activation function and the dropout after it."""

    type = "fc"

    @staticmethod
    def mixes(spec: Any, index: int) -> bool:
        """True: each output is a sum over all channels."""
        return True

    @staticmethod
    def fuses(first: FcSpec, second: DropoutSpec) -> bool:
        """True if nothing but a ReLU is between the product and the dropout."""
        return first.neuron is None or first.neuron.kind == "relu"

    @classmethod
    def fuse(cls, first: FcSpec, second: DropoutSpec, inputs: Sequence[Sequence[Tensor]], site: Site) -> Self:
        """Make the layer with its dropout."""
        return cls(first, inputs, site, second)

    def _branch(self, spec: FcSpec, x: Tensor, name: str, site: Site) -> Branch:
        outputs = site.share("outputs", spec.outputs)
        n, h, w, c = x.image
        problem = FcProblem(n, h * w * c, length(outputs), site.precision)
        view = (spec.outputs, h * w, x.of_channels)
        weight = self._weight(
            spec,
            name,
            site,
            whole=(spec.outputs, h * w * x.of_channels),
            view=view,
            index=(outputs, slice(None), slice(x.first, x.first + c)),
            shape=problem.w_shape,
            fan_in=h * w * x.of_channels,
        )
        return Branch(x, problem, weight)
