"""A whole network as plain data: its layers, its images, and the settings it is trained with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from cconvnet.checks import finite_fields, real, whole
from cconvnet.errors import nearest
from cconvnet.nets.specs import LayerSpec, Pair, as_pair, one_of, require


@dataclass(frozen=True)
class InputSpec:
    """The images as the first layer sees them: scale * (pixel - mean), float[height, width, channels].

    With `center_mean` the mean is always the centre's, wherever the crop lies, as in the original AlexNet.
    """

    height: int
    width: int
    channels: int
    scale: float = 1.0
    center_mean: bool = False

    def __post_init__(self) -> None:
        finite_fields(self)
        for name in ("height", "width", "channels"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class LrStep:
    """From `epoch` on, rates are multiplied by `factor`; 0 freezes.

    Attributes:
        layers: of which layers; empty: of all.
        of: "weight", "bias" or "both".
    """

    epoch: float
    factor: float
    layers: tuple[str, ...] = ()
    of: str = "both"

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))  # JSON gives lists
        one_of("of", self.of, ("weight", "bias", "both"))
        for name in ("epoch", "factor"):
            value = getattr(self, name)
            require(
                math.isfinite(value) and value >= 0, f"{name} must be finite and not negative, not {value}"
            )


@dataclass(frozen=True)
class TrainRecipe:
    """Default training settings.

    Attributes:
        steps: when rates change.
        plateau: divide all rates by 10 when the test error has not fallen for this many epochs; 0: never.
        crop, mirror: random crops of the input's size, and mirror images.
        color_noise: the standard deviation of the colour noise's factors; 0: none.
        color_noise_epochs: how many epochs it lasts; None: all.
        color_noise_shrinks: whether the noisy input is then divided by 1 + color_noise, as the original
            program did.
    """

    batch: int
    epochs: int
    lr: float
    momentum: float = 0.9
    steps: tuple[LrStep, ...] = ()
    plateau: int = 0
    crop: bool = False
    mirror: bool = False
    color_noise: float = 0.0
    color_noise_epochs: float | None = None
    color_noise_shrinks: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        for name in ("batch", "epochs"):
            whole(name, getattr(self, name), 1)
        real("lr", self.lr, low=0)
        finite_fields(self)


@dataclass(frozen=True)
class NetSpec:
    """A whole network.

    Attributes:
        name: what it is called.
        layers: in an order in which every layer follows its inputs; the last is a softmax_cost.
        input: the images as the first layer sees them.
        stored: (height, width) of the uint8 images the input is cropped from; equal to the input's where
            nothing is cropped.
        classes: the number of labels.
        recipe: the settings it is trained with if none are given.
    """

    name: str
    layers: tuple[LayerSpec, ...]
    input: InputSpec
    stored: Pair
    classes: int
    recipe: TrainRecipe

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "stored", as_pair("stored", self.stored))
        require(self.classes >= 1, f"classes must be at least 1, not {self.classes}")
        require(
            self.stored[0] >= self.input.height and self.stored[1] >= self.input.width,
            f"stored ({self.stored[0]}x{self.stored[1]}) must not be smaller than the input "
            f"({self.input.height}x{self.input.width})",
        )

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the uint8 images that ``Network.load`` takes."""
        return (*self.stored, self.input.channels)


def place(spec: NetSpec, devices: Mapping[str, int | str]) -> NetSpec:
    """The network with these layers on these devices (an index into the network's list, or a name).

    Layers after a placed one follow it unless they are placed themselves. A placed layer is whole, so what
    reads it must not be split. Raises ValueError if there is no such layer.
    """
    names = [layer.name for layer in spec.layers]
    for name in devices:
        if name not in names:
            raise ValueError(nearest("a layer to place", name, names))
    layers = (
        dataclasses.replace(layer, device=devices[layer.name], split=False)
        if layer.name in devices
        else layer
        for layer in spec.layers
    )
    return dataclasses.replace(spec, layers=tuple(layers))
