"""Cases to measure: every layer and pass of a network as an operation on a problem."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cconvnet._problem import (
    BatchNormProblem,
    BiasProblem,
    DropoutProblem,
    L2CostProblem,
    LrnProblem,
    NeuronProblem,
    SgdProblem,
    SoftmaxProblem,
)
from cconvnet.checks import whole
from cconvnet.formats.netfiles import AnyNet, chosen, resolve
from cconvnet.layers import over_blocks
from cconvnet.nets import (
    DATA,
    BatchNormSpec,
    DropoutSpec,
    L2CostSpec,
    NetSpec,
    Neuron,
    NeuronSpec,
    SoftmaxCostSpec,
    spec_from_dict,
    spec_to_dict,
)
from cconvnet.nets.shapes import shapes
from cconvnet.operations import OPERATIONS
from cconvnet.testing.networks import WEIGHTED, Layer, layers_of, of_spec
from cconvnet.testing.problems import with_precision

GEMMS = ("conv_fprop", "conv_dgrad", "conv_wgrad", "fc_fprop", "fc_dgrad", "fc_wgrad")
PRODUCTS = (*GEMMS, "local_fprop", "local_dgrad", "local_wgrad")

_OPERATIONS = {
    **{kind: tuple(f"{kind}_{part}" for part in ("fprop", "dgrad", "wgrad")) for kind in WEIGHTED},
    "lrn": ("lrn_forward", "lrn_backward"),
    "maxpool": ("maxpool_forward", "maxpool_backward"),
    "avgpool": ("avgpool_forward", "avgpool_backward"),
    "maxunpool": ("maxunpool_forward", "maxunpool_backward"),
    "contrast_norm": ("contrast_norm_forward", "contrast_norm_backward"),
}

# Suffix of the name of a layer that is computed over blocks of pixels.
BLOCKS = "_blocks"
# AlexNet's rates; the speed of an update does not depend on them.
_RATES = (0.01, 0.9, 0.0005)  # rate, momentum and weight decay


@dataclass(frozen=True)
class Case:
    """One operation of a network, which is measured and fills one row of a table.

    Attributes:
        network: The network's name.
        batch: Images in a batch.
        layer: The layer's name in its network; see `cases`.
        operation: A function of kernels/api.h.
        problem: The operation's problem, or a tuple of several.
        precision: One of cconvnet.devices.PRECISIONS.
        needed: The share of the problem's products that the layer needs. All others multiply zeros.
        trained: True for the form in which training computes the layer.
        same: Layers behind this one with the same operation on the same problem.
        spec: The network.
    """

    network: str
    batch: int
    layer: str
    operation: str
    problem: Any
    precision: str = "fp32"
    needed: float = 1.0
    trained: bool = True
    same: tuple[str, ...] = ()
    spec: NetSpec | None = field(default=None, compare=False, repr=False)

    @property
    def label(self) -> str:
        """Return the layer, and for how many layers it stands if they are several."""
        return f"{self.layer} x{1 + len(self.same)}" if self.same else self.layer

    @property
    def element(self) -> str:
        """Return the type of its arrays, except for those that are always floats."""
        return "bf16" if self.precision == "bf16" else "fp32"

    def dtype(self, name: str) -> Any:
        """Return the type of one of its numeric arrays."""
        return OPERATIONS[self.operation].dtype(name, self.element)

    @property
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each output.

        An update in bf16 also writes the bfloat16 weights that products read.
        """
        shapes = OPERATIONS[self.operation].output_shapes(self.problem)
        if self.operation == "sgd_update" and self.element == "bf16":
            shapes["w_bf16"] = shapes["w"]
        return shapes

    @property
    def name(self) -> str:
        """Return the layer and the operation."""
        return f"{self.layer} {self.operation}"

    @property
    def is_gemm(self) -> bool:
        """Return whether it is a product of matrices: a convolution or a fully connected layer."""
        return self.operation in GEMMS

    @property
    def is_product(self) -> bool:
        """Return whether it is a sum of products, which arithmetic may limit.

        All other operations only move elements.
        """
        return self.operation in PRODUCTS

    @property
    def key(self) -> dict[str, Any]:
        """Return JSON values from which `find` makes the case again, given the precision."""
        return {
            "network": self.network if self.spec is None else spec_to_dict(self.spec),
            "batch": self.batch,
            "layer": self.layer,
            "operation": self.operation,
        }


Net = AnyNet | Mapping[str, Any]


def cases(net: Net, batch: int, precision: str = "fp32", blocks: bool = False) -> list[Case]:
    """Return every layer and pass of a network in the network's order, each distinct problem once.

    A layer that reads the images has no dgrad. The products of each layer are followed by the backward pass
    of its ReLU and its bias, whose forward passes belong to fprop, or by both passes of another activation
    function. Normalisation across channels and the pooling behind it occur one by one and as one operation.
    The last cases are the losses, and the update of all weights at once. Sums, maxima, concatenations and
    selections of channels have no problem and no case.

    Args:
        net: A network, its name or file (see cconvnet.formats.netfiles.resolve), or what `Case.key` contains.
        batch: Images in a batch.
        precision: One of cconvnet.devices.PRECISIONS.
        blocks: Whether to add the first convolution over blocks of pixels, as a layer ``conv1_blocks``, where
            `over_blocks` has such a form. Training computes that one where the device prefers it.

    Raises:
        ValueError: The text names the argument.
    """
    whole("batch", batch, 1)
    found: dict[tuple[str, str], Case] = {}
    name, spec = resolved(net)
    first_layers = [layer.name for layer in layers_of(spec).values() if layer.source == DATA]
    for layer, operation, problem in _operations(spec, batch):
        problem = _in_precision(problem, precision)
        given = Case(name, batch, layer, operation, problem, precision, spec=spec)
        made = over_blocks(problem) if blocks and layer in first_layers else None
        forms = [given]
        if made is not None:
            needed = problem.flops / made.flops
            forms = [
                replace(given, trained=False),
                replace(given, layer=layer + BLOCKS, problem=made, needed=needed),
            ]
        for case in forms:
            key = operation, repr(case.problem)
            first = found.get(key)
            found[key] = case if first is None else replace(first, same=(*first.same, case.layer))
    return list(found.values())


def resolved(net: Net, size: int | None = None) -> tuple[str, NetSpec]:
    """Return a network's name and its spec.

    Raises:
        ValueError: There is no such network, or none for images of side `size`.
    """
    spec = spec_from_dict(dict(net)) if isinstance(net, Mapping) else resolve(net).build_sized(size)[0]
    return spec.name, spec


def chosen_net(
    net: str | None, layer_def: Path | None, layer_params: Path | None, crop: int | None
) -> AnyNet:
    """Return the network that command-line options choose; alexnet if none.

    Raises:
        ValueError: The options do not go together, or there is no such network.
    """
    return chosen(net, layer_def, layer_params, crop) or resolve("alexnet")


def _in_precision(problem: Any, precision: str) -> Any:
    return with_precision(problem, precision) if hasattr(problem, "precision") else problem


def _operations(spec: NetSpec, batch: int) -> Iterator[tuple[str, str, Any]]:
    """Yield the layer, the operation and the problem of all operations of a step."""
    walk, found = _Walk(batch), shapes(spec)
    for own in spec.layers:
        count = batch * math.prod(found[own.name])
        for layer in of_spec(own, [found[source] for source in own.inputs]):
            yield from walk.of(layer)
        if isinstance(own, DropoutSpec) and own.enabled:
            # With the factor of PyTorch's dropout; the speed does not depend on it.
            yield own.name, "dropout", DropoutProblem(count, own.keep, 1 / own.keep, seed=1)
        elif isinstance(own, NeuronSpec):
            yield from _neuron(own.name, own.neuron, count)
        elif isinstance(own, BatchNormSpec):
            k = found[own.name][2]
            norm = BatchNormProblem(count // k, k, eps=own.eps)
            for part in ("statistics", "forward", "backward"):
                yield own.name, f"batch_norm_{part}", norm
        elif isinstance(own, SoftmaxCostSpec):
            read = math.prod(found[own.inputs[0]])
            k = spec.classes
            yield own.name, "softmax_cross_entropy", SoftmaxProblem(batch * read // k, k, own.ignore)
        elif isinstance(own, L2CostSpec):
            problem = L2CostProblem(batch, math.prod(found[own.inputs[0]]))
            yield own.name, "l2_cost_forward", problem
            yield own.name, "l2_cost_backward", problem
    yield "update", "sgd_update", SgdProblem(walk.weights, *_RATES)


class _Walk:
    """Walk over the layers of a network that have problems.

    Attributes:
        weights: The number of weights so far.
        channels: The channels of the last product.
    """

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self.weights = self.channels = 0
        # Normalisations across channels by their names, for the pooling behind them.
        self._normalised: dict[str, Any] = {}
        self._last = ""

    def of(self, layer: Layer) -> Iterator[tuple[str, str, Any]]:
        """Yield the operations of a layer."""
        problem = layer.problem(self._batch)
        for operation in _OPERATIONS[layer.kind]:
            if not (operation.endswith("_dgrad") and layer.source == DATA):
                yield layer.name, operation, problem
        if layer.kind in WEIGHTED:
            self.weights += math.prod(problem.w_shape)
            count, self.channels = math.prod(problem.y_shape), problem.y_shape[-1]
            if layer.neuron is not None and layer.neuron.kind != "relu":
                yield from _neuron(layer.name, layer.neuron, count)
            elif layer.neuron is not None and layer.bias:
                biases = self.channels if layer.shared_bias else count // self._batch
                yield layer.name, "relu_bias_backward", BiasProblem(count // biases, biases)
        normalised = self._normalised.get(layer.source or self._last)
        if layer.kind == "maxpool" and normalised and normalised.x_shape == problem.x_shape:
            name, both = f"{layer.source or self._last}+{layer.name}", (normalised, problem)
            yield name, "lrn_maxpool_forward", both
            yield name, "lrn_maxpool_backward", both
        if isinstance(problem, LrnProblem) and problem.region == "across_channels":
            self._normalised[layer.name] = problem
        self._last = layer.name


def _neuron(name: str, neuron: Neuron, count: int) -> Iterator[tuple[str, str, Any]]:
    problem = NeuronProblem(count, neuron.kind, neuron.a, neuron.b)
    yield name, "neuron_forward", problem
    yield name, "neuron_backward", problem


def find(network: Net, batch: int, layer: str, operation: str, precision: str = "fp32") -> Case:
    """Return the case of a key."""
    for case in cases(network, batch, precision, blocks=True):
        if layer in (case.layer, *case.same) and case.operation == operation:
            return case
    raise ValueError(f"{resolved(network)[0]} has no {operation} of a layer {layer!r}")


def select(table: list[Case], only: str | None) -> list[Case]:
    """Return the cases that `only` names.

    `only` lists patterns (fnmatch) of a layer, an operation or its pass, separated by commas.

    >>> select(cases("alexnet", 1), "conv2,lrn*")      # all of conv2, lrn1 and lrn2
    >>> select(cases("alexnet", 1), "wgrad")           # conv_wgrad and fc_wgrad of every layer

    Raises:
        ValueError: A pattern names nothing.
    """
    if only is None:
        return table
    patterns = [pattern.strip() for pattern in only.split(",")]

    def names(case: Case) -> tuple[str, ...]:
        passes = case.operation, case.operation.rpartition("_")[2]
        own = (case.layer, *case.same)
        return (*own, *passes, *(f"{layer} {case.operation}" for layer in own))

    def matches(case: Case, pattern: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for name in names(case))

    for pattern in patterns:
        if not any(matches(case, pattern) for case in table):
            layers_found = (layer for case in table for layer in (case.layer, *case.same))
            found = ", ".join(dict.fromkeys(layers_found))
            raise ValueError(
                f"--only must name layers or passes, such as conv2,wgrad; {pattern!r} names none of {found}"
            )
    return [case for case in table if any(matches(case, pattern) for pattern in patterns)]


__all__ = ["BLOCKS", "GEMMS", "PRODUCTS", "Case", "Net", "cases", "chosen_net", "find", "resolved", "select"]
