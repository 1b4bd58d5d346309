"""A network."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cconvnet import optim
from cconvnet._problem import InputProblem
from cconvnet.bfloat16 import unpack
from cconvnet.checks import whole
from cconvnet.devices import Device, get_device, require_precision
from cconvnet.errors import nearest
from cconvnet.layers import (
    ConvLayer,
    CopyLayer,
    InputLayer,
    Layer,
    LrnPoolLayer,
    Place,
    SoftmaxCostLayer,
    Tensor,
    can_join,
    join,
    layer_type,
)
from cconvnet.nets import DATA, ConvSpec, LayerSpec, NetSpec
from cconvnet.network.anomaly import Anomaly, found_in
from cconvnet.network.batch import Array, offsets, row, shown
from cconvnet.network.graph import distinct_devices
from cconvnet.network.memory import Slot, plan_memory
from cconvnet.network.step import Doing, StepResult, do
from cconvnet.optim import Parameter, Updates


class Network:
    """The layers of a spec on one or more devices, for batches of up to `batch` images.

    Args:
        devices: one or several devices or their names, None: the default device. On several, a layer's
            ``device`` is an index into them or a name; layers without one live where their first input does,
            and layers that are ``split`` are shared out over all of them.
        towers: into how many parts layers that are ``split`` are cut; None: one for each device. More towers
            than devices compute, bit for bit, what they would on devices of their own.
        seed: of the first weights and of dropout.
        precision: "fp32"; "tf32", whose products may round what they multiply; or "bf16", with activations
            and working weights in bfloat16. Weights, momentum, sums, loss and statistics stay float32.
        fuse: whether layers are fused.
        needs: what memory must be free before any is taken: for "training", for the "forward" pass alone, or
            for a "run" with its checkpoints; None: nothing is checked.

    Attributes
        layers: what the spec's layers have become, in order, of a split layer its parts.
        parameters: by name, "conv1.weight", "conv1.bias"; the same ones wherever the layers are placed.
        memory: bytes held on each device, by the device's name.
        do: what calls every layer's work. Another than :func:`do` keeps a step from being captured.

    Raises:
        ValueError: the network makes no sense (the text names the layer) or an argument is not allowed.
        DeviceUnavailable: a device cannot be used.
        NotEnoughMemory: the network needs more memory than is free.
    """

    def __init__(
        self,
        spec: NetSpec,
        *,
        batch: int,
        devices: str | Device | Sequence[str | Device] | None = None,
        towers: int | None = None,
        seed: int = 0,
        precision: str = "fp32",
        fuse: bool = True,
        needs: str | None = "training",
    ) -> None:
        whole("batch", batch, 1)
        whole("seed", seed, 0, 2**64 - 1)
        self.spec = spec
        self.batch = batch
        self.seed = seed
        self.precision = precision
        self.devices = distinct_devices(devices)
        for device in self.devices:
            require_precision(device, precision)
        self.towers = len(self.devices) if towers is None else towers
        if self.towers < len(self.devices):
            raise ValueError(
                f"towers must be at least as many as the {len(self.devices)} devices, not {towers}"
            )
        if needs is not None:
            from cconvnet.network import footprint

            plan = footprint.Plan(
                spec,
                batch=batch,
                devices=self.devices,
                towers=towers,
                precision=precision,
                fuse=fuse,
                needs=None,
            )
            footprint.check(plan, needs)
        self.memory: dict[str, int] = {}
        self.do: Doing = do
        # The number of the training step that runs, where dropout finds it.
        self._step = {device.name: self._allocate(device, (1,), np.int64) for device in self.devices}

        self.layers: list[Layer] = []
        self.parameters: dict[str, Parameter] = {}
        self._parts: dict[str, list[Layer]] = {}  # by the spec's name
        # The layers and, before their first reader, inputs and copies.
        self._order: list[Layer] = []
        self._inputs: dict[str, InputLayer] = {}
        self._copies: dict[tuple[int, str], CopyLayer] = {}  # by the tensor and the device it goes to
        self._readers = collections.Counter(name for layer in spec.layers for name in layer.inputs)
        partners = self._partners() if fuse else {}
        for layer_spec in spec.layers:
            if layer_spec.name in self._parts:
                if layer_spec.name not in {partner.name for partner in partners.values()}:
                    raise ValueError(f"layer {layer_spec.name}: two layers have this name")
                continue
            try:
                self._add(layer_spec, partners.get(layer_spec.name))
            except ValueError as error:
                raise ValueError(f"layer {layer_spec.name}: {error}") from error
        costs = [layer for layer in self.layers if isinstance(layer, SoftmaxCostLayer)]
        if len(costs) != 1:
            raise ValueError(f"a network needs exactly one softmax_cost layer, {spec.name} has {len(costs)}")
        self._cost = costs[0]
        self._check()

        # A copy starts as soon as what it copies is there, forward and backward.
        self._forward = [layer for layer in self._order if not isinstance(layer, CopyLayer)]
        for copy in self._copies.values():
            producer = next(layer for layer in self._forward if layer.output is copy.inputs[0])
            self._forward.insert(self._forward.index(producer) + 1, copy)
        # Backward is of use only where something before it, or the layer itself, learns.
        self._backward = [layer for layer in reversed(self._order) if layer.output.needs_gradient]
        self._copies_of = {
            id(layer.output): [c for c in self._copies.values() if c.inputs[0] is layer.output]
            for layer in self._order
        }
        copied = {id(copy.output): copy for copy in self._copies.values()}
        self._copies_read = {
            id(layer): [copied[id(tensor)] for tensor in layer.inputs if id(tensor) in copied]
            for layer in self._order
        }
        if fuse:
            self._mask_gradients()
        self._place_gradients()
        self._share_memory()
        self._updates = [
            Updates(self.parameters.values(), device, self._allocate)
            for device in self.devices
            if len(self.devices) == 1
        ]
        self._captured: dict[Any, Callable[[], None] | None] = {}
        self._reset()
        self._count = 0  # images in the batch that is loaded
        self._last: tuple[bool, int] = (False, 0)

    # -- construction --

    def _reset(self) -> None:
        for parameter in self.parameters.values():
            parameter.reset()

    def _allocate(self, device: Device, shape: Sequence[int], dtype: Any = np.float32) -> Any:
        array = device.empty(tuple(shape), dtype)
        self.memory[device.name] = self.memory.get(device.name, 0) + int(array.nbytes)
        return array

    def _place(self, device: Device, part: int = 0, parts: int = 1) -> Place:
        return Place(
            device,
            part,
            parts,
            self._allocate,
            self.parameters,
            self.seed,
            self.precision,
            self._step[device.name],
        )

    def _partners(self) -> dict[str, LayerSpec]:
        """By the name of a layer the one after it that it can be computed with."""
        partners = {}
        specs = {layer.name: layer for layer in self.spec.layers}
        for second in self.spec.layers:
            first = specs.get(second.inputs[0]) if len(second.inputs) == 1 else None
            if first is None or self._readers[first.name] != 1 or first.split != second.split:
                continue
            if second.device not in (None, first.device) and len(self.devices) > 1:
                continue
            if can_join(first, second):
                partners[first.name] = second
        return partners

    def _mask_gradients(self) -> None:
        """Lets a layer's backward pass take its input's gradient through the ReLU before it."""
        tensors = collections.Counter(id(tensor) for layer in self._order for tensor in layer.inputs)
        producers = {id(layer.output): layer for layer in self.layers}
        for layer in self.layers:
            if not isinstance(layer, LrnPoolLayer) or tensors[id(layer.inputs[0])] != 1:
                continue
            producer = producers.get(id(layer.inputs[0]))
            if (
                producer is not None
                and getattr(producer, "relu", False)
                and producer.names == [producer.name]
            ):
                layer.relu = producer.gradient_masked = True  # type: ignore[attr-defined]

    def _blocks(self) -> InputProblem | None:
        """How the images are laid out in blocks of pixels for the one layer that reads them, if they are."""
        readers = [layer for layer in self.spec.layers if DATA in layer.inputs]
        if len(readers) != 1 or len(readers[0].inputs) != 1 or not isinstance(readers[0], ConvSpec):
            return None
        if not all(device.prefers_blocks for device in self.devices):
            return None
        return ConvLayer.blocks(readers[0], self.spec, self.batch, self.precision)

    def _devices_of(self, layer: LayerSpec) -> list[Device]:
        """Where the parts of a layer live: one device, or all if it is split."""
        if layer.split:
            if layer.device is not None:
                raise ValueError(
                    f"a layer that is split lives on all devices; leave out device {layer.device!r}"
                )
            return [self.devices[part % len(self.devices)] for part in range(self.towers)]
        if len(self.devices) == 1:
            return self.devices
        wanted = layer.device
        if isinstance(wanted, str):
            device = get_device(wanted)
            if device.name not in {d.name for d in self.devices}:
                names = ", ".join(d.name for d in self.devices)
                raise ValueError(f"device must be one of the network's, {names}, not {wanted}")
            return [device]
        if wanted is None:
            first = layer.inputs[0]
            return [self._parts[first][0].device] if first in self._parts else self.devices[:1]
        if not 0 <= wanted < len(self.devices):
            raise ValueError(
                f"device must be below the number of devices given, {len(self.devices)}, not {wanted}"
            )
        return [self.devices[wanted]]

    def _add(self, spec: LayerSpec, partner: LayerSpec | None) -> None:
        """Adds a layer, together with its partner if it has one."""
        if not spec.inputs:
            raise ValueError("inputs must not be empty")
        kind = layer_type(spec)
        devices = self._devices_of(spec)
        parts: list[Layer] = []
        for part, device in enumerate(devices):
            inputs = [
                self._read(name, device, spec.name, part, len(devices), kind.mixes(spec, index))
                for index, name in enumerate(spec.inputs)
            ]
            place = self._place(device, part, len(devices))
            layer = kind(spec, inputs, place) if partner is None else join(spec, partner, inputs, place)
            parts.append(layer)
            self._order.append(layer)
        self.layers += parts
        for name in parts[0].names:
            self._parts[name] = parts

    def _read(
        self, name: str, device: Device, reader: str, part: int, parts: int, mixes: bool
    ) -> list[Tensor]:
        """What a part of a layer reads of the activation called `name`, on its own device."""
        if name == DATA:
            if parts > 1 and not mixes:
                raise ValueError("it is split over devices, but every device has the whole images")
            # Images come from the host, so every device that wants them gets its own from there.
            if device.name not in self._inputs:
                self._inputs[device.name] = InputLayer(
                    self.spec, self.batch, self._place(device), self._blocks()
                )
                self._order.append(self._inputs[device.name])
            return [self._inputs[device.name].output]
        if name not in self._parts:
            raise ValueError(nearest("an input (a layer before it)", name, [DATA, *self._parts]))
        sources = [layer.output for layer in self._parts[name]]
        if not mixes and len(sources) != parts:
            is_split, other = ("it is", "is not") if parts > 1 else ("it is not", "is")
            raise ValueError(f"{is_split} split over devices, but its input {name} {other}")
        return [
            self._on(source, device, reader) for source in (sources if mixes else sources[part : part + 1])
        ]

    def _on(self, source: Tensor, device: Device, reader: str) -> Tensor:
        """An activation on a device, through a copy where it is not there yet."""
        if source.device.name == device.name:
            return source
        key = (id(source), device.name)
        if key not in self._copies:
            self._copies[key] = CopyLayer(source, reader, self._place(device))
            self._order.append(self._copies[key])
        return self._copies[key].output

    def _check(self) -> None:
        for name in self._parts:
            if name == self._cost.name:
                if self._readers[name]:
                    raise ValueError(f"layer {name}: the probabilities of a cost cannot be an input")
            elif not self._readers[name]:
                raise ValueError(f"layer {name}: no layer reads it")
        if self._cost.output.shape[1] != self.spec.classes:
            raise ValueError(
                f"layer {self._cost.name}: its input must have one value for each of the {self.spec.classes} "
                f"classes, not {self._cost.output.shape[1]}"
            )
        used = {layer.device.name for layer in self.layers}
        for device in self.devices:
            if device.name not in used:
                raise ValueError(
                    f"no layer of {self.spec.name} lives on {device.name}; place one there or leave it out"
                )

    def _place_gradients(self) -> None:
        """Plans and takes the memory of all activations' gradients, and tells every layer what to write.

        A gradient lives until its layer's own backward pass. What a copy reads and writes lives until then
        too: the copy may be under way all that time.
        """
        readers = collections.Counter(id(tensor) for layer in self._order for tensor in layer.inputs)
        slots: dict[str, list[Slot]] = collections.defaultdict(list)  # by device
        # By tensor: where its gradient is gathered, then what else is added to it.
        slots_of: dict[int, list[Slot]] = collections.defaultdict(list)
        written: list[tuple[Layer, int, Slot]] = []  # layer, input, where its gradient goes

        def new_slot(tensor: Tensor, moment: int) -> Slot:
            slot = Slot(tensor.count, moment, moment)
            slots[tensor.device.name].append(slot)
            return slot

        for moment, layer in enumerate(self._backward):
            for tensor in (layer.output, *(copy.output for copy in self._copies_of[id(layer.output)])):
                for slot in slots_of[id(tensor)]:
                    slot.last = moment
            own = slots_of[id(layer.output)]
            for index, tensor in enumerate(layer.inputs):
                if not tensor.needs_gradient:
                    continue
                if own and layer.backward_in_place and readers[id(tensor)] == 1:
                    slot = own[0]
                else:
                    slot = new_slot(tensor, moment)
                slots_of[id(tensor)].append(slot)
                written.append((layer, index, slot))

        arenas = {}
        for device in self.devices:
            if slots[device.name]:
                arenas[device.name] = self._allocate(
                    device, (plan_memory(slots[device.name]),), self._place(device).element
                )
        for layer, index, slot in written:
            tensor = layer.inputs[index]
            arena = arenas[tensor.device.name]
            array = arena[slot.offset : slot.offset + tensor.count].reshape(tensor.shape)
            layer.input_gradients[index] = array
            if tensor.gradient is None:
                tensor.gradient = array
            else:
                tensor.more_gradients.append(array)

    def _share_memory(self) -> None:
        """One workspace and one scratch per device, as large as its most demanding layer wants."""
        for device in self.devices:
            here = [layer for layer in self._order if layer.device.name == device.name]
            workspace = max((layer.workspace_bytes() for layer in here), default=0)
            scratch = max((layer.scratch_count() for layer in here), default=0)
            for layer in here:
                layer.workspace = layer.scratch = None
            if workspace:
                space = self._allocate(device, (workspace,), np.uint8)
                for layer in here:
                    layer.workspace = space
            if scratch:
                space = self._allocate(device, (scratch,), self._place(device).element)
                for layer in here:
                    layer.scratch = space

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
            scale: multiplies what then goes into the first layer, beside the network's own scale.

        Raises:
            ValueError: naming the argument that has a wrong type, shape or value.
        """
        images, labels = np.asanyarray(images), np.asarray(labels)  # memory for copies stays told as such
        shape = self.spec.stored_shape
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            raise ValueError(f"images must be uint8[n, {', '.join(map(str, shape))}], not {shown(images)}")
        n = len(images)
        if not 1 <= n <= self.batch:
            raise ValueError(f"images must be from 1 to {self.batch} in number, not {n}")
        classes = self.spec.classes
        if labels.shape != (n,) or labels.dtype.kind not in "iu":
            raise ValueError(f"labels must be integers[{n}], not {shown(labels)}")
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(
                f"labels must be from 0 to {classes - 1}, not from {labels.min()} to {labels.max()}"
            )
        room = (shape[0] - self.spec.input.height, shape[1] - self.spec.input.width)
        host = (
            images,
            offsets("top", top, n, room[0]),
            offsets("left", left, n, room[1]),
            row("mirror", mirror, (n,), np.uint8, 0),
            None if shift is None else row("shift", shift, (n, shape[2]), np.float32, 0),
        )
        for image in self._inputs.values():
            self.do(image, image.device, "load", image.load, *host, scale)
        cost = self._cost
        with cost.device:
            cost.labels[n:] = 0
        cost.device.fill(cost.labels[:n], labels.astype(np.int32))
        cost.count = n
        self._count = n

    def forward(self, train: bool, step: int = 0) -> None:
        """Computes every activation of the batch that was loaded; `step` selects the dropout masks."""
        self._loaded()
        self._begin(train, step)
        self.forward_inputs()
        self._run_forward(train)

    def forward_inputs(self) -> None:
        """Computes the input alone of the batch that was loaded: crops of it with the mean subtracted.

        With that the images are read, so the next batch may be loaded beside the rest of a step.
        """
        self._loaded()
        for image in self._inputs.values():
            self._forward_layer(image, True)

    def _begin(self, train: bool, step: int) -> None:
        self._last = (train, step)
        for device in self.devices:
            device.fill(self._step[device.name], np.array([step], np.int64))

    def _run_forward(self, train: bool) -> None:
        """All that comes behind the inputs."""
        for layer in self._forward:
            if not isinstance(layer, InputLayer):
                self._forward_layer(layer, train)

    def _forward_layer(self, layer: Layer, train: bool) -> None:
        for copy in self._copies_of[id(layer.output)]:
            copy.wait()  # that of the step before may still read what is written now
        copies = self._copies_read[id(layer)]
        for copy in copies:
            copy.wait_here()
        with layer.device:
            self.do(layer, layer.device, "forward", layer.forward, train)
        for copy in copies:
            copy.been_read()

    def result(self) -> StepResult:
        """Loss and ranks of the last forward pass, once it is done."""
        self._loaded()
        host = self._cost.device.host
        return StepResult(host(self._cost.losses)[: self._count], host(self._cost.ranks)[: self._count])

    def result_later(self) -> Callable[[], StepResult]:
        """Begins to fetch the result of the last forward pass; calling what it returns waits for it."""
        self._loaded()
        later, count = self._cost.device.host_later, self._count
        losses, ranks = later(self._cost.losses), later(self._cost.ranks)
        return lambda: StepResult(losses()[:count], ranks()[:count])

    def backward(self) -> None:
        """Computes every parameter's gradient of the mean loss of the last forward pass."""
        self._loaded()
        self._run_backward(None)

    def _run_backward(self, updates: Updates | None) -> None:
        for layer in self._backward:
            self._backward_layer(layer, updates)

    def _backward_layer(self, layer: Layer, updates: Updates | None) -> None:
        for copy in self._copies_of[id(layer.output)]:
            copy.wait()
        with layer.device:
            self.do(layer, layer.device, "backward", _backward, layer, updates)
        for copy in self._copies_read[id(layer)]:
            copy.been_read()

    def update(self, lr: float | Mapping[str, float], momentum: float) -> None:
        """Moves every parameter along its gradient; see :func:`cconvnet.optim.update`."""
        optim.update(self.parameters.values(), lr, momentum, self.do)

    def train_step(self, step: int, lr: float | Mapping[str, float], momentum: float) -> None:
        """forward(train=True, step), backward() and update(lr, momentum), bitwise, but for gradients, which
        are not kept. If the loss is not finite no parameter moves.

        On one GPU it returns when the work is enqueued, from the second step on by two launches, that of the
        inputs and that of the captured rest, and nothing in it waits for the GPU; on several it waits for the
        loss before the update.
        """
        self._loaded()
        self._begin(True, step)
        self.forward_inputs()
        if len(self.devices) > 1:
            self._run_forward(True)
            self._run_backward(None)
            if np.isfinite(self.result().losses).all():
                self.update(lr, momentum)
            return
        (device,), (updates,) = self.devices, self._updates
        updates.set(lr, momentum)
        if self.do is not do:
            self._work()
            return
        # What of the captured work is not read from the device: how many images there are and which
        # parameters are frozen.
        key = (self._count, updates.frozen)
        if key not in self._captured:
            self._captured[key] = None
            self._work()
            return
        work = self._captured[key]
        if work is None:
            self._captured[key] = work = device.captured(self._work)
        work()

    def _work(self) -> None:
        """A training step on one device, behind its inputs."""
        (updates,) = self._updates
        self._run_forward(True)
        with self._cost.device as device:
            losses = self._cost.losses[: self._count]
            self.do(
                self._cost, device, "check", device.module.watch_losses, losses, updates.halt, device.stream
            )
        self._run_backward(updates)

    def _loaded(self) -> None:
        if self._count == 0:
            raise RuntimeError("load() a batch first")

    # -- looking inside --

    def outputs(self, name: str) -> Array:
        """A layer's activation of the last forward pass, full batch, as a float array on the host; "data" is
        the input's. What lies within fused layers is computed anew, from the present weights."""
        if name == DATA:
            layers: Sequence[Layer] = list(self._inputs.values())[:1]
        elif name in self._parts:
            layers = self._parts[name]
        else:
            raise ValueError(nearest("name", name, [DATA, *self._parts]))
        return np.concatenate([_host(layer, name) for layer in layers], axis=-1)

    def find_bad(self, backward: bool = False) -> Anomaly | None:
        """The first value that is not finite, if the last forward pass is run again, and then with `backward`
        its backward pass; None if there is none. It looks at each layer's weights, outputs and gradients.

        Called before update(), or after train_step(), it finds where a bad loss came from.
        """
        self._loaded()
        train, _ = self._last
        for bad in self._looks_forward(train):
            if bad is not None:
                return bad
        for bad in self._looks_backward() if backward else ():
            if bad is not None:
                return bad
        return None

    def checked_step(self, step: int, lr: float | Mapping[str, float], momentum: float) -> Anomaly | None:
        """train_step(), bitwise, that looks at every value and stops behind the first that is not finite.

        What lies within fused layers has gradients only in a network made with ``fuse=False``.
        """
        self._loaded()
        self._begin(True, step)
        bad = self.find_bad(backward=True)
        if bad is not None:
            return bad
        self.update(lr, momentum)
        for name, (parameter, what) in self.stateful().items():
            for piece in parameter.pieces:
                bad = found_in(parameter.layer, "update", name, piece.device.host(getattr(piece, what)))
                if bad is not None:
                    return bad
        return None

    def _looks_forward(self, train: bool) -> Iterator[Anomaly | None]:
        for layer in self._forward:
            for piece in layer.pieces:
                values = piece.device.host(piece.value)
                yield found_in(layer.name, "forward", piece.parameter.name, values)
            self._forward_layer(layer, train)
            if isinstance(layer, CopyLayer):
                continue
            for name in layer.names:
                yield found_in(name, "forward", "its output", _host(layer, name)[: self._count])
        losses = self._cost.device.host(self._cost.losses)[: self._count]
        yield found_in(self._cost.name, "forward", "the losses", losses)

    def _looks_backward(self) -> Iterator[Anomaly | None]:
        for layer in self._backward:
            self._backward_layer(layer, None)
            if isinstance(layer, CopyLayer):
                continue
            host = layer.device.host
            for tensor, gradient in zip(layer.inputs, layer.input_gradients, strict=True):
                if gradient is not None:
                    what = f"the gradient of its input {tensor.name}"
                    yield found_in(layer.name, "backward", what, _floats(host(gradient))[: self._count])
            for piece in layer.pieces:
                what = f"the gradient of {piece.parameter.name}"
                yield found_in(layer.name, "backward", what, host(piece.gradient))

    def describe(self) -> dict[str, Any]:
        """The network as JSON values: layers, shapes, parameters, devices, copies, memory.

        Of a split layer it tells the whole. A copy's `bytes` go forward in every pass, and its
        `gradient_bytes` back in every backward pass; `copied_bytes_per_step` is their sum.
        """
        counts: collections.Counter[str] = collections.Counter()
        for parameter in self.parameters.values():
            counts[parameter.layer] += parameter.count
        copies = [
            {
                "layer": copy.reader,
                "source": copy.inputs[0].name,
                "from": copy.inputs[0].device.name,
                "to": copy.device.name,
                "bytes": copy.bytes,
                "gradient_bytes": copy.bytes if copy in self._backward else 0,
            }
            for copy in self._copies.values()
        ]
        return {
            "net": self.spec.name,
            "batch": self.batch,
            "device": ",".join(device.name for device in self.devices),
            "towers": self.towers,
            "precision": self.precision,
            "parameters": sum(counts.values()),
            "layers": [
                {
                    "name": spec.name,
                    "type": spec.type,
                    "device": ",".join(dict.fromkeys(layer.device.name for layer in self._parts[spec.name])),
                    "inputs": list(spec.inputs),
                    "output_shape": [
                        *self._parts[spec.name][0].shape_of(spec.name)[:-1],
                        sum(layer.shape_of(spec.name)[-1] for layer in self._parts[spec.name]),
                    ],
                    "parameters": counts[spec.name],
                }
                for spec in self.spec.layers
            ],
            "copies": copies,
            "copied_bytes_per_step": sum(
                copy.bytes * (2 if copy in self._backward else 1) for copy in self._copies.values()
            ),
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
        """How long these copies took, each by itself; on GPUs other work goes on beside them."""
        return sum(copy.seconds for copy in self._copies.values())

    # -- state --

    def stateful(self) -> dict[str, tuple[Parameter, str]]:
        """All that training changes, by the name :meth:`state` gives it: a parameter and what of it."""
        found = {}
        for name, parameter in self.parameters.items():
            found[name] = (parameter, "value")
            found[f"{name}.velocity"] = (parameter, "velocity")
        return found

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor that :meth:`state` gives."""
        return {name: parameter.shape for name, (parameter, _) in self.stateful().items()}

    def state(self) -> dict[str, Array]:
        """Host copies of all that training changes: "conv1.weight", "conv1.weight.velocity", ...

        It does not depend on where the layers are placed.
        """
        return {name: parameter.host(what) for name, (parameter, what) in self.stateful().items()}

    def load_state(self, state: dict[str, Array]) -> None:
        """Takes over what :meth:`state` gave, bitwise.

        Raises ValueError naming a missing, unknown or wrong tensor; nothing has been changed then.
        """
        targets = self.stateful()
        for name in state:
            if name not in targets:
                raise ValueError(f"the network {self.spec.name} has no tensor {name!r}")
        for name, (parameter, _) in targets.items():
            if name not in state:
                raise ValueError(f"the tensor {name!r} is missing")
            dtype = parameter.pieces[0].value.dtype
            if state[name].shape != parameter.shape or state[name].dtype != dtype:
                wanted = f"{dtype}{list(parameter.shape)}"
                raise ValueError(f"the tensor {name!r} must be {wanted}, not {shown(state[name])}")
        for name, (parameter, what) in targets.items():
            parameter.fill(what, state[name])


def _backward(layer: Layer, updates: Updates | None) -> None:
    """A layer's backward pass, once what its readers have written is summed."""
    tensor, device = layer.output, layer.device
    for gradient in tensor.more_gradients:
        device.module.add(tensor.gradient, gradient, tensor.gradient, device.stream)
    layer.backward(updates)


def _host(layer: Layer, name: str) -> Array:
    """A float array on the host of what a layer puts out, or of what would lie within it."""
    with layer.device as device:
        return _floats(device.host(layer.activation(name)))


def _floats(array: Array) -> Array:
    """bfloat16s as floats, floats as they are."""
    return unpack(array) if array.dtype == np.uint16 else array
