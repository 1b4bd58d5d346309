"""Networks written as ONNX files: IR version 8, operators of version 17.

The file computes what the network computes outside of training, for any number of images. Its input "data"
is float [N, C, H, W], RGB, of the network's input size: pixels from 0 to 255, of which nodes subtract the
mean, or images that are normalised already. Heads are left out, and the towers of a split layer are one.

Layers that are no operator of ONNX are several: a layer with filters for each position is a product of
matrices, and normalisation within a map a mean of squares and a power. What ONNX cannot say is refused by the
layer's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import cconvnet
from cconvnet.formats import onnx_layers
from cconvnet.formats.onnx_nodes import Nodes
from cconvnet.formats.onnx_schema import FLOAT, MODEL
from cconvnet.formats.protobuf import Buffer, encode
from cconvnet.nets import DATA, NetSpec, SoftmaxCostSpec
from cconvnet.nets.shapes import shapes
from cconvnet.nets.specs import CostSpec
from cconvnet.nets.transform import towers, without_heads
from cconvnet.system.outputs import write_output

Array = np.ndarray[Any, Any]

OPSET, IR_VERSION = 17, 8


def write(
    path: Path,
    spec: NetSpec,
    state: Mapping[str, Array],
    mean: Array | None = None,
    normalised: bool = False,
) -> None:
    """Write a network with its weights.

    Args:
        path: of the file, which is replaced.
        spec: the network.
        state: its state, as Network.state returns it.
        mean: float32[H, W, C] of the stored size, which is subtracted from images if the spec has no mean.
        normalised: whether images come normalised, so that the file neither subtracts nor divides.

    Raises:
        ValueError: ONNX cannot say a layer; the text names it.
        OSError: the file cannot be written.
    """
    write_output(path, model(spec, state, mean, normalised))


def model(
    spec: NetSpec, state: Mapping[str, Array], mean: Array | None = None, normalised: bool = False
) -> list[Buffer]:
    """Return the file's bytes as pieces; see :func:`write`."""
    spec = without_heads(towers(spec, 1))
    for layer in spec.layers:
        onnx_layers.check(layer)
    found = shapes(spec)
    net = Nodes(state, found)
    _add_images(net, spec, mean, normalised)
    for layer in spec.layers:
        if not isinstance(layer, CostSpec):
            onnx_layers.add(net, layer)
    answer = _add_answer(net, spec)
    image = spec.input
    pixels = "normalised as for training" if normalised else "pixels from 0 to 255"
    graph = {
        "node": net.nodes,
        "name": spec.name,
        "initializer": net.tensors,
        "doc_string": f"data: float [N, {image.channels}, {image.height}, {image.width}], "
        f"{'RGB, ' * (image.channels == 3)}{pixels}",
        "input": [_value(DATA, [image.channels, image.height, image.width])],
        "output": [_value(*answer)],
    }
    return encode(
        MODEL,
        {
            "ir_version": IR_VERSION,
            "opset_import": [{"domain": "", "version": OPSET}],
            "producer_name": "cconvnet",
            "producer_version": cconvnet.__version__,
            "graph": graph,
        },
    )


def _value(name: str, sides: Sequence[int]) -> dict[str, Any]:
    """Return the description of an input or an output, whose first axis is that of the images."""
    dims = [{"dim_param": "N"}, *({"dim_value": side} for side in sides)]
    return {"name": name, "type": {"tensor_type": {"elem_type": FLOAT, "shape": {"dim": dims}}}}


def _add_images(net: Nodes, spec: NetSpec, mean: Array | None, normalised: bool) -> None:
    """Add the nodes that make of pixels what the first layers read."""
    image, name = spec.input, DATA
    if not normalised:
        wide = (1, image.channels, 1, 1)
        if image.mean is not None:
            if any(image.mean):
                name = net.node("Sub", [name, net.tensor("data.mean", np.reshape(image.mean, wide))])
        elif mean is not None:
            if mean.shape != spec.stored_shape:
                raise ValueError(f"mean must have the shape {spec.stored_shape}, not {mean.shape}")
            top, left = (spec.stored[0] - image.height) // 2, (spec.stored[1] - image.width) // 2
            crop = mean[top : top + image.height, left : left + image.width].transpose(2, 0, 1)[None]
            name = net.node("Sub", [name, net.tensor("data.mean", crop)])
        if image.deviation is not None:
            name = net.node("Div", [name, net.tensor("data.deviation", np.reshape(image.deviation, wide))])
        if image.scale != 1:
            name = net.node("Mul", [name, net.tensor("data.scale", np.array(image.scale))])
    net.values[DATA] = name


def _add_answer(net: Nodes, spec: NetSpec) -> tuple[str, list[int]]:
    """Add the end of the network, and return the output's name and its sides but for the first."""
    answer = spec.answer
    if isinstance(answer, SoftmaxCostSpec):
        source = answer.inputs[0]
        h, w, c = net.shapes[source]
        if answer.per_pixel:
            return net.node("Softmax", [net.image(source)], answer.softmax, axis=1), [c, h, w]
        return net.node("Softmax", [net.row(source)], answer.softmax, axis=1), [h * w * c]
    layer = answer.inputs[0] if isinstance(answer, CostSpec) else answer.name
    h, w, c = net.shapes[layer]
    row = net.is_row(layer)
    if net.values[layer] == DATA:
        net.values[layer] = net.node("Identity", [DATA], layer)
    return net.values[layer], [c] if row else [c, h, w]
