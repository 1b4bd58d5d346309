"""The class Network: a spec on its devices, ready for training steps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cconvnet.checks import whole
from cconvnet.devices import Device
from cconvnet.nets import NetSpec
from cconvnet.nets.dense import dense, dense_state
from cconvnet.nets.fold import fold
from cconvnet.network import anomaly, footprint
from cconvnet.network.anomaly import Anomaly
from cconvnet.network.batch import checked_batch, checked_labels, checked_targets
from cconvnet.network.describe import describe
from cconvnet.network.gradients import gradients
from cconvnet.network.graph import Graph
from cconvnet.network.memory import Memory
from cconvnet.network.outputs import output
from cconvnet.network.state import copy_state, load_state, stateful
from cconvnet.network.step import Observer, Runner, StepResult
from cconvnet.network.together import Together
from cconvnet.optim import Parameter
from cconvnet.ranks.shares import Share

Array = np.ndarray[Any, Any]


class Network:
    """The layers of a spec on one or more devices, for batches of up to `batch` images.

    Args:
        spec: the network.
        batch: how many images a batch has at most.
        devices: one or several devices or their names; None: the default device. On several, a layer's
            ``device`` is an index into them or a name. Layers without one live where their first input does,
            and layers that are ``split`` are shared out over all of them.
        towers: how many parts layers that are ``split`` have; None: one for each device. More towers than
            devices give the results, bit-identical, of as many devices.
        seed: of the first weights and of dropout.
        precision: "fp32"; "fp32x3", whose products are as accurate on tensor cores; "tf32", whose products
            may round what they multiply; or "bf16", with activations and working weights in bfloat16.
            Weights, momentum, sums, loss and statistics stay float32.
        fuse: whether layers are fused.
        accumulates: whether gradients of several batches can be summed, which takes memory for the sums.
        share: the shards of each batch that this process computes, of `batch` images each; None: whole
            batches. All processes must call connect(), and then make the same calls.
        lars: the ratio of a step to the weights, by which LARS sets the rate of each layer's weights; 0:
            rates are those that are given.
        image_gradient: whether :meth:`gradients` has those of the images, and begins at the output of a
            network without a cost.
        needs: what memory must be free before any is allocated: for "training", for the "forward" pass alone,
            or for a "run" with its checkpoints; None: nothing is checked.

    Attributes:
        graph: the layers, their order and the copies between devices.
        runner: runs the passes.
        layers: the layers that compute the spec's, in order, of a split layer its parts.
        parameters: by name, "conv1.weight", "conv1.bias"; the same ones wherever the layers are placed.
        memory: bytes held on each device, by the device's name.

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
        accumulates: bool = False,
        share: Share | None = None,
        lars: float = 0.0,
        image_gradient: bool = False,
        needs: str | None = "training",
    ) -> None:
        options: dict[str, Any] = {
            "batch": batch,
            "devices": devices,
            "towers": towers,
            "seed": seed,
            "precision": precision,
            "fuse": fuse,
            "accumulates": accumulates,
            "share": share,
            "lars": lars,
            "image_gradient": image_gradient,
        }
        if needs is not None:
            footprint.check(footprint.Plan(spec, **options), needs)
        self.graph = Graph(spec, **options, memory=Memory())
        self.runner = Runner(self.graph)
        self.spec = spec
        self.batch = batch
        self.seed = seed
        self.precision = precision
        self.devices = self.graph.devices
        self.towers = self.graph.towers
        self.layers = self.graph.layers
        self.parameters = self.graph.parameters
        self.memory = self.graph.memory.bytes
        self._mean: Array | None = None
        for updates in (self.graph.updates, self.graph.shards):
            if updates is not None:
                updates.reset()
        for parameter in self.parameters.values():
            parameter.reset()

    def __repr__(self) -> str:
        places = ", ".join(device.name for device in self.devices)
        return f"<Network {self.spec.name}: batch {self.batch}, {self.precision}, {places}>"

    # -- a step --

    def set_mean(self, mean: Array | None) -> None:
        """Set what is subtracted from every image, float32[H,W,C] of the stored size; None: nothing.

        A network whose spec has a mean keeps that.
        """
        if mean is not None and mean.shape != self.spec.stored_shape:
            raise ValueError(f"mean must have the shape {self.spec.stored_shape}, not {mean.shape}")
        self._mean = mean
        for images in self.graph.inputs.values():
            images.set_mean(mean)

    def load(
        self,
        images: Array,
        labels: Array | None = None,
        top: Array | None = None,
        left: Array | None = None,
        mirror: Array | None = None,
        shift: Array | None = None,
        scale: float = 1.0,
        targets: Mapping[str, Array] | None = None,
        first_row: int = 0,
    ) -> None:
        """Take a batch to the devices.

        Args:
            images: uint8[n, H, W, C] of the stored size, 1 <= n <= batch. Rows missing from a full batch
                count for nothing: neither the loss nor a gradient sees them.
            labels: int[n], from 0 to classes - 1; int[n, H, W] where pixels have labels. Only a network
                without softmax costs does without. The label that costs ignore is allowed too.
            top: int[n], the first row of each image's crop; None: the crop is in the middle. With a `pad` in
                the network's recipe crops may reach that far out of the image.
            left: int[n], the first column, likewise.
            mirror: bool or uint8[n]; None: no image is mirrored.
            shift: float[n, C], added to every pixel after the mean is subtracted; None: nothing.
            scale: then multiplies the pixels, in addition to the network's own scale.
            targets: of each L2 cost, by its layer: float[n, ...], with the shape of the cost's input.
            first_row: the place of the first image in the batch of which this one is a shard; dropout draws
                the masks of these places.

        Raises:
            ValueError: naming the argument that has a wrong type, shape or value.
        """
        graph, spec = self.graph, self.spec
        batch = checked_batch(spec, self.batch, images, top, left, mirror, shift, scale)
        count = len(batch.images)
        wanted = checked_targets(graph.targets, count, targets)
        if graph.labels is not None:
            classes = checked_labels(graph.labels, spec.classes, count, labels)
            wanted |= {name: classes for name in graph.costs if name not in wanted}
        for layer in graph.inputs.values():
            self.runner.call(layer, layer.device, "load", layer.load, batch)
        for name, cost in graph.costs.items():
            cost.load(wanted[name])
        graph.loaded.count, graph.loaded.first_row = count, whole("first_row", first_row, 0)

    def train_step(self, step: int, lr: float | Mapping[str, float], momentum: float) -> None:
        """Run forward(train=True, step), backward() and update(lr, momentum), bit-identical to the three.

        After :meth:`accumulate` the update is by the mean of all batches' gradients. Gradients are not kept.
        If a loss is not finite, of an accumulated batch or of a head too, no parameter moves.

        On one GPU it returns when the work is enqueued and never waits for the GPU. From the second step on
        it needs two launches: that of the inputs, and that of the captured rest. On several devices it waits
        for the loss before the update.

        Raises:
            ValueError: the network has no cost.
        """
        self._require_cost()
        self._require_batch()
        self._require_no_others()
        self.runner.train_step(step, lr, momentum)

    def train_together(
        self, loads: Sequence[Callable[[], int]], lr: float | Mapping[str, float], momentum: float
    ) -> list[Callable[[], StepResult]]:
        """Do a step of a network with a share of hybrid parallelism, as all other ranks do.

        Args:
            loads: of each batch of this rank, shard by shard: a function that loads it, as often as it is
                called, and returns the number that selects its dropout masks.
            lr: see :meth:`update`.
            momentum: likewise.

        Returns:
            For each batch what waits for its result and returns it.

        Raises:
            ValueError: the network was made without such a share.
        """
        if self.graph.shards is None or not self.graph.levels:
            raise ValueError("only a network of hybrid parallelism trains together")
        return Together(self.runner, self.graph.shards, loads).run(lr, momentum)

    def accumulate(self, step: int, ends_shard: bool = False) -> None:
        """Run forward(train=True, step) and backward(), and add the gradients to those of the next update.

        The update of the next train_step() or update() is by the mean of the gradients of all batches since
        the last one. They are summed in the order of the batches. Of a network with a share they are the
        batches of one shard, and the update is by the mean over all shards.

        Args:
            step: selects the dropout masks; other than those of the other batches.
            ends_shard: whether this is the last batch of a shard. It must not be the last shard of the step,
                whose last batch is for train_step().

        Raises:
            ValueError: the network has no cost, or was made without ``accumulates=True`` or, to end a shard,
                without a share.
        """
        self._require_cost()
        self._require_batch()
        self._require_sums(ends_shard)
        self.runner.accumulate(step, ends_shard)

    def _require_no_others(self) -> None:
        if self.graph.levels:
            raise ValueError("a network of hybrid parallelism takes steps by train_together() alone")

    def _require_sums(self, ends_shard: bool) -> None:
        self._require_no_others()
        if ends_shard and self.graph.shards is None:
            raise ValueError("only a network made with a share has shards")
        if not ends_shard and not self.graph.accumulates:
            raise ValueError("only a network made with accumulates=True sums gradients")

    def forward(self, train: bool, step: int = 0) -> None:
        """Compute the activations of the loaded batch.

        Args:
            train: whether dropout drops and heads run. Otherwise only those layers run that the network's
                answer needs: the output of its main cost, or of its last layer.
            step: selects the dropout masks.
        """
        self._require_batch()
        self.runner.begin(train, step)
        self.runner.forward_inputs()
        self.runner.forward(train)

    def forward_inputs(self) -> None:
        """Compute only the inputs of the loaded batch: crops of it with the mean subtracted.

        The images are read then, so the next batch may be loaded during the rest of a step.
        """
        self._require_batch()
        self.runner.forward_inputs()

    def backward(self) -> None:
        """Compute every parameter's gradient of the objective of the last forward pass, one of training."""
        self._require_cost()
        self._require_batch()
        self.runner.backward()

    def gradients(self, names: Collection[str], start: Array | None = None) -> dict[str, Array]:
        """Return the gradients of activations, and of the images, without those of parameters.

        Args:
            names: layers, or "data": the input, with the mean subtracted and scaled.
            start: of a network without a cost, the gradient of its answer, float[batch, ...], for the last
                pass, of training or not. None: that of the objective of the last pass, one of training.

        Returns:
            By name, float32[batch, ...] of the output.

        Raises:
            ValueError: naming a layer whose gradient is not computed by itself; fuse=False computes all.
        """
        if start is None:
            self._require_cost()
        self._require_batch()
        return gradients(self.runner, names, start)

    def update(self, lr: float | Mapping[str, float], momentum: float) -> None:
        """Move every parameter along its gradient.

        Args:
            lr: one rate, or each parameter's by its name; multiplied by the parameter's rate_factor.
            momentum: of parameters that have none of their own.
        """
        self._require_no_others()
        self.runner.update(lr, momentum)

    def result(self) -> StepResult:
        """Return losses and ranks of the last forward pass, once it is done."""
        self._require_batch()
        return self.runner.result()

    def result_later(self) -> Callable[[], StepResult]:
        """Start to fetch the result of the last forward pass; calling what is returned waits for it."""
        self._require_batch()
        return self.runner.result_later()

    @contextlib.contextmanager
    def observed(self, observer: Observer) -> Iterator[None]:
        """Call the observer in place of every piece of work inside a with statement.

        Steps are not captured there. See cconvnet.network.tracing.
        """
        self.runner.observer = observer
        try:
            yield
        finally:
            self.runner.observer = None

    def objective(self) -> float:
        """Return what training lowers: the sum of the costs' mean losses, each times its coefficient."""
        result, costs = self.result(), self.graph.costs
        losses = {self.graph.cost.name: result.loss, **result.head_losses}
        return sum(costs[name].coeff * loss for name, loss in losses.items())

    def _require_cost(self) -> None:
        if not self.graph.costs:
            raise ValueError(
                f"{self.spec.name} cannot be trained: it has no cost, and ends in {self.spec.answer.name}"
            )

    def _require_batch(self) -> None:
        if self.runner.count == 0:
            raise RuntimeError("load() a batch first")

    def folded(self) -> Network:
        """Return a network that gives this one's answers with fewer layers, for forward passes alone.

        Batch normalisations behind convolutions and FC layers are part of their weights and biases; see
        cconvnet.nets.fold. Results differ by rounding. It has the same batch, devices, precision and mean.
        """
        spec, state = fold(self.spec, self.state())
        found = self._like(spec)
        found.load_state(state)
        found.set_mean(self._mean)
        return found

    def dense(self, image: tuple[int, int] | None = None, fine: bool = False) -> Network:
        """Return a network that gives this one's answers at every place of a larger image.

        It is for forward passes alone; see cconvnet.nets.dense. A mean image of another size is replaced by
        the mean of its pixels.

        Args:
            image: (H, W) of the images, which are not cropped; None: that of the stored images.
            fine: whether the last pooling begins at every offset, as in OverFeat.
        """
        spec = dense(self.spec, image or self.spec.stored, fine)
        found, mean = self._like(spec), self._mean
        found.load_state(dense_state(self.state(), found.state_shapes()))
        if mean is not None and mean.shape != spec.stored_shape:
            mean = np.broadcast_to(mean.mean((0, 1)), spec.stored_shape).astype(np.float32)
        found.set_mean(mean)
        return found

    def _like(self, spec: NetSpec) -> Network:
        """Return a network for forward passes with the same batch, devices and precision."""
        return Network(
            spec,
            batch=self.batch,
            devices=self.devices,
            towers=self.towers,
            seed=self.seed,
            precision=self.precision,
            needs="forward",
        )

    # -- inspection --

    def outputs(self, name: str) -> Array:
        """Return a layer's activation of the last forward pass, full batch, as a float array on the host.

        The name "data" is the input's. Activations inside fused layers are computed again, from the present
        weights.

        Raises:
            ValueError: there is no such layer, or it runs in training only and the last pass was none.
        """
        if name in self.spec.train_only and not self.runner.training:
            raise ValueError(f"layer {name} runs in training only; forward(train=True) computes its output")
        return output(self.graph, name)

    def describe(self) -> dict[str, Any]:
        """Return the network as JSON values: layers, shapes, parameters, devices, copies, memory.

        `fused_gradients` are the layers whose ReLU's and bias's gradients another layer's backward pass
        computes, each with that layer. `fused_statistics` are the batch normalisations whose statistics the
        convolution before them computes, likewise.

        A split layer is described as a whole. A copy's `bytes` go forward in every pass, and its
        `gradient_bytes` back in every backward pass; `copied_bytes_per_step` is their sum.
        `concatenated_bytes_per_step` is what concatenations copy within a device: inputs that are not
        computed in their place.
        """
        return describe(self.graph)

    def find_bad(self, backward: bool = False) -> Anomaly | None:
        """Run the last forward pass again and return the first value that is not finite, None without one.

        It checks each layer's weights, outputs and gradients. Called before update(), or after train_step(),
        it finds where a bad loss came from.

        Args:
            backward: whether the backward pass is run again too.
        """
        self._require_batch()
        return anomaly.find_bad(self.runner, backward)

    def checked_accumulate(self, step: int, ends_shard: bool = False) -> Anomaly | None:
        """Run accumulate(), bit-identical, and stop behind the first value that is not finite."""
        self._require_batch()
        self._require_sums(ends_shard)
        return anomaly.checked_accumulate(self.runner, step, ends_shard)

    def checked_step(
        self,
        step: int,
        lr: float | Mapping[str, float],
        momentum: float,
        agree: anomaly.Agree | None = None,
    ) -> Anomaly | None:
        """Run train_step(), bit-identical, and stop behind the first value that is not finite.

        Layers inside fused ones have gradients only in a network made with ``fuse=False``. On several ranks
        `agree` must give all of them what one has found. It is called before the update and after it.
        """
        self._require_batch()
        self._require_no_others()
        return anomaly.checked_step(self.runner, step, lr, momentum, agree or (lambda bad: bad))

    @property
    def copied_bytes(self) -> int:
        """Bytes of activations and gradients copied between devices since the network was made."""
        return sum(copy.copied_bytes for copy in self.graph.copies)

    @property
    def copy_seconds(self) -> float:
        """The seconds of these copies, each by itself; on GPUs other work runs during them."""
        return sum(copy.seconds for copy in self.graph.copies)

    @property
    def waited_seconds(self) -> float:
        """The seconds that this process waited for gradients and weights of others since it was made."""
        return 0.0 if self.graph.shards is None else self.graph.shards.waited

    @property
    def sent_bytes(self) -> int:
        """The bytes of gradients and weights sent to other processes since the network was made."""
        return 0 if self.graph.shards is None else self.graph.shards.sent_bytes

    # -- state --

    def state(self) -> dict[str, Array]:
        """Return host copies of all that training changes: "conv1.weight", "conv1.weight.velocity", ...

        The state does not depend on where the layers are placed. On several ranks all must call it, and only
        the first gets the momentum.
        """
        self.collect()
        return copy_state(self.parameters)

    def load_state(self, state: dict[str, Array]) -> None:
        """Set all that training changes to what :meth:`state` returned, bit-identical.

        Raises:
            ValueError: naming a missing, unknown or wrong tensor; nothing has been changed then.
        """
        load_state(self.spec.name, self.parameters, state)
        if self.graph.shards is not None:
            self.graph.shards.distribute()

    def connect(self) -> None:
        """Connect this network with those of other ranks, all of which must call it."""
        if self.graph.shards is not None:
            self.graph.shards.connect()

    def broadcast(self) -> None:
        """Set all that training changes to what it is on the first rank; all ranks must call it."""
        if self.graph.shards is not None:
            self.graph.shards.broadcast()

    def share_weights(self) -> None:
        """Bring the weights that ranks have parts of to all ranks; all ranks must call it."""
        if self.graph.shards is not None:
            self.graph.shards.share_weights()

    def collect(self) -> None:
        """Bring the momentum of all ranks to the first, for its state; all ranks must call it."""
        if self.graph.shards is not None:
            self.graph.shards.collect()

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor of the state."""
        return {name: parameter.shape for name, (parameter, _) in self.stateful().items()}

    def stateful(self) -> dict[str, tuple[Parameter, str]]:
        """Return by the name of each tensor of the state its parameter, and "value" or "velocity"."""
        return stateful(self.parameters)
