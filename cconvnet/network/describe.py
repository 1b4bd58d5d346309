"""Descriptions of a network: as JSON values, and as a table."""

from __future__ import annotations

import collections
from typing import Any

from cconvnet.nets import spec_to_dict
from cconvnet.nets.shapes import multiply_adds
from cconvnet.nets.table import number
from cconvnet.network.graph import Graph


def describe(graph: Graph) -> dict[str, Any]:
    """Return a network as JSON values; see Network.describe."""
    counts: collections.Counter[str] = collections.Counter()
    for parameter in graph.parameters.values():
        if parameter.learns:
            counts[parameter.layer] += parameter.count
    work, train_only = multiply_adds(graph.spec), graph.spec.train_only
    copied_back = [copy for copy in graph.copies if copy in graph.backward]
    copies = [
        {
            "layer": copy.reader,
            "source": copy.inputs[0].name,
            "from": copy.inputs[0].device.name,
            "to": copy.device.name,
            "bytes": copy.bytes,
            "gradient_bytes": copy.bytes if copy in copied_back else 0,
        }
        for copy in graph.copies
    ]
    return {
        "net": graph.spec.name,
        "batch": graph.batch,
        "device": ",".join(device.name for device in graph.devices),
        "towers": graph.towers,
        "precision": graph.precision,
        "parameters": sum(counts.values()),
        "multiply_adds": sum(work.values()),
        "layers": [
            {
                "name": spec.name,
                "type": spec.type,
                "device": ",".join(dict.fromkeys(layer.device.name for layer in graph.parts[spec.name])),
                "inputs": list(spec.inputs),
                "output_shape": _output_shape(graph, spec.name),
                "parameters": counts[spec.name],
                "multiply_adds": work.get(spec.name, 0),
            }
            for spec in graph.spec.layers
        ],
        "train_only": [layer.name for layer in graph.spec.layers if layer.name in train_only],
        "fused_gradients": graph.finished_by,
        "fused_statistics": graph.measured_by,
        "copies": copies,
        "copied_bytes_per_step": sum(copy.bytes for copy in (*graph.copies, *copied_back)),
        "concatenated_bytes_per_step": sum(
            layer.moved_bytes * (2 if layer in graph.backward else 1) for layer in graph.layers
        ),
        "memory_bytes": sum(graph.memory.bytes.values()),
        "spec": spec_to_dict(graph.spec),
    }


def _output_shape(graph: Graph, name: str) -> list[int]:
    """The shape of a layer's output, of all parts together."""
    shapes = [layer.shape_of(name) for layer in graph.parts[name]]
    return [*shapes[0][:-1], sum(shape[-1] for shape in shapes)]


def table(description: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table of a description.

    Args:
        description: as :meth:`Network.describe` returns it.
    """
    header = ["layer", "type", "device", "inputs", "output", "parameters", "multiply-adds"]
    rows = [
        [
            layer["name"],
            layer["type"],
            layer["device"],
            ", ".join(layer["inputs"]),
            "x".join(map(str, layer["output_shape"])),
            number(layer["parameters"]),
            number(layer["multiply_adds"]),
        ]
        for layer in description["layers"]
    ]
    return header, rows
