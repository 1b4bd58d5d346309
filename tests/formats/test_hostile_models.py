"""Damaged and hostile ONNX files: a typed error that names the file, nothing run, little memory."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import damaged_messages
from helpers.onnx_models import LIGHT, model, node, onnx

from cconvnet.errors import DataError
from cconvnet.formats import onnx_reader
from cconvnet.formats.onnx_schema import MODEL
from cconvnet.formats.protobuf import encode

ROOM = 24 << 20  # bytes that any file may need: NumPy's own arrays, and weights that constants make


def base() -> bytes:
    """Return a model with an operator of each kind, most of whose bytes are structure."""
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {
        "w": rng.standard_normal((8, 3, 3, 3), np.float32),
        "b": rng.standard_normal(8).astype(np.float16).astype(np.float32),
        "g": np.ones(8, np.float32),
        "f": rng.standard_normal((5, 8 * 4 * 4), np.float32),
        "u0": rng.standard_normal((8, 4, 2, 2), np.float32),
        "shape": np.array([0, -1]),
        "p": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "filled": np.array([8, 8, 1, 1]),
        "i": np.arange(8)[::-1].copy(),
    }
    nodes = [
        node("Pad", "x p", "z"),
        node("Conv", "z w b", "c", strides=[2, 2], dilations=[1, 1], group=1),
        node("BatchNormalization", "c g b b g", "n", epsilon=1e-3),
        node("Relu", "n", "r"),
        node("LRN", "r", "l", size=3, alpha=1.0),
        node("ConstantOfShape", "filled", "k"),
        node("Conv", "l k", "d", auto_pad="SAME_UPPER"),
        node("Concat", "d r", "e", axis=1),
        node("Slice", "e i1 i2 i1", "h"),
        node("Gather", "h i", "g0", axis=1),
        node("Split", "g0", "g1 g2", axis=1, split=[3, 5]),
        node("Concat", "g2 g1", "g3", axis=1),
        node(
            "ConvTranspose", "g3 u0", "t", strides=[2, 2], pads=[1, 0, 1, 0], output_padding=[1, 0], group=2
        ),
        node("MaxPool", "t", "m", kernel_shape=[4, 4], strides=[4, 4], ceil_mode=1),
        node("Clip", "m", "u", min=0.0, max=6.0),
        node("Reshape", "u shape", "v"),
        node("Gemm", "v f", "o", transB=1),
        node("Softmax", "o", "y", axis=1),
    ]
    weights |= {"i1": np.array([1]), "i2": np.array([9])}
    return bytes(model(nodes, weights, opset=10).SerializeToString())


BASE = base()


def truncated(rng: random.Random) -> bytes:
    return BASE[: rng.randrange(len(BASE))]


def flipped(rng: random.Random) -> bytes:
    content = bytearray(BASE)
    for _ in range(rng.choice((1, 1, 2, 8))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def overwritten(rng: random.Random) -> bytes:
    content = bytearray(BASE)
    for _ in range(rng.choice((1, 3))):
        content[rng.randrange(len(content))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
    return bytes(content)


def moved(rng: random.Random) -> bytes:
    at, size = rng.randrange(len(BASE)), rng.randrange(1, 40)
    return (
        BASE[:at] + BASE[at + size :] if rng.random() < 0.5 else BASE[:at] + BASE[at : at + size] + BASE[at:]
    )


def of_changed_values(rng: random.Random) -> bytes:
    """Return a well-formed file in which one number is another."""
    content = onnx.load_from_string(BASE)
    bad = rng.choice((0, -1, 1, 2, 3, 7, 255, 2**31 - 1, -(2**31), 2**40, 2**62, -(2**63)))
    what = rng.randrange(4)
    if what == 0:
        tensor = rng.choice(content.graph.initializer)
        if tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = bad
    elif what == 1:
        tensor = rng.choice([t for t in content.graph.initializer if t.data_type == onnx.TensorProto.INT64])
        values = onnx.numpy_helper.to_array(tensor).copy()
        values[rng.randrange(len(values))] = bad
        tensor.raw_data = values.tobytes()
    elif what == 2:
        attribute = rng.choice([a for n in content.graph.node for a in n.attribute if a.ints or a.i])
        if attribute.ints:
            attribute.ints[rng.randrange(len(attribute.ints))] = bad
        else:
            attribute.i = bad
    else:
        changed = rng.choice(content.graph.node)
        names = [name for n in content.graph.node for name in (*n.input, *n.output)]
        changed.input[rng.randrange(len(changed.input))] = rng.choice(names)
    return bytes(content.SerializeToString())


def of_changed_fields(rng: random.Random) -> bytes:
    content = BASE
    for _ in range(rng.choice((1, 1, 2, 3))):
        content = damaged_messages.changed(content, rng)
    return content


KINDS: list[Callable[[random.Random], bytes]] = [
    *(truncated, flipped, overwritten, moved, of_changed_values, of_changed_fields),
]


def outcome(file: Path, content: bytes) -> str:
    """Read a file, check what is promised of any file, and return the error's text."""
    file.write_bytes(content)
    tracemalloc.start()
    try:
        onnx_reader.read(file)
        text = ""
    except DataError as error:
        text = str(error)
        assert text.startswith(str(file)), text
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak <= 3 * len(content) + ROOM, text
    return text


@pytest.mark.parametrize("kind", KINDS)
def test_no_damage_leads_to_anything_but_an_error_that_names_the_file(
    kind: Callable[[random.Random], bytes], tmp_path: Path
) -> None:
    rng = random.Random(kind.__name__)
    texts = [outcome(tmp_path / "m.onnx", kind(rng)) for _ in range(150)]
    assert sum(bool(text) for text in texts) > 30  # a flip of a weight's bit is no damage that can be seen
    if kind is truncated:
        assert all(texts[1:])


def test_the_file_before_it_is_damaged_is_read(tmp_path: Path) -> None:
    assert outcome(tmp_path / "m.onnx", BASE) == ""


def filled(shape: list[int], nodes: list[Any], **more: Any) -> bytes:
    """Return a model in which "k" is a constant of a shape, which needs no bytes."""
    weights = {"filled": np.array(shape), **more}
    return bytes(model([node("ConstantOfShape", "filled", "k"), *nodes], weights).SerializeToString())


BOMBS = {
    "a huge filter": filled([2**31 - 1, 3, 1, 1], [node("Conv", "x k", "y")]),
    "a huge constant": filled([2**31 - 1] * 8, [node("Conv", "x k", "y")]),
    "a factor for huge weights": filled(
        [2**19, 3, 5, 5],
        [node("Conv", "x k", "c"), node("Mul", "c s", "y")],
        s=np.full((1, 2**19, 1, 1), 2, "f2"),
    ),
    "factors for many channels": filled(
        [2**18, 3, 1, 1],
        [
            node("Conv", "x k", "c0"),
            node("ConstantOfShape", "vector", "s"),
            *(
                n
                for i in range(80)
                for n in (node("Relu", f"c{i}", f"r{i}"), node("Mul", f"r{i} s", f"c{i + 1}"))
            ),
            node("Identity", "c80", "y"),
        ],
        vector=np.array([2**18, 1, 1]),
    ),
    "weights that many layers share": bytes(
        model(
            [
                *(node("Conv", f"c{i} w", f"c{i + 1}") for i in range(200)),
                node("Relu", "c200", "y"),
            ],
            {"w": np.ones((512, 512, 1, 1), np.float32)},
            shape=("N", 512, 4, 4),
        ).SerializeToString()
    ).replace(b"c0", b"x\x20"),
    "joined again and again": bytes(
        model(
            [
                *(node("Concat", f"s{i} s{i}", f"s{i + 1}", axis=0) for i in range(40)),
                node("Reshape", "x s40", "y"),
            ],
            {"s0": np.array([0, -1])},
        ).SerializeToString()
    ),
    "channels chosen again and again": bytes(
        model(
            [node("Gather", f"{'x' if i == 0 else f'g{i}'} s", f"g{i + 1}", axis=1) for i in range(400)]
            + [node("Relu", "g400", "y")],
            {"s": np.zeros(4000, np.int64)},
        ).SerializeToString()
    ),
    "many empty nodes": b"".join(
        encode(MODEL, {"opset_import": {"version": 17}, "graph": {"node": [{}] * 20000}})
    ),
    "many nodes": b"".join(
        encode(
            MODEL,
            {
                "opset_import": {"version": 17},
                "graph": {"node": [{"op_type": "Relu", "output": "x"}] * 40000},
            },
        )
    ),
    "nested without end": b"\x3a\x80\x01" * 30_000,
    "pixels without number": bytes(
        model([node("Relu", "x", "y")], {}, shape=("N", 3, 2**31, 2**31)).SerializeToString()
    ),
    "channels without number": bytes(
        model([node("Relu", "x", "y")], {}, shape=("N", 2**31, 4, 4)).SerializeToString()
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_cannot_ask_for_much(name: str, tmp_path: Path) -> None:
    assert len(BOMBS[name]) < 3e6
    assert outcome(tmp_path / "m.onnx", BOMBS[name]) != ""


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.dims.__setitem__(0, 9), "tensor 'w' has 216 values, but its shape [9, 3, 3, 3] is 243"),
        (
            lambda t: setattr(t, "raw_data", t.raw_data[:-2]),
            "tensor 'w' has 862 bytes, no whole number of values",
        ),
        (lambda t: setattr(t, "data_type", 8), "tensor 'w' is of ONNX's type 8"),
        (lambda t: t.ClearField("raw_data"), "tensor 'w' has 0 values, but its shape [8, 3, 3, 3] is 216"),
        (lambda t: t.dims.__setitem__(0, -8), "tensor 'w' has the shape [-8, 3, 3, 3]"),
    ],
)
def test_values_that_do_not_match_their_shape_are_named(change: Any, text: str, tmp_path: Path) -> None:
    content = onnx.load_from_string(BASE)
    (tensor,) = (t for t in content.graph.initializer if t.name == "w")
    change(tensor)
    assert text in outcome(tmp_path / "m.onnx", content.SerializeToString())


def test_fields_of_another_kind_are_refused(tmp_path: Path) -> None:
    """A number in the place of the values' bytes: the last field of a message counts."""
    content = model([node("Conv", "x w", "y")], {"w": np.zeros((8, 3, 3, 3), np.float32)}).SerializeToString()
    raw = b"\x4a\xe0\x06"  # field 9 with 864 bytes
    assert content.count(raw) == 1
    changed = content.replace(raw, b"\x48\xe0\x06", 1)
    assert outcome(tmp_path / "m.onnx", changed) != ""


def test_pads_that_do_not_match_their_axes_are_refused(tmp_path: Path) -> None:
    weights = {"p": np.array([1, 1]), "z": np.float32(0), "a": np.array([2, 3])}
    nodes = [node("Pad", "x p z a", "q"), node("Conv", "q w", "y")]
    content = model(nodes, {**weights, "w": np.ones((8, 3, 3, 3), np.float32)}, opset=18)
    text = outcome(tmp_path / "m.onnx", content.SerializeToString())
    assert "node 'Pad_q' (Pad): has 2 pads for 2 axes" in text


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    for content in (b"\x89PNG\r\n\x1a\n" * 10, b"PK\x03\x04" * 10, b"{}", b"name: 'net'", bytes(100)):
        assert outcome(tmp_path / "m.onnx", content)


def test_reading_a_light_model_needs_three_times_the_file_and_no_more(tmp_path: Path) -> None:
    for name in ("densenet121", "vgg19"):
        assert outcome(tmp_path / "m.onnx", (LIGHT / f"light_{name}.onnx").read_bytes()) == ""
