"""Caffe's networks: what each layer becomes, and the answers of the same network in onnxruntime."""

from __future__ import annotations

import dataclasses
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import damaged_messages
from helpers.caffe_models import files
from helpers.onnx_models import answers, model, node, peer, pictures, planes, without_softmax

from cconvnet import nets
from cconvnet.errors import DataError
from cconvnet.formats import caffe_reader
from cconvnet.formats.drafts import Imported
from cconvnet.nets import ConvSpec, DropoutSpec, LayerSpec, LrnSpec, NetSpec, PoolSpec, gaussian
from cconvnet.nets.transform import decayed

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
INPUT = 'name: "small" input: "data" input_dim: 1 input_dim: 3 input_dim: 15 input_dim: 16\n'


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape, np.float32) / np.float32(np.sqrt(np.prod(shape[1:])))


def layer(kind: str, bottom: str, top: str, fields: str = "", name: str = "") -> str:
    """Return a layer's text; several blobs are separated by blanks."""
    blobs = [f'bottom: "{one}"' for one in bottom.split()] + [f'top: "{one}"' for one in top.split()]
    return f'layer {{ name: "{name or top}" type: "{kind}" {" ".join(blobs)} {fields} }}\n'


CONV = layer("Convolution", "data", "conv", "convolution_param { num_output: 8 kernel_size: 3 pad: 1 }")
WEIGHTS = {"conv": [normal(8, 3, 3, 3), normal(8)]}


def read(folder: Path, text: str, weights: Any = WEIGHTS, **form: bool) -> Imported:
    return caffe_reader.read(*files(folder, text, weights, **form))


def spec_of(folder: Path, text: str) -> NetSpec:
    net, _ = files(folder, text, WEIGHTS)
    return caffe_reader.read(net).spec


def only(spec: NetSpec, kind: type[LayerSpec]) -> Any:
    (found,) = (one for one in spec.layers if isinstance(one, kind))
    return found


def agree(imported: Imported, nodes: list[Any], weights: dict[str, Array]) -> None:
    """Check the network's answers against onnxruntime's for the same network, written for it."""
    height, width = imported.spec.stored
    images = pictures(imported)
    wanted = peer(model(nodes, weights, shape=("N", 3, height, width)), planes(images))
    if wanted.ndim == 4:
        wanted = wanted.transpose(0, 2, 3, 1)
    found = answers(without_softmax(imported), images)
    assert np.abs(found.reshape(wanted.shape) - wanted).max() <= 1e-4 * np.abs(wanted).max()
    assert wanted.std() > 1e-3


# ---- the rules of Caffe ----------------------------------------------------------------------------------


def test_lrn_divides_alpha_by_the_number_of_values(tmp_path: Path) -> None:
    lrn = "lrn_param { local_size: 5 alpha: 0.5 beta: 0.75 }"
    found = only(spec_of(tmp_path, INPUT + CONV + layer("LRN", "conv", "norm", lrn)), LrnSpec)
    assert (found.size, found.alpha, found.beta, found.k) == (5, 0.1, 0.75, 1.0)
    within = lrn.replace("beta: 0.75", "norm_region: WITHIN_CHANNEL")
    found = only(spec_of(tmp_path, INPUT + CONV + layer("LRN", "conv", "norm", within)), LrnSpec)
    assert (found.alpha, found.region) == (0.02, "same_map")


def test_sizes_of_pools_are_rounded_up_and_those_of_convolutions_down(tmp_path: Path) -> None:
    """A 7x7 convolution of stride 2 makes 112 of 224; the pool behind it makes 56, not 55."""
    text = INPUT.replace("15", "224").replace("16", "224")
    text += layer(
        "Convolution", "data", "c", "convolution_param { num_output: 2 kernel_size: 7 stride: 2 pad: 3 }"
    )
    text += layer("Pooling", "c", "p", "pooling_param { kernel_size: 3 stride: 2 }")
    found = caffe_reader.read(files(tmp_path, text, WEIGHTS)[0]).spec
    assert nets.shapes.shapes(found)["c"] == (112, 112, 2)
    assert nets.shapes.shapes(found)["p"] == (56, 56, 2)
    floor = spec_of(tmp_path, text.replace("stride: 2 }", "stride: 2 round_mode: FLOOR }"))
    assert nets.shapes.shapes(floor)["p"] == (55, 55, 2)


def test_227_and_224_pixels_differ_behind_the_first_pool(tmp_path: Path) -> None:
    """Both have the 11x11 windows of stride 4 that AlexNet has; only 227 fit 55 of them."""
    sizes = {}
    for side in (224, 227):
        text = INPUT.replace("15", str(side)).replace("16", str(side))
        text += layer(
            "Convolution", "data", "c", "convolution_param { num_output: 1 kernel_size: 11 stride: 4 }"
        )
        sizes[side] = nets.shapes.shapes(spec_of(tmp_path, text))["c"][:2]
    assert sizes == {224: (54, 54), 227: (55, 55)}


def test_a_mean_counts_the_padding_but_not_what_is_beyond_it(tmp_path: Path) -> None:
    pool = layer("Pooling", "data", "pool", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }")
    imported = read(tmp_path, INPUT + pool)
    given = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}
    agree(imported, [node("AveragePool", "x", "y", count_include_pad=1, **given)], {})
    assert only(imported.spec, PoolSpec).count_padding
    images = np.full((1, 15, 16, 3), 180, np.uint8)
    corner = answers(imported, images)[0]
    assert corner[0, 0, 0] == pytest.approx(80) and corner[0, -1, 0] == pytest.approx(60)


def test_groups_read_their_own_channels(tmp_path: Path) -> None:
    text = (
        INPUT
        + CONV
        + layer("Convolution", "conv", "c2", "convolution_param { num_output: 6 kernel_size: 1 group: 2 }")
    )
    weights = {**WEIGHTS, "c2": [normal(6, 4, 1, 1), normal(6)]}
    nodes = [node("Conv", "x w b", "c", pads=[1, 1, 1, 1]), node("Conv", "c v d", "y", group=2)]
    own = dict(zip("wbvd", (*weights["conv"], *weights["c2"]), strict=True))
    agree(read(tmp_path, text, weights), nodes, own)


def test_a_padded_1x1_convolution_has_a_border_of_biases(tmp_path: Path) -> None:
    text = INPUT + layer(
        "Convolution", "data", "c", "convolution_param { num_output: 4 kernel_size: 1 pad: 1 }"
    )
    bias = np.array([1, 2, 3, 4], np.float32)
    imported = read(tmp_path, text, {"c": [normal(4, 3, 1, 1), bias]})
    found = answers(imported, pictures(imported))
    assert found.shape[1:3] == (17, 18) and np.array_equal(found[0, 0, 5], bias)


def test_dropout_needs_no_factor_in_tests(tmp_path: Path) -> None:
    text = INPUT + CONV + layer("Dropout", "conv", "conv", "dropout_param { dropout_ratio: 0.3 }", "drop")
    found = only(spec_of(tmp_path, text), DropoutSpec)
    assert found.inverted and found.keep == pytest.approx(0.7)


def test_the_statistics_of_a_normalisation_are_divided_by_the_third_blob(tmp_path: Path) -> None:
    text = INPUT + CONV + layer("BatchNorm", "conv", "conv", name="bn")
    text += layer("Scale", "conv", "conv", "scale_param { bias_term: true }", "scale")
    text += layer("ReLU", "conv", "conv", name="relu")
    mean, variance = normal(8), RNG.uniform(0.5, 1.5, 8).astype(np.float32)
    gamma, beta = RNG.uniform(0.5, 1.5, 8).astype(np.float32), normal(8)
    weights = {**WEIGHTS, "bn": [mean * 40, variance * 40, np.array([40.0])], "scale": [gamma, beta]}
    imported = read(tmp_path, text, weights)
    assert [one.type for one in imported.spec.layers] == ["conv", "batch_norm", "neuron"]
    assert np.allclose(imported.tensors["bn.variance"], variance)
    nodes = [
        node("Conv", "x w b", "c", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "c g h m v", "n"),
        node("Relu", "n", "y"),
    ]
    own = dict(zip("wbghmv", (*WEIGHTS["conv"], gamma, beta, mean, variance), strict=True))
    agree(imported, nodes, own)


OLD = """
name: "old"
input: "data" input_dim: 10 input_dim: 3 input_dim: 9 input_dim: 8
layers { name: "conv" type: CONVOLUTION bottom: "data" top: "conv" blobs_lr: 1 blobs_lr: 2 weight_decay: 1
         convolution_param { num_output: 4 kernel_size: 3 stride: 2
                             weight_filler { type: "gaussian" std: 0.02 }
                             bias_filler { type: "constant" value: 0.5 } } }
layers { name: "relu" type: RELU bottom: "conv" top: "conv" }
layers { name: "fc" type: INNER_PRODUCT bottom: "conv" top: "fc" inner_product_param { num_output: 5 } }
layers { name: "prob" type: SOFTMAX bottom: "fc" top: "prob" }
"""


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("old", [False, True])
def test_the_old_form_of_layers_and_of_shapes_is_read(old: bool, double: bool, tmp_path: Path) -> None:
    weights = {"conv": [normal(4, 3, 3, 3), normal(4)], "fc": [normal(5, 4 * 4 * 3), normal(5)]}
    imported = read(tmp_path, OLD, weights, old=old, double=double)
    conv = only(imported.spec, ConvSpec)
    assert (conv.init, conv.bias, conv.bias_lr_scale) == (gaussian(0.02), 0.5, 2.0)
    assert imported.spec.classes == 5 and imported.spec.layers[-1].softmax == "prob"
    nodes = [
        node("Conv", "x w b", "c", strides=[2, 2]),
        node("Relu", "c", "r"),
        node("Flatten", "r", "f"),
        node("Gemm", "f v d", "y", transB=1),
    ]
    agree(imported, nodes, dict(zip("wbvd", (*weights["conv"], *weights["fc"]), strict=True)))


def test_branches_join_and_in_place_layers_change_what_comes_after_them(tmp_path: Path) -> None:
    text = INPUT + CONV + layer("Split", "conv", "a b", name="split") + layer("ReLU", "a", "a", name="relu")
    text += layer("Eltwise", "a b", "s", "eltwise_param { operation: SUM coeff: 1 coeff: -0.5 }")
    text += layer("Eltwise", "s b", "m", "eltwise_param { operation: MAX }")
    text += layer("Concat", "m data", "y") + layer("ReLU", "y", "y", name="last")
    nodes = [
        node("Conv", "x w b", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r"),
        node("Mul", "c half", "h"),
        node("Sub", "r h", "s"),
        node("Max", "s c", "m"),
        node("Concat", "m x", "j", axis=1),
        node("Relu", "j", "y"),
    ]
    own = {"w": WEIGHTS["conv"][0], "b": WEIGHTS["conv"][1], "half": np.float32(0.5)}
    agree(read(tmp_path, text), nodes, own)


TRAINING = """
layer { name: "train" type: "Data" top: "data" top: "label" include { phase: TRAIN }
        transform_param { crop_size: 12 mirror: true }
        data_param { source: "x" batch_size: 64 backend: LMDB } }
layer { name: "test" type: "Data" top: "data" top: "label" include { phase: TEST }
        transform_param { crop_size: 16 scale: 0.5 mean_value: 104 mean_value: 117 mean_value: 123 } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 8 kernel_h: 1 kernel_w: 3 engine: CAFFE } }
layer { name: "aux" type: "InnerProduct" bottom: "conv" top: "aux" inner_product_param { num_output: 4 } }
layer { name: "loss1" type: "SoftmaxWithLoss" bottom: "aux" bottom: "label" top: "loss1" loss_weight: 0.3 }
layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" include { phase: TRAIN } }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc" inner_product_param { num_output: 4 } }
layer { name: "accuracy" type: "Accuracy" bottom: "fc" bottom: "label" top: "accuracy"
        include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" } # the end
"""


def test_a_network_for_training_is_read_as_it_is_in_tests(tmp_path: Path) -> None:
    net, _ = files(tmp_path, TRAINING, WEIGHTS)
    imported = caffe_reader.read(net)
    assert [one.name for one in imported.spec.layers] == ["conv", "fc", "cost"]
    image = imported.spec.input
    assert (image.height, image.scale, image.mean) == (16, 0.5, (104, 117, 123))
    assert imported.notes == ["left out: loss1, beside the answer loss"]
    assert caffe_reader.read(net, size=(20, 24)).spec.stored == (20, 24)


def renamed(spec: NetSpec) -> NetSpec:
    """Return a network whose layers are named by type and order."""
    names, layers = {nets.DATA: nets.DATA}, []
    for index, one in enumerate(spec.layers):
        names[one.name] = f"{one.type}{index}"
        inputs = tuple(names[name] for name in one.inputs)
        layers.append(dataclasses.replace(one, name=names[one.name], inputs=inputs))
    return dataclasses.replace(spec, layers=tuple(layers))


def test_squeezenet_of_its_authors_is_the_built_in_one(real: Path) -> None:
    """Only images, recipe and weight decay differ, which Caffe keeps elsewhere."""
    own = nets.build("squeezenet-1.0")
    theirs = caffe_reader.read(real / "pretrained" / "squeezenet1_0.prototxt").spec
    assert (theirs.input.height, theirs.input.width) == (own.input.height, own.input.width)
    theirs = dataclasses.replace(decayed(theirs, 2e-4), input=own.input, stored=own.stored, recipe=own.recipe)
    assert nets.compare(renamed(theirs), renamed(own)) == []


# ---- what is refused -------------------------------------------------------------------------------------

REFUSED = [
    (INPUT + layer("Deconvolution", "data", "d"), "no layer here computes the type 'Deconvolution'"),
    (
        INPUT + layer("Pooling", "data", "p", "pooling_param { pool: STOCHASTIC kernel_size: 2 }"),
        "pool must be one of",
    ),
    (
        INPUT + layer("Pooling", "data", "p", "pooling_param { kernel: 2 }"),
        "a field of pooling_param must be one of",
    ),
    (
        INPUT + layer("Eltwise", "data data", "p", "eltwise_param { operation: PROD }"),
        "operation must be one of MAX, SUM",
    ),
    (INPUT + layer("ReLU", "data", "p", "relu_param { negative_slope: 0.1 }"), "negative_slope must be 0"),
    (INPUT + layer("ReLU", "gone", "p"), "reads 'gone', which nothing before it computes"),
    (INPUT + layer("Softmax", "data", "p") + layer("ReLU", "p", "q"), "reads 'p', a softmax"),
    (INPUT + CONV + layer("ReLU", "data", "r"), "must have one result that no layer reads, not 2: conv, r"),
    (INPUT, "has no layers"),
    (CONV, "has neither an input nor a layer of data"),
    (INPUT.replace("15", "0") + CONV, "the size of the images must be given"),
    (INPUT + CONV.replace("kernel_size: 3", "kernel_size: 99"), "larger than the padded image"),
    (INPUT + CONV.replace("num_output: 8", "num_output: -8"), "num_output must be from 1 to"),
    (
        INPUT + CONV.replace("num_output: 8", "num_output: many"),
        "num_output must be a whole number, not many",
    ),
    (
        INPUT + "layers { layer { name: 'conv1' type: 'conv' } bottom: 'data' top: 'conv1' }",
        "Caffe's first form",
    ),
    (INPUT + "layer { name: 'x'", "'}' is missing"),
    (INPUT + "layer { name: }", "a value is expected"),
    (INPUT + "layer { name 'x' }", "needs a colon and a value"),
    (INPUT + "layer { ? }", "unexpected '?'"),
    (INPUT + "a { " * 100, "nested more than 32 deep"),
]


@pytest.mark.parametrize(("text", "fault"), REFUSED)
def test_refused_with_file_line_and_layer(text: str, fault: str, tmp_path: Path) -> None:
    net, _ = files(tmp_path, text, WEIGHTS)
    with pytest.raises(DataError) as error:
        caffe_reader.read(net)
    assert str(error.value).startswith(str(net)) and fault in str(error.value)


@pytest.mark.parametrize(
    ("weights", "fault"),
    [
        ({"other": WEIGHTS["conv"]}, "has no layer 'conv' with weights"),
        ({"conv": WEIGHTS["conv"][:1]}, "layer 'conv': blob 1 is missing; there are 1"),
        (
            {"conv": [normal(8, 3, 3, 2), normal(8)]},
            "layer 'conv': blob 0 has the shape [8, 3, 3, 2], but [8, 3, 3, 3]",
        ),
        ({"conv": [normal(8, 3, 3, 3) * np.nan, normal(8)]}, "are not finite"),
    ],
)
def test_weights_that_do_not_fit_are_named(weights: Any, fault: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path, INPUT + CONV, weights)
    assert fault in str(error.value)


def test_weights_of_layers_that_the_network_lacks_are_noted(tmp_path: Path) -> None:
    imported = read(tmp_path, INPUT + CONV, {**WEIGHTS, "loss1/fc": [normal(3, 4)]})
    assert imported.notes == ["weights that no layer takes: loss1/fc"]


# ---- damage ----------------------------------------------------------------------------------------------


def truncated(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def flipped(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 4))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def of_other_numbers(content: bytes, rng: random.Random) -> bytes:
    """Return a text in which a number is another; of weights, a byte."""
    places = [i for i, byte in enumerate(content) if byte in b"0123456789"]
    at = rng.choice(places)
    return (
        content[:at]
        + rng.choice((b"0", b"-1", b"99999999999", b"1e9", b"nan", b"2147483647"))
        + content[at + 1 :]
    )


def repeated(content: bytes, rng: random.Random) -> bytes:
    at, size = rng.randrange(len(content)), rng.randrange(1, 60)
    return content[:at] + content[at : at + size] * rng.choice((0, 2, 50)) + content[at + size :]


@pytest.mark.parametrize(
    ("which", "damaged"),
    [
        *(
            (which, damaged)
            for which in (0, 1)
            for damaged in (truncated, flipped, of_other_numbers, repeated)
        ),
        (1, damaged_messages.changed),
    ],
)
def test_no_damage_leads_to_anything_but_an_error_that_names_a_file(
    which: int, damaged: Callable[[bytes, random.Random], bytes], tmp_path: Path
) -> None:
    text = OLD if which == 0 else TRAINING
    weights = {"conv": [normal(4, 3, 3, 3), normal(4)], "fc": [normal(5, 4 * 4 * 3), normal(5)]}
    pair = files(tmp_path, OLD, weights, old=True)
    wrong, rng = 0, random.Random(damaged.__name__)
    good = [file.read_bytes() for file in pair] + [text.encode()]
    for number in range(120):
        content = damaged(good[which] if number % 2 else good[2 if which == 0 else which], rng)
        pair[which].write_bytes(content)
        tracemalloc.start()
        try:
            caffe_reader.read(*pair)
        except DataError as error:
            assert str(error).startswith((str(pair[0]), str(pair[1]))), error
            wrong += 1
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 3 * (len(content) + len(good[1 - which])) + (4 << 20)
    assert wrong > 10  # most of the bytes of weights are no structure
