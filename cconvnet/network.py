"""A network: a graph of named layers, each placed on a device, with static shapes.

Everything is decided when the network is made: the order of the layers, which edges cross devices and are
copied, and where every array lies. A step then runs the layers in order, forward and backward, and allocates
nothing.

    >>> network = Network(nets.build("lenet"), batch=64, devices="cpu:0")
    >>> network.load(images, labels)
    >>> network.forward(train=True, step=0)
    >>> network.backward()
    >>> network.update(lr=0.01, momentum=0.9)
    >>> network.result().loss

Activations are kept until the next forward pass. An activation's gradient lives only from the backward pass
of its last reader to that of its own layer, so the gradients of one device share one piece of memory; see
:func:`plan_memory`.

The result does not depend on where layers are placed, with one exception: where three or more layers read an
activation, the gradients of those that share a copy of it are summed before they are copied back, so that the
sum may be rounded differently.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cconvnet import optim
from cconvnet.backends import Device, get_device
from cconvnet.layers import CopyLayer, InputLayer, Layer, SoftmaxCostLayer, Tensor, make_layer
from cconvnet.nets.specs import DATA, LayerSpec, NetSpec, nearest
from cconvnet.optim import Parameter

Array = np.ndarray[Any, Any]

_ALIGNMENT = 64  # elements; the vector loads of the fast kernels want 16 bytes, cache lines 64


@dataclass(frozen=True)
class StepResult:
    """What a forward pass found for the `count` images of the batch.

    Attributes
        losses: float32[count], -log(probability of the label).
        rank: int32[count], how many classes stand before the label; an image is wrong at top-t if rank >= t.
    """

    losses: Array
    rank: Array

    @property
    def count(self) -> int:
        return len(self.losses)

    @property
    def loss(self) -> float:
        """The mean loss."""
        return float(np.mean(self.losses, dtype=np.float64))

    @property
    def correct(self) -> Array:
        """bool[count]: whether the label came first."""
        return np.equal(self.rank, 0)


# ---- memory ----------------------------------------------------------------------------------------------


@dataclass
class Slot:
    """`count` elements that are in use from moment `first` to moment `last`, both included."""

    count: int
    first: int
    last: int
    offset: int = 0


def plan_memory(slots: Sequence[Slot]) -> int:
    """Gives every slot an offset such that slots in use at the same moment do not overlap.

    The largest are placed first, each at the lowest offset that is free throughout its life. Returns how many
    elements all of them need.
    """
    placed: list[Slot] = []
    for slot in sorted(slots, key=lambda slot: -slot.count):
        slot.offset = 0
        rivals = (o for o in placed if o.first <= slot.last and slot.first <= o.last)
        for other in sorted(rivals, key=lambda other: other.offset):
            if slot.offset + slot.count <= other.offset:
                break
            end = other.offset + other.count
            slot.offset = max(slot.offset, -(-end // _ALIGNMENT) * _ALIGNMENT)
        placed.append(slot)
    return max((slot.offset + slot.count for slot in placed), default=0)


# ---- the network -----------------------------------------------------------------------------------------


class Network:
    """The layers of a spec on one or more devices, for batches of up to `batch` images.

    Args:
        devices: one or several devices or their names, None: the default device. A layer's ``device`` is an
            index into them or a name; layers without one live on the first.
        seed: of the first weights and of dropout.
        precision: only "fp32" so far.

    Attributes
        layers: the spec's layers, in order.
        parameters: by name, "conv1.weight", "conv1.bias".
        memory: bytes held on each device, by the device's name.

    Raises:
        ValueError: the network makes no sense (the text names the layer) or an argument is not allowed.
        DeviceUnavailable: a device cannot be used.
    """

    def __init__(
        self,
        spec: NetSpec,
        *,
        batch: int,
        devices: str | Device | Sequence[str | Device] | None = None,
        seed: int = 0,
        precision: str = "fp32",
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch must be at least 1, not {batch}")
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed must be from 0 to 2^64 - 1, not {seed}")
        if precision != "fp32":
            raise ValueError(f"precision must be fp32, not {precision!r}")
        self.spec = spec
        self.batch = batch
        self.seed = seed
        self.precision = precision
        given = [devices] if devices is None or isinstance(devices, str | Device) else list(devices)
        if not given:
            raise ValueError("devices must not be empty")
        self.devices = [get_device(device) for device in given]
        self.memory: dict[str, int] = {}

        self.layers: list[Layer] = []
        self._order: list[Layer] = []  # the layers and, before their first reader, inputs and copies
        self._inputs: dict[str, InputLayer] = {}
        self._outputs: dict[str, Tensor] = {}
        self._copies: dict[tuple[str, str], CopyLayer] = {}
        for layer_spec in spec.layers:
            self._add(layer_spec)
        costs = [layer for layer in self.layers if isinstance(layer, SoftmaxCostLayer)]
        if len(costs) != 1:
            raise ValueError(f"a network needs exactly one softmax_cost layer, {spec.name} has {len(costs)}")
        self._cost = costs[0]
        self._check()

        self.parameters: dict[str, Parameter] = {
            parameter.name: parameter for layer in self.layers for parameter in layer.parameters
        }
        # Backward is of use only where something before it, or the layer itself, learns.
        self._backward = [layer for layer in reversed(self._order) if layer.output.needs_gradient]
        self._place_gradients()
        self._share_workspace()
        self._count = 0  # images in the batch that is loaded
        self._last: tuple[bool, int] = (False, 0)

    # -- construction --

    def _allocate(self, device: Device, shape: Sequence[int], dtype: Any = np.float32) -> Any:
        array = device.empty(tuple(shape), dtype)
        self.memory[device.name] = self.memory.get(device.name, 0) + int(array.nbytes)
        return array

    def _device_of(self, layer: LayerSpec) -> Device:
        wanted = layer.device
        if isinstance(wanted, str):
            device = get_device(wanted)
        elif wanted is None or 0 <= wanted < len(self.devices):
            device = self.devices[wanted or 0]
        else:
            raise ValueError(
                f"layer {layer.name}: device must be below the number of devices given, "
                f"{len(self.devices)}, not {wanted}"
            )
        if device.kind != self.devices[0].kind:
            raise ValueError(
                f"layer {layer.name}: device must be a {self.devices[0].kind} device like the network's "
                f"first, not {device.name}"
            )
        return device

    def _add(self, spec: LayerSpec) -> None:
        if spec.name in self._outputs:
            raise ValueError(f"two layers are named {spec.name!r}")
        if not spec.inputs:
            raise ValueError(f"layer {spec.name}: inputs must not be empty")
        device = self._device_of(spec)
        inputs = [self._read(name, device, spec.name) for name in spec.inputs]
        layer = make_layer(spec, device, inputs, self._allocate, self.seed)
        self.layers.append(layer)
        self._order.append(layer)
        self._outputs[spec.name] = layer.output

    def _read(self, name: str, device: Device, reader: str) -> Tensor:
        """The activation called `name` on `device`, through an input or a copy where it is not there yet."""
        if name == DATA:
            # Images come from the host, so every device that wants them gets its own from there.
            if device.name not in self._inputs:
                self._inputs[device.name] = InputLayer(self.spec, device, self.batch, self._allocate)
                self._order.append(self._inputs[device.name])
            return self._inputs[device.name].output
        if name not in self._outputs:
            earlier = [DATA, *self._outputs]
            raise ValueError(nearest(f"layer {reader}: an input (a layer before it)", name, earlier))
        source = self._outputs[name]
        if source.device.name == device.name:
            return source
        if (name, device.name) not in self._copies:
            copy = CopyLayer(source, device, reader, self._allocate)
            self._copies[name, device.name] = copy
            self._order.append(copy)
        return self._copies[name, device.name].output

    def _check(self) -> None:
        read = {tensor.name for layer in self._order for tensor in layer.inputs}
        for layer in self.layers:
            if layer is self._cost:
                if layer.name in read:
                    raise ValueError(f"layer {layer.name}: the probabilities of a cost cannot be an input")
            elif layer.name not in read:
                raise ValueError(f"layer {layer.name}: no layer reads it")
        if self._cost.output.shape[1] != self.spec.classes:
            raise ValueError(
                f"layer {self._cost.name}: its input must have one value for each of the {self.spec.classes} "
                f"classes, not {self._cost.output.shape[1]}"
            )

    def _place_gradients(self) -> None:
        """Plans and takes the memory of all activations' gradients, and tells every layer what to write."""
        readers = collections.Counter(id(tensor) for layer in self._order for tensor in layer.inputs)
        slots: dict[str, list[Slot]] = collections.defaultdict(list)  # by device
        slot_of: dict[int, Slot] = {}  # by tensor
        parts: list[tuple[Layer, int, Slot]] = []  # an input that adds to a gradient already written

        def new_slot(tensor: Tensor, moment: int) -> Slot:
            slot = Slot(tensor.count, moment, moment)
            slots[tensor.device.name].append(slot)
            return slot

        for moment, layer in enumerate(self._backward):
            own = slot_of.get(id(layer.output))
            if own is not None:
                own.last = moment
            for index, tensor in enumerate(layer.inputs):
                if not tensor.needs_gradient:
                    continue
                if id(tensor) in slot_of:
                    parts.append((layer, index, new_slot(tensor, moment)))
                elif own is not None and layer.backward_in_place and readers[id(tensor)] == 1:
                    slot_of[id(tensor)] = own
                else:
                    slot_of[id(tensor)] = new_slot(tensor, moment)

        arenas = {}
        for device in {layer.device.name: layer.device for layer in self._order}.values():
            if slots[device.name]:
                arenas[device.name] = self._allocate(device, (plan_memory(slots[device.name]),))

        def view(tensor: Tensor, slot: Slot) -> Any:
            arena = arenas[tensor.device.name]
            return arena[slot.offset : slot.offset + tensor.count].reshape(tensor.shape)

        for layer in self._order:
            if id(layer.output) in slot_of:
                layer.output.gradient = view(layer.output, slot_of[id(layer.output)])
        for layer in self._backward:
            layer.input_gradients = [tensor.gradient for tensor in layer.inputs]
        for layer, index, slot in parts:
            tensor = layer.inputs[index]
            layer.input_gradients[index] = view(tensor, slot)
            layer.sums.append((tensor, layer.input_gradients[index]))

    def _share_workspace(self) -> None:
        """One workspace per device, as large as its most demanding layer wants."""
        needs: dict[str, int] = {}
        for layer in self._order:
            needs[layer.device.name] = max(needs.get(layer.device.name, 0), layer.workspace_bytes())
        spaces: dict[str, Any] = {}
        for layer in self._order:
            name = layer.device.name
            if needs[name] > 0 and name not in spaces:
                spaces[name] = self._allocate(layer.device, (needs[name],), np.uint8)
            layer.workspace = spaces.get(name)

    # -- a step --

    def set_mean(self, mean: Array | None) -> None:
        """Sets what is subtracted from every image, float32[H,W,C] of the stored size; None: nothing."""
        if mean is not None and mean.shape != self.spec.stored_shape:
            raise ValueError(f"mean must have the shape {self.spec.stored_shape}, not {mean.shape}")
        for image in self._inputs.values():
            image.set_mean(mean)

    def load(
        self,
        images: Array,
        labels: Array,
        top: Array | None = None,
        left: Array | None = None,
        mirror: Array | None = None,
        shift: Array | None = None,
        scale: float = 1.0,
    ) -> None:
        """Takes a batch to the devices.

        Args:
            images: uint8[n, H, W, C] of the stored size, 1 <= n <= batch. Rows missing from a full batch
                count for nothing: neither the loss nor a gradient sees them.
            labels: int[n], from 0 to classes - 1.
            top, left: int[n], where each image's crop begins; None: in the middle.
            mirror: bool or uint8[n]; None: no image is mirrored.
            shift: float[n, C], added to every pixel after the mean is subtracted; None: nothing.
            scale: multiplies this batch, beside the spec's own scale.

        Raises:
            ValueError: naming the argument that has a wrong type, shape or value.
        """
        images, labels = np.asarray(images), np.asarray(labels)
        shape = self.spec.stored_shape
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            raise ValueError(f"images must be uint8[n, {', '.join(map(str, shape))}], not {_what(images)}")
        n = len(images)
        if not 1 <= n <= self.batch:
            raise ValueError(f"images must be from 1 to {self.batch} in number, not {n}")
        classes = self.spec.classes
        if labels.shape != (n,) or labels.dtype.kind not in "iu":
            raise ValueError(f"labels must be integers[{n}], not {_what(labels)}")
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(
                f"labels must be from 0 to {classes - 1}, not from {labels.min()} to {labels.max()}"
            )
        room = (shape[0] - self.spec.input.height, shape[1] - self.spec.input.width)
        host = (
            images,
            _offsets("top", top, n, room[0]),
            _offsets("left", left, n, room[1]),
            _row("mirror", mirror, (n,), np.uint8, 0),
            None if shift is None else _row("shift", shift, (n, shape[2]), np.float32, 0),
        )
        for image in self._inputs.values():
            image.batch_scale = scale
            image.load(*host)
        cost = self._cost
        with cost.device:
            cost.labels[n:] = 0
        cost.device.fill(cost.labels[:n], labels.astype(np.int32))
        cost.count = n
        self._count = n

    def forward(self, train: bool, step: int = 0) -> None:
        """Computes every activation of the batch that was loaded; `step` selects the dropout masks."""
        self._loaded()
        self._last = (train, step)
        for layer in self._order:
            with layer.device:
                layer.forward(train, step)

    def result(self) -> StepResult:
        """Loss and ranks of the last forward pass, once it is done."""
        self._loaded()
        host = self._cost.device.host
        return StepResult(host(self._cost.losses)[: self._count], host(self._cost.ranks)[: self._count])

    def backward(self) -> None:
        """Computes every parameter's gradient of the mean loss of the last forward pass."""
        self._loaded()
        for layer in self._backward:
            with layer.device:
                layer.backward()
            for tensor, part in layer.sums:
                with tensor.device as device:
                    device.module.add(tensor.gradient, part, tensor.gradient, device.stream)

    def update(self, lr: float | Mapping[str, float], momentum: float) -> None:
        """Moves every parameter along its gradient; see :func:`cconvnet.optim.update`."""
        optim.update(self.parameters.values(), lr, momentum)

    def _loaded(self) -> None:
        if self._count == 0:
            raise RuntimeError("load() a batch first")

    # -- looking inside --

    def outputs(self, name: str) -> Array:
        """A host copy of a layer's activation of the last forward pass, full batch; "data" is the input's."""
        if name == DATA:
            tensor = next(iter(self._inputs.values())).output
        elif name in self._outputs:
            tensor = self._outputs[name]
        else:
            raise ValueError(nearest("name", name, [DATA, *self._outputs]))
        return tensor.device.host(tensor.array)

    def first_bad_layer(self) -> str | None:
        """The first layer whose activation is not finite, if the last forward pass is run again; else None.

        Called before update(), it finds where a bad loss came from.
        """
        self._loaded()
        for layer in self._order:
            with layer.device:
                layer.forward(*self._last)
            rows = layer.device.host(layer.output.array)[: self._count]
            if not np.isfinite(rows).all():
                return layer.name
        return None

    def describe(self) -> dict[str, Any]:
        """The network as JSON values: layers, shapes, parameters, devices, copies, memory."""
        return {
            "net": self.spec.name,
            "batch": self.batch,
            "device": ",".join(dict.fromkeys(device.name for device in self.devices)),
            "precision": self.precision,
            "parameters": sum(parameter.count for parameter in self.parameters.values()),
            "layers": [
                {
                    "name": layer.name,
                    "type": layer.type,
                    "device": layer.device.name,
                    "inputs": list(spec.inputs),
                    "output_shape": list(layer.output_shape),
                    "parameters": sum(parameter.count for parameter in layer.parameters),
                }
                for layer, spec in zip(self.layers, self.spec.layers, strict=True)
            ],
            "copies": [
                {
                    "layer": copy.reader,
                    "source": copy.inputs[0].name,
                    "from": copy.inputs[0].device.name,
                    "to": copy.device.name,
                    "bytes": copy.bytes,
                }
                for copy in self._copies.values()
            ],
            "memory_bytes": sum(self.memory.values()),
        }

    @property
    def loss_coeff(self) -> float:
        """What the cost layer multiplies the gradients by; result() shows the plain loss."""
        return self._cost.coeff

    @property
    def copied_bytes(self) -> int:
        """Bytes of activations and gradients copied between devices since the network was made."""
        return sum(copy.copied_bytes for copy in self._copies.values())

    @property
    def copy_seconds(self) -> float:
        """The time these copies took; not measured yet."""
        return 0.0

    # -- state --

    def state(self) -> dict[str, Array]:
        """Host copies of all that training changes: "conv1.weight", "conv1.weight.velocity", ..."""
        tensors = {}
        for name, parameter in self.parameters.items():
            tensors[name] = parameter.device.host(parameter.value)
            tensors[f"{name}.velocity"] = parameter.device.host(parameter.velocity)
        return tensors

    def load_state(self, state: dict[str, Array]) -> None:
        """Takes over what :meth:`state` gave, bitwise.

        Raises ValueError naming a missing, unknown or wrong tensor; nothing has been changed then.
        """
        targets = {}
        for name, parameter in self.parameters.items():
            targets[name] = (parameter, parameter.value)
            targets[f"{name}.velocity"] = (parameter, parameter.velocity)
        for name in state:
            if name not in targets:
                raise ValueError(f"the network {self.spec.name} has no tensor {name!r}")
        for name, (_, array) in targets.items():
            if name not in state:
                raise ValueError(f"the tensor {name!r} is missing")
            if state[name].shape != array.shape or state[name].dtype != array.dtype:
                wanted = f"{array.dtype}{list(array.shape)}"
                raise ValueError(f"the tensor {name!r} must be {wanted}, not {_what(state[name])}")
        for name, (parameter, array) in targets.items():
            parameter.device.fill(array, state[name])


def _what(array: Array) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _row(name: str, given: Any, shape: tuple[int, ...], dtype: Any, default: int) -> Array:
    """An argument of load(): one value or row for each image, as the device wants it."""
    if given is None:
        return np.full(shape, default, dtype)
    array = np.asarray(given)
    if array.shape != shape or array.dtype.kind not in ("f" if dtype is np.float32 else "iub"):
        kind = "floats" if dtype is np.float32 else "integers"
        raise ValueError(f"{name} must be {kind}{list(shape)}, not {_what(array)}")
    return np.ascontiguousarray(array, dtype)


def _offsets(name: str, given: Any, n: int, room: int) -> Array:
    offsets = _row(name, given, (n,), np.int32, room // 2)
    if offsets.min() < 0 or offsets.max() > room:
        raise ValueError(f"{name} must be from 0 to {room}, not from {offsets.min()} to {offsets.max()}")
    return offsets


def table(description: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a table of what :meth:`Network.describe` gave, for people."""
    header = ["layer", "type", "device", "inputs", "output", "parameters"]
    rows = [
        [
            layer["name"],
            layer["type"],
            layer["device"],
            ", ".join(layer["inputs"]),
            "x".join(map(str, layer["output_shape"])),
            f"{layer['parameters']:,}" if layer["parameters"] else "",
        ]
        for layer in description["layers"]
    ]
    return header, rows
