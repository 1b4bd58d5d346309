"""A training step: the forward pass, the backward pass and the update, layer by layer.

A step runs the layers in the order of the graph and allocates nothing. On one GPU it is captured once and
replayed as one launch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cconvnet import optim
from cconvnet.devices import Device
from cconvnet.layers import Layer
from cconvnet.network.graph import Graph
from cconvnet.optim import FusedUpdates, Parameter

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class StepResult:
    """The result of a forward pass for the `count` images of the batch.

    Attributes:
        losses: float32[count], -log(probability of the label).
        rank: int32[count], the number of classes before the label; an image is wrong at top-t if rank >= t.
    """

    losses: Array
    rank: Array

    @property
    def count(self) -> int:
        """The number of images."""
        return len(self.losses)

    @property
    def loss(self) -> float:
        """The mean loss."""
        return float(np.mean(self.losses, dtype=np.float64))

    @property
    def correct(self) -> Array:
        """bool[count]: whether the label came first."""
        return np.equal(self.rank, 0)


class Observer(Protocol):
    """Called in place of every piece of work of a step; it must call work(*args) itself."""

    def __call__(
        self, owner: Layer | Parameter, device: Device, phase: str, work: Callable[..., None], *args: Any
    ) -> None:
        """Do a piece of work.

        Args:
            owner: the layer whose pass it is, or the parameter that is updated.
            device: where it runs.
            phase: "load", "forward", "check", "backward" or "update".
            work: the work.
            args: its arguments.
        """


class Runner:
    """Runs the passes of a graph.

    Attributes:
        graph: the layers and their order.
        count: how many images the batch has; 0 before one is loaded.
        training: whether the last forward pass was one of training.
        step: the number of its step.
        observer: called in place of every piece of work; None: nothing is. An observed step is not captured.
        captured: the captured steps; None means a step that has run once and is captured next.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.count = 0
        self.training = False
        self.step = 0
        self.observer: Observer | None = None
        self.captured: dict[Any, Callable[[], None] | None] = {}

    # -- the passes --

    def begin(self, train: bool, step: int) -> None:
        """Begin a forward pass of the step of this number, which selects the dropout masks."""
        self.training, self.step = train, step
        for device in self.graph.devices:
            device.fill(self.graph.step[device.name], np.array([step], np.int64))

    def forward_inputs(self) -> None:
        """Compute the inputs from the images."""
        for images in self.graph.inputs.values():
            self.forward_layer(images, True)

    def forward(self, train: bool) -> None:
        """Run the forward pass of all layers behind the inputs."""
        for layer in self.graph.forward:
            self.forward_layer(layer, train)

    def backward(self, updates: FusedUpdates | None = None) -> None:
        """Run the backward pass of all layers; with `updates`, parameters move on the way."""
        for layer in self.graph.backward:
            self.backward_layer(layer, updates)
        if updates is not None and updates.joined:
            last = next(layer for layer in reversed(self.graph.backward) if layer.pieces)
            with last.device as device:
                self.call(last, device, "update", updates.finish)

    def update(self, lr: float | Mapping[str, float], momentum: float) -> None:
        """Move every parameter by its gradient."""
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

    # -- a whole step --

    def train_step(self, step: int, lr: float | Mapping[str, float], momentum: float) -> None:
        """Run all passes and the update; see Network.train_step."""
        self.begin(True, step)
        self.forward_inputs()
        if self.graph.updates is None:
            self._step_on_several(lr, momentum)
        else:
            self.graph.updates.set_rates(lr, momentum)
            self._step_on_one(self.graph.updates)

    def _step_on_several(self, lr: float | Mapping[str, float], momentum: float) -> None:
        """A step behind its inputs on several devices, which waits for the loss before the update."""
        self.forward(True)
        self.backward()
        if np.isfinite(self.result().losses).all():
            self.update(lr, momentum)

    def _step_on_one(self, updates: FusedUpdates) -> None:
        """A step behind its inputs on one device: run, captured the second time, then replayed."""

        def work() -> None:
            self.forward(True)
            cost = self.graph.cost
            with cost.device as device:
                losses = cost.losses[: self.count]
                watch = device.module.watch_losses
                self.call(cost, device, "check", watch, losses, updates.halt, device.stream)
            self.backward(updates)

        if self.observer is not None:
            work()
            return
        # The captured work depends on what it does not read from the device: the number of images, the
        # frozen parameters and those that move together.
        key = (self.count, updates.frozen, updates.joined)
        if key not in self.captured:
            self.captured[key] = None
            work()
            return
        if (replay := self.captured[key]) is None:
            (device,) = self.graph.devices
            self.captured[key] = replay = device.captured(work)
        replay()

    # -- its result --

    def result(self) -> StepResult:
        """Return the result of the last forward pass, once it is done."""
        cost = self.graph.cost
        host = cost.device.host
        return StepResult(host(cost.losses)[: self.count], host(cost.ranks)[: self.count])

    def result_later(self) -> Callable[[], StepResult]:
        """Start to fetch the result of the last forward pass; calling what is returned waits for it."""
        cost, count = self.graph.cost, self.count
        losses, ranks = cost.device.host_later(cost.losses), cost.device.host_later(cost.ranks)
        return lambda: StepResult(losses()[:count], ranks()[:count])


def _backward(layer: Layer, updates: FusedUpdates | None) -> None:
    """Run a layer's backward pass, once the gradients of its readers are summed."""
    tensor, device = layer.output, layer.device
    for gradient in tensor.more_gradients:
        device.module.add(tensor.gradient, gradient, tensor.gradient, device.stream)
    layer.backward(updates)
