"""ONNX models for tests: made node by node, filled with random weights, and run by onnxruntime."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cconvnet.formats.drafts import MEAN_IMAGE, Imported
from cconvnet.nets import SoftmaxCostSpec
from cconvnet.network import Network

onnx = pytest.importorskip("onnx", reason="onnx is not installed; it is one of the extra dev")
onnxruntime = pytest.importorskip(
    "onnxruntime", reason="onnxruntime is not installed; it is one of the extra dev"
)

Array = np.ndarray[Any, Any]

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def model(
    nodes: list[Any], weights: dict[str, Array], shape: Any = ("N", 3, 16, 16), opset: int = 17, **more: Any
) -> Any:
    """Return a model of nodes that read "x" and compute "y"."""
    graph = onnx.helper.make_graph(
        nodes,
        "small",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8, **more
    )


def node(op: str, inputs: str, output: str, **attributes: Any) -> Any:
    """Return a node; the names of its inputs and outputs are separated by blanks."""
    return onnx.helper.make_node(op, inputs.split(), output.split(), name=f"{op}_{output}", **attributes)


def with_random_weights(name: str, seed: int = 0) -> Any:
    """Return one of the onnx package's light models up to its logits, its weights drawn at random."""
    found = onnx.load(LIGHT / f"light_{name}.onnx")
    rng = np.random.default_rng(seed)
    shapes = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in found.graph.initializer}
    kept, tensors = [], []
    for one in found.graph.node:
        if one.op_type != "ConstantOfShape":
            kept.append(one)
            continue
        shape = shapes[one.input[0]]
        fan_in = math.prod(map(int, shape[1:]))
        if len(shape) > 1:
            values = rng.standard_normal(shape, np.float32) * math.sqrt(2 / fan_in)
        else:  # of a variance too
            values = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        tensors.append(onnx.numpy_helper.from_array(values.astype(np.float32), one.output[0]))
    if kept[-1].op_type == "Softmax":  # which would hide all but the largest logit
        found.graph.output[0].name = kept.pop().input[0]
    del found.graph.node[:]
    found.graph.node.extend(kept)
    found.graph.initializer.extend(tensors)
    return found


def peer(content: Any, images: Array) -> Array:
    """Return the first output of onnxruntime for images [n, C, H, W]."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    given = content if isinstance(content, str | bytes) else content.SerializeToString()
    session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: images})[0])


def pictures(imported: Imported, count: int = 2, seed: int = 1) -> Array:
    """Return random images, uint8[count, H, W, C]."""
    shape = (count, *imported.spec.stored_shape)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def answers(imported: Imported, images: Array) -> Array:
    """Return what the network computes outside of training: probabilities, or the last layer's output."""
    spec = imported.spec
    network = Network(spec, batch=len(images), devices="cpu", needs=None)
    state = network.state()
    state |= {name: np.ascontiguousarray(v) for name, v in imported.tensors.items() if name != MEAN_IMAGE}
    network.load_state(state)
    network.set_mean(imported.tensors.get(MEAN_IMAGE))
    answer = spec.answer
    labels = None
    if isinstance(answer, SoftmaxCostSpec):
        shape = (len(images), spec.input.height, spec.input.width)
        labels = np.zeros(shape if answer.per_pixel else len(images), np.int64)
    network.load(images, labels)
    network.forward(train=False)
    return network.outputs(answer.name)


def without_softmax(imported: Imported) -> Imported:
    """Return the network that ends in the logits."""
    spec = imported.spec
    layers = tuple(layer for layer in spec.layers if layer not in spec.costs)
    return imported._replace(spec=dataclasses.replace(spec, layers=layers))


def planes(images: Array) -> Array:
    """Return images [n, H, W, C] as ONNX has them, float [n, C, H, W]."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32)
