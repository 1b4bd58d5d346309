"""One operation on one device: the base class of all layers, and the activations between them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cconvnet._problem import (
    InputProblem,
)
from cconvnet.devices import Device
from cconvnet.optim import Parameter, Piece, Updates

# Takes memory on a device for as long as the network lives: (device, shape, dtype) -> array.
Allocate = Callable[..., Any]
Array = np.ndarray[Any, Any]


@dataclass
class Tensor:
    """An activation [N, ..., channels] on one device, and its gradient if anything before it learns.

    Of a layer that is split over devices it is one part, the channels from `first` on of `of_channels`.

    Attributes
        gradient: where its gradient is gathered; None where none is needed.
        more_gradients: what else its readers' backward passes write, to be added to it in this order.
        blocks: of images that lie in blocks of pixels (see InputProblem), how; else None.
    """

    name: str
    shape: tuple[int, ...]
    device: Device
    array: Any
    needs_gradient: bool
    first: int
    of_channels: int
    gradient: Any = None
    more_gradients: list[Any] = dataclasses.field(default_factory=list)
    blocks: InputProblem | None = None

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def channels(self) -> int:
        return self.shape[-1]

    @property
    def image(self) -> tuple[int, int, int, int]:
        """The shape as (N, H, W, C); what an FC layer puts out is an image of one pixel, and blocks are the
        image they were cut from."""
        if (o := self.blocks) is not None:
            return o.n, o.p, o.q, o.c
        n, *rest = self.shape
        h, w, c = rest if len(rest) == 3 else (1, 1, math.prod(rest))
        return n, h, w, c


@dataclass(frozen=True)
class Place:
    """Where a layer is made: all that is not in its spec.

    Attributes
        part, parts: of a layer that is split over devices, which part this is, and of how many.
        parameters: those of the network so far, by name.
        step: int64[1] on the device, the number of the training step that runs.
    """

    device: Device
    part: int
    parts: int
    allocate: Allocate
    parameters: dict[str, Parameter]
    seed: int
    precision: str
    step: Any

    @property
    def element(self) -> Any:
        """The type of activations, their gradients and working weights."""
        return np.uint16 if self.precision == "bf16" else np.float32

    def share(self, what: str, count: int) -> slice:
        """The range of `count` things, channels or groups, that belongs to this part."""
        if count % self.parts:
            raise ValueError(f"{what} ({count}) cannot be split over {self.parts} devices")
        own = count // self.parts
        return slice(self.part * own, (self.part + 1) * own)


def length(share: slice) -> int:
    return int(share.stop - share.start)


class Layer:
    """One operation on one device.

    Attributes
        name, type, device, inputs, output.
        names: of the spec's layers that it computes, in order; its output is that of the last.
        input_gradients: for each input the array the backward pass writes, None where no gradient is needed.
        workspace: memory shared by all layers of a device, at least workspace_bytes().
        scratch: likewise, of activations' elements, at least scratch_count() of them.
    """

    type: ClassVar[str]
    # Whether an input's gradient may lie where the output's lies.
    backward_in_place: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        place: Place,
        inputs: Sequence[Tensor],
        shape: tuple[int, ...],
        learns: bool = False,
        element: Any = None,
    ) -> None:
        self.name = name
        self.names = [name]
        self.device = place.device
        self.inputs = list(inputs)
        needs_gradient = learns or any(tensor.needs_gradient for tensor in inputs)
        first, of_channels = shape[-1] * place.part, shape[-1] * place.parts
        array = place.allocate(place.device, shape, element or place.element)
        self.output = Tensor(name, shape, place.device, array, needs_gradient, first, of_channels)
        self.input_gradients: list[Any] = [None] * len(inputs)
        self.workspace: Any = None
        self.scratch: Any = None

    def __repr__(self) -> str:
        return f"<{self.type} {self.name} on {self.device.name} -> {self.output.shape}>"

    @staticmethod
    def mixes(spec: Any, index: int) -> bool:
        """Whether an output channel depends on all channels of that input, so that a part reads all parts."""
        return False

    @property
    def pieces(self) -> list[Piece]:
        """What it has of parameters."""
        return []

    def workspace_bytes(self) -> int:
        return 0

    def scratch_count(self) -> int:
        return 0

    def activation(self, name: str) -> Any:
        """What one of `names` puts out, on the device; of those inside it is computed anew."""
        return self.output.array

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of what one of `names` puts out."""
        return self.output.shape

    def forward(self, train: bool) -> None:
        raise NotImplementedError

    def backward(self, updates: Updates | None = None) -> None:
        """With `updates`, parameters move as soon as their gradients are there, which are then not kept."""
        raise NotImplementedError


def only(inputs: Sequence[Sequence[Tensor]]) -> Tensor:
    """The one input of a layer that has one."""
    ((tensor,),) = inputs
    return tensor
