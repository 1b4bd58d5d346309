"""ONNX's transposed convolutions and Split: onnxruntime agrees, and what no layer computes is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.onnx_models import answers, model, node, onnx, peer, pictures, planes, without_softmax

from cconvnet.errors import DataError
from cconvnet.formats import onnx_reader

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
W, BIAS = RNG.standard_normal((3, 4, 4, 3), np.float32), RNG.standard_normal(4, np.float32)
SHARES = RNG.standard_normal((6, 3, 1, 1), np.float32)


def read(tmp_path: Path, content: Any) -> Any:
    file = tmp_path / "model.onnx"
    file.write_bytes(content.SerializeToString())
    return onnx_reader.read(file)


def agree(tmp_path: Path, content: Any) -> Any:
    """Check the answers of a network read from a model, and return it."""
    imported = read(tmp_path, content)
    images = pictures(imported)
    wanted = peer(content, planes(images))
    found = answers(without_softmax(imported), images)
    if wanted.ndim == 4:
        wanted = wanted.transpose(0, 2, 3, 1)
    assert found.size == wanted.size
    assert np.abs(found.reshape(wanted.shape) - wanted).max() <= 1e-4 * np.abs(wanted).max()
    assert wanted.std() > 1e-3
    return imported


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 3]},
        {"strides": [2, 2], "pads": [1, 0, 2, 1]},
        {"strides": [2, 3], "pads": [1, 1, 1, 1], "output_padding": [1, 2]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {"strides": [3, 2], "auto_pad": "VALID"},
        {"strides": [2, 2], "output_shape": [33, 34]},
        {"strides": [2, 2], "output_shape": [33, 33], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 2], "output_shape": [33, 33], "auto_pad": "SAME_LOWER"},
        {"strides": [2, 2], "output_shape": [35, 34], "output_padding": [1, 1]},
    ],
)
def test_a_transposed_convolution(tmp_path: Path, attributes: dict[str, Any], opset: int) -> None:
    nodes = [node("ConvTranspose", "x w b", "y", **attributes)]
    agree(tmp_path, model(nodes, {"w": W, "b": BIAS}, opset=opset))


def test_a_transposed_convolution_in_groups_with_its_activation(tmp_path: Path) -> None:
    nodes = [node("Conv", "x s", "c"), node("ConvTranspose", "c w", "d", group=3), node("Relu", "d", "y")]
    weights = {"s": SHARES, "w": RNG.standard_normal((6, 2, 2, 2), np.float32)}
    imported = agree(tmp_path, model(nodes, weights))
    (_, deconv) = imported.spec.layers
    assert deconv.type == "deconv" and deconv.filters == 6 and deconv.neuron.kind == "relu"


def test_a_factor_behind_a_transposed_convolution(tmp_path: Path) -> None:
    nodes = [node("ConvTranspose", "x w b", "d"), node("Mul", "d f", "y")]
    agree(tmp_path, model(nodes, {"w": W, "b": BIAS, "f": RNG.standard_normal((4, 1, 1), np.float32)}))


PARTS = [node("Conv", "x s", "c")], [node("Relu", "p", "r"), node("Concat", "r q p", "y", axis=1)]


@pytest.mark.parametrize(
    ("opset", "inputs", "attributes"),
    [
        (11, "c", {"split": [2, 4]}),
        (11, "c", {}),
        (13, "c sizes", {}),
        (17, "c sizes", {"axis": -3}),
        (17, "c", {}),
        (18, "c", {"num_outputs": 2}),
        (18, "c sizes", {}),
    ],
)
def test_both_forms_of_split(tmp_path: Path, opset: int, inputs: str, attributes: dict[str, Any]) -> None:
    before, after = PARTS
    nodes = [*before, node("Split", inputs, "p q", **{"axis": 1, **attributes}), *after]
    weights = {"s": SHARES} | ({"sizes": np.array([5, 1])} if "sizes" in inputs else {})
    agree(tmp_path, model(nodes, weights, opset=opset))


def test_a_split_of_a_row_and_one_with_a_smaller_last_part(tmp_path: Path) -> None:
    before = [node("Flatten", "x", "f"), node("Gemm", "f w", "g", transB=1)]
    weights = {"w": RNG.standard_normal((7, 3 * 16 * 16), np.float32) / 1000}
    after = [node("Sum", "p q", "s"), node("Concat", "s t", "y", axis=1)]
    split = node("Split", "g", "p q t", axis=-1, num_outputs=3)
    agree(tmp_path, model([*before, split, *after], weights, opset=18))


def test_a_split_whose_other_results_are_not_needed(tmp_path: Path) -> None:
    nodes = [node("Conv", "x s", "c"), onnx.helper.make_node("Split", ["c"], ["p", "", "q"], axis=1)]
    imported = read(tmp_path, model([*nodes, node("Relu", "q", "y")], {"s": SHARES}, opset=13))
    assert [layer.type for layer in imported.spec.layers] == ["conv", "select", "neuron"]
    assert imported.spec.layers[1].channels == (4, 5)


@pytest.mark.parametrize(
    ("nodes", "text"),
    [
        ([node("ConvTranspose", "x w", "y", dilations=[2, 1])], "dilations must be 1"),
        ([node("ConvTranspose", "x w", "y", group=2)], "groups (2) must divide c (3)"),
        ([node("ConvTranspose", "x w", "y", output_padding=[1, 1])], "outputs must be from 19 to 19"),
        ([node("ConvTranspose", "x w", "y", output_shape=[99, 9])], "outputs must be from 19 to 19"),
        ([node("ConvTranspose", "x w", "y", output_padding=[1])], "must be two numbers"),
        ([node("ConvTranspose", "x w b", "y")], "the bias must have a value for each of the 4"),
        ([node("ConvTranspose", "x v", "y")], "reads 2 channels, but there are 3"),
        ([node("ConvTranspose", "x w", "y", pads=[9, 9, 9, 9, 9])], "pads must be four numbers"),
        ([node("Split", "x", "y q", axis=2)], "only channels are split"),
        ([node("Split", "x", "y q", axis=1)], "splits 3 channels into 2 equal parts"),
        ([node("Split", "x sizes", "y q", axis=1)], "splits 3 channels into [2, 2] for 2 results"),
        ([node("Split", "x sizes", "y q r", axis=1)], "splits 3 channels into [2, 2] for 3 results"),
        ([node("Split", "x bad", "y q", axis=1)], "splits 3 channels into [4, -1] for 2 results"),
    ],
)
def test_refused_with_node_and_reason(tmp_path: Path, nodes: list[Any], text: str) -> None:
    sizes = {"sizes": np.array([2, 2]), "bad": np.array([4, -1])}
    content = model(nodes, {"w": W, "b": BIAS[:3], "v": W[:2], **sizes})
    with pytest.raises(DataError) as error:
        read(tmp_path, content)
    assert text in str(error.value) and f"node '{nodes[0].name}'" in str(error.value)
