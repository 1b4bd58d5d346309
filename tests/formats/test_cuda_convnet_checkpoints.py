"""Reading and importing of cuda-convnet's checkpoints."""

from __future__ import annotations

import collections
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from helpers.commands import run
from helpers.pickled import Call, Old, make_batches, python2, same, write
from PIL import Image

from cconvnet import nets, runs
from cconvnet.errors import CheckpointError
from cconvnet.formats import cuda_convnet_checkpoint, cuda_convnet_writer
from cconvnet.formats.pickles import ForbiddenPickle


def conv_layer(
    name: str, rng: np.random.Generator, rows: int, k: int, biases: int, **more: Any
) -> dict[str, Any]:
    """A layer as a checkpoint holds it; fc layers give more['type']."""
    kind = more.get("type", "conv")
    shape = (1, biases) if kind == "fc" else (biases, 1)

    def matrix(*sizes: int) -> npt.NDArray[np.float32]:
        drawn = rng.standard_normal(sizes, dtype=np.float32)
        return np.asfortranarray(drawn) if kind == "fc" else drawn

    return {
        "name": name,
        "type": "conv",
        "weights": [matrix(rows, k)],
        "weightsInc": [matrix(rows, k)],
        "biases": matrix(*shape),
        "biasesInc": matrix(*shape),
        **more,
    }


def checkpoint(layers: Any, pickled: Callable[[Any], bytes] = python2) -> bytes:
    op = Old("options.OptionsParser", options={"gpu": Old("options.Option", value=[0])})
    state = {"layers": layers, "epoch": 12, "batchnum": 3, "train_outputs": [({"logprob": [1.5, 0.2]}, 128)]}
    return pickled({"model_state": state, "op": op})


def test_layouts() -> None:
    """Each weight of a convolution, a local layer and an fc layer against the sums that define them there."""
    rng = np.random.default_rng(0)
    c, r, s, k, p, q, groups = 4, 3, 3, 6, 2, 2, 2
    conv = conv_layer("conv", rng, c // groups * r * s, k, k)
    local = conv_layer("local", rng, p * q * c * r * s, k, k * p * q, type="local")
    fc = conv_layer("fc", rng, c * 5 * 7, k, k, type="fc")
    two = conv_layer("two", rng, 8, k, k, type="fc")
    for key in ("weights", "weightsInc"):
        two[key].append(rng.standard_normal((2 * 3 * 4, k), dtype=np.float32))
    unshared = conv_layer("unshared", rng, c * r * s, k, k * p * q, sharedBiases=0)
    shapes = {
        "conv.weight": (k, r, s, c // groups),
        "conv.bias": (k,),
        "local.weight": (p, q, k, r, s, c),
        "local.bias": (p, q, k),
        "fc.weight": (k, 5 * 7 * c),
        "fc.bias": (k,),
        "two.weight.0": (k, 8),
        "two.weight.1": (k, 24),
        "two.bias": (k,),
        "unshared.weight": (k, r, s, c),
        "unshared.bias": (p, q, k),
    }
    images = {"fc": [(5, 7, c)], "two": [(1, 1, 8), (3, 4, 2)]}
    tensors = cuda_convnet_checkpoint.weights_for(shapes, [conv, local, fc, two, unshared], images)
    assert {name: t.shape for name, t in tensors.items()} == {
        name + suffix: shape for name, shape in shapes.items() for suffix in ("", ".velocity")
    }
    assert all(t.dtype == np.float32 and t.flags.c_contiguous for t in tensors.values())

    for suffix, weights, biases in (("", "weights", "biases"), (".velocity", "weightsInc", "biasesInc")):
        for f, y, x, ch in np.ndindex(k, r, s, c):
            if ch < c // groups:
                assert (
                    tensors[f"conv.weight{suffix}"][f, y, x, ch] == conv[weights][0][(ch * r + y) * s + x, f]
                )
            for m, n in np.ndindex(p, q):
                row = (((m * q + n) * c + ch) * r + y) * s + x
                assert tensors[f"local.weight{suffix}"][m, n, f, y, x, ch] == local[weights][0][row, f]
        for f, m, n in np.ndindex(k, p, q):
            assert tensors[f"local.bias{suffix}"][m, n, f] == local[biases][(f * p + m) * q + n, 0]
            assert tensors[f"unshared.bias{suffix}"][m, n, f] == unshared[biases][(f * p + m) * q + n, 0]
            assert tensors[f"fc.bias{suffix}"][f] == fc[biases][0, f]
            assert tensors[f"conv.bias{suffix}"][f] == conv[biases][f, 0]
        # What an fc layer puts out: there of an image as planes, here of its pixels.
        for name, index, image in (
            ("fc.weight", 0, rng.integers(-9, 9, (5, 7, c))),
            ("two.weight.1", 1, rng.integers(-9, 9, (3, 4, 2))),
        ):
            there = (
                image.transpose(2, 0, 1).reshape(-1)
                @ {"fc": fc, "two": two}[name.split(".")[0]][weights][index]
            )
            here = tensors[name + suffix] @ image.reshape(-1)
            np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-4)
        assert np.array_equal(tensors[f"two.weight.0{suffix}"], two[weights][0].T)


def test_old_checkpoints_of_one_matrix_per_layer() -> None:
    rng = np.random.default_rng(0)
    layer = conv_layer("fc", rng, 8, 3, 3, type="fc")
    matrix = layer["weights"][0]
    layer["weights"] = matrix
    del layer["weightsInc"], layer["biasesInc"]
    tensors = cuda_convnet_checkpoint.weights_for({"fc.weight": (3, 8), "fc.bias": (3,)}, [layer], {})
    assert np.array_equal(tensors["fc.weight"], matrix.T)
    assert not tensors["fc.weight.velocity"].any() and tensors["fc.bias.velocity"].shape == (3,)


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"name": "conv2"}, r"one of conv2, not 'conv1'; did you mean 'conv2'"),
        ({"type": "local"}, "layer conv1 is of type 'local' there, 'conv' here"),
        ({"weights": [np.zeros((74, 8), np.float32)]}, "conv1: .*74x8 there; the 8x5x5x3 here would be 75x8"),
        ({"weights": []}, "conv1 has no weights of input 0"),
        ({"weights": None}, "conv1 has no weights of input 0"),
        ({"weights": [[1.0]]}, "conv1: its weights of input 0 are no matrix of floats"),
        ({"weights": [np.zeros((75, 8), np.int32)]}, "no matrix of floats"),
        ({"weights": [np.full((75, 8), np.nan, np.float32)]}, "conv1: its weight is not finite"),
        ({"weightsInc": [np.zeros((75, 9), np.float32)]}, "75x9 there"),
        ({"weights": [np.zeros((75, 8), np.float32)] * 2}, "conv1 has 2 weight tensors there, 1 in this"),
        (
            {"biases": np.zeros((8, 2), np.float32)},
            "conv1: its biases are 8x2 there; the 8 here would be 8x1",
        ),
        ({"biases": None}, "conv1: its biases are no matrix"),
        ({"randSparse": [True]}, "conv1 has random sparse connections"),
    ],
)
def test_weights_that_do_not_fit(changed: dict[str, Any], what: str) -> None:
    layer = {**conv_layer("conv1", np.random.default_rng(0), 75, 8, 8), **changed}
    with pytest.raises(CheckpointError, match=what):
        cuda_convnet_checkpoint.weights_for({"conv1.weight": (8, 5, 5, 3), "conv1.bias": (8,)}, [layer], {})


def test_layers_that_the_network_lacks() -> None:
    rng = np.random.default_rng(0)
    layers = [conv_layer("conv1", rng, 75, 8, 8), {"name": "pool1", "type": "pool"}]
    shapes = {"conv1.weight": (8, 5, 5, 3), "conv1.bias": (8,)}
    assert len(cuda_convnet_checkpoint.weights_for(shapes, layers, {})) == 4
    layers.append(conv_layer("conv2", rng, 75, 8, 8))
    with pytest.raises(CheckpointError, match="conv2 has 1 weight tensors there, 0 in this network"):
        cuda_convnet_checkpoint.weights_for(shapes, layers, {})


def test_reading_checkpoints(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    layers = [{"name": "data", "type": "data"}, conv_layer("fc", rng, 8, 3, 3, type="fc")]
    layers[1]["inputLayers"] = [layers[0]]
    by_name = collections.OrderedDict((layer["name"], layer) for layer in layers)
    for content in (checkpoint(layers), checkpoint(by_name), checkpoint({"a": layers[0], "b": layers[1]})):
        read = cuda_convnet_checkpoint.read_checkpoint(write(tmp_path, content))
        assert [layer["name"] for layer in read] == ["data", "fc"]
        assert same(read[1]["weights"], layers[1]["weights"])
    # Of a folder the last counts, and 10 comes after 9.
    folder = tmp_path / "ConvNet__2012"
    folder.mkdir()
    for name, epoch in (("9.2", 1), ("10.1", 2), ("10.10", 3), ("10.9", 4), ("notes.txt", 5)):
        write(folder, checkpoint([{"name": f"layer{epoch}", "type": "data"}]), name)
    assert cuda_convnet_checkpoint.read_checkpoint(folder)[0]["name"] == "layer3"

    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CheckpointError, match=r"empty has no checkpoint of cuda-convnet"):
        cuda_convnet_checkpoint.read_checkpoint(empty)
    for content, what in (
        (python2([1]), "has no model_state with layers"),
        (python2({"model_state": 1}), "has no model_state with layers"),
        (checkpoint([]), "has no model_state with layers"),
        (checkpoint([{"name": "x"}]), "layer 0 has no name or no type"),
        (checkpoint([3]), "layer 0 has no name or no type"),
    ):
        with pytest.raises(CheckpointError, match=f"file.*{what}"):
            cuda_convnet_checkpoint.read_checkpoint(write(tmp_path, content))
    with pytest.raises(ForbiddenPickle, match="system"):
        cuda_convnet_checkpoint.read_checkpoint(write(tmp_path, pickle.dumps(Call(os.system, "false"), 2)))


def quick_layers() -> list[dict[str, Any]]:
    """The layers of cuda-convnet's network that is here called cifar-quick, for 3 classes, at random."""
    rng = np.random.default_rng(1)
    layers = [
        conv_layer("conv1", rng, 75, 32, 32, outputs=32 * 32 * 32),
        conv_layer("conv2", rng, 25 * 32, 32, 32, outputs=16 * 16 * 32),
        conv_layer("conv3", rng, 25 * 32, 64, 64, outputs=8 * 8 * 64),
        conv_layer("fc64", rng, 4 * 4 * 64, 64, 64, type="fc", outputs=64),
        conv_layer("fc10", rng, 64, 3, 3, type="fc", outputs=3),
    ]
    for layer, scale in zip(layers, (0.01, 0.02, 0.03, 0.03, 0.01), strict=True):
        for key in ("weights", "weightsInc"):
            layer[key] = [matrix * np.float32(scale) for matrix in layer[key]]
        layer["biases"] *= np.float32(0.1)
        layer["biasesInc"] *= np.float32(0.001)
    return [{"name": "data", "type": "data"}, *layers]


def quick_probabilities(layers: list[dict[str, Any]], planes: npt.NDArray[np.float64]) -> Any:
    """Compute the network's output for images[n, channel, y, x] in cuda-convnet's layouts with loops."""
    by_name = {layer["name"]: layer for layer in layers}

    def conv(name: str, x: Any) -> Any:
        n, channels, height, width = x.shape
        padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)))
        filters = by_name[name]["weights"][0].astype(np.float64).reshape(channels, 5, 5, -1)
        y = np.zeros((n, filters.shape[-1], height, width))
        for r, s in np.ndindex(5, 5):
            y += np.einsum("nchw,ck->nkhw", padded[:, :, r : r + height, s : s + width], filters[:, r, s])
        return np.maximum(y + by_name[name]["biases"].reshape(1, -1, 1, 1), 0)

    def pool(x: Any, kind: Any) -> Any:
        side = x.shape[2]
        half = range(0, side, 2)
        return np.stack(
            [np.stack([kind(x[:, :, i : i + 3, j : j + 3], axis=(2, 3)) for j in half], -1) for i in half], -2
        )

    x = pool(conv("conv1", planes), np.max)
    x = pool(conv("conv2", x), np.mean)
    x = pool(conv("conv3", x), np.mean).reshape(len(planes), -1)
    x = np.maximum(x @ by_name["fc64"]["weights"][0] + by_name["fc64"]["biases"], 0)
    x = x @ by_name["fc10"]["weights"][0] + by_name["fc10"]["biases"]
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def command(*arguments: object, code: int = 0) -> str:
    """Runs the command here; returns what it wrote, to standard error where it failed."""
    done = run(*arguments, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def test_import(tmp_path: Path) -> None:
    """An imported run is tested, predicts and trains on as cuda-convnet would with these weights."""
    batches = tmp_path / "batches"
    batches.mkdir()
    made = make_batches(batches, {"data_batch_1": 30, "data_batch_2": 20}, (32, 32, 3))
    layers = quick_layers()
    layers[2]["weightSourceLayers"], layers[3]["weightSourceLayers"] = [""], ["conv2"]
    file = write(tmp_path, checkpoint(layers), "12.3")
    out = tmp_path / "run"
    said = command("import", file, "--net", "cifar-quick", "--data", batches, "--out", out, "--batch", 10)
    assert "shared weights (conv3) are copied to each layer" in said and f"files: {out}" in said

    stored = runs.find_checkpoint(out)[1]
    assert stored.step == 0
    mean = np.arange(3072, dtype=np.float32).reshape(3, 32, 32)
    assert np.array_equal(stored.tensors["data.mean"], mean.transpose(1, 2, 0))
    images, labels = made["data_batch_2"]
    planes = images.transpose(0, 3, 1, 2) - mean.astype(np.float64)
    expected = quick_probabilities(layers, planes)
    report = tmp_path / "report.json"
    command("evaluate", "--run", out, "--device", "cpu:0", "--json", report)
    result = json.loads(report.read_text())
    loss = -np.log(expected[np.arange(len(labels)), labels]).mean()
    assert result["images"] == 20
    assert result["test_error_top1"] == pytest.approx(np.mean(expected.argmax(axis=1) != labels))
    assert result["test_loss"] == pytest.approx(loss, rel=1e-3)

    picture = tmp_path / "picture.png"
    Image.fromarray(images[0]).save(picture)
    command("predict", "--run", out, "--device", "cpu:0", "--json", report, picture)
    (seen,) = json.loads(report.read_text())
    found = {entry["class"]: entry["probability"] for entry in seen["classes"]}
    assert [found[name] for name in ("ant", "bee", "cat")] == pytest.approx(expected[0].tolist(), abs=1e-3)

    velocity = stored.tensors["conv2.weight.velocity"]
    assert velocity[3, 1, 2, 7] == layers[2]["weightsInc"][0][(7 * 5 + 1) * 5 + 2, 3]
    command("train", "--resume", out, "--device", "cpu:0", "--steps", 2)
    assert runs.find_checkpoint(out)[1].step == 2


def test_import_with_the_network_in_files(tmp_path: Path) -> None:
    """The configuration files name the layers as the checkpoint does."""
    batches, configuration = tmp_path / "batches", tmp_path / "configuration"
    batches.mkdir()
    make_batches(batches, {"data_batch_1": 30, "data_batch_2": 20}, (32, 32, 3))
    files = [configuration / name for name in ("layers.cfg", "layer-params.cfg")]
    cuda_convnet_writer.write(nets.build("cifar-quick", classes=3), *files)
    options = ["--data", batches, "--batch", 10, "--layer-def", files[0], "--layer-params", files[1]]
    layers = quick_layers()
    command("import", write(tmp_path, checkpoint(layers), "1.1"), *options, "--out", tmp_path / "run")
    stored = runs.find_checkpoint(tmp_path / "run")[1]
    assert stored.spec["name"] == "cifar-quick"
    assert stored.tensors["conv1.bias"].tolist() == layers[1]["biases"].ravel().tolist()
    error = command("import", tmp_path / "1.1", "--data", batches, "--out", tmp_path / "none", code=2)
    assert "a network is needed: --net, or --layer-def and --layer-params" in error
    layers[1]["name"] = "first"
    wrong = write(tmp_path, checkpoint(layers), "1.2")
    assert f"does not fit {files[0]}: " in command("import", wrong, *options, code=2)


def test_import_refuses(tmp_path: Path) -> None:
    batches = tmp_path / "batches"
    batches.mkdir()
    make_batches(batches, {"data_batch_1": 30, "data_batch_2": 20}, (32, 32, 3))
    file, out = tmp_path / "file", tmp_path / "run"
    arguments = ("import", file, "--data", batches, "--out", out, "--batch", 10)
    layers = quick_layers()
    layers[2]["outputs"] = 8 * 8 * 32
    for content, net, what in (
        (checkpoint(quick_layers()), "lenet", "does not fit lenet: layer conv1 puts out 32,768 values there"),
        (checkpoint(layers), "cifar-quick", "layer conv2 puts out 2,048 values there, 16x16x32 here"),
        (checkpoint(quick_layers()[:4]), "cifar-quick", "not 'fc64'"),
        (pickle.dumps(Call(os.system, f"touch {tmp_path}/touched"), 2), "cifar-quick", "system"),
        (b"no pickle", "cifar-quick", "is not a sound pickle"),
    ):
        file.write_bytes(content)
        said = command(*arguments, "--net", net, code=2)
        assert what in said and str(file) in said and "Traceback" not in said
        assert not out.exists() and not (tmp_path / "touched").exists()
    assert "--format must be one of caffe, cuda-convnet, " in command(
        *arguments, "--net", "lenet", "--format", "x", code=2
    )
    file.unlink()
    assert "No such file" in command(*arguments, "--net", "lenet", code=1)
