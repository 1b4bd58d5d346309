"""Gradients over shards of a batch: summed in a fixed tree, on one rank or several, and updates of slices.

The gradients of all parameters are one array, in the order of the backward pass. A shard's gradients are
computed alone, and added to those of the rank's other shards in the order of the tree (cconvnet.ranks.tree).
The array is cut into buckets. As soon as the backward pass of the rank's last shard has a bucket, each rank
sends every other one its slice of it. It adds what it receives in the order of the tree, moves its slice of
the parameters, and gathers those of the others. So neither the sums nor the updates depend on the number of
ranks, and each has momentum for its own slices alone.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from cconvnet._problem import TreeSumProblem
from cconvnet.devices import Device
from cconvnet.layers import Layer
from cconvnet.layers.columns import Columns, Messages
from cconvnet.layers.factors import Factors
from cconvnet.network.buckets import Bucket, Exchanged, Move
from cconvnet.network.memory import ALIGNMENT, Memory
from cconvnet.optim import DeviceRates, Parameter, Piece
from cconvnet.ranks import tree
from cconvnet.ranks.nccl import NcclWires, nccl_for
from cconvnet.ranks.shares import Share
from cconvnet.ranks.wires import MpiWires, Wires
from cconvnet.ranks.world import World

Array = np.ndarray[Any, Any]

BUCKET = 25 * 2**20 // 4  # float32 numbers


class ShardedUpdates(DeviceRates):
    """The gradients, momentum and updates of a network whose batches are cut into shards.

    Args:
        parameters: all of the network, whose pieces are not yet used.
        backward: the layers of each level in the order of the backward pass; all in one without levels.
        device: where the network is.
        memory: allocates the arrays.
        share: the shards of this rank.
        lars: the ratio of a step to the weights; 0: rates are those that are set.
        columns: the products that ranks compute together.

    Attributes:
        share: the shards of this rank.
        value: float32[count], all parameters.
        gradient: float32[count], of the last backward pass.
        buckets: in the order of the backward pass.
        pushed: how many of this rank's shards have their gradients summed for the next update.
        wires: transfers to the other ranks; None if this is the only one, and before connect().
        waited: the seconds that this rank has waited for others in exchanges.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        backward: Sequence[Sequence[Layer]],
        device: Device,
        memory: Memory,
        share: Share,
        lars: float = 0.0,
        columns: Sequence[Columns] = (),
    ) -> None:
        super().__init__(parameters, device, memory.allocate, lars)
        self.share, self._memory = share, memory
        self.wires: Wires | None = None
        self._several = share.world.size > 1
        self.pushed = 0
        self.waited = 0.0
        self.columns = {id(one.layer): one for one in columns}
        self._weights_are_whole = True
        ends = self._join(backward)
        self._plan_sums()
        self._buckets_of: dict[int, list[Bucket]] = {}
        self.buckets: list[Bucket] = []
        for level, layers in enumerate(backward):
            self._cut(level, layers, ends[level], ends[level + 1])
        self._wanted: Any = None
        self._whole: Array | None = None
        if self._several:
            self._place_whole()

    def connect(self) -> None:
        """Connect the ranks, all of which must call it, before the first exchange."""
        if self._several:
            self.wires = _wires(self.share.world, self._device)

    # -- memory --

    def _join(self, backward: Sequence[Sequence[Layer]]) -> list[int]:
        """Give the pieces neighbouring memory, and return where the levels begin and the last one ends."""
        self._places: list[tuple[Piece, int]] = []
        self._range_of: dict[int, tuple[int, int]] = {}  # of a layer's pieces, by the layer's id
        self.factors: dict[int, Factors] = {}
        step, count, ends = ALIGNMENT * self.share.world.size, 0, [0]
        for layers in backward:
            for layer in layers:
                if (factors := layer.keep_factors(self.share, self._memory.allocate)) is not None:
                    self.factors[id(layer)] = factors
                first = count
                for piece in self._summed_pieces(layer):
                    self._places.append((piece, count))
                    count += -(-piece.value.size // ALIGNMENT) * ALIGNMENT
                self._range_of[id(layer)] = first, count
            count = -(-count // step) * step
            ends.append(count)
        self.count = count
        allocate, release = self._memory.allocate, self._memory.release
        self.value, self.gradient = (allocate(self._device, (self.count,)) for _ in range(2))
        velocity = self.value if self._several else allocate(self._device, (self.count,))
        for piece, first in self._places:
            piece.be_part_of((self.value, self.gradient, velocity), first, release)
        self._velocity = velocity
        return ends

    @property
    def _products(self) -> list[Factors | Columns]:
        """The layers whose weights' gradients are no sums over shards."""
        return [*self.factors.values(), *self.columns.values()]

    def _summed_pieces(self, layer: Layer) -> list[Piece]:
        """Return the pieces of a layer whose gradients are summed in the tree."""
        product = self.factors.get(id(layer)) or self.columns.get(id(layer))
        return layer.pieces if product is None else product.layer.biases

    def _plan_sums(self) -> None:
        """Plan the sums over this rank's shards, and take memory for them."""
        share, device, allocate = self.share, self._device, self._memory.allocate
        world, count = share.world, share.count
        each = [tree.own_shards(rank, world.size, count) for rank in range(world.size)]
        if share.fast:
            found = [[own] for own in each]  # the library adds them
        elif share.wire == "bf16":
            found = [tree.leaves(own) for own in each]  # sums would need more digits
        else:
            found = [tree.parts(own, count) for own in each]
        self._parts_of = [len(nodes) for nodes in found]
        nodes = [node for own in found for node in own]
        merges = [0] if share.fast else tree.merges((0, count), nodes)
        self._total = functools.partial(TreeSumProblem, merges=merges, scale=1.0 / count)
        own = found[world.rank]
        self._element = np.uint16 if share.wire == "bf16" else np.float32
        # For each own shard: its part, the height of the stack before it, and how often sums are added.
        self._pushes: list[tuple[int, int, int]] = []
        deepest = 1
        for number, node in enumerate(own):
            leaves = tree.leaves(node)
            times = [int(i > 0) for i in range(len(leaves))] if share.fast else tree.merges(node, leaves)
            height = 0
            for merged in times:
                self._pushes.append((number, height, merged))
                height += 1 - merged
                deepest = max(deepest, height)
        # The gradient of a single shard is its part.
        self._single = len(self._pushes) == 1 and self._element == np.float32
        if self._single:
            self.parts = [self.gradient]
        else:
            self.parts = [allocate(device, (self.count,), self._element) for _ in own]
        self._stack = [allocate(device, (self.count,)) for _ in range(deepest - 1)]

    def _cut(self, level: int, layers: Sequence[Layer], begin: int, end: int) -> None:
        """Cut the part of the array that is a level's into buckets, and note which layers each waits for."""
        world, allocate = self.share.world, self._memory.allocate
        step = ALIGNMENT * world.size
        length = -(-BUCKET // step) * step
        for first in range(begin, end, length):
            here = slice(first, min(first + length, end))
            size = (here.stop - here.start) // world.size
            own = slice(first + world.rank * size, first + (world.rank + 1) * size)
            velocity = allocate(self._device, (size,)) if self._several else self._velocity[own]
            received = None
            if self._received_rows:
                received = allocate(self._device, (self._received_rows, size), self._element)
            bucket = Bucket(here, own, level, 0, received, self._moves(own), velocity)
            for layer in layers:
                begun, ended = self._range_of[id(layer)]
                if begun < min(ended, here.stop) and ended > here.start:
                    bucket.layers += 1
                    self._buckets_of.setdefault(id(layer), []).append(bucket)
            self.buckets.append(bucket)

    @property
    def _received_rows(self) -> int:
        """The number of parts that are brought together for a sum; 0 if there is one."""
        if self.share.fast and self._several:
            return 1
        rows = sum(self._parts_of)
        return 0 if rows == 1 else rows

    def _moves(self, own: slice) -> list[Move]:
        found = []
        for piece, first in self._places:
            begin, end = max(first, own.start), min(first + piece.value.size, own.stop)
            if begin < end:
                found.append(Move(piece, begin, end))
        return found

    def reset(self) -> None:
        """Set values, gradients and velocities to 0, before the parameters get first values; halt nothing."""
        for array in (self.halt, self.value, self.gradient, *(bucket.velocity for bucket in self.buckets)):
            self._device.fill(array, np.zeros(array.shape, array.dtype))

    def allocate_sums(self) -> None:
        """Take memory for sums of the gradients of a shard's batches."""
        self._gradients = self._memory.allocate(self._device, (self.count,))

    def add_gradients(self, first: bool, level: int = 0) -> None:
        """Add the gradients of a batch to the sums, or begin these with them."""
        device = self._device
        for bucket in self._of_level(level):
            gradient, sums = self.gradient[bucket.range], self._gradients[bucket.range]
            device.module.add(
                gradient if first else sums, gradient, sums, device.stream, beta=float(not first)
            )

    def end_shard(self, summed: int, level: int = 0) -> None:
        """Add the gradients of a shard that is not this rank's last to those of its earlier ones."""
        for bucket in self._of_level(level):
            self.push(bucket, summed)

    def _of_level(self, level: int) -> list[Bucket]:
        return [bucket for bucket in self.buckets if bucket.level == level]

    # -- the sums over this rank's shards --

    def push(self, bucket: Bucket, summed: int) -> None:
        """Add the gradient of a shard to those of this rank's earlier shards.

        Args:
            bucket: the part of it.
            summed: how many batches of the shard have their gradients summed; the last one's is not yet.
        """
        device = self._device
        number, height, merged = self._pushes[self.pushed]
        here = bucket.range
        gradient, part = self.gradient[here], self.parts[number][here]
        if summed:
            share = 1 / (summed + 1)
            device.module.add(
                self._gradients[here], gradient, gradient, device.stream, alpha=share, beta=share
            )
        if self._element == np.uint16:
            device.module.to_bf16(gradient, part, device.stream)
            return
        if self._single:
            return
        sums = [part, *(level[here] for level in self._stack)]
        if not merged:
            sums[height][...] = gradient
            return
        device.module.add(sums[height - 1], gradient, sums[height - 1], device.stream)
        for top in range(height - 1, height - merged, -1):
            device.module.add(sums[top - 1], sums[top], sums[top - 1], device.stream)

    # -- the exchange --

    def begin_pass(self, summed: int) -> None:
        """Begin the passes of a batch, the next after `summed` of its shard."""
        for bucket in self.buckets:
            bucket.missing = bucket.layers
        for factors in self.factors.values():
            factors.begin(self._batch(summed))

    def _batch(self, summed: int) -> int:
        """Return the number of a batch among all of all shards."""
        return (self.share.own.start + self.pushed) * self.share.batches + summed

    def begin_together(self, summed: int) -> None:
        """Begin the passes of a batch in a step in which ranks compute columns together."""
        for columns in self.columns.values():
            columns.begin(self._batch(summed))

    def end_together(self) -> None:
        """End such a step."""
        self._weights_are_whole = False
        for columns in self.columns.values():
            columns.end()

    def swap(self, sends: Messages, receives: Messages) -> None:
        """Send arrays to ranks and wait for others."""
        if self.wires is not None:
            with self.share.world.watchdog.phase("exchange"):
                self._wait(self.wires.exchange(sends, receives))

    def begin_exchange(self, layer: Layer, summed: int) -> None:
        """Begin to exchange what is complete once this layer's backward pass of the last batch has run."""
        for bucket in self._buckets_of.get(id(layer), ()):
            bucket.missing -= 1
            if bucket.missing == 0:
                self.push(bucket, summed)
                self.send(bucket)
        if self.wires is not None and (factors := self.factors.get(id(layer))) is not None:
            factors.send(self.wires)

    def agree(self) -> None:
        """Begin to find out whether any rank halts the update."""
        if self.wires is not None:
            self._wanted = self.wires.highest(self.halt)

    def send(self, bucket: Bucket) -> None:
        """Begin to exchange a bucket, which has been pushed."""
        if self.wires is None:
            return
        rank = self.share.world.rank
        if self.share.fast:
            bucket.transfer = self.wires.reduce(self.parts[0][bucket.range], bucket.received[0])
            return
        length = bucket.own.stop - bucket.own.start
        sends, receives, row = [], [], 0
        for other, count in enumerate(self._parts_of):
            rows = bucket.received[row : row + count]
            row += count
            if other == rank:
                for target, part in zip(rows, self.parts, strict=True):
                    target[...] = part[bucket.own]
                continue
            receives += [(other, target) for target in rows]
            first = bucket.range.start + other * length
            sends += [(other, part[first : first + length]) for part in self.parts]
        bucket.transfer = self.wires.exchange(sends, receives)

    def finish(self) -> None:
        """Add what was exchanged, move the parameters, and gather those of the other ranks."""
        watchdog = self.share.world.watchdog
        with watchdog.phase("exchange"):
            self._wait(self._wanted)
        for number, bucket in enumerate(self.buckets):
            with watchdog.phase("exchange", number):
                self._sum_own(bucket)
                if not self.lars:
                    self._move_own(bucket)
        if self.lars:
            self._scale()
            for bucket in self.buckets:
                self._move_own(bucket)
        for number, bucket in enumerate(self.buckets):
            with watchdog.phase("exchange", number):
                self._wait(bucket.transfer)
        for number, factors in enumerate(self.factors.values(), len(self.buckets)):
            with watchdog.phase("exchange", number):
                self._wait(factors.transfer)
                factors.update(self)
        for columns in self.columns.values():
            columns.update(self)
        for piece, _ in self._places:
            piece.round()
            piece.limit_norm()

    def _sum_own(self, bucket: Bucket) -> None:
        """Add the parts of this rank's slice."""
        device, own = self._device, bucket.own
        self._wait(bucket.transfer)
        received = bucket.received
        if self.wires is None and received is not None:
            for target, part in zip(received, self.parts, strict=True):
                target[...] = part[own]
        elif received is None:
            received = self.parts[0][own].reshape(1, -1)
        gradient = self.gradient[own]
        device.module.tree_sum(self._total(gradient.size), received, gradient, device.stream)

    def _scale(self) -> None:
        """Find the rates that depend on whole gradients, which are gathered for it."""
        for number, bucket in enumerate(self.buckets):
            with self.share.world.watchdog.phase("exchange", number):
                self._gather(bucket, self.gradient)
                self._wait(bucket.transfer)
        for piece, _ in self._places:
            self.scale(piece)

    def _gather(self, bucket: Bucket, whole: Any) -> None:
        """Begin to gather the slices of an array of all ranks."""
        if self.wires is not None:
            own, first = bucket.own, bucket.range.start
            bucket.transfer = self.wires.gather(
                whole[bucket.range], slice(own.start - first, own.stop - first)
            )

    def _move_own(self, bucket: Bucket) -> None:
        """Move the parameters of this rank's slice, and begin to gather all."""
        own = bucket.own
        for move in bucket.moves:
            if move.piece.parameter.name in self.frozen:
                continue
            part, mine = slice(move.first, move.last), slice(move.first - own.start, move.last - own.start)
            self.move(move.piece, self.gradient[part], bucket.velocity[mine], self.value[part])
        self._gather(bucket, self.value)

    def _wait(self, transfer: Any) -> None:
        if self.wires is not None and transfer is not None:
            begun = time.perf_counter()
            self.wires.wait(transfer)
            self.waited += time.perf_counter() - begun

    # -- momentum --

    def share_weights(self) -> None:
        """Bring the weights that ranks have columns of to all of them; all ranks must call it."""
        if not self._weights_are_whole:
            for columns in self.columns.values():
                columns.share_weights(self.swap)
            self._weights_are_whole = True

    def collect(self) -> None:
        """Collect the momentum of all ranks on the first; all ranks must call it.

        It is collected in the host's memory, but that of columns on the device.
        """
        self.share_weights()
        for columns in self.columns.values():
            columns.collect_momentum(self.swap)
        if self.wires is None or self._whole is None:
            return
        world = self.share.world
        for bucket in self.buckets:
            own, size = self._device.host(bucket.velocity), bucket.own.stop - bucket.own.start
            world.collect_array(own, self._whole[bucket.range].reshape(world.size, size))

    def distribute(self) -> None:
        """Take this rank's part of the momentum of all parameters, which was set in the host's memory."""
        if self._whole is not None:
            for bucket in self.buckets:
                self._device.fill(bucket.velocity, self._whole[bucket.own])

    def broadcast(self) -> None:
        """Set all values and all momentum to those of the first rank; all ranks must call it."""
        if self.wires is None or self._whole is None:
            return
        world, device = self.share.world, self._device
        value = device.host(self.value)
        for array in (value, self._whole):
            world.broadcast_array(array)
        device.fill(self.value, value)
        self.distribute()
        for piece in (piece for product in self._products for piece in product.layer.weights):
            for tensor in ("value", "velocity"):
                array = piece.host(tensor)
                world.broadcast_array(array)
                piece.fill(tensor, array)
            piece.round()
        for piece, _ in self._places:
            piece.round()
        if not world.first:
            self._place_whole()  # so that the system has the memory again

    def _place_whole(self) -> None:
        """Let the momentum of the pieces be in the host's memory, where it is collected."""
        self._whole = np.zeros(self.count, np.float32)
        for piece, first in self._places:
            piece.velocity = self._whole[first : first + piece.value.size].reshape(piece.value.shape)
            piece.collected = True

    def exchanged(self) -> Exchanged:
        """Return what a step exchanges, if each rank has one shard."""
        factors = self.factors.values()
        return Exchanged(
            self.count * np.dtype(self._element).itemsize,
            self.count * np.dtype(np.float32).itemsize,
            sum(one.bytes for one in factors),
            sum(problem.n * problem.c * problem.k for one in factors for problem in one.problems),
            sum(one.bytes for one in self.columns.values()),
        )

    @property
    def can_be_captured(self) -> bool:
        """True if the exchange is work of the device alone."""
        return self.wires is None or self.wires.captured

    @property
    def sent_bytes(self) -> int:
        """The bytes that this rank has sent to others so far."""
        return 0 if self.wires is None else self.wires.sent_bytes


def _wires(world: World, device: Device) -> Wires:
    """Return the way of arrays to the other ranks; all ranks must call this."""
    if (nccl := nccl_for(world, device)) is not None:
        return NcclWires(world, device, nccl)
    return MpiWires(world, device, staged=device.kind == "cuda")
