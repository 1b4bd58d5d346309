"""A whole network as plain data: its layers, its images, and its training settings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from cconvnet.checks import MAX_SIDE, finite_fields, real, whole
from cconvnet.errors import nearest
from cconvnet.nets.layer_spec import LayerSpec
from cconvnet.nets.specs import CostSpec
from cconvnet.nets.table import NetTable, table_of
from cconvnet.nets.values import (
    AREA,
    CONSTANT,
    NO_DISTORTION,
    Distortion,
    Pair,
    RateCurve,
    as_area,
    as_pair,
    one_of,
    require,
)


@dataclass(frozen=True)
class InputSpec:
    """The images as the first layer reads them, float[height, width, channels].

    They are scale * (pixel - mean), each channel divided by its deviation.

    Attributes:
        height: of the crop.
        width: of the crop.
        channels: of the images.
        scale: multiplies the pixels.
        center_mean: whether the mean of the images' centre is subtracted from every crop, as in the original
            AlexNet. Otherwise it is the mean of the crop's own pixels.
        mean: of each channel, in pixels from 0 to 255; None: that of the training images, for each pixel.
        deviation: of each channel, likewise; None: 1.
    """

    height: int
    width: int
    channels: int
    scale: float = 1.0
    center_mean: bool = False
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        finite_fields(self)
        for name in ("mean", "deviation"):
            if (values := getattr(self, name)) is not None:
                own = tuple(real(name, value) for value in values)
                require(len(own) == self.channels, f"{name} must be {self.channels} numbers, not {len(own)}")
                require(name == "mean" or min(own) > 0, f"{name} must be above 0, not {min(own)}")
                object.__setattr__(self, name, own)
        for name in ("height", "width", "channels"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class LrStep:
    """A change of learning rates.

    Attributes:
        epoch: when it happens.
        factor: multiplies the rates; 0 freezes.
        layers: whose rates change; empty: those of all layers.
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
        batch: how many images a step has.
        epochs: the length of the run.
        lr: the learning rate.
        momentum: of the updates.
        nesterov: whether the momentum is Nesterov's, whose updates look one step ahead.
        steps: when rates change.
        plateau: divide all rates by 10 when the test error has not fallen for this many epochs; 0: never.
        schedule: the fall of all rates over the run, from the end of the warm-up on, on top of `steps`.
        warmup: how many epochs the rates take to rise, linearly, to `lr`.
        warmup_from: the first rate of the warm-up, as a part of `lr`.
        crop: whether crops of the input's size are taken at random places.
        pad: how many pixels of zeros are around an image, after the mean is subtracted, into which random
            crops may reach. Tests read no such zeros.
        mirror: whether half of the images, at random, are mirrored.
        color_noise: the standard deviation of the colour noise's factors; 0: none.
        color_noise_epochs: how many epochs the noise lasts; None: all.
        color_noise_shrinks: whether the noisy input is then divided by 1 + color_noise, as the original
            program did.
        distort: the distortion of training images, before the crop.
        random_resized_crop: whether a part of each picture, of any area and proportions, is resized to the
            input's size, instead of random crops.
        area: the least and the largest part of a picture's area that is resized so.
    """

    batch: int
    epochs: int
    lr: float
    momentum: float = 0.9
    steps: tuple[LrStep, ...] = ()
    plateau: int = 0
    schedule: RateCurve = CONSTANT
    warmup: float = 0.0
    warmup_from: float = 0.1
    crop: bool = False
    pad: int = 0
    mirror: bool = False
    color_noise: float = 0.0
    color_noise_epochs: float | None = None
    color_noise_shrinks: bool = False
    distort: Distortion = NO_DISTORTION
    nesterov: bool = False
    random_resized_crop: bool = False
    area: tuple[float, float] = AREA

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        for name in ("batch", "epochs"):
            whole(name, getattr(self, name), 1)
        real("lr", self.lr, low=0)
        object.__setattr__(self, "area", as_area("area", self.area))
        whole("pad", self.pad, 0, MAX_SIDE)
        real("warmup", self.warmup, low=0)
        real("warmup_from", self.warmup_from, low=0, high=1)
        require(self.schedule.noise == 0, "schedule must be without noise, which is for layers' rates")
        finite_fields(self)


@dataclass(frozen=True)
class NetSpec:
    """A whole network.

    Attributes:
        name: of the network.
        layers: in an order in which every layer follows its inputs. One cost is not ``train_only``; a network
            without costs computes the output of its last layer.
        input: the images as the first layer reads them.
        stored: (height, width) of the uint8 images the input is cropped from; equal to the input's where
            nothing is cropped.
        classes: the number of labels.
        recipe: the default training settings.
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

    @property
    def costs(self) -> tuple[CostSpec, ...]:
        """The costs, in order."""
        return tuple(layer for layer in self.layers if isinstance(layer, CostSpec))

    @property
    def answer(self) -> LayerSpec:
        """The layer that answers: the cost that is not ``train_only``; without costs, the last layer.

        A ValueError is raised if there is no such layer, or several.
        """
        if not self.costs and self.layers:
            return self.layers[-1]
        found = [cost for cost in self.costs if not cost.train_only]
        if len(found) != 1:
            names = f": {', '.join(cost.name for cost in found)}" if found else ""
            raise ValueError(
                f"exactly one cost of a network must not be train_only, {self.name} has {len(found)}{names}"
            )
        return found[0]

    @property
    def train_only(self) -> frozenset[str]:
        """The layers that run in training only: the heads, and what nothing but heads needs."""
        needed = {self.answer.name}
        for layer in reversed(self.layers):
            if layer.name in needed:
                needed.update(layer.inputs)
        return frozenset(layer.name for layer in self.layers) - needed

    def table(self) -> NetTable:
        """Return shapes, parameters and multiply-adds of the layers, to be printed.

        Raises:
            ValueError: naming a layer that does not fit what it reads.
        """
        return table_of(self)

    def _repr_html_(self) -> str:
        """Return the table, which says more in a notebook than all fields of all layers."""
        return self.table()._repr_html_()


def place(spec: NetSpec, devices: Mapping[str, int | str]) -> NetSpec:
    """Return the network with some layers placed on devices.

    Layers after a placed one follow it unless they are placed themselves. A placed layer is whole, so layers
    that read it must not be split.

    Args:
        spec: the network.
        devices: by layer, the index of a device in the network's list, or a device's name.

    Raises:
        ValueError: there is no such layer.
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
