"""Fully connected layers."""

from __future__ import annotations

from typing import Any

from cconvnet._problem import (
    FcProblem,
)
from cconvnet.layers.base import Place, Tensor, length
from cconvnet.layers.weighted import Branch, WeightedLayer


class FcLayer(WeightedLayer):
    type = "fc"

    @staticmethod
    def mixes(spec: Any, index: int) -> bool:
        return True

    def _branch(self, spec: Any, x: Tensor, name: str, place: Place) -> Branch:
        outputs = place.share("outputs", spec.outputs)
        n, h, w, c = x.image
        problem = FcProblem(n, h * w * c, length(outputs), place.precision)
        view = (spec.outputs, h * w, x.of_channels)
        weight = self._weight(
            spec,
            name,
            place,
            whole=(spec.outputs, h * w * x.of_channels),
            view=view,
            index=(outputs, slice(None), slice(x.first, x.first + c)),
            shape=problem.w_shape,
            fan_in=h * w * x.of_channels,
        )
        return Branch(x, problem, weight)
