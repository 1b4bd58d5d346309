"""Weight gradients of FC layers as products over all shards, whose factors are exchanged.

The gradient of an FC layer's weights is the product of its output gradients and its inputs, its factors. For
layers with more weights than a batch has activations these are fewer bytes than the gradient. Every rank
gathers those of all shards and computes the product and the update for itself. So the order of the sum is
that of the images, whatever the number of ranks.

Source: Chilimbi et al. 2014, "Project Adam", section 3.3; Xie et al. 2015, "Distributed machine learning via
sufficient factor broadcasting".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cconvnet._problem import FcProblem
from cconvnet.layers.base import Allocate
from cconvnet.layers.weighted import Branch, WeightedLayer
from cconvnet.optim import DeviceRates
from cconvnet.ranks.shares import Share
from cconvnet.ranks.wires import Wires


class Factors:
    """Inputs and output gradients of an FC layer, of all images of a step.

    Attributes:
        layer: the layer.
        row: the first image of the batch that a backward pass is for.
        transfer: the last exchange.
    """

    def __init__(self, layer: WeightedLayer, share: Share, allocate: Allocate) -> None:
        branches, device = layer.branches, layer.device
        n, k = branches[0].problem.n, branches[0].problem.k
        self.layer, self._n = layer, n
        count = n * share.batches * share.count
        element = branches[0].x.array.dtype
        self._dy = allocate(device, (count, k), element)
        self._x = [allocate(device, (count, branch.problem.c), element) for branch in branches]
        self.problems = [
            FcProblem(count, branch.problem.c, k, branch.problem.precision) for branch in branches
        ]
        self._scale = 1.0 / (share.count * share.batches)
        self._rows = share.parts(count)
        self._rank = share.world.rank
        self.row = 0
        self.transfer: Any = None

    @property
    def bytes(self) -> int:
        """The bytes of the factors of all images."""
        return sum(int(array.nbytes) for array in (self._dy, *self._x))

    def begin(self, batch: int) -> None:
        """Begin the passes of a batch, which is this one of all batches of all shards."""
        self.row = batch * self._n

    def keep(self, dy: Any) -> None:
        """Keep the inputs of the layer and the gradient of its product, of a batch."""
        here, device = slice(self.row, self.row + self._n), self.layer.device
        rows = self._dy[here]
        device.module.add(
            dy.reshape(rows.shape), dy.reshape(rows.shape), rows, device.stream, self._scale, 0.0
        )
        for kept, branch in zip(self._x, self.layer.branches, strict=True):
            kept[here] = branch.x.array.reshape(self._n, -1)

    def send(self, wires: Wires) -> None:
        """Begin to exchange the images of all ranks."""
        sends, receives = [], []
        for rank, rows in enumerate(self._rows):
            for array in (self._dy, *self._x):
                if rank != self._rank:
                    receives.append((rank, array[rows]))
                    sends.append((rank, array[self._rows[self._rank]]))
        self.transfer = wires.exchange(sends, receives)

    def update(self, rates: DeviceRates) -> None:
        """Compute the gradients and move the weights."""
        layer = self.layer
        device = layer.device
        for problem, x, branch in zip(self.problems, self._x, layer.branches, strict=True):
            weight = branch.weight
            if weight.parameter.name in rates.frozen:
                continue
            update = rates.of(weight)
            device.module.fc_wgrad(
                problem, x, self._dy, weight.gradient, layer.workspace, device.stream, update=update
            )
            rates.complete(weight, update is not None)


def pays(branches: Sequence[Branch], share: Share) -> bool:
    """Return True if an FC layer's factors are fewer bytes than its weights' gradients.

    Gradients are reduced and weights gathered, 2 C K numbers in all; the factors of n images are n (C + K).
    Each rank sends the same part of either, so their number does not decide.
    """
    if share.exchange != "auto" or share.fast:
        return False
    images = branches[0].problem.n * share.batches * share.count
    inputs, outputs = sum(branch.problem.c for branch in branches), branches[0].problem.k
    size = branches[0].x.array.dtype.itemsize
    return bool(size * images * (inputs + outputs) < 4 * 2 * inputs * outputs)
