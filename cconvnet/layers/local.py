"""Local layers: convolutions whose positions do not share their filters."""

from __future__ import annotations

from typing import Any

from cconvnet._problem import (
    LocalProblem,
)
from cconvnet.layers.base import Place, Tensor
from cconvnet.layers.weighted import Branch, FilterLayer


class LocalLayer(FilterLayer):
    type = "local"
    problem_type = LocalProblem

    def _branch(self, spec: Any, x: Tensor, name: str, place: Place) -> Branch:
        if spec.norm_limit > 0:
            raise ValueError("norm_limit is for layers that share their weights; a local layer has none")
        return super()._branch(spec, x, name, place)
