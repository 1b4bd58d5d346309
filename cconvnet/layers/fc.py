"""Fully connected layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from cconvnet._problem import FcProblem
from cconvnet.layers.base import Allocate, Site, Tensor, length
from cconvnet.layers.columns import Columns
from cconvnet.layers.factors import Factors, pays
from cconvnet.layers.weighted import Branch, WeightedLayer
from cconvnet.nets import FcSpec
from cconvnet.ranks.shares import Share

# Operations that GPUs do while memory moves a byte, at least; see cconvnet/profile/chips.json.
_FLOP_PER_BYTE = {"fp32": 10, "fp32x3": 20, "tf32": 60, "bf16": 120}
_UPDATED_BYTES = 16  # of a weight and its velocity, read and written in float32


class FcLayer(WeightedLayer):
    """A fully connected layer, with the bias, the activation function and the dropout after it."""

    type = "fc"

    @staticmethod
    def mixes(spec: Any, index: int) -> bool:
        """True: each output is a sum over all channels."""
        return True

    @staticmethod
    def fuses(chain: Sequence[Any]) -> bool:
        """True if nothing but a ReLU is between the product and the dropout."""
        neuron = chain[0].neuron
        return neuron is None or neuron.kind == "relu"

    @classmethod
    def fuse(cls, chain: Sequence[Any], inputs: Sequence[Sequence[Tensor]], site: Site) -> Self:
        """Make the layer with its dropout."""
        first, dropout = chain
        return cls(first, inputs, site, dropout)

    @property
    def can_learn_beside(self) -> bool:
        """True if the update moves bytes for longer than the gradient of its images takes."""
        problem = self.branches[0].problem
        return bool(2 * problem.n <= _UPDATED_BYTES * _FLOP_PER_BYTE[problem.precision])

    @property
    def update_bytes(self) -> int:
        """Those of weights and velocities, and of weights that are rounded."""
        rows = {self.device.module.fc_wgrad_impls(branch.problem)[0] for branch in self.branches}
        if not all("_wgmma_streamed_" in row for row in rows):
            return 0
        rounded = sum(piece.working.nbytes for piece in self.weights if piece.rounded is not None)
        return int(rounded + _UPDATED_BYTES * sum(piece.value.size for piece in self.weights))

    def keep_factors(self, share: Share, allocate: Allocate) -> Factors | None:
        """Keep inputs and output gradients from here on where these are fewer bytes; see Layer."""
        if self.columns is not None or not pays(self.branches, share):
            return None
        self.factors = kept = Factors(self, share, allocate)
        return kept

    def share_columns(self, share: Share, allocate: Allocate) -> Columns | None:
        """Let each rank compute some outputs if their number allows; see Layer."""
        if self.branches[0].problem.k % share.count:
            return None
        self.columns = columns = Columns(self, share, allocate)
        return columns

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
