"""The layers a network is made of: each joins a spec to the functions of one device's module.

A layer is made once for a fixed batch. Its constructor makes the problem (which does all shape arithmetic)
and takes its memory; forward() and backward() then only call functions of the module with arrays that never
change. A layer knows nothing of training: it reads its inputs' arrays, writes its output's array, and in
the backward pass turns the output's gradient into its parameters' and inputs' gradients.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cconvnet import backends
from cconvnet._problem import (
    BiasProblem,
    ConvProblem,
    DropoutProblem,
    FcProblem,
    InputProblem,
    LrnProblem,
    NeuronProblem,
    PoolProblem,
    SoftmaxProblem,
)
from cconvnet.backends import Device
from cconvnet.nets.specs import (
    DATA,
    ConvSpec,
    DropoutSpec,
    FcSpec,
    Init,
    LayerSpec,
    LrnSpec,
    NetSpec,
    NeuronSpec,
    PoolSpec,
    SoftmaxCostSpec,
    SumSpec,
)
from cconvnet.optim import Parameter

# Takes memory on a device for as long as the network lives: (device, shape, dtype) -> array.
Allocate = Callable[..., Any]


@dataclass
class Tensor:
    """An activation [N, ...] on one device, and its gradient if anything before it learns."""

    name: str
    shape: tuple[int, ...]
    device: Device
    array: Any
    needs_gradient: bool
    gradient: Any = None

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def image(self) -> tuple[int, int, int, int]:
        """The shape as (N, H, W, C); what an FC layer puts out is an image of one pixel."""
        n, *rest = self.shape
        h, w, c = rest if len(rest) == 3 else (1, 1, math.prod(rest))
        return n, h, w, c


class Layer:
    """One operation on one device.

    Attributes
        name, type, device, inputs, output, parameters.
        input_gradients: for each input the array the backward pass writes, None where no gradient is needed.
        sums: (input, part) pairs, parts that are added to the input's gradient after the backward pass.
            Where several layers read an activation, the first to run backward writes its gradient, the
            others add to it, always in the same order.
        workspace: memory shared by all layers of a device, at least workspace_bytes().
    """

    type: ClassVar[str]
    # Whether an input's gradient may lie where the output's lies.
    backward_in_place: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        device: Device,
        inputs: Sequence[Tensor],
        shape: tuple[int, ...],
        allocate: Allocate,
        parameters: Sequence[Parameter] = (),
    ) -> None:
        self.name = name
        self.device = device
        self.inputs = list(inputs)
        self.parameters = list(parameters)
        needs_gradient = bool(parameters) or any(tensor.needs_gradient for tensor in inputs)
        self.output = Tensor(name, shape, device, allocate(device, shape), needs_gradient)
        self.input_gradients: list[Any] = [None] * len(inputs)
        self.sums: list[tuple[Tensor, Any]] = []
        self.workspace: Any = None

    def __repr__(self) -> str:
        return f"<{self.type} {self.name} on {self.device.name} -> {self.output.shape}>"

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.output.shape

    def workspace_bytes(self) -> int:
        return 0

    def forward(self, train: bool, step: int) -> None:
        raise NotImplementedError

    def backward(self) -> None:
        raise NotImplementedError


# ---- weights ---------------------------------------------------------------------------------------------


def initial_weights(init: Init, shape: tuple[int, ...], name: str, seed: int) -> np.ndarray[Any, Any]:
    """The first value of a weight tensor [K, ...], float32: a function of its name and the seed alone."""
    sigma = math.sqrt(2 / math.prod(shape[1:])) if init.kind == "he" else init.sigma
    draws = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(name.encode())]))
    weights = draws.standard_normal(shape, dtype=np.float32)
    weights *= np.float32(sigma)
    return weights


class _WeightedLayer(Layer):
    """Convolution and FC: the same three passes of two families of functions."""

    def __init__(
        self,
        spec: ConvSpec | FcSpec,
        device: Device,
        inputs: Sequence[Tensor],
        problem: ConvProblem | FcProblem,
        allocate: Allocate,
        seed: int,
    ) -> None:
        def parameter(kind: str, host: Any, lr_scale: float, weight_decay: float) -> Parameter:
            value, gradient, velocity = (allocate(device, host.shape) for _ in range(3))
            device.fill(value, host)
            for array in (gradient, velocity):
                device.fill(array, np.zeros(host.shape, np.float32))
            return Parameter(f"{spec.name}.{kind}", device, value, gradient, velocity, lr_scale, weight_decay)

        weights = initial_weights(spec.init, problem.w_shape, f"{spec.name}.weight", seed)
        self.weight = parameter("weight", weights, spec.lr_scale, spec.weight_decay)
        self.bias: Parameter | None = None
        if spec.bias is not None:
            first = np.full(problem.k, spec.bias, np.float32)
            self.bias = parameter("bias", first, spec.bias_lr_scale, spec.bias_weight_decay)
        learned = [self.weight] if self.bias is None else [self.weight, self.bias]
        super().__init__(spec.name, device, inputs, problem.y_shape, allocate, learned)

        self.problem = problem
        self.bias_problem = BiasProblem(self.output.count // problem.k, problem.k)
        # ReLU is part of the product's kernel; any other function is applied to the product afterwards.
        self.fused_relu = spec.neuron is not None and spec.neuron.kind == "relu"
        self.neuron: NeuronProblem | None = None
        self.product = self.output.array
        if spec.neuron is not None and not self.fused_relu:
            self.neuron = NeuronProblem(self.output.count, spec.neuron.kind, spec.neuron.a, spec.neuron.b)
            self.product = allocate(device, problem.y_shape)
        module = device.module
        self._fprop = getattr(module, f"{self.type}_fprop")
        self._dgrad = getattr(module, f"{self.type}_dgrad")
        self._wgrad = getattr(module, f"{self.type}_wgrad")

    def workspace_bytes(self) -> int:
        module = self.device.module
        passes = ["fprop", "wgrad", *(["dgrad"] if self.inputs[0].needs_gradient else [])]
        needs = [getattr(module, f"{self.type}_{name}_workspace")(self.problem) for name in passes]
        return int(max(*needs, module.bias_grad_workspace(self.bias_problem)))

    def forward(self, train: bool, step: int) -> None:
        module, stream = self.device.module, self.device.stream
        x, y = self.inputs[0].array, self.output.array
        bias = None if self.bias is None else self.bias.value
        self._fprop(
            self.problem, x, self.weight.value, bias, self.fused_relu, self.product, self.workspace, stream
        )
        if self.neuron is not None:
            module.neuron_forward(self.neuron, self.product, y, stream)

    def backward(self) -> None:
        module, stream = self.device.module, self.device.stream
        x, y, dy = self.inputs[0].array, self.output.array, self.output.gradient
        if self.fused_relu:
            module.relu_backward(y, dy, dy, stream)
        elif self.neuron is not None:
            module.neuron_backward(self.neuron, self.product, y, dy, dy, stream)
        self._wgrad(self.problem, x, dy, self.weight.gradient, self.workspace, stream)
        if self.bias is not None:
            module.bias_grad(self.bias_problem, dy, self.bias.gradient, self.workspace, stream)
        if self.input_gradients[0] is not None:
            self._dgrad(self.problem, dy, self.weight.value, self.input_gradients[0], self.workspace, stream)


class ConvLayer(_WeightedLayer):
    type = "conv"

    def __init__(
        self, spec: ConvSpec, device: Device, inputs: Sequence[Tensor], allocate: Allocate, seed: int
    ) -> None:
        (x,) = inputs
        problem = ConvProblem(
            *x.image, spec.filters, *spec.window, spec.stride, spec.padding, spec.groups, spec.rounding
        )
        super().__init__(spec, device, inputs, problem, allocate, seed)


class FcLayer(_WeightedLayer):
    type = "fc"

    def __init__(
        self, spec: FcSpec, device: Device, inputs: Sequence[Tensor], allocate: Allocate, seed: int
    ) -> None:
        (x,) = inputs
        problem = FcProblem(x.shape[0], x.count // x.shape[0], spec.outputs)
        super().__init__(spec, device, inputs, problem, allocate, seed)


# ---- layers without weights ------------------------------------------------------------------------------


class NeuronLayer(Layer):
    type = "neuron"
    backward_in_place = True

    def __init__(
        self, spec: NeuronSpec, device: Device, inputs: Sequence[Tensor], allocate: Allocate, seed: int
    ) -> None:
        (x,) = inputs
        super().__init__(spec.name, device, inputs, x.shape, allocate)
        self.problem = NeuronProblem(x.count, spec.neuron.kind, spec.neuron.a, spec.neuron.b)

    def forward(self, train: bool, step: int) -> None:
        self.device.module.neuron_forward(
            self.problem, self.inputs[0].array, self.output.array, self.device.stream
        )

    def backward(self) -> None:
        x, y, dy = self.inputs[0].array, self.output.array, self.output.gradient
        self.device.module.neuron_backward(
            self.problem, x, y, dy, self.input_gradients[0], self.device.stream
        )


class PoolLayer(Layer):
    type = "pool"

    def __init__(
        self, spec: PoolSpec, device: Device, inputs: Sequence[Tensor], allocate: Allocate, seed: int
    ) -> None:
        (x,) = inputs
        self.problem = PoolProblem(*x.image, spec.window, spec.stride, spec.padding, spec.rounding)
        self.is_max = spec.pool == "max"
        super().__init__(spec.name, device, inputs, self.problem.y_shape, allocate)

    def forward(self, train: bool, step: int) -> None:
        module = self.device.module
        pool = module.maxpool_forward if self.is_max else module.avgpool_forward
        pool(self.problem, self.inputs[0].array, self.output.array, self.device.stream)

    def backward(self) -> None:
        module, stream = self.device.module, self.device.stream
        dy, dx = self.output.gradient, self.input_gradients[0]
        if self.is_max:
            x, y = self.inputs[0].array, self.output.array
            module.maxpool_backward(self.problem, x, y, dy, dx, stream)
        else:
            module.avgpool_backward(self.problem, dy, dx, stream)


class LrnLayer(Layer):
    type = "lrn"

    def __init__(
        self, spec: LrnSpec, device: Device, inputs: Sequence[Tensor], allocate: Allocate, seed: int
    ) -> None:
        (x,) = inputs
        self.problem = LrnProblem(
            *x.image, spec.size, spec.alpha, spec.beta, spec.k, spec.groups, spec.region
        )
        super().__init__(spec.name, device, inputs, x.shape, allocate)

    def workspace_bytes(self) -> int:
        return int(self.device.module.lrn_backward_workspace(self.problem))

    def forward(self, train: bool, step: int) -> None:
        self.device.module.lrn_forward(
            self.problem, self.inputs[0].array, self.output.array, self.device.stream
        )

    def backward(self) -> None:
        x, dy, dx = self.inputs[0].array, self.output.gradient, self.input_gradients[0]
        self.device.module.lrn_backward(self.problem, x, dy, dx, self.workspace, self.device.stream)


class DropoutLayer(Layer):
    type = "dropout"
    backward_in_place = True

    def __init__(
        self, spec: DropoutSpec, device: Device, inputs: Sequence[Tensor], allocate: Allocate, seed: int
    ) -> None:
        (x,) = inputs
        super().__init__(spec.name, device, inputs, x.shape, allocate)
        self.keep = spec.keep
        self.seed = seed
        self.train_scale = 1 / spec.keep if spec.inverted else 1.0
        # At test time everything is kept.
        self.test_problem = DropoutProblem(x.count, 1.0, 1.0 if spec.inverted else spec.keep)
        self.problem = self.test_problem
        # No two layers and no two steps draw the same mask.
        self.first_subsequence = zlib.crc32(spec.name.encode()) << 32

    def forward(self, train: bool, step: int) -> None:
        self.problem = self.test_problem
        if train:
            self.problem = DropoutProblem(
                self.output.count, self.keep, self.train_scale, self.seed, self.first_subsequence + step
            )
        self.device.module.dropout(self.problem, self.inputs[0].array, self.output.array, self.device.stream)

    def backward(self) -> None:
        self.device.module.dropout(
            self.problem, self.output.gradient, self.input_gradients[0], self.device.stream
        )


class SumLayer(Layer):
    type = "sum"

    def __init__(
        self, spec: SumSpec, device: Device, inputs: Sequence[Tensor], allocate: Allocate, seed: int
    ) -> None:
        if len(inputs) < 2:
            raise ValueError(f"inputs must be at least two, not {len(inputs)}")
        if len({x.shape for x in inputs}) != 1:
            raise ValueError(
                "inputs must have one shape, not " + ", ".join(f"{x.name} {x.shape}" for x in inputs)
            )
        super().__init__(spec.name, device, inputs, inputs[0].shape, allocate)

    def forward(self, train: bool, step: int) -> None:
        module, stream, y = self.device.module, self.device.stream, self.output.array
        first, second, *rest = (x.array for x in self.inputs)
        module.add(first, second, y, stream)
        for array in rest:
            module.add(y, array, y, stream)

    def backward(self) -> None:
        for dx in self.input_gradients:
            if dx is not None:
                backends.copy(dx, self.device, self.output.gradient, self.device)


class SoftmaxCostLayer(Layer):
    """Its output is the probabilities; `losses` and `ranks` have a value for each image."""

    type = "softmax_cost"

    def __init__(
        self, spec: SoftmaxCostSpec, device: Device, inputs: Sequence[Tensor], allocate: Allocate, seed: int
    ) -> None:
        (x,) = inputs
        n, k = x.shape[0], x.count // x.shape[0]
        self.problem = SoftmaxProblem(n, k)
        super().__init__(spec.name, device, inputs, (n, k), allocate)
        self.coeff = spec.coeff
        self.labels = allocate(device, (n,), np.int32)
        self.losses = allocate(device, (n,))
        self.ranks = allocate(device, (n,), np.int32)
        self.count = n  # how many rows hold images; the loss is their mean

    def forward(self, train: bool, step: int) -> None:
        self.device.module.softmax_cross_entropy_forward(
            self.problem,
            self.inputs[0].array,
            self.labels,
            self.output.array,
            self.losses,
            self.ranks,
            self.device.stream,
        )

    def backward(self) -> None:
        dx = self.input_gradients[0]
        if dx is None:
            return
        problem, n = self.problem, self.count
        dx = dx.reshape(self.output.shape)
        if n < self.output.shape[0]:
            problem = SoftmaxProblem(n, self.output.shape[1])
            dx[n:] = 0
        self.device.module.softmax_cross_entropy_backward(
            problem, self.output.array[:n], self.labels[:n], self.coeff / n, dx[:n], self.device.stream
        )


# ---- what the network adds itself ------------------------------------------------------------------------


class InputLayer(Layer):
    """The images of a batch on one device: uint8 in, float[N, height, width, C] out."""

    type = "data"

    def __init__(self, net: NetSpec, device: Device, batch: int, allocate: Allocate) -> None:
        image = net.input
        self.problem = InputProblem(batch, *net.stored_shape, image.height, image.width)
        super().__init__(DATA, device, (), (batch, image.height, image.width, image.channels), allocate)
        self.scale = image.scale
        self.batch_scale = 1.0
        self.images = allocate(device, (batch, *net.stored_shape), np.uint8)
        self.top = allocate(device, (batch,), np.int32)
        self.left = allocate(device, (batch,), np.int32)
        self.mirror = allocate(device, (batch,), np.uint8)
        self._mean = allocate(device, net.stored_shape)
        self._shift = allocate(device, (batch, image.channels))
        self.mean: Any = None
        self.shift: Any = None

    def load(self, images: Any, top: Any, left: Any, mirror: Any, shift: Any) -> None:
        """Host arrays of one batch; rows beyond theirs are filled with zeros."""
        targets = [(self.images, images), (self.top, top), (self.left, left), (self.mirror, mirror)]
        if shift is not None:
            targets.append((self._shift, shift))
        self.shift = None if shift is None else self._shift
        with self.device:
            for target, host in targets:
                self.device.fill(target[: len(host)], host)
                if len(host) < len(target):
                    target[len(host) :] = 0

    def set_mean(self, mean: Any) -> None:
        self.mean = None if mean is None else self._mean
        if mean is not None:
            self.device.fill(self._mean, mean)

    def forward(self, train: bool, step: int) -> None:
        self.device.module.input_transform(
            self.problem,
            self.images,
            self.top,
            self.left,
            self.mirror,
            self.mean,
            self.shift,
            self.scale * self.batch_scale,
            self.output.array,
            self.device.stream,
        )


class CopyLayer(Layer):
    """An edge that crosses devices: the activation goes forward, its gradient back."""

    type = "copy"

    def __init__(self, source: Tensor, device: Device, reader: str, allocate: Allocate) -> None:
        super().__init__(f"{source.name}@{device.name}", device, (source,), source.shape, allocate)
        self.reader = reader  # the first layer that needs it here
        self.bytes = int(source.array.nbytes)
        self.copied_bytes = 0

    def forward(self, train: bool, step: int) -> None:
        source = self.inputs[0]
        backends.copy(self.output.array, self.device, source.array, source.device)
        self.copied_bytes += self.bytes

    def backward(self) -> None:
        source = self.inputs[0]
        backends.copy(self.input_gradients[0], source.device, self.output.gradient, self.device)
        self.copied_bytes += self.bytes


_LAYERS: dict[type[LayerSpec], Callable[..., Layer]] = {
    ConvSpec: ConvLayer,
    FcSpec: FcLayer,
    NeuronSpec: NeuronLayer,
    PoolSpec: PoolLayer,
    LrnSpec: LrnLayer,
    DropoutSpec: DropoutLayer,
    SumSpec: SumLayer,
    SoftmaxCostSpec: SoftmaxCostLayer,
}


def make_layer(
    spec: LayerSpec, device: Device, inputs: Sequence[Tensor], allocate: Allocate, seed: int
) -> Layer:
    """The layer a spec describes; a ValueError names the layer."""
    if len(inputs) != 1 and not isinstance(spec, SumSpec):
        raise ValueError(f"layer {spec.name}: inputs must be one layer, not {len(inputs)}")
    try:
        return _LAYERS[type(spec)](spec, device, inputs, allocate, seed)
    except ValueError as error:
        raise ValueError(f"layer {spec.name}: {error}") from error
