"""FC layers of which each rank computes some of the outputs, for the images of all ranks.

The product of such a layer is a matrix with a row for each image of a step and a column for each output. A
rank gathers all inputs, computes its columns, and sends the other ranks the rows of their images. Backwards
it gathers its columns of the output gradients, and sends the other ranks its parts of the sums that are the
gradients of their inputs. It updates the weights of its columns alone; neither weights nor their gradients
are sent. There are as many parts as shards, so that no sum depends on the number of ranks.

Source: Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks", section 4.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cconvnet._problem import FcProblem, TreeSumProblem
from cconvnet.layers.base import Allocate
from cconvnet.layers.weighted import WeightedLayer
from cconvnet.optim import DeviceRates, Piece
from cconvnet.ranks import tree
from cconvnet.ranks.shares import Share

# Arrays and the ranks that they go to, or come from.
Messages = Sequence[tuple[int, Any]]
# Sends the first arrays, and returns once the second have arrived.
Swap = Callable[[Messages, Messages], None]


class Columns:
    """The columns of an FC layer's product, of all images of a step.

    Args:
        layer: The layer.
        share: The shards of this rank. Their number divides that of the outputs.
        allocate: Takes memory.

    Attributes:
        layer: The layer.
        row: The first image of the batch that a pass is for; None outside of a step of all ranks together.
    """

    def __init__(self, layer: WeightedLayer, share: Share, allocate: Allocate) -> None:
        branches, device = layer.branches, layer.device
        n, k = branches[0].problem.n, branches[0].problem.k
        self.layer, self._share, self._n = layer, share, n
        self.row: int | None = None
        count, parts = n * share.batches * share.count, share.count
        element = layer.output.array.dtype
        self._rows = share.parts(count)
        self._columns = share.parts(k)
        self._others = [rank for rank in range(share.world.size) if rank != share.world.rank]
        self._x = [allocate(device, (count, branch.problem.c), element) for branch in branches]
        self._y, self._dy = (allocate(device, (parts, count, k // parts), element) for _ in range(2))
        self._more = allocate(device, self._y.shape[1:], element) if len(branches) > 1 else None
        self.problems = [
            FcProblem(count, branch.problem.c, k // parts, branch.problem.precision) for branch in branches
        ]
        self._pieces = [
            [_rows(branch.weight, slice(part * k // parts, (part + 1) * k // parts)) for branch in branches]
            for part in share.own
        ]
        self._gradients = [
            _InputGradient(share, device, allocate, count, branch.problem.c, element)
            for branch in branches
            if branch.x.needs_gradient
        ]
        self._scale = 1.0 / (share.count * share.batches)

    @property
    def bytes(self) -> int:
        """The bytes of activations and gradients that are exchanged, if each rank has one shard.

        Of N ranks each sends (N-1)/N of it.
        """
        inputs = sum(int(array.nbytes) for array in self._x)
        gradients = sum(int(one.own.nbytes) for one in self._gradients)
        return inputs + gradients + 2 * int(self._y.nbytes) // self._share.count

    # -- forward --

    def begin(self, batch: int) -> None:
        """Begin the passes of a batch, which is this one of all batches of all shards."""
        self.row = batch * self._n

    def end(self) -> None:
        """End the step of all ranks together: later passes compute all columns for the batch alone."""
        self.row = None

    @property
    def _here(self) -> slice:
        assert self.row is not None
        return slice(self.row, self.row + self._n)

    def keep_inputs(self) -> None:
        """Keep the layer's inputs of a batch, which the layers before it have computed."""
        for kept, branch in zip(self._x, self.layer.branches, strict=True):
            kept[self._here] = branch.x.array.reshape(self._n, -1)

    def multiply(self, swap: Swap) -> None:
        """Gather the inputs, compute this rank's columns and spread their rows."""
        own, layer = self._rows[self._share.world.rank], self.layer
        module, stream = layer.device.module, layer.device.stream
        swap(
            [(rank, x[own]) for rank in self._others for x in self._x],
            [(rank, x[self._rows[rank]]) for rank in self._others for x in self._x],
        )
        for part, pieces in zip(self._share.own, self._pieces, strict=True):
            y = self._y[part]
            for number, (problem, x, piece) in enumerate(zip(self.problems, self._x, pieces, strict=True)):
                target = y if number == 0 else self._more
                module.fc_fprop(problem, x, piece.working, None, False, target, layer.workspace, stream)
                if number > 0:
                    module.add(y, target, y, stream)
        swap(
            [(rank, self._y[part, self._rows[rank]]) for rank in self._others for part in self._share.own],
            [(rank, self._y[part, own]) for rank, part in self._others_parts()],
        )

    def product(self, y: Any) -> None:
        """Write all columns of the product of a batch."""
        y.reshape(self._n, self._share.count, -1)[...] = self._y[:, self._here].transpose(1, 0, 2)

    # -- backward --

    def keep(self, dy: Any) -> None:
        """Keep the gradient of the product of a batch."""
        rows = dy.reshape(self._n, self._share.count, -1)
        self._dy[:, self._here] = rows.transpose(1, 0, 2)

    def multiply_back(self, swap: Swap) -> None:
        """Gather this rank's columns of the product's gradient; compute and spread the inputs' gradients."""
        own, layer = self._rows[self._share.world.rank], self.layer
        module, stream = layer.device.module, layer.device.stream
        swap(
            [(rank, self._dy[part, own]) for rank, part in self._others_parts()],
            [(rank, self._dy[part, self._rows[rank]]) for rank in self._others for part in self._share.own],
        )
        numbers = [i for i, branch in enumerate(layer.branches) if branch.x.needs_gradient]
        for number, gradient in zip(numbers, self._gradients, strict=True):
            problem = self.problems[number]
            for part, pieces, target in zip(self._share.own, self._pieces, gradient.own, strict=True):
                working = pieces[number].working
                module.fc_dgrad(problem, self._dy[part], working, target, layer.workspace, stream)
            swap(
                [(rank, part[self._rows[rank]]) for rank in self._others for part in gradient.own],
                [(rank, gradient.parts[part]) for rank, part in self._others_parts()],
            )
            gradient.add(own)

    def input_gradients(self) -> None:
        """Write the gradients of the layer's inputs of a batch."""
        first = self._here.start - self._rows[self._share.world.rank].start
        targets = [target for target in self.layer.input_gradients if target is not None]
        for gradient, target in zip(self._gradients, targets, strict=True):
            gradient.write(slice(first, first + self._n), target)

    def update(self, rates: DeviceRates) -> None:
        """Compute the gradients of the weights of this rank's columns, and move them."""
        layer = self.layer
        module, stream = layer.device.module, layer.device.stream
        for part, pieces in zip(self._share.own, self._pieces, strict=True):
            dy = self._dy[part]
            module.add(dy, dy, dy, stream, self._scale, 0.0)
            for problem, x, piece in zip(self.problems, self._x, pieces, strict=True):
                if piece.parameter.name in rates.frozen:
                    continue
                update = rates.of(piece)
                module.fc_wgrad(problem, x, dy, piece.gradient, layer.workspace, stream, update=update)
                rates.complete(piece, update is not None)

    # -- between ranks --

    def _others_parts(self) -> Iterator[tuple[int, int]]:
        """Return each other rank with each of its parts."""
        return ((rank, part) for rank in self._others for part in self._share.of_rank(rank))

    def share_weights(self, swap: Swap) -> None:
        """Give all ranks the weights of all columns."""
        self._collect("value", swap, range(self._share.world.size))
        for piece in self.layer.weights:
            piece.round()

    def collect_momentum(self, swap: Swap) -> None:
        """Give the first rank the momentum of all columns."""
        self._collect("velocity", swap, range(1))

    def _collect(self, tensor: str, swap: Swap, receivers: range) -> None:
        rank = self._share.world.rank
        own, there = self._columns[rank], [other for other in self._others if other in receivers]
        senders = self._others if rank in receivers else []
        arrays = [getattr(piece, tensor) for piece in self.layer.weights]
        swap(
            [(other, array[own]) for other in there for array in arrays],
            [(other, array[self._columns[other]]) for other in senders for array in arrays],
        )


def _rows(piece: Piece, here: slice) -> Piece:
    """Return the weights of some outputs, in the same memory."""
    value, rounded = piece.value[here], piece.rounded
    return dataclasses.replace(
        piece,
        value=value,
        gradient=piece.gradient[here],
        velocity=piece.velocity[here],
        working=value if rounded is None else rounded[here],
    )


class _InputGradient:
    """The gradient of an input of this rank's images: a sum over the parts of the columns.

    Attributes:
        own: Of this rank's parts, [parts, all images, C].
        parts: Of all parts, [parts, this rank's images, C].
    """

    def __init__(
        self, share: Share, device: Any, allocate: Allocate, count: int, c: int, element: Any
    ) -> None:
        self._device, self._share = device, share
        self.own = allocate(device, (len(share.own), count, c), element)
        rows = len(share.own) * (count // share.count)
        several = share.world.size > 1
        self.parts = allocate(device, (share.count, rows, c), element) if several else self.own
        self._sum = allocate(device, (rows, c))
        everything = 0, share.count
        merges = tree.merges(everything, tree.leaves(everything))
        self._problem = TreeSumProblem(rows * c, merges, 1.0)

    def add(self, own: slice) -> None:
        """Add the parts of `own`, the rows of this rank."""
        if self.parts is not self.own:
            self.parts[self._share.own.start : self._share.own.stop] = self.own[:, own]
        device = self._device
        device.module.tree_sum(
            self._problem, self.parts.reshape(self._share.count, -1), self._sum.reshape(-1), device.stream
        )

    def write(self, rows: slice, target: Any) -> None:
        """Write those rows of the sum, in the type of the target."""
        found = self._sum[rows].reshape(target.shape)
        if target.dtype == found.dtype:
            target[...] = found
        else:
            self._device.module.to_bf16(found, target, self._device.stream)
