"""Layers whose weights are updated at the same time as later layers' backward passes run.

An FC layer of a few images reads and writes its weights for longer than it multiplies, so memory is busy and
the rest of a GPU is not. The backward passes of convolutions are the opposite. In a whole step on one GPU the
former therefore run on a second stream. It begins behind the layer's gradient of its input, which reads the
weights, and is joined at the end of the backward pass. Captured, it is a parallel branch of the graph.

Every array that the second stream reads or writes must be untouched by the first meanwhile:

- activations, weights, velocities and rates are, as no backward pass writes those of another layer;
- the gradient of the layer's output keeps its memory until the end (memory.py);
- the workspace is one of its own (memory.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from cconvnet.layers import Layer
from cconvnet.optim import FusedUpdates


def learn_beside(backward: Sequence[Layer], updates: FusedUpdates) -> None:
    """Let layers learn beside the backward passes behind theirs, before their memory is allocated.

    They do where the device gains by it, but not with LARS: a rate that depends on the whole gradient needs
    memory that all layers share.

    Args:
        backward: the layers of one device in the order of the backward pass.
        updates: what moves their weights.
    """
    for layer in backward[:-1] if updates.lars == 0 else ():
        layer.learns_beside = layer.device.runs_beside and layer.can_learn_beside
