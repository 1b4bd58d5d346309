"""The nodes and tensors of an ONNX graph under construction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cconvnet.formats.onnx_schema import FLOAT, INT64
from cconvnet.nets.shapes import Shape

Array = np.ndarray[Any, Any]
_ATTRIBUTE_TYPES = {float: 1, int: 2, str: 3}
_LISTS = {float: ("floats", 6), int: ("ints", 7)}


class Nodes:
    """A graph under construction.

    Attributes:
        shapes: (H, W, C) of each layer's output.
        nodes: messages of the nodes so far.
        tensors: messages of the initializers so far.
        values: by a layer the name of its output in the graph.
    """

    def __init__(self, state: Mapping[str, Array], shapes: Mapping[str, Shape]) -> None:
        self.shapes = shapes
        self.nodes: list[dict[str, Any]] = []
        self.tensors: list[dict[str, Any]] = []
        self.values: dict[str, str] = {}
        self._state = state
        self._rows: set[str] = set()  # layers whose outputs are [N, C], behind a fully connected one
        self._forms: dict[tuple[str, str], str] = {}
        self._names: set[str] = set()

    def state(self, name: str) -> Array:
        """Return a tensor of the network's state.

        Raises:
            ValueError: there is none.
        """
        if name not in self._state:
            raise ValueError(f"the tensor {name!r} is missing")
        return self._state[name]

    # ---- what a node reads ----

    def image(self, layer: str) -> str:
        """Return a layer's output as [N, C, H, W]."""
        if layer not in self._rows:
            return self.values[layer]
        return self._form("Unsqueeze", layer, lambda: [self.integers("axes", [2, 3])])

    def row(self, layer: str) -> str:
        """Return a layer's output as [N, H * W * C], in this order, which is that of layers here."""
        if layer in self._rows:
            return self.values[layer]
        if self.shapes[layer][:2] == (1, 1):
            return self.planes(layer)
        key = "Transpose", layer
        if key not in self._forms:
            turned = self.node("Transpose", [self.values[layer]], perm=[0, 2, 3, 1])
            self._forms[key] = self.node("Flatten", [turned], axis=1)
        return self._forms[key]

    def planes(self, layer: str) -> str:
        """Return a layer's output as [N, C * H * W], in this order."""
        if layer in self._rows:
            return self.values[layer]
        return self._form("Flatten", layer, lambda: [], axis=1)

    def is_row(self, layer: str) -> bool:
        """True if a layer's output is [N, C]."""
        return layer in self._rows

    def together(self, layers: Sequence[str]) -> tuple[list[str], bool]:
        """Return the outputs of layers with the same number of axes, and whether that is 2."""
        rows = all(layer in self._rows for layer in layers)
        return [self.values[layer] if rows else self.image(layer) for layer in layers], rows

    def set(self, layer: str, value: str, row: bool) -> None:
        """Set a layer's output."""
        self.values[layer] = value
        if row:
            self._rows.add(layer)

    def _form(self, op: str, layer: str, more: Any, **attributes: Any) -> str:
        key = op, layer
        if key not in self._forms:
            self._forms[key] = self.node(op, [self.values[layer], *more()], **attributes)
        return self._forms[key]

    # ---- additions ----

    def node(self, op: str, inputs: Sequence[str], wish: str = "", **attributes: Any) -> str:
        """Add a node, and return the name of its output.

        Args:
            op: the operator.
            inputs: names of what it reads.
            wish: the name of its output, to which a number is added if it is taken; empty: any name.
            **attributes: numbers, texts, and lists of numbers.
        """
        name = self._free(wish or f"{inputs[0]}/{op}")
        listed = [_attribute(key, value) for key, value in attributes.items()]
        node = {"input": list(inputs), "output": [name], "name": name, "op_type": op, "attribute": listed}
        self.nodes.append(node)
        return name

    def indices(self, x: str, **attributes: Any) -> str | None:
        """Return the name of the second output of a MaxPool that is there, with these attributes; or None."""
        listed = [_attribute(key, value) for key, value in attributes.items()]
        for node in self.nodes:
            if node["op_type"] == "MaxPool" and node["input"] == [x] and node["attribute"] == listed:
                if len(node["output"]) == 1:
                    node["output"].append(self._free(f"{node['name']}/indices"))
                return str(node["output"][1])
        return None

    def tensor(self, wish: str, values: Array) -> str:
        """Add a constant of floats, and return its name."""
        floats = np.ascontiguousarray(values, "<f4").reshape(values.shape)
        return self._add(wish, FLOAT, floats)

    def integers(self, wish: str, values: Sequence[int]) -> str:
        """Add a constant list of whole numbers, and return its name."""
        return self._add(wish, INT64, np.array(values, "<i8"))

    def _add(self, wish: str, kind: int, values: Array) -> str:
        name = self._free(wish)
        tensor = {"dims": list(values.shape), "data_type": kind, "name": name, "raw_data": values}
        self.tensors.append(tensor)
        return name

    def _free(self, wish: str) -> str:
        name, number = wish, 1
        while name in self._names or name == "data":
            number += 1
            name = f"{wish}_{number}"
        self._names.add(name)
        return name


def _attribute(name: str, value: Any) -> dict[str, Any]:
    """Return the message of an attribute."""
    if isinstance(value, list):
        field, code = _LISTS[type(value[0])]
        return {"name": name, field: value, "type": code}
    code = _ATTRIBUTE_TYPES[type(value)]
    return {"name": name, {float: "f", int: "i", str: "s"}[type(value)]: value, "type": code}
