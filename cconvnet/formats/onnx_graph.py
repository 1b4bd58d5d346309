"""The nodes of an ONNX graph with their attributes and constants, under translation to a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet.formats.drafts import Draft, Signal
from cconvnet.formats.onnx_schema import array_of
from cconvnet.formats.protobuf import Message

Array = np.ndarray[Any, Any]

MAX_SMALL = 4096  # values of constants that are computed, such as shapes
_INT32 = 1 << 31


class Node:
    """A node of the graph.

    Attributes:
        op: its operator.
        name: of the node, or of its first output.
        inputs: names of what it reads; empty where an optional input is left out.
        outputs: names of its results.
    """

    def __init__(self, message: Message) -> None:
        self.op = message.text("op_type")
        self.domain = message.text("domain")
        self.inputs, self.outputs = message.texts("input"), message.texts("output")
        if not self.outputs:
            raise message.error("output", "is missing")
        self.name = message.text("name") or self.outputs[0]
        self._attributes = {attribute.text("name"): attribute for attribute in message.messages("attribute")}

    @property
    def text_of(self) -> str:
        """The node in errors."""
        return f"node {self.name!r} ({self.op})"

    def __contains__(self, attribute: str) -> bool:
        return attribute in self._attributes

    def attribute(self, name: str) -> Message:
        """Return an attribute as it is."""
        if name not in self._attributes:
            raise ValueError(f"has no attribute {name}")
        return self._attributes[name]

    def integer(self, name: str, default: int) -> int:
        """Return a whole number."""
        if name not in self._attributes:
            return default
        return _in_range(name, [self._attributes[name].integer("i")])[0]

    def integers(self, name: str, default: Iterable[int] = ()) -> list[int]:
        """Return whole numbers."""
        if name not in self._attributes:
            return list(default)
        return _in_range(name, map(int, self._attributes[name].integers("ints")))

    def pair(self, name: str) -> tuple[int, int]:
        """Return a value for each of the two directions; 1 if it is not given."""
        values = self.integers(name, (1, 1))
        if len(values) != 2 or min(values) < 1:
            raise ValueError(f"{name} must be two positive numbers, not {values}")
        return values[0], values[1]

    def real(self, name: str, default: float) -> float:
        """Return a number, as the shortest decimal that gives its 32 bits."""
        return (
            float(str(np.float32(self._attributes[name].real("f")))) if name in self._attributes else default
        )

    def text(self, name: str, default: str) -> str:
        """Return a text."""
        return self._attributes[name].text("s") if name in self._attributes else default


def _in_range(name: str, values: Iterable[int]) -> list[int]:
    """Return numbers, with those beyond 32 bits, which stand for an end that is far away, at its ends."""
    return [max(-_INT32, min(_INT32 - 1, value)) for value in values]


class Translation:
    """A graph under translation.

    Attributes:
        draft: the network.
        opset: the version of the operators.
        signals: what nodes computed, by name.
        paddings: zeros around a signal that a Pad added and that its readers must take over, as
            (top, left, bottom, right), by name.
        places: by the name of a pooling's indices its node, what it reads and what it computes.
        softmax: by the name of a result of a softmax, the name of that.
        folder: of the file.
    """

    def __init__(self, draft: Draft, opset: int, folder: Path, readers: Counter[str]) -> None:
        self.draft = draft
        self.opset = opset
        self.signals: dict[str, Signal] = {}
        self.paddings: dict[str, tuple[int, int, int, int]] = {}
        self.places: dict[str, tuple[Node, Signal, Signal]] = {}
        self.softmax: dict[str, str] = {}
        self._shared: set[str] = set()  # results that are others' under another name, which more nodes read
        self.folder = folder
        self._readers = readers
        self._tensors: dict[str, Message] = {}
        self._constants: dict[str, Array] = {}

    def add_tensor(self, name: str, tensor: Message) -> None:
        """Add an initializer, which is read when a node needs it."""
        self._tensors[name] = tensor

    def add_constant(self, name: str, value: Array) -> None:
        """Add the result of a node that no image changes."""
        self._constants[name] = value

    def is_constant(self, name: str) -> bool:
        """True of constants."""
        return name in self._constants or name in self._tensors

    def read(self, name: str) -> Array:
        """Return a constant by its name."""
        if name not in self._constants:
            self._constants[name] = array_of(self._tensors[name], name, self.folder)
        return self._constants[name]

    def alone(self, name: str) -> bool:
        """True if a single node reads a result."""
        return self._readers[name] == 1 and name not in self._shared

    def set_signals(self, node: Node, signals: Sequence[Signal]) -> None:
        """Set the results of a node, in their order; those that no layer computes lack."""
        for name, signal in zip(node.outputs, signals, strict=False):
            self.signals[name] = signal
            for source in node.inputs:
                if source in self.signals and self.signals[source].layer == signal.layer:
                    self._shared.update([name] * (not self.alone(source)))

    # ---- what a node reads ----

    def has(self, node: Node, index: int) -> bool:
        """True if the node has an input at this place."""
        return index < len(node.inputs) and bool(node.inputs[index])

    def constant(self, node: Node, index: int, what: str) -> Array:
        """Return a constant that a node reads.

        Raises:
            ValueError: it is none.
        """
        if not self.has(node, index):
            raise ValueError(f"its input {index}, {what}, is missing")
        name = node.inputs[index]
        if not self.is_constant(name):
            raise ValueError(f"its input {index}, {what}, must be a constant, not the result {name!r}")
        return self.read(name)

    def small(self, node: Node, index: int, what: str) -> list[int]:
        """Return a constant of few whole numbers, such as a shape."""
        values = self.constant(node, index, what)
        if values.dtype.kind not in "iu" or values.ndim > 1 or values.size > MAX_SMALL:
            raise ValueError(f"its input {index}, {what}, must be a list of whole numbers")
        return _in_range(what, values.reshape(-1).tolist())

    def signal(self, node: Node, index: int = 0, padded: bool = False, ended: bool = False) -> Signal:
        """Return a result that a node reads.

        Args:
            node: the node.
            index: of the input.
            padded: whether the node takes over the zeros of a Pad.
            ended: whether the node may stand behind a softmax.

        Raises:
            ValueError: it is none, or is not allowed to be what it is.
        """
        if not self.has(node, index):
            raise ValueError(f"its input {index} is missing")
        name = node.inputs[index]
        if name in self.paddings and not padded:
            raise ValueError("only convolutions and means that count the padding can read the zeros of a Pad")
        if name in self.softmax and not ended:
            raise ValueError("reads a softmax, which can only be at the end")
        if name not in self.signals:
            fault = "is a constant" if self.is_constant(name) else "is computed by nothing before it"
            raise ValueError(f"its input {index}, {name!r}, {fault}")
        return self.signals[name]
