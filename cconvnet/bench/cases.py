"""Cases to measure: every layer and pass of a network as an operation on a problem."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from cconvnet._problem import (
    BiasProblem,
    DropoutProblem,
    LrnProblem,
    SgdProblem,
    SoftmaxProblem,
)
from cconvnet.checks import whole
from cconvnet.layers import over_blocks
from cconvnet.operations import OPERATIONS
from cconvnet.testing.networks import NETWORKS, Layer, layers
from cconvnet.testing.problems import with_precision

GEMMS = ("conv_fprop", "conv_dgrad", "conv_wgrad", "fc_fprop", "fc_dgrad", "fc_wgrad")

_OPERATIONS = {
    "conv": ("conv_fprop", "conv_dgrad", "conv_wgrad"),
    "fc": ("fc_fprop", "fc_dgrad", "fc_wgrad"),
    "lrn": ("lrn_forward", "lrn_backward"),
    "maxpool": ("maxpool_forward", "maxpool_backward"),
    "avgpool": ("avgpool_forward", "avgpool_backward"),
}

# Suffix of the name of a layer that is computed over blocks of pixels.
BLOCKS = "_blocks"
# AlexNet's rates; the speed of an update does not depend on them.
_RATES = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.0005}


@dataclass(frozen=True)
class Case:
    """One operation of a network, which is measured and fills one row of a table.

    Attributes:
        network: The network's name.
        batch: Images in a batch.
        layer: The layer's name in its network.
        operation: A function of kernels/api.h.
        problem: The operation's problem, or a tuple of several.
        precision: One of cconvnet.devices.PRECISIONS.
        needed: The share of the problem's products that the layer needs. All others multiply zeros.
        trained: True for the form in which training computes the layer.
    """

    network: str
    batch: int
    layer: str
    operation: str
    problem: Any
    precision: str = "fp32"
    needed: float = 1.0
    trained: bool = True

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
        """Return whether it is a sum of products, which arithmetic may limit.

        All other operations only move elements.
        """
        return self.operation in GEMMS

    @property
    def key(self) -> dict[str, Any]:
        """Return JSON values from which `find` makes the case again, given the precision."""
        return {
            "network": self.network,
            "batch": self.batch,
            "layer": self.layer,
            "operation": self.operation,
        }


def cases(network: str, batch: int, precision: str = "fp32", blocks: bool = False) -> list[Case]:
    """Return every layer and pass of a network in the network's order.

    A layer that reads the images has no dgrad. Each convolution and hidden fully connected layer is followed
    by the backward pass of its ReLU and its bias, whose forward passes belong to fprop. In a network with two
    hidden fully connected layers, dropout follows them. Normalisation across channels and the pooling behind
    it occur one by one and as one operation. The last cases are the loss, and the update of all weights at
    once.

    Args:
        network: One of cconvnet.testing.problems.NETWORKS.
        batch: Images in a batch.
        precision: One of cconvnet.devices.PRECISIONS.
        blocks: Whether to add the first convolution over blocks of pixels, as a layer ``conv1_blocks``, where
            `over_blocks` has such a form. Training computes that one where the device prefers it.

    Raises:
        ValueError: The text names the argument.
    """
    whole("batch", batch, 1)
    found = []
    first, *_ = network_layers = list(layers(network).values())
    for layer, operation, problem in _operations(network_layers, batch):
        problem = _in_precision(problem, precision)
        given = Case(network, batch, layer, operation, problem, precision)
        made = over_blocks(problem) if layer == first.name and operation in GEMMS else None
        if not blocks or made is None:
            found.append(given)
            continue
        found.append(replace(given, trained=False))
        needed = problem.flops / made.flops
        found.append(replace(given, layer=layer + BLOCKS, problem=made, needed=needed))
    return found


def _in_precision(problem: Any, precision: str) -> Any:
    return with_precision(problem, precision) if hasattr(problem, "precision") else problem


def _operations(network: list[Layer], batch: int) -> Iterator[tuple[str, str, Any]]:
    dense = [layer for layer in network if layer.kind == "fc"]
    weights = 0
    normalised: tuple[str, Any] | None = None
    for layer in network:
        problem = layer.problem(batch)
        for operation in _OPERATIONS[layer.kind]:
            if not (operation == "conv_dgrad" and layer is network[0]):
                yield layer.name, operation, problem
        if layer.kind in ("conv", "fc"):
            weights += math.prod(problem.w_shape)
        if layer.kind == "conv" or layer in dense[:-1]:
            count, channels = math.prod(problem.y_shape), problem.y_shape[-1]
            yield layer.name, "relu_bias_backward", BiasProblem(count // channels, channels)
            if layer in dense and len(dense) > 2:
                yield layer.name, "dropout", DropoutProblem(count, 0.5, 2.0, seed=1)
        if isinstance(problem, LrnProblem) and problem.region == "across_channels":
            normalised = layer.name, problem
        elif layer.kind == "maxpool" and normalised and normalised[1].x_shape == problem.x_shape:
            name, both = f"{normalised[0]}+{layer.name}", (normalised[1], problem)
            yield name, "lrn_maxpool_forward", both
            yield name, "lrn_maxpool_backward", both
        elif layer.kind != "lrn":
            normalised = None
    yield "loss", "softmax_cross_entropy", SoftmaxProblem(batch, dense[-1].shape["k"])
    yield "update", "sgd_update", SgdProblem(weights, **_RATES)


def find(network: str, batch: int, layer: str, operation: str, precision: str = "fp32") -> Case:
    """Return the case of a key."""
    for case in cases(network, batch, precision, blocks=True):
        if (case.layer, case.operation) == (layer, operation):
            return case
    raise ValueError(f"{network} has no {operation} of a layer {layer!r}")


def select(table: list[Case], only: str | None) -> list[Case]:
    """Return the cases that `only` names.

    `only` lists patterns (fnmatch) of a layer, an operation or its pass, separated by commas.

    >>> select(cases("alexnet", 1), "conv2,lrn*")      # all of conv2, lrn1, lrn2 and lrn2_map
    >>> select(cases("alexnet", 1), "wgrad")           # conv_wgrad and fc_wgrad of every layer

    Raises:
        ValueError: A pattern names nothing.
    """
    if only is None:
        return table
    patterns = [pattern.strip() for pattern in only.split(",")]

    def names(case: Case) -> tuple[str, ...]:
        return case.layer, case.operation, case.operation.rpartition("_")[2], case.name

    def matches(case: Case, pattern: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for name in names(case))

    for pattern in patterns:
        if not any(matches(case, pattern) for case in table):
            found = ", ".join(dict.fromkeys(case.layer for case in table))
            raise ValueError(
                f"--only must name layers or passes, such as conv2,wgrad; {pattern!r} names none of {found}"
            )
    return [case for case in table if any(matches(case, pattern) for pattern in patterns)]


__all__ = ["BLOCKS", "GEMMS", "NETWORKS", "Case", "cases", "find", "select"]
