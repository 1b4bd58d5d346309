"""The levels of a network in which ranks compute FC layers together.

A level is the layers that a rank computes for its own images without the others. Behind it, ranks compute the
products of the FC layers that read it; their biases and activation functions belong to the next level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cconvnet.layers import Layer
from cconvnet.layers.columns import Columns


@dataclass
class Level:
    """The layers between two times at which ranks meet.

    Attributes:
        forward: in the order of the forward pass, without inputs.
        backward: those that learn or are behind some that do, in the order of the backward pass.
        first: the products that the level begins with.
        behind: the products that read it.
    """

    forward: list[Layer] = field(default_factory=list)
    backward: list[Layer] = field(default_factory=list)
    first: list[Columns] = field(default_factory=list)
    behind: list[Columns] = field(default_factory=list)


def levels_of(forward: Sequence[Layer], columns: Sequence[Columns]) -> list[Level]:
    """Return the levels of a network, in the order of the forward pass.

    Args:
        forward: all layers behind the inputs, in the order of the forward pass.
        columns: of the layers that ranks compute together.

    Raises:
        ValueError: a layer reads another one across such a layer.
    """
    shared = {id(one.layer): one for one in columns}
    number: dict[int, int] = {}  # of the level of a tensor, by its id; the inputs are of level 0
    levels = [Level()]
    for layer in forward:
        read = [number.get(id(tensor), 0) for tensor in layer.inputs]
        own = max(read) + (id(layer) in shared)
        for tensor, level in zip(layer.inputs, read, strict=True):
            if level != max(read):
                raise ValueError(
                    f"layer {layer.name}: it reads {tensor.name}, which is before an FC layer that ranks "
                    "would compute together, and another layer behind it"
                )
        number[id(layer.output)] = own
        levels += [Level() for _ in range(own + 1 - len(levels))]
        levels[own].forward.append(layer)
        if layer.output.needs_gradient:
            levels[own].backward.insert(0, layer)
        if (one := shared.get(id(layer))) is not None:
            levels[own].first.append(one)
            levels[own - 1].behind.append(one)
    return levels
