"""The graph of a network: its layers on their devices, the copies between them, and the order of both passes.

Everything is decided when a graph is built: the order of the layers, which of them are fused, which edges
cross devices and are copied, and where every array is.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from cconvnet._problem import InputProblem
from cconvnet.checks import whole
from cconvnet.devices import Device, get_device, require_precision
from cconvnet.errors import nearest
from cconvnet.layers import (
    CopyLayer,
    CostLayer,
    InputLayer,
    Layer,
    Loaded,
    Place,
    Site,
    Tensor,
    can_fuse,
    fuse_layers,
    layer_type,
    make_layer,
)
from cconvnet.nets import DATA, LayerSpec, NetSpec
from cconvnet.nets.costs import labels_of, targets_of
from cconvnet.network.beside import Branch, plan_branch
from cconvnet.network.decided import stop_gradients
from cconvnet.network.levels import Level, levels_of
from cconvnet.network.memory import Memory, allocate_gradients, allocate_workspaces, join_losses
from cconvnet.network.places import Places
from cconvnet.network.shards import ShardedUpdates
from cconvnet.optim import FusedUpdates, Parameter
from cconvnet.ranks.shares import Share


class Graph:
    """The layers of a spec on their devices, with all arrays allocated.

    Args:
        spec: the network.
        batch: how many images a batch has at most.
        devices: one or several devices or their names; None: the default device.
        towers: how many parts split layers have; None: one for each device.
        seed: of the first weights and of dropout.
        precision: of products and activations.
        fuse: whether layers are fused.
        accumulates: whether gradients of several batches can be summed.
        memory: allocates the arrays.
        share: the shards of each batch that this process computes; None: whole batches.
        lars: the ratio of a step to the weights, by LARS; 0: rates are those that are given.
        image_gradient: whether there are gradients of the images, and of the answer without a cost.

    Attributes:
        layers: the spec's layers in order, of a split layer its parts. Fused layers are one.
        parts: the parts of each layer, by the spec's name.
        inputs: the images on each device that reads them, by the device's name.
        copies: the copies between devices.
        costs: the layers that compute losses, by name.
        labels: the labels that costs need; None: none do.
        targets: the shape of an image's target of each L2 cost, by its layer.
        losses: those of all costs, one after another; None on several devices and without costs.
        summed_losses: the sum of those of earlier batches of the step; None where they are not summed.
        parameters: by name, "conv1.weight", "conv1.bias".
        forward: all layers behind the inputs and all copies, in the order of the forward pass.
        answering: those that the network's answer needs, which run outside of training.
        backward: the layers and copies of the backward pass, in its order.
        levels: the parts of the network between products that ranks compute together; empty without such.
        loaded: the batch that the passes work on.
        step: int64[1] on each device, by its name: the number of the step that runs, which dropout reads.
        updates: what updates the parameters during the backward pass; None on several devices and for shards.
        branch: the work of layers that learn beside others in a step; None without such.
        shards: what sums the gradients of shards and updates the parameters; None for whole batches.
        finished_by: the layers whose ReLU's and bias's gradients the reader's backward pass computes, and the
            reader, by their names.
        measured_by: the batch normalisations whose statistics the layer before computes with its output, and
            that layer, by their names.
        gradient_bytes: allocated for gradients on each device, by its name.
        workspace_bytes: allocated for workspaces on each device, by its name.
    """

    def __init__(
        self,
        spec: NetSpec,
        *,
        batch: int,
        devices: str | Device | Sequence[str | Device] | None,
        towers: int | None,
        seed: int,
        precision: str,
        fuse: bool,
        accumulates: bool,
        memory: Memory,
        share: Share | None = None,
        lars: float = 0.0,
        image_gradient: bool = False,
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
        self.memory = memory
        self._image_gradient = image_gradient
        self.loaded = Loaded()
        self.step = {device.name: memory.allocate(device, (1,), np.int64) for device in self.devices}

        self.layers: list[Layer] = []
        self.parts: dict[str, list[Layer]] = {}
        self.inputs: dict[str, InputLayer] = {}
        self.parameters: dict[str, Parameter] = {}
        self.finished_by: dict[str, str] = {}
        self.measured_by: dict[str, str] = {}
        self._order: list[Layer] = []  # layers and, before their first reader, inputs and copies
        self._copies: dict[tuple[int, str], CopyLayer] = {}  # by the tensor's id and the device it goes to
        self._readers = collections.Counter(name for layer in spec.layers for name in layer.inputs)
        self._places = Places(spec, self._readers, batch, memory) if fuse else None
        self._add_layers(fuse)
        stop_gradients(self._order)
        self.costs = {layer.name: layer.cost for layer in self.layers if layer.cost is not None}
        self._check_use()
        self.labels, self.targets = labels_of(spec), targets_of(spec)

        self.copies = list(self._copies.values())
        self._copies_of: dict[int, list[CopyLayer]] = collections.defaultdict(list)  # by the tensor's id
        for copy in self.copies:
            self._copies_of[id(copy.inputs[0])].append(copy)
        copied = {id(copy.output): copy for copy in self.copies}
        self._copies_read = {
            id(layer): [copied[id(tensor)] for tensor in layer.inputs if id(tensor) in copied]
            for layer in self._order
        }
        self.forward = self._forward_order()
        self.answering = self._answering()
        # Backward is of use only where something before a layer, or the layer itself, learns.
        self.backward = [layer for layer in reversed(self._order) if layer.output.needs_gradient]
        self.levels: list[Level] = []
        if share is not None and share.hybrid:
            self._divide(share)
        self._allocate_shared(fuse, share, lars)
        self.accumulates = accumulates
        self.summed_losses = self._allocate_sums()

    @property
    def cost(self) -> CostLayer:
        """The layer whose loss is the network's.

        Raises:
            ValueError: the network has no cost.
        """
        if not self.costs:
            raise ValueError(f"{self.spec.name} has no cost, so it has no loss")
        return self.costs[self.spec.answer.name]

    def copies_of(self, tensor: Tensor) -> Sequence[CopyLayer]:
        """Return the copies of a tensor to other devices."""
        return self._copies_of.get(id(tensor), ())

    def copies_read_by(self, layer: Layer) -> Sequence[CopyLayer]:
        """Return the copies among the inputs of a layer."""
        return self._copies_read[id(layer)]

    # -- layers --

    def _add_layers(self, fuse: bool) -> None:
        chains = self._chains() if fuse else {}
        fused = {behind.name for chain in chains.values() for behind in chain[1:]}
        for spec in self.spec.layers:
            if spec.name in self.parts:
                if spec.name not in fused:
                    raise ValueError(f"layer {spec.name}: two layers have this name")
                continue
            try:
                chain = chains.get(spec.name, [spec])
                self._add(chain if chain[0] is spec else [spec])  # two layers may have one name
            except ValueError as error:
                raise ValueError(f"layer {spec.name}: {error}") from error

    def _chains(self) -> dict[str, list[LayerSpec]]:
        """Return the layers that are fused into one, in order, by the name of the first."""
        chains = {layer.name: [layer] for layer in self.spec.layers}  # by the name of the last
        order = {name: number for number, name in enumerate((DATA, *chains))}
        for layer in self.spec.layers:
            # The layer is computed in the place of the first of the chain, where it must find its inputs.
            before = sorted(layer.inputs, key=lambda name: order.get(name, 0))
            chain = chains.get(before[-1]) if before else None
            if chain is None or any(order.get(name, 0) > order[chain[0].name] for name in before[:-1]):
                continue
            if self._readers[before[-1]] != 1 or not self._is_beside(layer, chain[-1]):
                continue
            if can_fuse([*chain, layer]):
                del chains[before[-1]]
                chains[layer.name] = [*chain, layer]
        return {chain[0].name: chain for chain in chains.values()}

    def _is_beside(self, layer: LayerSpec, before: LayerSpec) -> bool:
        """True if a layer is in the same place as one of its inputs."""
        if layer.split != before.split:
            return False
        if len(self.devices) == 1 or layer.split:
            return True
        if layer.device is None:
            return layer.inputs[0] == before.name
        return layer.device == before.device

    def _add(self, chain: Sequence[LayerSpec]) -> None:
        """Add a layer, or several that are fused."""
        spec = chain[0]
        if not spec.inputs:
            raise ValueError("inputs must not be empty")
        names = {layer.name for layer in chain}
        others = [name for layer in chain[1:] for name in layer.inputs if name not in names]
        kind = layer_type(spec)
        devices = self._devices_of(spec)
        parts: list[Layer] = []
        for part, device in enumerate(devices):
            inputs = [
                self._read(name, device, spec.name, part, len(devices), kind.mixes(spec, index))
                for index, name in enumerate(spec.inputs)
            ]
            site = self._site(device, part, len(devices))
            inputs += [self._read(name, device, spec.name, part, len(devices), False) for name in others]
            if len(chain) == 1:
                site = dataclasses.replace(site, place=self._place(spec, inputs, site))
                parts.append(make_layer(spec, inputs, site))
            else:
                parts.append(fuse_layers(chain, inputs, site))
            self._order.append(parts[-1])
        self.layers += parts
        for name in parts[0].names:
            self.parts[name] = parts

    def _place(self, spec: LayerSpec, inputs: Sequence[Sequence[Tensor]], site: Site) -> Place | None:
        """Return where a layer writes its output in a concatenation on the same device, if it can."""
        places = self._places
        concat = None if places is None else places.concat(spec)
        if places is None or concat is None or len(inputs[0]) != 1 or concat.split != spec.split:
            return None
        if len(self.devices) > 1 and not spec.split:
            first = concat.inputs[0]
            if concat.device is not None or first in self.parts:
                here = self._devices_of(concat)[0].name == site.device.name
            else:
                here = first == spec.name  # which the concatenation will follow
            if not here:
                return None
        return places.place(spec, concat, site)

    def _site(self, device: Device, part: int = 0, parts: int = 1) -> Site:
        return Site(
            device=device,
            part=part,
            parts=parts,
            allocate=self.memory.allocate,
            parameters=self.parameters,
            seed=self.seed,
            precision=self.precision,
            step=self.step[device.name],
            loaded=self.loaded,
        )

    def _devices_of(self, layer: LayerSpec) -> list[Device]:
        """Return the device of each part of a layer: one device, or all if it is split."""
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
            if device.name not in {own.name for own in self.devices}:
                names = ", ".join(own.name for own in self.devices)
                raise ValueError(f"device must be one of the network's, {names}, not {wanted}")
            return [device]
        if wanted is None:
            first = layer.inputs[0]
            return [self.parts[first][0].device] if first in self.parts else self.devices[:1]
        if not 0 <= wanted < len(self.devices):
            raise ValueError(
                f"device must be below the number of devices given, {len(self.devices)}, not {wanted}"
            )
        return [self.devices[wanted]]

    # -- inputs of a layer --

    def _read(
        self, name: str, device: Device, reader: str, part: int, parts: int, mixes: bool
    ) -> list[Tensor]:
        """Return the tensors that a part of a layer reads of the activation `name`, on its own device."""
        if name == DATA:
            if parts > 1 and not mixes:
                raise ValueError("it is split over devices, but every device has the whole images")
            return [self._images(device).output]
        if name not in self.parts:
            raise ValueError(nearest("an input (a layer before it)", name, [DATA, *self.parts]))
        sources = [layer.output for layer in self.parts[name]]
        if not mixes and len(sources) != parts:
            is_split, other = ("it is", "is not") if parts > 1 else ("it is not", "is")
            raise ValueError(f"{is_split} split over devices, but its input {name} {other}")
        return [
            self._on(source, device, reader) for source in (sources if mixes else sources[part : part + 1])
        ]

    def _images(self, device: Device) -> InputLayer:
        """Return the images on a device; each device that reads them gets its own from the host."""
        if device.name not in self.inputs:
            blocks, needed = (None, True) if self._image_gradient else (self._blocks(), False)
            self.inputs[device.name] = InputLayer(self.spec, self.batch, self._site(device), blocks, needed)
            self._order.append(self.inputs[device.name])
        return self.inputs[device.name]

    def _blocks(self) -> InputProblem | None:
        """Return the layout of images in blocks, if a single layer reads them and prefers that; else None."""
        readers = [layer for layer in self.spec.layers if DATA in layer.inputs]
        if len(readers) != 1 or len(readers[0].inputs) != 1:
            return None
        if not all(device.prefers_blocks(self.precision) for device in self.devices):
            return None
        (reader,) = readers
        return layer_type(reader).image_blocks(reader, self.spec, self.batch)

    def _on(self, source: Tensor, device: Device, reader: str) -> Tensor:
        """Return an activation on a device: itself, or a copy of it."""
        if source.device.name == device.name:
            return source
        key = (id(source), device.name)
        if key not in self._copies:
            self._copies[key] = CopyLayer(source, reader, self._site(device))
            self._order.append(self._copies[key])
        return self._copies[key].output

    # -- checks --

    def _check_use(self) -> None:
        """Check that every layer and device is used."""
        answer = self.spec.answer.name
        for name in self.parts:
            if name in self.costs:
                if self._readers[name]:
                    raise ValueError(f"layer {name}: the probabilities of a cost cannot be an input")
            elif not self._readers[name] and name != answer:
                raise ValueError(f"layer {name}: no layer reads it")
        used = {layer.device.name for layer in self.layers}
        for device in self.devices:
            if device.name not in used:
                raise ValueError(
                    f"no layer of {self.spec.name} lives on {device.name}; place one there or leave it out"
                )

    # -- order and memory --

    def _forward_order(self) -> list[Layer]:
        """Return all layers behind the inputs; each copy starts as soon as its source is computed."""
        inputs = self.inputs.values()
        order = [layer for layer in self._order if not layer.is_copy and layer not in inputs]
        for copy in self.copies:
            producer = next(layer for layer in order if layer.output is copy.inputs[0])
            order.insert(order.index(producer) + 1, copy)
        return order

    def _answering(self) -> list[Layer]:
        """Return the layers and copies behind the inputs that the network's answer needs."""
        heads = self.spec.train_only
        read = {
            id(tensor)
            for layer in self.forward
            if not layer.is_copy and layer.name not in heads
            for tensor in layer.inputs
        }
        return [
            layer
            for layer in self.forward
            if (id(layer.output) in read if layer.is_copy else layer.name not in heads)
        ]

    def _divide(self, share: Share) -> None:
        """Let ranks compute FC layers together, and order all layers by the levels between these."""
        if len(self.costs) > 1:
            raise ValueError(f"hybrid parallelism is for networks with one cost; {self.spec.name} has more")
        found = [layer.share_columns(share, self.memory.allocate) for layer in self.forward]
        columns = [one for one in found if one is not None]
        if not columns:
            raise ValueError(
                f"hybrid parallelism needs an FC layer whose outputs {share.count} shards can divide; "
                f"{self.spec.name} has none"
            )
        self.levels = levels_of(self.forward, columns)
        self.forward = [layer for level in self.levels for layer in level.forward]
        self.backward = [layer for level in reversed(self.levels) for layer in level.backward]

    def _allocate_shared(self, fuse: bool, share: Share | None, lars: float) -> None:
        """Allocate what layers share, gradients and workspaces, and what updates parameters."""
        element = self._site(self.devices[0]).element
        readers = collections.Counter(
            id(tensor)
            for layer in self._order
            for index, tensor in enumerate(layer.inputs)
            if layer.differentiates(index)
        )
        for parameter in self.parameters.values():
            parameter.nesterov = self.spec.recipe.nesterov
        self.updates: FusedUpdates | None = None
        self.branch: Branch | None = None
        self.shards: ShardedUpdates | None = None
        parameters, memory = [*self.parameters.values()], self.memory
        if len(self.devices) > 1:
            if lars:
                raise ValueError(f"lars is for networks on one device, not on {len(self.devices)}")
            if share is not None:
                raise ValueError(f"shards are for networks on one device, not on {len(self.devices)}")
        elif share is not None:
            if self.levels and lars:
                raise ValueError("lars is for data parallelism, not for hybrid")
            backward = [level.backward for level in reversed(self.levels)] or [self.backward]
            columns = [one for level in self.levels for one in level.first]
            self.shards = ShardedUpdates(parameters, backward, self.devices[0], memory, share, lars, columns)
        else:
            self.updates = FusedUpdates(parameters, self.devices[0], memory.allocate, memory.release, lars)
            self.branch = plan_branch(self.backward, self.updates, self.precision)
        self.losses = join_losses([*self.costs.values()], memory) if len(self.devices) == 1 else None
        if fuse:
            self._fuse_gradients(readers)
            self._fuse_statistics()
        before = dict(self.memory.bytes)
        allocate_gradients(self.backward, readers, self._copies_of, self.memory, element)
        if self._image_gradient and not self.costs:
            for layer in self.parts[self.spec.answer.name]:
                layer.output.gradient = self.memory.allocate(layer.device, layer.output.shape, element)
        self.gradient_bytes = _grown(before, self.memory)
        before = dict(self.memory.bytes)
        allocate_workspaces(self._order, self.memory, element)
        self.workspace_bytes = _grown(before, self.memory)

    def _allocate_sums(self) -> Any:
        """Allocate the sums of gradients where there are any, and return those of losses; None without."""
        if self.accumulates and self.shards is not None:
            self.shards.allocate_sums()
        elif self.accumulates:
            for parameter in self.parameters.values():
                for piece in parameter.pieces:
                    piece.gradients = self.memory.allocate(piece.device, piece.value.shape)
        several = self.shards is not None and len(self.shards.share.own) > 1
        if self.losses is None or not (self.accumulates or several):
            return None
        return self.memory.allocate(self.devices[0], self.losses.shape)

    def _fuse_gradients(self, readers: collections.Counter[int]) -> None:
        """Let backward passes compute the gradients of the ReLU and the bias of the layer before them."""
        producers = {id(layer.output): layer for layer in self.layers}
        for layer in self.layers:
            for index, tensor in enumerate(layer.inputs):
                producer = producers.get(id(tensor))
                if producer is None or readers[id(tensor)] != 1:
                    continue
                epilogue = producer.epilogue
                if epilogue is not None and layer.can_finish(index, epilogue):
                    layer.input_epilogues[index] = epilogue
                    producer.gradient_is_finished = True
                    self.finished_by[producer.name] = layer.name

    def _fuse_statistics(self) -> None:
        """Let convolutions compute the statistics of their outputs for the layers behind them."""
        producers = {id(layer.output): layer for layer in self.layers if layer.can_measure}
        for layer in self.layers:
            producer = producers.get(id(layer.inputs[0]))
            if producer is None or producer.measure is not None or not layer.statistics():
                continue
            producer.measure, layer.input_is_measured = layer.statistics, True
            self.measured_by[layer.name] = producer.name


def _grown(before: dict[str, int], memory: Memory) -> dict[str, int]:
    """Return the bytes on each device that were allocated since `before`."""
    return {name: count - before[name] for name, count in memory.bytes.items()}


def distinct_devices(devices: str | Device | Sequence[str | Device] | None) -> list[Device]:
    """Return devices of one kind by their names; for None, the default device.

    Raises:
        ValueError: no device is given, one is given twice, or they are of several kinds.
        DeviceUnavailable: a device cannot be used.
    """
    given = [devices] if devices is None or isinstance(devices, str | Device) else list(devices)
    if not given:
        raise ValueError("devices must not be empty")
    found = [get_device(device) for device in given]
    for index, device in enumerate(found):
        if device.name in {other.name for other in found[:index]}:
            raise ValueError(
                f"device {device.name} is given twice; {device.kind}:{device.index + 1} would be another one"
            )
        if device.kind != found[0].kind:
            raise ValueError(
                f"devices must be of one kind: {device.name} is no {found[0].kind} device like "
                f"{found[0].name}"
            )
    return found
