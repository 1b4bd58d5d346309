"""Layers whose weights are updated at the same time as later layers' backward passes run.

An FC layer of a few images reads and writes its weights for longer than it multiplies, so memory is busy and
the rest of a GPU is not. The backward passes of convolutions are the opposite. In a whole step on one GPU the
former therefore run on a second stream. It begins behind the last such layer's gradient of its input, which
reads the weights, and is joined at the end of the backward pass. Captured, it is a parallel branch of the
graph.

Every array that the second stream reads or writes must be untouched by the first meanwhile:

- activations, weights, velocities and rates are, as no backward pass writes those of another layer;
- the gradient of the layer's output keeps its memory until the end (memory.py);
- the workspace is one of its own (memory.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cconvnet.devices import Device
from cconvnet.layers import Layer
from cconvnet.optim import FusedUpdates

# Updates that stream the weights have two thirds of the multiprocessors, which keep memory busy.
LEFT = 1 / 3
# What a GPU does in the time in which memory moves a byte: operations of products, as their kernels do them.
# Other passes move each array a few times, or compute for as long. Estimates from cconvnet/profile.
_FLOPS = {"fp32": 12, "fp32x3": 25, "tf32": 60, "bf16": 120}
_PASSES = 4


class Branch:
    """The work of layers that learn beside others, in a step.

    Attributes:
        layers: these layers, in the order of the backward pass.
        until: the layer behind them from which on the others have all multiprocessors again, as the branch is
            about to end; None: at the join.
    """

    def __init__(self, layers: Sequence[Layer], until: Layer | None, divides: bool) -> None:
        """Make the branch; `divides`: whether the others have a part of the multiprocessors meanwhile."""
        self.layers, self.until = list(layers), until
        self._divides = divides
        self._waiting: list[Callable[[], None]] = []

    @property
    def device(self) -> Device:
        """The device of all layers."""
        return self.layers[0].device

    def begin(self, updates: FusedUpdates) -> None:
        """Begin a backward pass, whose layers hand over their work."""
        self._waiting.clear()
        updates.beside = self.add

    def add(self, work: Callable[[], None]) -> None:
        """Take a layer's work."""
        self._waiting.append(work)

    def before(self, layer: Layer) -> None:
        """Give the others all multiprocessors if the branch has ended before a layer's backward pass."""
        if layer is self.until:
            self.device.use(1.0)

    def behind(self, layer: Layer) -> None:
        """Begin the branch behind the backward pass of its last layer."""
        if layer is self.layers[-1] and self._waiting:
            self.device.beside(self._work)
            if self._divides:
                self.device.use(LEFT)

    def _work(self) -> None:
        for work in self._waiting:
            work()
        self._waiting.clear()

    def join(self, updates: FusedUpdates) -> None:
        """Let later work follow the branch, and later steps begin it anew."""
        updates.beside = None
        self.device.join()


def plan_branch(backward: Sequence[Layer], updates: FusedUpdates, precision: str) -> Branch | None:
    """Let layers learn beside the backward passes behind theirs, before their memory is allocated.

    They do where the device gains by it, but not with LARS: a rate that depends on the whole gradient needs
    memory that all layers share.

    Args:
        backward: the layers of one device in the order of the backward pass.
        updates: what moves their weights.
        precision: of the network.

    Returns:
        The branch; None without such layers.
    """
    able = [layer for layer in backward[:-1] if layer.device.runs_beside and layer.can_learn_beside]
    if updates.lars or not able:
        return None
    for layer in able:
        layer.learns_beside = True
    if not all(layer.update_bytes for layer in able):
        return Branch(able, None, divides=False)
    left = float(sum(layer.update_bytes for layer in able))
    for layer in backward[backward.index(able[-1]) + 1 :]:
        taken = _bytes(layer, precision) / LEFT
        # The last layer beside the branch ends later than that, and then most multiprocessors are idle; or it
        # waits for all of them, and meanwhile those that are left are idle.
        if LEFT * left < (1 - LEFT) * (taken - left):
            return Branch(able, layer, divides=True)
        left -= taken
    return Branch(able, None, divides=True)


def _bytes(layer: Layer, precision: str) -> float:
    """Return the bytes that memory could move while a layer's backward pass runs."""
    arrays = sum(tensor.count * tensor.array.itemsize for tensor in layer.inputs)
    return layer.backward_flops / _FLOPS[precision] or float(_PASSES * arrays)
