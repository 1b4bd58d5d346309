"""A description of a network, for people."""

from __future__ import annotations

from typing import Any


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
