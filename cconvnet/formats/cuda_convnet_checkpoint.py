"""cuda-convnet's checkpoints, and the conversion of their weights to a network's layouts.

A checkpoint is a pickle {"model_state": {"layers": ..., "epoch": ...}, "op": options}, perhaps zipped, or a
folder of such files named EPOCH.BATCH, of which the last counts. Each layer is a dictionary; those that learn
hold, per input, weights and weightsInc, and biases and biasesInc, all float32:

====== ========================================= =======================
layer  there                                     here
====== ========================================= =======================
conv   weights [C/groups * R * S, K]             weight [K,R,S,C/groups]
local  weights [P * Q * C/groups * R * S, K]     weight [P,Q,K,R,S,C/groups]
fc     weights [C * H * W, K]                    weight [K, H * W * C]
conv   biases [K, 1]; [K * P * Q, 1] if unshared bias [K]; [P,Q,K] if unshared
local  biases [K * P * Q, 1]                     bias [P,Q,K]
fc     biases [1, K]                             bias [K]
====== ========================================= =======================

weightsInc is what the last update added to the weights, inc = momentum * inc + rate * (gradient - wc * w), so
it is the velocity here, sign and scale included.

Source: layer.py, src/weights.cu and src/layer.cu of the program that the Computer History Museum published,
and python_util/gpumodel.py of cuda-convnet2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet.errors import CheckpointError, nearest
from cconvnet.formats import pickles
from cconvnet.network import Network

Layer = dict[str, Any]
Tensors = dict[str, np.ndarray[Any, Any]]
Shape = tuple[int, ...]
Image = tuple[int, int, int]  # (H, W, C)

_EPOCH_BATCH = re.compile(r"(\d+)\.(\d+)")
_PARAMETER = re.compile(r"(?P<layer>.+)\.(?P<what>weight|bias)(?:\.(?P<input>\d+))?")
_KINDS = {2: "fc", 4: "conv", 6: "local"}  # by a weight's number of dimensions here


def read_checkpoint(path: Path) -> list[Layer]:
    """Read the layers of a checkpoint, each a dictionary with name, type and its type's values.

    Raises:
        CheckpointError: the file, or the folder, is no checkpoint of cuda-convnet.
        PickleError: it is damaged, or asks for what is not done (ForbiddenPickle).
        OSError: it cannot be read.
    """
    file = _newest(path) if path.is_dir() else path
    content = pickles.load(file)
    state = content.get("model_state") if isinstance(content, dict) else None
    layers = state.get("layers") if isinstance(state, dict) else None
    # A list in cuda-convnet, later a dictionary by name.
    entries = list(layers.values()) if isinstance(layers, dict) else layers
    if not isinstance(entries, list) or not entries:
        raise CheckpointError(
            f"{file} is not a checkpoint of cuda-convnet: it has no model_state with layers"
        )
    for number, layer in enumerate(entries):
        if not isinstance(layer, dict) or not all(
            isinstance(layer.get(key), str) for key in ("name", "type")
        ):
            raise CheckpointError(f"{file}: layer {number} has no name or no type")
    return entries


def _newest(folder: Path) -> Path:
    found = {file: _EPOCH_BATCH.fullmatch(file.name) for file in folder.iterdir() if file.is_file()}
    files = [(int(match[1]), int(match[2]), file) for file, match in found.items() if match]
    if not files:
        raise CheckpointError(f"{folder} has no checkpoint of cuda-convnet, a file named EPOCH.BATCH")
    return max(files)[2]


def network_weights(network: Network, layers: Sequence[Layer]) -> Tensors:
    """Return a network's state with the weights and velocities of a checkpoint's layers.

    Raises:
        CheckpointError: naming the first layer or tensor that does not fit.
    """
    theirs = {layer["name"]: layer for layer in layers}
    learning = {parameter.layer for parameter in network.parameters.values()}
    for layer in network.layers:
        outputs, own = theirs.get(layer.name, {}).get("outputs"), layer.output.shape[1:]
        # Unlike the weights' shapes, this tells of another stride, padding or image size.
        if layer.name in learning and isinstance(outputs, int) and outputs != math.prod(own):
            shape = "x".join(map(str, own))
            raise CheckpointError(f"layer {layer.name} puts out {outputs:,} values there, {shape} here")
    return weights_for(
        {name: parameter.shape for name, parameter in network.parameters.items()},
        layers,
        {layer.name: [tensor.image[1:] for tensor in layer.inputs] for layer in network.layers},
    )


def weights_for(
    shapes: Mapping[str, Shape], layers: Sequence[Layer], images: Mapping[str, Sequence[Image]]
) -> Tensors:
    """Convert a checkpoint's weights to the layouts of a network's parameters, by layer name.

    Args:
        shapes: the parameters' names and shapes, "conv1.weight", "conv1.bias"; of a layer with several inputs
            "fc.weight.0", "fc.weight.1".
        layers: as read_checkpoint() gives them.
        images: (H, W, C) of each input of each fc layer.

    Returns:
        Each parameter by its name, and its velocity as NAME.velocity: float32 of the wanted shapes.

    Raises:
        CheckpointError: naming the first layer or tensor that does not fit.
    """
    theirs = {layer["name"]: layer for layer in layers}
    tensors: Tensors = {}
    for name, shape in shapes.items():
        found = _PARAMETER.fullmatch(name)
        if found is None:
            raise ValueError(f"shapes must be of parameters such as conv1.weight, not {name!r}")
        if found["layer"] not in theirs:
            raise CheckpointError(nearest("a layer of the checkpoint", found["layer"], theirs))
        layer, index = theirs[found["layer"]], int(found["input"] or 0)
        for suffix, kind in (("", "value"), (".velocity", "velocity")):
            if found["what"] == "bias":
                tensor = _bias(layer, shape, kind)
            else:
                pixels = images.get(layer["name"], ())
                tensor = _weight(layer, index, shape, kind, pixels[index] if index < len(pixels) else None)
            if not np.isfinite(tensor).all():
                raise CheckpointError(f"layer {layer['name']}: its {found['what']} is not finite")
            tensors[name + suffix] = np.ascontiguousarray(tensor, np.float32)
    _check_complete(shapes, layers)
    return tensors


def _weight(layer: Layer, index: int, shape: Shape, kind: str, pixels: Image | None) -> Any:
    """Return the weights of one input."""
    wanted, there = _KINDS.get(len(shape)), layer["type"]
    if there != wanted:
        raise CheckpointError(f"layer {layer['name']} is of type {there!r} there, {wanted!r} here")
    sparse = layer.get("randSparse")
    if any(sparse) if isinstance(sparse, list | tuple) else sparse:
        raise CheckpointError(
            f"layer {layer['name']} has random sparse connections, which are not computed here"
        )
    matrices = layer.get("weights" if kind == "value" else "weightsInc")
    if isinstance(matrices, np.ndarray):  # the oldest checkpoints, of layers with one input
        matrices = [matrices]
    if matrices is None and kind == "velocity":
        return np.zeros(shape, np.float32)
    if not isinstance(matrices, list | tuple) or index >= len(matrices):
        raise CheckpointError(f"layer {layer['name']} has no weights of input {index} there")
    if wanted == "fc":
        k, inputs = shape
        height, width, channels = pixels or (1, 1, inputs)
        matrix = _checked(layer, f"weights of input {index}", matrices[index], (inputs, k), shape)
        # Here a pixel's channels are side by side, there each channel is a plane.
        return matrix.reshape(channels, height, width, k).transpose(3, 1, 2, 0).reshape(k, inputs)
    *positions, k, r, s, c = shape
    rows = math.prod(positions) * c * r * s
    matrix = _checked(layer, f"weights of input {index}", matrices[index], (rows, k), shape)
    planes = matrix.reshape(*positions, c, r, s, k)
    return np.moveaxis(np.moveaxis(planes, -1, -4), -3, -1)


def _bias(layer: Layer, shape: Shape, kind: str) -> Any:
    biases = layer.get("biases" if kind == "value" else "biasesInc")
    if biases is None and kind == "velocity":
        return np.zeros(shape, np.float32)
    count = math.prod(shape)
    matrix = _checked(layer, "biases", biases, (1, count) if layer["type"] == "fc" else (count, 1), shape)
    if len(shape) == 1:
        return matrix.reshape(shape)
    p, q, k = shape
    return matrix.reshape(k, p, q).transpose(1, 2, 0)


def _checked(layer: Layer, what: str, matrix: Any, wanted: Shape, shape: Shape) -> Any:
    if not isinstance(matrix, np.ndarray) or matrix.dtype.kind != "f":
        raise CheckpointError(f"layer {layer['name']}: its {what} are no matrix of floats")
    if matrix.shape != wanted:
        there, should, here = ("x".join(map(str, sizes)) for sizes in (matrix.shape, wanted, shape))
        raise CheckpointError(
            f"layer {layer['name']}: its {what} are {there} there; the {here} here would be {should}"
        )
    return matrix


def _check_complete(shapes: Mapping[str, Shape], layers: Sequence[Layer]) -> None:
    """Refuse a checkpoint with more weights than the network takes."""
    for layer in layers:
        for what, key in (("weight", "weights"), ("bias", "biases")):
            count = len(layer[key]) if isinstance(layer.get(key), list | tuple) else int(key in layer)
            taken = sum(bool(re.fullmatch(rf"{re.escape(layer['name'])}\.{what}(\.\d+)?", n)) for n in shapes)
            if count > taken:
                raise CheckpointError(
                    f"layer {layer['name']} has {count} {what} tensors there, {taken} in this network"
                )


def shared_weights(layers: Sequence[Layer]) -> list[str]:
    """List the layers that share another layer's weights there; here each has its own."""
    sources = {layer["name"]: layer.get("weightSourceLayers") for layer in layers}
    return [name for name, source in sources.items() if isinstance(source, list) and any(source)]
