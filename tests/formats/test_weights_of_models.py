"""ONNX and Caffe files as weights with a network: read, fitted, imported and exported."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers.caffe_models import files
from helpers.commands import succeed_here
from helpers.onnx_models import answers, model, node, onnx, peer, pictures, planes

import cconvnet as cc
from cconvnet import bfloat16
from cconvnet.errors import CheckpointError
from cconvnet.formats import caffe_reader
from cconvnet.formats.drafts import MEAN_IMAGE, Imported
from cconvnet.formats.netfiles import resolve
from cconvnet.formats.weights import fit, format_of, read_weights, write_weights
from cconvnet.network import Network
from cconvnet.runs import find_checkpoint

TEXT = """
name: "alexnet" input: "data" input_dim: 1 input_dim: 3 input_dim: 12 input_dim: 12
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc" inner_product_param { num_output: 3 } }
"""


def caffe_files(folder: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    weights = {
        "conv": [rng.standard_normal((4, 3, 3, 3)) / 300, rng.standard_normal(4)],
        "fc": [rng.standard_normal((3, 400)) / 20, rng.standard_normal(3)],
    }
    return files(folder, TEXT, weights)


def test_caffes_colours_are_exchanged_and_its_mean_subtracted(tmp_path: Path) -> None:
    net, model = caffe_files(tmp_path)
    assert format_of(model) == "caffe"
    weights = read_weights(model)
    assert weights.spec is not None and weights.spec.name == "alexnet_imported"
    fitted = fit(weights, weights.spec)
    assert fitted.spec.input.mean == (123, 117, 104)
    images = np.random.default_rng(1).integers(0, 256, (2, 12, 12, 3), np.uint8)
    found = answers(Imported(fitted.spec, fitted.tensors, []), images)
    plain = caffe_reader.read(net, model)
    spec = plain.spec.__class__(
        **{**vars(plain.spec), "input": cc.nets.InputSpec(12, 12, 3, mean=(104, 117, 123))}
    )
    wanted = answers(plain._replace(spec=spec), images[..., ::-1].copy())
    assert np.allclose(found, wanted, rtol=1e-4) and found.std() > 0.01
    red_first = fit(weights, weights.spec, bgr=False)
    assert not np.allclose(
        answers(Imported(red_first.spec, red_first.tensors, []), images), wanted, rtol=1e-2
    )


SIDE, TYPES = 400, {"FLOAT": "f4", "DOUBLE": "f8", "FLOAT16": "f2"}


def onnx_file(folder: Path, kind: str, outside: bool = False) -> tuple[Path, ...]:
    """Write a convolution whose weights are of one of ONNX's types, and return the files."""
    values = np.random.default_rng(0).standard_normal(SIDE * SIDE).astype(np.float32)
    octets = bfloat16.pack(values) if kind == "BFLOAT16" else values.astype(TYPES.get(kind))
    shape = (SIDE, SIDE, 1, 1)
    tensor = onnx.helper.make_tensor("w", getattr(onnx.TensorProto, kind), shape, octets.tobytes(), raw=True)
    content = model([node("Conv", "x w", "y")], {}, shape=("N", SIDE, 4, 4))
    content.graph.initializer.append(tensor)
    file, other = folder / "net.onnx", folder / "net.bin"
    where = {"save_as_external_data": True, "size_threshold": 0, "location": other.name}
    onnx.save_model(content, str(file), **(where if outside else {}))
    return (file, other) if outside else (file,)


def caffe_form(folder: Path, **form: bool) -> tuple[Path, ...]:
    """Write a convolution of Caffe's, and return the files, the weights first."""
    kind = "layers { type: CONVOLUTION" if form["old"] else 'layer { type: "Convolution"'
    text = f'input: "data" input_dim: 1 input_dim: {SIDE} input_dim: 4 input_dim: 4 {kind} name: "c" bottom: '
    text += f'"data" top: "c" convolution_param {{ num_output: {SIDE} kernel_size: 1 bias_term: false }} }}'
    weight = np.random.default_rng(0).standard_normal((SIDE, SIDE, 1, 1))
    return files(folder, text, {"c": [weight]}, **form)[::-1]


FORMS: dict[str, Callable[[Path], tuple[Path, ...]]] = {
    **{name: partial(onnx_file, kind=name) for name in ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16")},
    "another file": partial(onnx_file, kind="FLOAT", outside=True),
    **{
        f"Caffe, old={old}, double={double}": partial(caffe_form, old=old, double=double)
        for old in (False, True)
        for double in (False, True)
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_memory_is_at_most_three_times_the_file(tmp_path: Path, form: str) -> None:
    written = FORMS[form](tmp_path)
    size = sum(file.stat().st_size for file in written)
    assert size > 250_000
    tracemalloc.start()
    try:
        weights = read_weights(written[0])
        assert weights.spec is not None and len(fit(weights, weights.spec).tensors) == 1
        assert tracemalloc.get_traced_memory()[1] <= 3.1 * size
    finally:
        tracemalloc.stop()


def test_a_caffemodel_needs_its_network_beside_it(tmp_path: Path) -> None:
    net, model = caffe_files(tmp_path)
    net.rename(tmp_path / "deploy.prototxt")
    assert read_weights(model).spec is not None  # the only one
    (tmp_path / "other.prototxt").write_text(TEXT)
    with pytest.raises(CheckpointError, match=r"its network is missing, net\.prototxt in the same folder"):
        read_weights(model)


def test_networks_of_other_programs_are_named_by_their_files(tmp_path: Path) -> None:
    net, _ = caffe_files(tmp_path)
    spec, _ = resolve(net).build_sized(None)
    assert [layer.name for layer in spec.layers] == ["conv", "fc", "cost"]
    write_weights(tmp_path / "n.onnx", "onnx", spec, Network(spec, batch=1, devices="cpu").state())
    read, _ = resolve(tmp_path / "n.onnx").build_sized(None)
    assert [layer.name for layer in read.layers] == ["conv", "fc", "cost"]


def test_a_run_goes_to_onnx_and_back_with_its_mean_image(tmp_path: Path) -> None:
    run, file, back = tmp_path / "run", tmp_path / "net.onnx", tmp_path / "back"
    succeed_here("train", "--net", "lenet", "--epochs", "1", "--device", "cpu", "--out", run)
    assert "pixels from 0 to 255" in succeed_here("export", "--run", run, "--out", file)
    succeed_here("import", file, "--out", back)
    (_, one, _), (_, other, _) = find_checkpoint(run, False), find_checkpoint(back, False)
    mean = other.tensors[MEAN_IMAGE]
    assert mean.any() and np.array_equal(one.tensors[MEAN_IMAGE], mean)
    spec = cc.nets.spec_from_dict(other.spec)
    net = Imported(spec, dict(other.tensors), [])
    images = pictures(net)
    theirs = peer(str(file), planes(images))
    assert np.allclose(answers(net, images).reshape(theirs.shape), theirs, atol=1e-5)
