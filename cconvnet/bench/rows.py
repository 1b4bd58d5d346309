"""The layers and passes of a network, each one operation on one problem."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cconvnet._problem import DropoutProblem, NeuronProblem, SgdProblem, SoftmaxProblem
from cconvnet.testing.problems import NETWORKS, Layer, layers

GEMMS = ("conv_fprop", "conv_dgrad", "conv_wgrad", "fc_fprop", "fc_dgrad", "fc_wgrad")

_OPERATIONS = {
    "conv": ("conv_fprop", "conv_dgrad", "conv_wgrad"),
    "fc": ("fc_fprop", "fc_dgrad", "fc_wgrad"),
    "lrn": ("lrn_forward", "lrn_backward"),
    "maxpool": ("maxpool_forward", "maxpool_backward"),
    "avgpool": ("avgpool_forward", "avgpool_backward"),
}

# As AlexNet was trained; how fast an update is does not depend on them.
_RATES = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.0005}


@dataclass(frozen=True)
class Row:
    """One operation of a network: what one line of a table is about.

    Attributes
        network, batch: whose.
        layer: the layer's name in its network.
        operation: a function of kernels/api.h.
        problem: what it is called with.
    """

    network: str
    batch: int
    layer: str
    operation: str
    problem: Any

    @property
    def name(self) -> str:
        return f"{self.layer} {self.operation}"

    @property
    def is_gemm(self) -> bool:
        """Whether it is a sum of products, which arithmetic may limit, or moves elements only."""
        return self.operation in GEMMS

    @property
    def key(self) -> dict[str, Any]:
        """JSON values from which `find` makes the row again, in another process."""
        return {
            "network": self.network,
            "batch": self.batch,
            "layer": self.layer,
            "operation": self.operation,
        }


def rows(network: str, batch: int) -> list[Row]:
    """Every layer and pass of one of cconvnet.testing.problems.NETWORKS, in the network's order.

    A layer that reads the images has no dgrad. Behind each convolution and hidden fully connected layer
    stands the ReLU's backward pass (forward it is part of fprop), behind the hidden fully connected layers of
    a network that has two of them dropout. The last rows are the loss, and the update of the weights of all
    these layers at once.

    Raises
        ValueError: naming the argument.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")
    return [
        Row(network, batch, layer, operation, problem)
        for layer, operation, problem in _operations(list(layers(network).values()), batch)
    ]


def _operations(network: list[Layer], batch: int) -> Iterator[tuple[str, str, Any]]:
    dense = [layer for layer in network if layer.kind == "fc"]
    weights = 0
    for layer in network:
        problem = layer.problem(batch)
        for operation in _OPERATIONS[layer.kind]:
            if not (operation == "conv_dgrad" and layer is network[0]):
                yield layer.name, operation, problem
        if layer.kind in ("conv", "fc"):
            weights += math.prod(problem.w_shape)
        if layer.kind == "conv" or layer in dense[:-1]:
            count = math.prod(problem.y_shape)
            yield layer.name, "relu_backward", NeuronProblem(count)
            if layer in dense and len(dense) > 2:
                yield layer.name, "dropout", DropoutProblem(count, 0.5, 2.0, seed=1)
    loss = SoftmaxProblem(batch, dense[-1].shape["k"])
    yield "loss", "softmax_cross_entropy_forward", loss
    yield "loss", "softmax_cross_entropy_backward", loss
    yield "update", "sgd_update", SgdProblem(weights, **_RATES)


def find(network: str, batch: int, layer: str, operation: str) -> Row:
    """The row of a key."""
    for row in rows(network, batch):
        if (row.layer, row.operation) == (layer, operation):
            return row
    raise ValueError(f"{network} has no {operation} of a layer {layer!r}")


def select(table: list[Row], only: str | None) -> list[Row]:
    """The rows that `only` names: patterns (fnmatch) of a layer, an operation or its pass, with commas.

    >>> select(rows("alexnet", 1), "conv2,lrn*")      # all of conv2, lrn1, lrn2 and lrn2_map
    >>> select(rows("alexnet", 1), "wgrad")           # conv_wgrad and fc_wgrad of every layer

    Raises
        ValueError: a pattern names nothing.
    """
    if only is None:
        return table
    patterns = [pattern.strip() for pattern in only.split(",")]

    def names(row: Row) -> tuple[str, ...]:
        return row.layer, row.operation, row.operation.rpartition("_")[2], row.name

    def matches(row: Row, pattern: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for name in names(row))

    for pattern in patterns:
        if not any(matches(row, pattern) for row in table):
            found = ", ".join(dict.fromkeys(row.layer for row in table))
            raise ValueError(
                f"--only must name layers or passes, such as conv2,wgrad; {pattern!r} names none of {found}"
            )
    return [row for row in table if any(matches(row, pattern) for pattern in patterns)]


__all__ = ["GEMMS", "NETWORKS", "Row", "find", "rows", "select"]
