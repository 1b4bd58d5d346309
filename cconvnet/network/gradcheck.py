"""The check of a network's gradients: two comparisons, layer by layer.

First the whole network runs in float64 on the NumPy reference, and its gradients are compared with finite
differences of its loss. Then each device's activations and gradients are compared with the reference's. So a
wrong formula fails the first comparison, a wrong kernel the second.

The point at which gradients are compared is chosen so that the comparisons mean something:

- Images are noise. Flat areas would put many values exactly on the kinks of ReLU and max pooling, where no
  derivative exists.
- Weights are drawn as He et al. do, biases at random, and the last layers are scaled until their outputs
  are about 1. So no gradient vanishes and the softmax is not saturated.
- Where a finite difference still straddles a kink, a smaller one decides. A value on different sides of a
  kink in float32 and float64 changes one path out of thousands.
- Dropout draws the same masks everywhere.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cconvnet import nets
from cconvnet.checks import MAX_SEED, whole
from cconvnet.devices import Device, get_device
from cconvnet.layers import initial_weights
from cconvnet.nets import Init, NetSpec
from cconvnet.nets.shapes import shapes
from cconvnet.nets.transform import scaled
from cconvnet.network.batch import random_wanted
from cconvnet.network.network import Network
from cconvnet.optim import Parameter

Array = np.ndarray[Any, Any]

FINITE_DIFFERENCES = "finite differences"
# The largest relative errors of right gradients. Rounding alone gives at most 4e-7 and 2e-7 for the networks
# known by name; the rest is for kinks and for deeper networks. A wrong index or factor gives 1e-2 and more.
DIFFERENCE_BOUND = 1e-5
DEVICE_BOUND = 1e-4
# Errors of a gradient are relative to at least this part of the network's median one: that of a bias before a
# normalisation is 0.
_LEAST = 0.01
_TRAIN_STEP = 1  # selects the dropout masks
# Distances by which a parameter is moved, relative to its size. A wrong gradient is wrong at every distance;
# a kink disturbs only those that reach it.
_DISTANCES = (1e-4, 1e-5, 1e-6)


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        name: a layer, whose activation is compared, or a parameter, whose gradient is.
        against: FINITE_DIFFERENCES, or the devices that are compared with the reference.
        error: relative.
        bound: the largest error that passes.
    """

    name: str
    against: str
    error: float
    bound: float

    @property
    def ok(self) -> bool:
        """True if the error is within its bound; a NaN is not."""
        return self.error <= self.bound


@dataclass(frozen=True)
class Report:
    """All comparisons of a network.

    Attributes:
        net: the network's name.
        batch: how many images the batch had.
        seed: of weights and images.
        checks: the comparisons.
    """

    net: str
    batch: int
    seed: int
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """True if all comparisons passed."""
        return all(check.ok for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The comparisons that failed."""
        return tuple(check for check in self.checks if not check.ok)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**asdict(self), "ok": self.ok}

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return header and rows: a row for each layer and parameter, a column for each comparison."""
        columns = list(dict.fromkeys(check.against for check in self.checks))
        found = {(check.name, check.against): check for check in self.checks}
        rows = []
        for name in dict.fromkeys(check.name for check in self.checks):
            row = [name]
            for column in columns:
                check = found.get((name, column))
                text = "" if check is None else f"{check.error:.1e}{'' if check.ok else ' WRONG'}"
                row.append(text)
            rows.append(row)
        return ["layer or gradient", *columns], rows


def small_spec(net: str | NetSpec, width: float | None = None, size: int | None = None) -> NetSpec:
    """Return a network with all its layers at a size that NumPy runs in seconds.

    Without `width` and `size`, a network of images above 76 pixels gets an eighth of its filters, at most ten
    classes and images of 76 pixels, or of 100 where those leave no window. 76 leave AlexNet's last
    convolution some work. A layer keeps 8 filters if it has them: two would often both be 0, and behind them
    the maxima of whole windows equal, where no derivative exists.

    Args:
        net: a network, or the name of one.
        width: multiplies the filters of all layers.
        size: the height and width of the images.
    """
    spec = nets.build(net) if isinstance(net, str) else net
    if width is None and size is None and max(spec.stored) > 76:
        counts = [getattr(layer, "filters", 0) or getattr(layer, "outputs", 0) for layer in spec.layers]
        classes, narrowest = min(spec.classes, 10), min([*filter(None, counts)][:-1], default=64)
        return _fitting(spec, max(1 / 8, min(1.0, 8 / narrowest)), classes)
    return scaled(spec, 1.0 if width is None else width, None if size is None else (size, size))


def _fitting(spec: NetSpec, width: float, classes: int) -> NetSpec:
    """Return the network of this width for images of 76 pixels, or of 100 if they are too small for it."""
    try:
        small = scaled(spec, width, (76, 76), classes)
        shapes(small)
    except ValueError:
        return scaled(spec, width, (100, 100), classes)
    return small


def gradcheck(
    spec: NetSpec,
    devices: Sequence[str | Device] | str | Device | None = None,
    batch: int = 2,
    seed: int = 0,
    samples: int = 2,
) -> Report:
    """Check a network's gradients on each of the devices.

    Args:
        spec: any network; :func:`small_spec` returns those known by name at a size that takes seconds.
        devices: one or several; those of one kind hold one network together. None: the default device.
        batch: how many images the batch has.
        seed: of weights and images.
        samples: how many of each parameter's elements are moved by finite differences, twice: those of
            largest gradient and as many others. All elements together are moved in one more direction.
    """
    whole("--batch", batch, 1)
    whole("--seed", seed, 0, MAX_SEED)
    listed = [devices] if devices is None or isinstance(devices, str | Device) else list(devices)
    # Unknown devices are refused before the slow part.
    targets: dict[str, list[Device]] = {}
    for device in map(get_device, listed):
        targets.setdefault(device.kind, []).append(device)
    point = _Point(spec, batch, seed)
    reference = point.network([get_device("reference:0")])
    point.scale_last_layers(reference)

    outputs, gradients = point.run(reference)
    least = _LEAST * float(np.median([_size(gradient) for gradient in gradients.values()]))
    checks = [
        Check(
            name,
            FINITE_DIFFERENCES,
            _difference_error(reference, name, gradient, least, seed, samples),
            DIFFERENCE_BOUND,
        )
        for name, gradient in gradients.items()
    ]
    for together in targets.values():
        network = point.network(together)
        names = ",".join(device.name for device in together)
        for found, right, floor in zip(point.run(network), (outputs, gradients), (0.0, least), strict=True):
            checks += [
                Check(name, names, _relative(found[name], value, floor), DEVICE_BOUND)
                for name, value in right.items()
            ]
    return Report(spec.name, batch, seed, tuple(checks))


class _Point:
    """The point at which gradients are compared: images, labels and weights, the same for every device."""

    def __init__(self, spec: NetSpec, batch: int, seed: int) -> None:
        self.spec, self.batch, self.seed = spec, batch, seed
        draws = np.random.Generator(np.random.Philox(seed))
        self.images = draws.integers(0, 256, (batch, *spec.stored_shape), np.uint8)
        self.wanted = random_wanted(spec, batch, draws)
        self.mirror = draws.integers(0, 2, batch).astype(np.uint8)
        self.mean = np.full(spec.stored_shape, 127.5, np.float32)
        self.values: dict[str, Array] = {}

    def network(self, devices: list[Device]) -> Network:
        """Return a network at this point."""
        network = Network(self.spec, batch=self.batch, devices=devices, seed=self.seed)
        network.set_mean(self.mean)
        network.load(self.images, mirror=self.mirror, **self.wanted)
        for name, parameter in network.parameters.items():
            if name not in self.values:
                self.values[name] = self._first_value(parameter)
            parameter.fill("value", self.values[name])
        return network

    def _first_value(self, parameter: Parameter) -> Array:
        if not parameter.learns:
            return parameter.first()
        if parameter.of == "weight":
            return initial_weights(Init("he"), parameter.shape, parameter.fan_in, parameter.name, self.seed)
        key = [self.seed, zlib.crc32(parameter.name.encode())]
        draws = np.random.Generator(np.random.Philox(key=key))
        return draws.normal(0, 0.1, parameter.shape).astype(np.float32)

    def scale_last_layers(self, network: Network) -> None:
        """Shrink the weights of the layers before costs, if they have any, until the outputs are about 1."""
        network.forward(train=True, step=_TRAIN_STEP)
        for last in {name for cost in network.spec.costs for name in cost.inputs}:
            size = float(np.abs(network.outputs(last)).max())
            for name, parameter in network.parameters.items():
                if parameter.layer == last:
                    self.values[name] /= np.float32(max(size, 1.0))
                    parameter.fill("value", self.values[name])

    def run(self, network: Network) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return the activations by layer and the gradients by parameter."""
        network.forward(train=True, step=_TRAIN_STEP)
        network.backward()
        outputs = {layer.name: network.outputs(layer.name) for layer in network.spec.layers}
        gradients = {
            name: parameter.host("gradient")
            for name, parameter in network.parameters.items()
            if parameter.learns
        }
        return outputs, gradients


def _size(array: Array) -> float:
    """Return the root of the mean of the squares."""
    return float(np.linalg.norm(array) / np.sqrt(array.size))


def _relative(found: Array, right: Array, least: float) -> float:
    """Return the size of found - right, relative to that of `right` or `least`; tensors of zeros agree."""
    size, error = max(_size(right), least), _size(found.astype(np.float64) - right)
    return error / size if size > 0 else error


def _difference_error(
    network: Network, name: str, gradient: Array, least: float, seed: int, samples: int
) -> float:
    """Return the largest error of a parameter's directional derivatives, relative to its gradient's size."""
    parameter = network.parameters[name]
    value = parameter.host("value")
    scale = float(np.sqrt(np.mean(value**2))) or 1.0
    typical = max(_size(gradient), least)
    errors = []
    for direction in _directions(gradient, seed, samples):
        length = float(np.linalg.norm(direction))
        expected = float(np.sum(gradient * direction))
        size = max(abs(expected), typical * length) or 1.0
        for distance in _DISTANCES:
            step = distance * scale / length
            losses = []
            for moved in (value + step * direction, value - step * direction):
                parameter.fill("value", moved)
                network.forward(train=True, step=_TRAIN_STEP)
                losses.append(network.objective())
            slope = (losses[0] - losses[1]) / (2 * step)
            error = abs(slope - expected) / size
            if error <= DIFFERENCE_BOUND:
                break
        errors.append(error)
    parameter.fill("value", value)
    return float(np.max(errors))  # NaN if any is


def _directions(gradient: Array, seed: int, samples: int) -> Iterator[Array]:
    """Random signs for all elements at once, then single elements."""
    draws = np.random.Generator(np.random.Philox(seed))
    yield draws.choice([-1.0, 1.0], gradient.shape)
    largest = np.argsort(-np.abs(gradient), axis=None, kind="stable")[:samples]
    for index in [*largest, *draws.integers(0, gradient.size, samples)]:
        single = np.zeros(gradient.size)
        single[index] = 1.0
        yield single.reshape(gradient.shape)
