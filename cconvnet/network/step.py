"""A training step: the forward pass, the backward pass and the update, layer by layer.

A step runs the layers in the order of the graph and allocates nothing. On one GPU it is captured once and
replayed as one launch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cconvnet import optim
from cconvnet.devices import Device
from cconvnet.layers import CostLayer, Layer
from cconvnet.network.graph import Graph
from cconvnet.network.shards import ShardedUpdates
from cconvnet.optim import DeviceRates, FusedUpdates, Parameter, Piece
from cconvnet.ranks.wires import captured

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class StepResult:
    """The result of a forward pass for the images of the batch: that of the network's main cost.

    Attributes:
        losses: float32[count], -log(probability of the label), or half the squared distance from the target;
            of pixels with labels, those that are not ignored, image by image.
        rank: int32[count], the number of classes before the label; an image is wrong at top-t if rank >= t.
            -1 of an L2 cost.
        heads: the losses of the other costs, likewise, by their layers; empty outside of training.
    """

    losses: Array
    rank: Array
    heads: Mapping[str, Array] = dataclasses.field(default_factory=dict)

    @property
    def count(self) -> int:
        """The number of images, or of pixels that count."""
        return len(self.losses)

    @property
    def loss(self) -> float:
        """The mean loss, without those of heads."""
        return _mean(self.losses)

    @property
    def head_losses(self) -> dict[str, float]:
        """The mean loss of each head."""
        return {name: _mean(losses) for name, losses in self.heads.items()}

    @property
    def finite(self) -> bool:
        """True if all losses are finite, those of heads too."""
        return all(np.isfinite(losses).all() for losses in (self.losses, *self.heads.values()))

    @property
    def correct(self) -> Array:
        """bool[count]: whether the label came first."""
        return np.equal(self.rank, 0)


def _mean(losses: Array) -> float:
    return float(np.mean(losses, dtype=np.float64)) if len(losses) else 0.0


class Observer(Protocol):
    """Called in place of every piece of work of a step; it must call work(*args) itself."""

    def __call__(
        self, owner: Layer | Parameter, device: Device, phase: str, work: Callable[..., None], *args: Any
    ) -> None:
        """Do a piece of work.

        Args:
            owner: the layer whose pass it is, or the parameter that is updated.
            device: where it runs.
            phase: "load", "forward", "check", "backward", "update", or "exchange" with other processes.
            work: the work.
            args: its arguments.
        """


class Runner:
    """Runs the passes of a graph.

    Attributes:
        graph: the layers and their order.
        training: whether the last forward pass was one of training.
        step: the number of its step.
        observer: called in place of every piece of work; None: nothing is. An observed step is not captured.
        captured: the captured steps; None means a step that has run once and is captured next.
        summed: how many batches have their gradients summed for the next update.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.training = False
        self.step = 0
        self.observer: Observer | None = None
        self.captured: dict[Any, Callable[[], None] | None] = {}
        self.summed = 0
        self._finite = True  # on several devices: whether the losses of these batches are

    @property
    def count(self) -> int:
        """The number of images in the batch; 0 before one is loaded."""
        return self.graph.loaded.count

    # -- the passes --

    def begin(self, train: bool, step: int) -> None:
        """Begin a forward pass of the step of this number, which selects the dropout masks."""
        self.training, self.step = train, step
        if self.graph.shards is not None:
            self.graph.shards.begin_pass(self.summed)
        for device in self.graph.devices:
            device.fill(self.graph.step[device.name], np.array([step], np.int64))

    def forward_inputs(self) -> None:
        """Compute the inputs from the images."""
        for images in self.graph.inputs.values():
            self.forward_layer(images, True)

    @property
    def order(self) -> list[Layer]:
        """The layers and copies behind the inputs that the last forward pass runs."""
        return self.graph.forward if self.training else self.graph.answering

    @property
    def costs(self) -> list[CostLayer]:
        """The costs that the last forward pass runs, the main one first."""
        if not self.graph.costs:
            return []
        main = self.graph.cost
        return [main, *(cost for cost in self.graph.costs.values() if self.training and cost is not main)]

    def forward(self, train: bool) -> None:
        """Run the forward pass of the layers behind the inputs."""
        for layer in self.order:
            self.forward_layer(layer, train)

    def backward(self, updates: FusedUpdates | None = None) -> None:
        """Run the backward pass of all layers; with `updates`, parameters move on the way."""
        # An observer times each layer by itself.
        branch = self.graph.branch if updates is not None and self.observer is None else None
        if updates is not None and branch is not None:
            branch.begin(updates)
        for layer in self.graph.backward:
            if branch is not None:
                branch.before(layer)
            self.backward_layer(layer, updates)
            if branch is not None:
                branch.behind(layer)
        if updates is not None and updates.joined:
            last = self._last_learner
            with last.device as device:
                self.call(last, device, "update", updates.finish)
        if updates is not None and branch is not None:
            branch.join(updates)

    @property
    def _last_learner(self) -> Layer:
        """The layer with parameters whose backward pass is the last."""
        return next(layer for layer in reversed(self.graph.backward) if layer.pieces)

    def update(self, lr: float | Mapping[str, float], momentum: float) -> None:
        """Move every parameter by its gradient, or by the mean of it and those that are summed."""
        if (shards := self.graph.shards) is not None:
            shards.set_rates(lr, momentum)
            self._update_shards(shards)
            self.summed = shards.pushed = 0
            return
        if (updates := self.graph.updates) is not None and updates.lars:
            updates.set_rates(lr, momentum)
            self.watch_losses(updates)
            self._average()
            self._apply(updates)
            self.summed = 0
            return
        self._average()
        self.summed, self._finite = 0, True
        for piece, rate, kept in optim.moves(self.graph.parameters.values(), lr, momentum):
            self.call(piece.parameter, piece.device, "update", optim.update, piece, rate, kept)

    # -- one layer --

    def forward_layer(self, layer: Layer, train: bool) -> None:
        """Run the forward pass of one layer, once the copies that it reads have arrived."""
        for copy in self.graph.copies_of(layer.output):
            copy.wait()  # the copy of the previous step may still read the output
        copies = self.graph.copies_read_by(layer)
        for copy in copies:
            copy.wait_here()
        with layer.device:
            self.call(layer, layer.device, "forward", layer.forward, train)
        for copy in copies:
            copy.been_read()

    def backward_layer(self, layer: Layer, updates: FusedUpdates | None) -> None:
        """Run the backward pass of one layer, once the gradients that are copied back have arrived."""
        for copy in self.graph.copies_of(layer.output):
            copy.wait()
        with layer.device:
            self.call(layer, layer.device, "backward", _backward, layer, updates)
        for copy in self.graph.copies_read_by(layer):
            copy.been_read()

    def call(
        self, owner: Layer | Parameter, device: Device, phase: str, work: Callable[..., None], *args: Any
    ) -> None:
        """Call work(*args), through the observer if there is one."""
        if self.observer is None:
            work(*args)
        else:
            self.observer(owner, device, phase, work, *args)

    # -- gradients of several batches --

    def add_gradients(self, ends_shard: bool) -> None:
        """Add the gradients of the last backward pass, and the losses, to the sums."""
        self._add_gradients(ends_shard)
        self._count(ends_shard)

    def _add_gradients(self, ends_shard: bool) -> None:
        if (shards := self.graph.shards) is not None:
            self.add_gradients_of(shards, self._last_learner, ends_shard)
        else:
            for piece in self._pieces:
                self.call(piece.parameter, piece.device, "update", piece.add_gradient, self.summed == 0)
        self.add_losses()

    def add_gradients_of(self, shards: ShardedUpdates, last: Layer, ends_shard: bool, level: int = 0) -> None:
        """Add the gradients of a level, which a backward pass that ended with this layer has computed."""
        work, argument = (
            (shards.end_shard, self.summed) if ends_shard else (shards.add_gradients, self.summed == 0)
        )
        with last.device as device:
            self.call(last, device, "update", work, argument, level)

    def _count(self, ends_shard: bool) -> None:
        if ends_shard and self.graph.shards is not None:
            self.graph.shards.pushed += 1
            self.summed = 0
        else:
            self.summed += 1

    @property
    def _is_first(self) -> bool:
        """True if no batch of the step has its gradients summed yet."""
        return self.summed == 0 and (self.graph.shards is None or self.graph.shards.pushed == 0)

    @property
    def _pieces(self) -> list[Piece]:
        return [piece for parameter in self.graph.parameters.values() for piece in parameter.pieces]

    def _average(self) -> None:
        """Replace the gradients by the means of them and those that are summed, if any are."""
        if self.summed:
            for piece in self._pieces:
                self.call(piece.parameter, piece.device, "update", piece.average_gradient, self.summed)

    def add_losses(self) -> None:
        """Add the losses to their sum on one device, so that a bad one of any batch is seen."""
        first = self._is_first
        if (total := self.graph.summed_losses) is not None:
            losses, cost = self.graph.losses, self.graph.cost
            with cost.device as device:
                add = functools.partial(device.module.add, beta=float(not first))
                self.call(
                    cost, device, "check", add, losses if first else total, losses, total, device.stream
                )

    def accumulate(self, step: int, ends_shard: bool) -> None:
        """Run the forward and the backward pass, and add the gradients; see Network.accumulate."""
        self.begin(True, step)
        self.forward_inputs()
        work = functools.partial(self._accumulate, ends_shard)
        if len(self.graph.devices) > 1:
            work()
            self._finite &= self.result().finite
        else:
            self.replayed(("accumulate", ends_shard, *self.key), work)
        self._count(ends_shard)

    def _accumulate(self, ends_shard: bool) -> None:
        self.forward(True)
        self.backward()
        self._add_gradients(ends_shard)

    @property
    def key(self) -> tuple[int, ...]:
        """The values on which captured work depends that it does not read from the device, but for rates.

        They are the number of images, the first image's place, and the batches and shards that are summed.
        """
        pushed = 0 if self.graph.shards is None else self.graph.shards.pushed
        return self.count, self.graph.loaded.first_row, self.summed, pushed

    # -- a whole step --

    def train_step(self, step: int, lr: float | Mapping[str, float], momentum: float) -> None:
        """Run all passes and the update; see Network.train_step."""
        self.begin(True, step)
        self.forward_inputs()
        if (shards := self.graph.shards) is not None:
            shards.set_rates(lr, momentum)
            work = functools.partial(self._step_of_shards, shards)
            if shards.can_be_captured:
                self.replayed((shards.frozen, *self.key), work)
            else:
                work()
            self.summed = shards.pushed = 0
            return
        if (updates := self.graph.updates) is None:
            self._step_on_several(lr, momentum)
            return
        updates.set_rates(lr, momentum)
        # Also the frozen parameters, and those that move together.
        key = (updates.frozen, updates.joined, *self.key)
        self.replayed(key, functools.partial(self._step_on_one, updates))
        self.summed = 0

    def _step_on_several(self, lr: float | Mapping[str, float], momentum: float) -> None:
        """A step behind its inputs on several devices, which waits for the loss before the update."""
        self.forward(True)
        self.backward()
        if self.result().finite and self._finite:
            self.update(lr, momentum)
        self.summed, self._finite = 0, True

    def _step_on_one(self, updates: FusedUpdates) -> None:
        """A step behind its inputs on one device."""
        self.forward(True)
        self.watch_losses(updates)
        if not self.summed:
            self.backward(updates)
            return
        self.backward()
        self._average()
        self._apply(updates)

    def _apply(self, updates: FusedUpdates) -> None:
        """Update all parameters on one device by their gradients."""
        cost = self.graph.cost
        with cost.device as device:
            for piece in self._pieces:
                self.call(piece.parameter, device, "update", updates.apply, piece)
            self.call(cost, device, "update", updates.finish)

    def watch_losses(self, updates: DeviceRates) -> None:
        """Halt the update on the device if a loss of the step is not finite."""
        cost, losses = self.graph.cost, self.graph.losses
        if not self._is_first:
            self.add_losses()
            losses = self.graph.summed_losses
        with cost.device as device:
            watch = device.module.watch_losses
            self.call(cost, device, "check", watch, losses, updates.halt, device.stream)

    def _step_of_shards(self, shards: ShardedUpdates) -> None:
        """The last batch of this process's shards, behind its inputs, the exchange and the update."""
        self.forward(True)
        self._update_shards(shards, self.backward_layer)

    def _update_shards(
        self, shards: ShardedUpdates, backward: Callable[[Layer, None], None] = lambda layer, updates: None
    ) -> None:
        """Exchange the gradients and update, layer by layer behind its backward pass if that is to run."""
        self.watch_losses(shards)
        shards.agree()
        for layer in self.graph.backward:
            backward(layer, None)
            self.begin_exchange(shards, layer)
        self.finish_exchange(shards)

    def begin_exchange(self, shards: ShardedUpdates, layer: Layer) -> None:
        """Begin to exchange what is complete behind a layer's backward pass of the last batch."""
        if layer.pieces:
            with layer.device as device:
                self.call(layer, device, "exchange", shards.begin_exchange, layer, self.summed)

    def finish_exchange(self, shards: ShardedUpdates) -> None:
        """Complete the exchange, and update."""
        last = self._last_learner
        with last.device as device:
            self.call(last, device, "exchange", shards.finish)

    def replayed(self, key: Any, work: Callable[[], None]) -> None:
        """Do work on one device: run, captured the second time, then replayed."""
        # How many rows count, where some are ignored, is an argument of launches.
        if self.observer is not None or not all(cost.is_fixed for cost in self.graph.costs.values()):
            work()
            return
        if key not in self.captured:
            self.captured[key] = None
            work()
            return
        if (replay := self.captured[key]) is None:
            (device,) = self.graph.devices
            wires = None if self.graph.shards is None else self.graph.shards.wires
            self.captured[key] = replay = captured(device, wires, work)
        replay()

    # -- its result --

    def result(self) -> StepResult:
        """Return the result of the last forward pass, once it is done."""
        return self._fetched(lambda device, array: functools.partial(device.host, array))()

    def result_later(self) -> Callable[[], StepResult]:
        """Start to fetch the result of the last forward pass; calling what is returned waits for it."""
        return self._fetched(lambda device, array: device.host_later(array))

    def _fetched(self, fetch: Callable[[Device, Any], Callable[[], Array]]) -> Callable[[], StepResult]:
        main, costs = self.graph.cost, self.costs
        counted = {cost.name: cost.counted for cost in costs}  # another batch may be loaded before the end
        losses = {cost.name: fetch(cost.device, cost.losses) for cost in costs}
        ranks = fetch(main.device, main.ranks)

        def result() -> StepResult:
            found = {name: values()[counted[name]] for name, values in losses.items()}
            return StepResult(found.pop(main.name), ranks()[counted[main.name]], found)

        return result


def _backward(layer: Layer, updates: FusedUpdates | None) -> None:
    """Run a layer's backward pass, once the gradients of its readers are summed."""
    tensor, device = layer.output, layer.device
    for gradient in tensor.more_gradients:
        device.module.add(tensor.gradient, gradient, tensor.gradient, device.stream)
    layer.backward(updates)
