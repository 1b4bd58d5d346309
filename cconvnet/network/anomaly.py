"""The first value of a training step that is not finite: layer, pass and tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cconvnet.network.outputs import as_floats, layer_output
from cconvnet.network.state import stateful
from cconvnet.network.step import Runner

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Anomaly:
    """The first tensor of a step with values that are not finite.

    Attributes:
        layer: the layer that was computed.
        direction: the pass, "forward", "backward" or "update".
        tensor: of the layer, such as "its output" or "the gradient of conv1.weight".
        bad: how many values are not finite.
        count: how many values the tensor has.
        index: of the first that is not finite.
        value: of the first that is not finite.
    """

    layer: str
    direction: str
    tensor: str
    bad: int
    count: int
    index: tuple[int, ...]
    value: float

    def __str__(self) -> str:
        return (
            f"{self.layer}, {self.direction} pass, {self.tensor}: {self.bad:,} of {self.count:,} values, "
            f"the first {self.value} at {list(self.index)}"
        )


# Returns on all ranks an anomaly that one of them gives; None if all give None.
Agree = Callable[[Anomaly | None], Anomaly | None]


def found_in(layer: str, direction: str, tensor: str, values: Array) -> Anomaly | None:
    """Return the anomaly of a tensor; None if all its values are finite."""
    finite = np.isfinite(values)
    if finite.all():
        return None
    index = tuple(int(number) for number in np.unravel_index(int(np.argmin(finite)), values.shape))
    bad = values.size - int(np.count_nonzero(finite))
    return Anomaly(layer, direction, tensor, bad, values.size, index, float(values[index]))


def find_bad(runner: Runner, backward: bool) -> Anomaly | None:
    """Run the last forward pass again, then with `backward` its backward pass; see Network.find_bad."""
    checks = [_forward(runner)]
    if backward:
        checks.append(_backward(runner))
    return next((bad for check in checks for bad in check if bad is not None), None)


def checked_accumulate(runner: Runner, step: int, ends_shard: bool) -> Anomaly | None:
    """Add a batch's gradients, unless a value is bad; see Network.checked_accumulate."""
    runner.begin(True, step)
    bad = find_bad(runner, backward=True)
    if bad is None:
        runner.add_gradients(ends_shard)
    return bad


def checked_step(
    runner: Runner, step: int, lr: float | Mapping[str, float], momentum: float, agree: Agree
) -> Anomaly | None:
    """Run a training step that stops behind the first bad value; see Network.checked_step."""
    runner.begin(True, step)
    bad = agree(find_bad(runner, backward=True))
    if bad is not None:
        return bad
    runner.update(lr, momentum)
    return agree(next((bad for bad in _update(runner) if bad is not None), None))


def _update(runner: Runner) -> Iterator[Anomaly | None]:
    """Check what an update has changed."""
    for name, (parameter, tensor) in stateful(runner.graph.parameters).items():
        for piece in parameter.pieces:
            yield found_in(parameter.layer, "update", name, piece.host(tensor))


def _forward(runner: Runner) -> Iterator[Anomaly | None]:
    """Run the forward pass; check weights before a layer runs and its output afterwards."""
    graph = runner.graph
    for layer in (*graph.inputs.values(), *runner.order):
        for piece in layer.pieces:
            values = piece.device.host(piece.value)
            yield found_in(layer.name, "forward", piece.parameter.name, values)
        runner.forward_layer(layer, runner.training)
        if layer.is_copy:
            continue
        for name in layer.names:
            yield found_in(name, "forward", "its output", layer_output(layer, name)[: runner.count])
    for cost in runner.costs:
        losses = cost.device.host(cost.losses)[cost.counted]
        yield found_in(cost.name, "forward", "the losses", losses)


def _backward(runner: Runner) -> Iterator[Anomaly | None]:
    """Run the backward pass; check the gradients of each layer's inputs and parameters."""
    for layer in runner.graph.backward:
        runner.backward_layer(layer, None)
        if layer.is_copy:
            continue
        host = layer.device.host
        for tensor, gradient in zip(layer.inputs, layer.input_gradients, strict=True):
            if gradient is not None:
                name = f"the gradient of its input {tensor.name}"
                yield found_in(layer.name, "backward", name, as_floats(host(gradient))[: runner.count])
        for piece in layer.pieces:
            name = f"the gradient of {piece.parameter.name}"
            yield found_in(layer.name, "backward", name, host(piece.gradient))
