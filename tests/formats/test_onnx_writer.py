"""Networks as ONNX models: the checker passes, onnxruntime agrees, and reading gives the network back."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.onnx_models import answers, onnx, peer, pictures, planes, without_softmax
from helpers.small_networks import reduced

import cconvnet as cc
from cconvnet import nets
from cconvnet.formats import onnx_layers, onnx_reader, onnx_writer
from cconvnet.formats.drafts import MEAN_IMAGE, Imported
from cconvnet.nets import NetSpec, RbfSpec
from cconvnet.network import Network

Array = np.ndarray[Any, Any]

# The reader refuses the operators that these networks' layers become.
ONE_WAY = ("lenet-5", "cifar-18pct", "cifar-13pct", "cifar-11pct", "alexnet-2012")


def with_weights(spec: NetSpec, seed: int = 0) -> Imported:
    """Return a network with random weights, vectors and mean, such that no layer hides a fault of another."""
    network = Network(spec, batch=1, devices="cpu", needs=None)
    rng = np.random.default_rng(seed)
    state = {}
    for name, tensor in network.state().items():
        if name.endswith(".velocity"):
            state[name] = tensor
        elif name.endswith(".variance"):
            state[name] = rng.uniform(0.5, 1.5, tensor.shape).astype(np.float32)
        else:
            fan_in = math.prod(tensor.shape[1:]) if tensor.ndim > 1 else 8
            state[name] = rng.standard_normal(tensor.shape, np.float32) * np.float32(math.sqrt(2 / fan_in))
    if spec.input.mean is None:
        state[MEAN_IMAGE] = rng.uniform(90, 150, spec.stored_shape).astype(np.float32)
    return Imported(spec, state, [])


def exported(net: Imported, **more: Any) -> bytes:
    state = dict(net.tensors)
    mean = state.pop(MEAN_IMAGE, None)
    content = b"".join(onnx_writer.model(net.spec, state, mean, **more))
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    return content


def agree(net: Imported, tmp_path: Path, back: bool = True) -> Array:
    """Check onnxruntime's answers, and those of the network read from the file if so; return them."""
    spec, images = net.spec, pictures(net)
    own = answers(net, images)
    top, left = (spec.stored[0] - spec.input.height) // 2, (spec.stored[1] - spec.input.width) // 2
    seen = images[:, top : top + spec.input.height, left : left + spec.input.width]
    file = tmp_path / "net.onnx"
    file.write_bytes(exported(net))
    theirs = peer(str(file), planes(seen))
    if theirs.ndim == 4:
        theirs = theirs.transpose(0, 2, 3, 1)
    bound = 1e-4 * np.abs(theirs).max()
    assert np.abs(own.reshape(theirs.shape) - theirs).max() <= bound
    if back:
        read = onnx_reader.read(file)
        again = answers(read if spec.costs else without_softmax(read), seen)
        assert np.abs(again.reshape(theirs.shape) - theirs).max() <= bound
    return theirs


@pytest.mark.parametrize("name", nets.NAMES)
def test_a_built_in_network_agrees_with_onnxruntime(name: str, tmp_path: Path) -> None:
    theirs = agree(with_weights(reduced(name)), tmp_path, name not in ONE_WAY)
    assert theirs.std() > 1e-4


def test_what_onnx_cannot_say_is_refused_by_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(onnx_layers._ADDERS, RbfSpec)
    with pytest.raises(ValueError, match="layer rbf1: ONNX has no operators for rbf"):
        onnx_writer.write(tmp_path / "net.onnx", nets.build("lenet-5"), {})
    assert not (tmp_path / "net.onnx").exists()


X = cc.image(15, 16)
C = X.conv(8, 3, pad=1)
POOLED = C.maxpool((3, 2))
LAYERS = {
    "images": X.relu(),
    "unequal padding": X.conv(4, (3, 5), (2, 1), pad=((0, 1), (2, 1))),
    "a last window beyond the edge": X.conv(4, 4, 3, pad=1, rounding="ceil"),
    "dilation": X.conv(4, 3, dilation=(1, 2)),
    "groups and a bias for each pixel": C.conv(8, 3, groups=4, shared_bias=False),
    "several inputs": C.conv(
        4, 3, pad=1, also=X.conv(6, 1), per_input=({}, {"window": (1, 1), "padding": (0, 0)})
    ),
    "rows of several inputs": C.fc(5, also=X.fc(7).relu()),
    **{kind: C.neuron(kind, name="f") for kind in ("logistic", "softrelu", "abs", "square", "silu")},
    "tanh": C.tanh(1.7159, 0.6667),
    "linear": C.neuron("linear", 2.0, 0.5),
    "brelu": C.relu6(),
    "root": C.neuron("square", name="s").neuron("sqrt"),
    "largest, floor": C.maxpool(3, 2, pad=1),
    "largest, ceil": C.maxpool(3, 2, rounding="ceil"),
    "largest, unequal padding": C.maxpool(3, 2, pad=((0, 1), (1, 0))),
    "largest from within": C.maxpool(3, 2, pad=-1),
    "some of the windows": C.maxpool(2, 2, outputs=(4, 3)),
    "unpooling": POOLED.conv(8, 3, pad=1).relu().unpool(POOLED),
    "unpooling by another pooling": cc.add(
        C.maxpool((5, 4), name="a"),
        C.conv(8, (5, 4), (5, 4)).unpool(C.maxpool((5, 4), name="b")).maxpool((5, 4)),
    ),
    "mean": C.avgpool(3, 2, pad=1),
    "mean, ceil": C.avgpool(3, 2, pad=1, rounding="ceil"),
    "mean with padding": C.avgpool(3, 2, pad=1, count_padding=True),
    "mean with padding, ceil": C.avgpool(4, 3, pad=((1, 0), 1), rounding="ceil", count_padding=True),
    "mean of the image": C.mean(),
    "norm": C.bn(eps=1e-3).relu(),
    "norm of a row": C.fc(6).bn(),
    "lrn": C.lrn(3, 0.5, 0.75, 2.0),
    "lrn in groups": C.lrn(3, 0.5, 0.75, 2.0, groups=2),
    "lrn over an even number of channels": C.lrn(4, 0.5, 0.75, 2.0),
    "lrn over an even number of channels in groups": C.lrn(2, 0.5, 0.75, 2.0, groups=2),
    "lrn in the map": C.lrn(3, 0.5, 0.75, 2.0, region="same_map"),
    "lrn in the map over an even number of pixels": C.lrn(4, 0.5, 0.6, 2.0, region="same_map"),
    "contrast": C.contrast_norm(3, 0.5, 0.75, 2.0),
    "contrast over an even number of pixels": C.contrast_norm(4, 0.5, 0.75, 2.0),
    "filters for each position": X.local(4, 3, pad=1),
    "filters for each position in groups": C.local(8, (3, 2), (2, 1), groups=4, bias=None).relu(),
    "filters for each position, several inputs": C.local(4, 5, 2, pad=2, rounding="ceil", also=X.maxpool(1)),
    "distances": C.maxpool(4, 4).fc(6).tanh().rbf(["++--+-", "-++-++", "------"]),
    "distances of an image": C.maxpool(8, 8).rbf(["+--+" * 4, "++-+" * 4]),
    "transposed": C.deconv(4, 4, 2, pad=1),
    "transposed, other sizes": C.deconv(6, (3, 5), (2, 3), pad=((1, 0), (0, 2)), size=(31, 50), groups=2),
    "transposed, several inputs": C.deconv(4, 3, pad=1, also=X, bias=None).relu(),
    "dropout": C.dropout(0.3),
    "inverted dropout": C.dropout(0.3, inverted=True),
    "sum": cc.add(C, C.relu(name="r"), C, coeffs=(1, -2, 0.5)),
    "maximum": cc.maximum(C, C.lrn()),
    "concat": cc.concat(C, X, C.avgpool(1)),
    "concat of rows": cc.concat(C.fc(4), X.fc(3)),
    "concat of a row and an image": cc.concat(C.fc(4), C.mean()),
    "channels between zeros": C.select([None, *range(8), None, None]),
    "channels": C.select([3, 3, None, 0]),
    "blur": C.blur(5, 1.5),
    "a row as an image": C.fc(6).conv(4, 1),
    "a row of an image": C.maxpool(4).fc(6).relu().fc(3),
}
# The reader refuses parts of images, which the windows of these read, and operators of no layer.
NOT_READ = re.compile(
    "largest from within|some of the windows|groups and a bias for each pixel|lrn (over an even|in the map)"
    "|contrast|filters for each|distances"
)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_agrees_with_onnxruntime(name: str, tmp_path: Path) -> None:
    net = with_weights(LAYERS[name].features())
    agree(net, tmp_path, back=NOT_READ.match(name) is None)


def test_ends_agree_with_onnxruntime(tmp_path: Path) -> None:
    y = cc.image(12, 10).conv(5, 3, pad=1).relu()
    agree(with_weights(y.conv(4, 1).softmax(per_pixel=True)), tmp_path)
    head = y.mean().fc(3).head(0.3)
    agree(with_weights(y.maxpool(2).fc(3).softmax(heads=[head])), tmp_path)
    net = with_weights(y.fc(4).l2())
    images = pictures(net)
    ended = net._replace(spec=y.fc(4).features())
    assert np.allclose(peer(exported(net), planes(images)), answers(ended, images).reshape(2, 4), rtol=1e-4)


def test_unpoolings_that_onnx_cannot_say_are_refused() -> None:
    for pool in (C.maxpool(3, 2), C.maxpool(2), C.maxpool((3, 2), pad=((1, 0), 0), rounding="ceil")):
        with pytest.raises(
            ValueError, match="layer unpool1: ONNX unpools windows only that fill the image and"
        ):
            exported(with_weights(pool.unpool(pool).features()))
    alone = C.conv(8, (3, 2), (3, 2)).unpool(POOLED).features()
    with pytest.raises(
        ValueError, match="layer unpool1: ONNX unpools what a layer pools, and none has these"
    ):
        exported(with_weights(alone))


def test_lrn_is_written_with_the_mean_of_the_squares() -> None:
    content = onnx.load_from_string(exported(with_weights(C.lrn(5, 0.125).features())))
    (lrn,) = (node for node in content.graph.node if node.op_type == "LRN")
    assert {a.name: a.f for a in lrn.attribute}["alpha"] == 0.625


def test_images_may_come_normalised() -> None:
    x = cc.image(8, 8, mean=(120, 110, 100), deviation=(50, 60, 70), scale=1.0)
    net = with_weights(x.conv(4, 3).relu().features())
    images = pictures(net)
    normalised = (images - np.float32([120, 110, 100])) / np.float32([50, 60, 70])
    raw, plain = exported(net), exported(net, normalised=True)
    assert np.allclose(peer(raw, planes(images)), peer(plain, planes(normalised)), atol=1e-4)
    assert {node.op_type for node in onnx.load_from_string(plain).graph.node} == {"Conv", "Relu"}


def test_the_network_comes_back(tmp_path: Path) -> None:
    """Names, layouts, mean and scale are those of before, bit for bit, in a network without branches."""
    x = cc.image(16, 16, mean=(104, 117, 123), scale=0.5)
    x = x.conv(8, 3, name="a").relu().lrn(5, 0.5, name="n").maxpool(3, 2, name="p").bn(name="b")
    spec = x.fc(6, name="c").relu().fc(4, name="d").softmax("mine")
    net = with_weights(spec)
    onnx_writer.write(tmp_path / "net.onnx", spec, net.tensors)
    read = onnx_reader.read(tmp_path / "net.onnx")
    assert nets.compare(spec, read.spec) == []
    assert set(read.tensors) == {name for name in net.tensors if not name.endswith(".velocity")}
    for name, tensor in read.tensors.items():
        assert np.array_equal(tensor, net.tensors[name]), name


def test_towers_are_written_as_groups() -> None:
    x = cc.image(12, 12).conv(8, 3, split=True).relu().conv(8, 3, groups=2, split=True).relu()
    content = onnx.load_from_string(exported(with_weights(x.fc(4, device=0).softmax())))
    groups = [a.i for node in content.graph.node for a in node.attribute if a.name == "group"]
    assert groups == [1, 2]


def test_a_missing_tensor_is_named() -> None:
    with pytest.raises(ValueError, match=r"the tensor 'conv1\.bias' is missing"):
        onnx_writer.model(C.features(), {})
