"""The base class of all layers, the activations between them, and what a layer is given when it is made."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from cconvnet._problem import InputProblem
from cconvnet.devices import Device
from cconvnet.nets import NetSpec
from cconvnet.optim import FusedUpdates, Parameter, Piece
from cconvnet.ranks.shares import Share

if TYPE_CHECKING:
    from cconvnet.layers.cost import CostLayer

# Takes memory on a device for as long as the network lives: (device, shape, dtype) -> array.
Allocate = Callable[..., Any]
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Place:
    """The channels of a concatenation that the output of a layer is.

    Attributes:
        whole: the array of the concatenation, [N, H, W, all channels].
        first: the first of the output's channels.
    """

    whole: Any
    first: int

    @property
    def pitch(self) -> int:
        """The number of channels of the concatenation."""
        return int(self.whole.shape[-1])

    def of(self, whole: Any, channels: int) -> Any:
        """Return the same channels of an array of the concatenation's shape."""
        return whole[..., self.first : self.first + channels]


@dataclass
class Tensor:
    """An activation [N, ..., channels] on one device, with its gradient if anything before it learns.

    The activation of a layer that is split over devices has one tensor per part. A part holds the channels
    from `first` on of `of_channels`.

    Attributes:
        name: the layer that computes it.
        shape: of the array.
        device: where the array is.
        array: the values; not dense if it has a place.
        needs_gradient: whether anything before it learns.
        first: the first of its channels among those of all parts.
        of_channels: how many channels all parts have together.
        gradient: where its gradient is summed; None where none is needed. That of the whole concatenation if
            it has a place.
        more_gradients: what its other readers' backward passes write, added to `gradient` in this order.
        blocks: the layout of images in blocks of pixels (see InputProblem); None for all other tensors.
        place: where it is in the concatenation that alone reads it; None if it has an array of its own.
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
    place: Place | None = None

    @property
    def storage(self) -> Any:
        """The dense array that holds the values: `array`, or the whole concatenation."""
        return self.array if self.place is None else self.place.whole

    @property
    def count(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def channels(self) -> int:
        """The number of channels of this part."""
        return self.shape[-1]

    @property
    def image(self) -> tuple[int, int, int, int]:
        """The shape as (N, H, W, C).

        The output of an FC layer is an image of one pixel; blocks are the image they were cut from.
        """
        if (problem := self.blocks) is not None:
            return problem.n, problem.p, problem.q, problem.c
        n, *rest = self.shape
        h, w, c = rest if len(rest) == 3 else (1, 1, math.prod(rest))
        return n, h, w, c


@dataclass(frozen=True)
class InputEpilogue:
    """The gradients of a layer's ReLU and bias, which its only reader's backward pass computes.

    Attributes:
        y: the layer's output where a ReLU is before it, else None.
        db: the gradient of the bias, None without one.
        dropout: whether a dropout follows the ReLU.
        scale: returns that of the dropout in the last forward pass.
    """

    y: Any
    db: Any
    dropout: bool
    scale: Callable[[], float]

    def sums(self, channels: int) -> bool:
        """True if db is the sum of gradients of `channels` channels over all their pixels."""
        return self.db is not None and self.db.size == channels

    def options(self) -> dict[str, Any]:
        """The options of an operation that applies it."""
        mask = {} if self.y is None else {"masked_by": self.y, "scale": self.scale()}
        return {**mask, "db": self.db}


@dataclass
class Loaded:
    """The batch that is loaded.

    Attributes:
        count: how many images it has; 0 before one is loaded.
        first_row: the place of its first image in the batch of which it is a shard.
    """

    count: int = 0
    first_row: int = 0


@dataclass(frozen=True)
class Site:
    """The site where a layer is built: everything that is not in its spec.

    Attributes:
        device: where the layer runs.
        part: the index of this part, of a layer that is split over devices; else 0.
        parts: how many parts the layer has.
        allocate: takes memory on a device.
        parameters: those of the network so far, by name.
        seed: of the first weights and of dropout.
        precision: "fp32", "fp32x3", "tf32" or "bf16".
        step: int64[1] on the device, the number of the training step that runs.
        loaded: the batch that the passes work on.
        place: where the layer writes its output; None: to an array of its own.
    """

    device: Device
    part: int
    parts: int
    allocate: Allocate
    parameters: dict[str, Parameter]
    seed: int
    precision: str
    step: Any
    loaded: Loaded
    place: Place | None = None

    @property
    def element(self) -> Any:
        """The type of activations, their gradients and working weights."""
        return np.uint16 if self.precision == "bf16" else np.float32

    def vector(self, layer: str, of: str, shape: tuple[int, ...], first: float, **more: Any) -> Piece:
        """Return this part's piece of a parameter with numbers for each channel, which no product reads.

        Args:
            layer: the layer's name.
            of: what the parameter is of the layer.
            shape: of the piece, whose last axis is the part's channels.
            first: the first value of every number.
            **more: further fields of Parameter, used by the part that comes first.
        """
        name, own = f"{layer}.{of}", shape[-1]
        whole = (*shape[:-1], own * self.parts)
        if name not in self.parameters:
            self.parameters[name] = Parameter(
                name=name,
                layer=layer,
                of=of,
                shape=whole,
                first=functools.partial(np.full, whole, first, np.float32),
                fan_in=1,
                joins=True,
                **more,
            )
        index = (*(slice(None) for _ in shape[:-1]), slice(self.part * own, (self.part + 1) * own))
        return self.parameters[name].add_piece(self.device, self.allocate, whole, index, shape)

    def share(self, name: str, count: int) -> slice:
        """Return the range of `count` things that belongs to this part.

        Args:
            name: the things, "filters" or "groups", for the error.
            count: how many all parts have together.

        Raises:
            ValueError: `count` is no multiple of the number of parts.
        """
        if count % self.parts:
            raise ValueError(f"{name} ({count}) cannot be split over {self.parts} devices")
        own = count // self.parts
        return slice(self.part * own, (self.part + 1) * own)


def length(share: slice) -> int:
    """The number of elements of a range."""
    return int(share.stop - share.start)


class Layer:
    """One operation on one device.

    A subclass is constructed with (spec, the tensors of each input, site). It answers what the network asks
    of it by the attributes and methods below, so that the network needs to know no concrete layer.

    Attributes:
        type: the type's name, as in specs.
        name: the name of the spec's layer, of one of them if it computes several.
        names: the spec's layers that it computes, in order; its output is that of the last.
        device: where it runs.
        inputs: the tensors it reads.
        output: the tensor it writes.
        input_gradients: for each input the array that the backward pass writes; None where none is needed.
        input_epilogues: for each input what the backward pass also computes for the layer before; or None.
        gradient_is_finished: whether its only reader does that for this layer.
        measure: returns the options by which its forward pass in training also computes the statistics of its
            output for a reader; None where it does not.
        input_is_measured: whether the layer before does that for this layer.
        learns_beside: whether its weights' gradients and updates run beside the backward passes of the layers
            before it, where a whole step is one on one device; see can_learn_beside.
        workspace: memory shared by all layers of a device, at least workspace_bytes().
        workspace_beside: the same for layers that learn beside, at least workspace_bytes_beside().
        scratch: likewise, of activations' elements, at least scratch_count() of them.
        backward_in_place: whether the first input's gradient may overwrite the output's.
        several_inputs: whether its spec may have more than one input.
        joins_channels: whether its output is the channels of its inputs, one after the other.
        is_copy: whether it only copies an activation from one device to another.
    """

    type: ClassVar[str]
    backward_in_place: ClassVar[bool] = False
    several_inputs: ClassVar[bool] = False
    joins_channels: ClassVar[bool] = False
    is_copy: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        site: Site,
        inputs: Sequence[Tensor],
        shape: tuple[int, ...],
        learns: bool = False,
        element: Any = None,
        array: Any = None,
    ) -> None:
        self.name = name
        self.names = [name]
        self.device = site.device
        self.inputs = list(inputs)
        needs_gradient = learns or any(tensor.needs_gradient for tensor in inputs)
        first, of_channels = shape[-1] * site.part, shape[-1] * site.parts
        if site.place is not None:
            array = site.place.of(site.place.whole, shape[-1])
        elif array is None:
            array = site.allocate(site.device, shape, element or site.element)
        self.output = Tensor(
            name, shape, site.device, array, needs_gradient, first, of_channels, place=site.place
        )
        self.input_gradients: list[Any] = [None] * len(inputs)
        self.input_epilogues: list[InputEpilogue | None] = [None] * len(inputs)
        self.gradient_is_finished = False
        self.measure: Callable[[], dict[str, Any]] | None = None
        self.input_is_measured = False
        self.learns_beside = False
        self.workspace: Any = None
        self.workspace_beside: Any = None
        self.scratch: Any = None

    def __repr__(self) -> str:
        return f"<{self.type} {self.name} on {self.device.name} -> {self.output.shape}>"

    # -- properties of the class, known before a layer is made --

    @staticmethod
    def mixes(spec: Any, index: int) -> bool:
        """True if each output channel depends on all channels of that input.

        A part of such a layer reads all parts of the input.
        """
        return False

    @staticmethod
    def fuses(chain: Sequence[Any]) -> bool:
        """True if a layer of this class can do the work of a chain of specs, each reading the one before."""
        return False

    @classmethod
    def fuse(cls, chain: Sequence[Any], inputs: Sequence[Sequence[Tensor]], site: Site) -> Self:
        """Make the layer that does the work of a chain; see :meth:`fuses`.

        Args:
            chain: the specs.
            inputs: those of the first, then what else the others read.
            site: where the layer is built.
        """
        raise NotImplementedError

    @staticmethod
    def can_be_placed(spec: Any) -> bool:
        """True if a layer of this class can write its output into a concatenation's array."""
        return False

    @staticmethod
    def image_blocks(spec: Any, net: NetSpec, batch: int) -> InputProblem | None:
        """The layout of images in blocks with which this layer, their only reader, is faster.

        None where it does not pay or cannot be.
        """
        return None

    # -- properties of a layer --

    @property
    def cost(self) -> CostLayer | None:
        """The layer itself if it computes a loss, else None."""
        return None

    @property
    def pieces(self) -> list[Piece]:
        """Its parts of parameters."""
        return []

    @property
    def epilogue(self) -> InputEpilogue | None:
        """The part of its backward pass that its only reader may do."""
        return None

    def differentiates(self, index: int) -> bool:
        """True if an input has a gradient, and not only decides what becomes of the others."""
        return True

    def can_finish(self, index: int, epilogue: InputEpilogue) -> bool:
        """True if its backward pass can do this part for the layer that computes an input."""
        return False

    def statistics(self) -> dict[str, Any]:
        """The arrays of its first input's statistics, as the layer before takes them; empty: it has none."""
        return {}

    def keep_factors(self, share: Share, allocate: Allocate) -> Any:
        """Let backward passes keep the factors of the weights' gradients instead of computing these.

        Args:
            share: the shards of a batch.
            allocate: takes memory for the factors.

        Returns:
            The cconvnet.layers.factors.Factors; None where gradients are fewer bytes or have no factors.
        """
        return None

    def share_columns(self, share: Share, allocate: Allocate) -> Any:
        """Let each rank compute some outputs, for the images of all ranks.

        Args:
            share: the shards of a batch.
            allocate: takes memory for what is exchanged.

        Returns:
            The cconvnet.layers.columns.Columns; None where outputs cannot be divided so.
        """
        return None

    @property
    def can_measure(self) -> bool:
        """True if its forward pass can compute the statistics of its output."""
        return False

    @property
    def moved_bytes(self) -> int:
        """The bytes that a forward pass only copies from one array of the device to another."""
        return 0

    @property
    def can_learn_beside(self) -> bool:
        """True if a GPU has room for later work while it updates the weights by their gradients.

        The layer then does so with arrays that no later work of the step writes, if the gradient of its
        output stays and `workspace_beside` is its own.
        """
        return False

    @property
    def update_bytes(self) -> int:
        """The bytes that the update of its weights moves; 0 if its kernels leave no multiprocessors free."""
        return 0

    @property
    def backward_flops(self) -> float:
        """The floating-point operations of the products in its backward pass."""
        return 0.0

    def workspace_bytes(self) -> int:
        """The bytes of workspace that its passes need."""
        return 0

    def workspace_bytes_beside(self) -> int:
        """The bytes of workspace that it needs to learn beside other layers."""
        return 0

    def scratch_count(self) -> int:
        """The elements of scratch that its passes need."""
        return 0

    def activation(self, name: str) -> Any:
        """The output of one of `names`, on the device; one inside a fused layer is computed again."""
        if name == self.names[-1]:
            return self.output.array
        y = self.device.empty(self.shape_of(name), self.output.array.dtype)
        self.compute_inside(y, name)
        return y

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of the output of one of `names`."""
        return self.output.shape

    def last_copies(self, back: bool) -> list[tuple[Device | None, Any, Any]]:
        """Return the parts of its last copy between devices, forward or back; empty unless `is_copy`.

        Each part is a device and two of its moments; see Transfer.
        """
        return []

    # -- work --

    def take_along(self, spec: Any) -> None:
        """Make the output that of the layer after it, which this layer also computes."""
        self.output.name = spec.name
        self.names.append(spec.name)

    def compute_inside(self, y: Any, name: str) -> None:
        """Compute one of `names` again, which is not the last, into `y`."""
        raise NotImplementedError

    def epilogue_options(self, index: int) -> dict[str, Any]:
        """Return the options of the operation that computes an input's gradient."""
        epilogue = self.input_epilogues[index]
        return {} if epilogue is None else epilogue.options()

    def forward(self, train: bool) -> None:
        """Compute the output from the inputs."""
        raise NotImplementedError

    def backward(self, updates: FusedUpdates | None = None) -> None:
        """Compute the gradients of inputs and parameters from the output's.

        Args:
            updates: where parameters move as soon as their gradients are known, the updates that move them.
                These gradients are not kept.
        """
        raise NotImplementedError


def only(inputs: Sequence[Sequence[Tensor]]) -> Tensor:
    """The one input of a layer that has one."""
    ((tensor,),) = inputs
    return tensor


def several(inputs: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The inputs of a layer that needs two or more."""
    if len(inputs) < 2:
        raise ValueError(f"inputs must be at least two, not {len(inputs)}")
    return [only([tensors]) for tensors in inputs]
