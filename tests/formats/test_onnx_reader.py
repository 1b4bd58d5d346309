"""ONNX models as networks: onnxruntime is the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.onnx_models import (
    LIGHT,
    answers,
    model,
    node,
    onnx,
    peer,
    pictures,
    planes,
    with_random_weights,
    without_softmax,
)

from cconvnet.errors import DataError
from cconvnet.formats import onnx_reader
from cconvnet.formats.drafts import Imported
from cconvnet.nets import ConvSpec, LrnSpec, PoolSpec, SumSpec

RNG = np.random.default_rng(0)
Array = np.ndarray[Any, Any]


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape, np.float32)


def positive(*shape: int) -> Array:
    return RNG.uniform(0.5, 1.5, shape).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


CONV = {"w": normal(8, 3, 3, 3), "b": normal(8)}
NORM = {"g": positive(8), "h": normal(8), "m": normal(8), "v": positive(8)}
CONVOLVED = node("Conv", "x w b", "c", pads=[1, 1, 1, 1])


def case(name: str, nodes: list[Any], weights: dict[str, Array] | None = None, **more: Any) -> Any:
    return pytest.param(nodes, weights or {}, more, id=name)


def pool(name: str, op: str, shape: int = 16, opset: int = 17, **attributes: Any) -> Any:
    return case(
        name, [node(op, "x", "y", **attributes)], shape=("N", 3, shape, shape + 1), opset=opset, spread=False
    )


CASES = [
    case("conv", [node("Conv", "x w b", "y", strides=[2, 1], pads=[0, 1, 2, 3])], CONV),
    case("groups", [node("Conv", "x w", "y", group=3)], {"w": normal(6, 1, 3, 2)}),
    case("dilated", [node("Conv", "x w b", "y", dilations=[2, 3])], CONV),
    *(
        case(
            f"{auto} of {side}",
            [node("Conv", "x w", "y", auto_pad=auto, strides=[2, 2], kernel_shape=[5, 5])],
            {"w": normal(4, 3, 5, 5)},
            shape=("N", 3, side, side),
        )
        for auto in ("SAME_UPPER", "SAME_LOWER", "VALID")
        for side in (15, 16)
    ),
    case("relu of a shared product", [CONVOLVED, node("Relu", "c", "r"), node("Add", "c r", "y")], CONV),
    case(
        "relu of a product that another name shares",
        [CONVOLVED, node("Identity", "c", "i"), node("Relu", "i", "r"), node("Add", "c r", "y")],
        CONV,
    ),
    *(
        case(op, [CONVOLVED, node(op, "c", "y")], CONV)
        for op in ("Sigmoid", "Tanh", "Softplus", "Abs", "GlobalAveragePool", "GlobalMaxPool", "Identity")
    ),
    case("silu", [CONVOLVED, node("Sigmoid", "c", "s"), node("Mul", "s c", "y")], CONV),
    case(
        "clip",
        [CONVOLVED, node("Clip", "c low high", "y")],
        {**CONV, "low": np.float32(0), "high": np.float32(6)},
    ),
    case("old clip", [CONVOLVED, node("Clip", "c", "y", min=0.0, max=6.0)], CONV, opset=7),
    case("lrn", [CONVOLVED, node("LRN", "c", "y", size=5, alpha=1.0, beta=0.75, bias=2.0)], CONV),
    pool("max", "MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 0, 1]),
    pool("max, ceil", "MaxPool", kernel_shape=[3, 2], strides=[2, 3], ceil_mode=1),
    pool(
        "max, ceil, a window in the padding",
        "MaxPool",
        5,
        kernel_shape=[2, 2],
        strides=[3, 3],
        pads=[0, 0, 1, 1],
        ceil_mode=1,
    ),
    pool("max, same", "MaxPool", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    *(
        pool(
            f"mean of {side}{', ceil' * ceil}{', with padding' * counts}, version {opset}",
            "AveragePool",
            side,
            opset,
            kernel_shape=[3, 3],
            strides=[2, 2],
            pads=[1, 1, 1, 1],
            **{"ceil_mode": 1} if ceil else {},
            count_include_pad=counts,
        )
        for side in (15, 16)
        for ceil, opset in ((0, 7), (1, 19), (1, 22))
        for counts in (0, 1)
    ),
    case(
        "mean of a padded image",
        [
            node("Pad", "x p", "z"),
            node("AveragePool", "z", "y", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
        ],
        {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)},
        spread=False,
    ),
    case(
        "convolution of a padded image",
        [node("Pad", "x p", "z"), node("Conv", "z w b", "y")],
        {**CONV, "p": ints(0, 0, 1, 2, 0, 0, 3, 0)},
    ),
    case(
        "old pad",
        [node("Pad", "x", "z", pads=[0, 0, 1, 2, 0, 0, 3, 0]), node("Conv", "z w b", "y")],
        CONV,
        opset=7,
    ),
    case(
        "channels of zeros", [CONVOLVED, node("Pad", "c p", "y")], {**CONV, "p": ints(0, 2, 0, 0, 0, 3, 0, 0)}
    ),
    case(
        "slice",
        [CONVOLVED, node("Slice", "c f t a", "y")],
        {**CONV, "f": ints(2), "t": ints(-1), "a": ints(1)},
    ),
    case("gather", [CONVOLVED, node("Gather", "c i", "y", axis=1)], {**CONV, "i": ints(3, 1, 1, -1)}),
    case("norm", [CONVOLVED, node("BatchNormalization", "c g h m v", "y", epsilon=1e-3)], {**CONV, **NORM}),
    case(
        "norm and scale of a concatenation",
        [
            CONVOLVED,
            node("Concat", "c c", "d", axis=1),
            node("BatchNormalization", "d g h m v", "n"),
            node("Unsqueeze", "s axes", "s4"),
            node("Mul", "n s4", "k"),
            node("Add", "k t", "a"),
            node("Relu", "a", "y"),
        ],
        {
            **CONV,
            **{key: np.tile(v, 2) for key, v in NORM.items()},
            "s": normal(16),
            "t": normal(16, 1, 1),
            "axes": ints(1, 2),
        },
    ),
    case(
        "scale of a product",
        [CONVOLVED, node("Mul", "c s", "k"), node("Sub", "k t", "y")],
        {**CONV, "s": normal(1, 8, 1, 1), "t": normal(8, 1, 1)},
    ),
    case(
        "scale of a sum",
        [CONVOLVED, node("Add", "c c", "d"), node("Div", "d s", "k"), node("Sub", "t k", "y")],
        {**CONV, "s": positive(8, 1, 1), "t": normal(8, 1, 1)},
    ),
    case(
        "one factor",
        [CONVOLVED, node("Relu", "c", "r"), node("Mul", "two r", "y")],
        {**CONV, "two": np.float32(2)},
    ),
    case("difference", [CONVOLVED, node("Relu", "c", "r"), node("Sub", "r c", "y")], CONV),
    case(
        "sum and maximum",
        [CONVOLVED, node("Relu", "c", "r"), node("Sum", "r c r", "s"), node("Max", "s c", "y")],
        CONV,
    ),
    case(
        "images are normalised",
        [node("Sub", "x m", "a"), node("Mul", "a s", "b"), node("Conv", "b w b0", "y")],
        {"w": CONV["w"], "b0": CONV["b"], "m": normal(1, 3, 1, 1) + 100, "s": positive(3, 1, 1)},
    ),
    case(
        "images minus a mean image",
        [node("Sub", "x m", "a"), node("Conv", "a w b", "y")],
        {**CONV, "m": normal(1, 3, 16, 16)},
    ),
    case(
        "images that others read too",
        [node("Mul", "x s", "a"), node("Add", "a x", "y")],
        {"s": normal(3, 1, 1)},
    ),
    case(
        "negative images",
        [node("Mul", "x s", "a"), node("Conv", "a w b", "y")],
        {**CONV, "s": np.float32(-1)},
    ),
]
HEAD = {"f": normal(5, 8 * 16 * 16), "e": normal(5)}
HEADS = [
    case(
        "gemm", [CONVOLVED, node("Flatten", "c", "r"), node("Gemm", "r f e", "y", transB=1)], {**CONV, **HEAD}
    ),
    case(
        "gemm, factors",
        [CONVOLVED, node("Flatten", "c", "r"), node("Gemm", "r f e", "y", alpha=0.5, beta=2.0)],
        {**CONV, "f": HEAD["f"].T.copy(), "e": HEAD["e"]},
    ),
    case(
        "matmul",
        [CONVOLVED, node("Reshape", "c s", "r"), node("MatMul", "r f", "q"), node("Add", "q e", "y")],
        {**CONV, "f": HEAD["f"].T.copy(), "e": HEAD["e"], "s": ints(0, -1)},
    ),
    case(
        "a computed shape",
        [
            CONVOLVED,
            node("Shape", "c", "s"),
            node("Gather", "s zero", "n"),
            node("Unsqueeze", "n zeros", "n1"),
            node("Concat", "n1 end", "to", axis=0),
            node("Reshape", "c to", "r"),
            node("Gemm", "r f e", "y", transB=1),
        ],
        {**CONV, **HEAD, "zero": np.int64(0), "zeros": ints(0), "end": ints(-1)},
    ),
    case(
        "softmax",
        [
            CONVOLVED,
            node("Flatten", "c", "r"),
            node("Gemm", "r f e", "g", transB=1),
            node("Softmax", "g", "y", axis=1),
        ],
        {**CONV, **HEAD},
        logits=False,
    ),
    case(
        "old softmax",
        [
            CONVOLVED,
            node("Dropout", "c", "d", ratio=0.3),
            node("Flatten", "d", "r"),
            node("Gemm", "r f e", "g", transB=1),
            node("Softmax", "g", "y"),
        ],
        {**CONV, **HEAD},
        opset=7,
        logits=False,
    ),
    case(
        "mean and softmax",
        [CONVOLVED, node("ReduceMean", "c", "r", axes=[2, 3], keepdims=0), node("Softmax", "r", "y")],
        CONV,
        logits=False,
    ),
    case(
        "softmax of an image of one pixel",
        [
            CONVOLVED,
            node("GlobalAveragePool", "c", "r"),
            node("Softmax", "r", "s", axis=1),
            node("Flatten", "s", "y"),
        ],
        CONV,
        logits=False,
    ),
    case(
        "rows again images",
        [
            CONVOLVED,
            node("GlobalAveragePool", "c", "r"),
            node("Squeeze", "r a", "q"),
            node("Unsqueeze", "q a", "u"),
            node("Conv", "u k", "y"),
        ],
        {**CONV, "a": ints(2, 3), "k": normal(4, 8, 1, 1)},
    ),
    case("classes of pixels", [CONVOLVED, node("Softmax", "c", "y", axis=1)], CONV, logits=False),
]


def read(tmp_path: Path, content: Any, **more: Any) -> Imported:
    file = tmp_path / "model.onnx"
    file.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return onnx_reader.read(file, **more)


@pytest.mark.parametrize(("nodes", "weights", "more"), CASES + HEADS)
def test_a_model_gives_the_answers_of_onnxruntime(
    nodes: list[Any], weights: dict[str, Array], more: dict[str, Any], tmp_path: Path
) -> None:
    logits, spread = more.pop("logits", True), more.pop("spread", True)
    content = model(nodes, weights, **more)
    imported = read(tmp_path, content)
    images = pictures(imported)
    wanted = peer(content, planes(images))
    found = answers(without_softmax(imported) if logits else imported, images)
    if wanted.ndim == 4:
        wanted = wanted.transpose(0, 2, 3, 1)
    assert np.abs(found.reshape(wanted.shape) - wanted).max() <= 1e-4 * np.abs(wanted).max()
    assert not spread or wanted.std() > 1e-3


# ---- how layers are read ---------------------------------------------------------------------------------


def test_lrn_divides_alpha_by_the_size(tmp_path: Path) -> None:
    lrn = node("LRN", "x", "y", size=3, alpha=0.3, beta=0.5, bias=2.0)
    (layer,) = read(tmp_path, model([lrn], {})).spec.layers
    assert isinstance(layer, LrnSpec)
    assert (layer.size, layer.beta, layer.k) == (3, 0.5, 2.0)
    assert layer.alpha == pytest.approx(0.1)


def test_scales_and_activations_become_part_of_products(tmp_path: Path) -> None:
    nodes = [CONVOLVED, node("Mul", "c s", "d"), node("Relu", "d", "y")]
    imported = read(tmp_path, model(nodes, {**CONV, "s": positive(8, 1, 1)}))
    (layer,) = imported.spec.layers
    assert isinstance(layer, ConvSpec) and layer.neuron is not None and layer.neuron.kind == "relu"
    assert layer.name == "Conv_c" and set(imported.tensors) == {"Conv_c.weight", "Conv_c.bias"}


def test_the_mean_of_a_graph_becomes_that_of_the_images(tmp_path: Path) -> None:
    mean, deviation = np.array([100, 110, 120], np.float32), np.array([50, 60, 70], np.float32)
    weights = {"m": mean.reshape(1, 3, 1, 1), "d": deviation.reshape(3, 1, 1), **CONV}
    nodes = [node("Sub", "x m", "a"), node("Div", "a d", "b2"), node("Conv", "b2 w b", "y")]
    image = read(tmp_path, model(nodes, weights)).spec.input
    assert (
        image.scale == 1 and image.mean == pytest.approx(mean) and image.deviation == pytest.approx(deviation)
    )


def test_weights_of_every_type_and_field_are_read(tmp_path: Path) -> None:
    exact = np.round(CONV["w"] * 8) / 8
    types = onnx.TensorProto
    for dtype, raw in (
        (types.FLOAT, True),
        (types.FLOAT, False),
        (types.DOUBLE, True),
        (types.DOUBLE, False),
        (types.FLOAT16, True),
        (types.FLOAT16, False),
        (types.BFLOAT16, True),
    ):
        content = model([node("Conv", "x w", "y")], {"w": exact})
        kind = onnx.helper.tensor_dtype_to_np_dtype(dtype)
        values = exact.astype(kind)
        given = values.tobytes() if raw else values.reshape(-1).tolist()
        tensor = onnx.helper.make_tensor("w", dtype, exact.shape, given, raw=raw)
        content.graph.initializer[0].CopyFrom(tensor)
        imported = read(tmp_path, content)
        weight = imported.tensors["Conv_y.weight"]
        assert weight.dtype == np.float32 and np.array_equal(weight, exact.transpose(0, 2, 3, 1)), (
            dtype,
            raw,
        )


def test_values_in_another_file_are_read_inside_the_folder_only(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    content = model([CONVOLVED, node("Relu", "c", "y")], CONV)
    onnx.save_model(
        content, folder / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    weight = onnx_reader.read(folder / "m.onnx").tensors["Conv_c.weight"]
    assert np.array_equal(weight, CONV["w"].transpose(0, 2, 3, 1))
    secret = tmp_path / "secret"
    (folder / "w.bin").rename(secret)
    (folder / "w.bin").symlink_to(secret)
    places = ["w.bin", "../secret", str(secret), "gone", "", "."]
    for place in places:
        changed = onnx.load(folder / "m.onnx", load_external_data=False)
        for tensor in changed.graph.initializer:
            tensor.external_data[0].value = place
        (folder / "m.onnx").write_bytes(changed.SerializeToString())
        with pytest.raises(DataError, match=r"tensor 'w' .*no file inside the model's folder"):
            onnx_reader.read(folder / "m.onnx")


def test_values_beyond_the_end_of_another_file_are_refused(tmp_path: Path) -> None:
    content = model([CONVOLVED, node("Relu", "c", "y")], CONV)
    file = tmp_path / "m.onnx"
    onnx.save_model(content, file, save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").write_bytes(bytes(10))
    with pytest.raises(DataError, match=r"tensor 'w' has 864 bytes at 0 of w\.bin, which has 10 bytes"):
        onnx_reader.read(file)


def test_nodes_that_the_output_does_not_need_may_be_anything(tmp_path: Path) -> None:
    content = model([CONVOLVED, node("Einsum", "c", "e"), node("Relu", "c", "y")], CONV)
    content.graph.output.append(onnx.helper.make_tensor_value_info("e", onnx.TensorProto.FLOAT, None))
    with pytest.raises(DataError, match="output has 2 values, of which one must be chosen: y, e"):
        read(tmp_path, content)
    assert len(read(tmp_path, content, output="y").spec.layers) == 1


def test_the_size_of_images_may_be_left_to_the_caller(tmp_path: Path) -> None:
    content = model([CONVOLVED, node("GlobalAveragePool", "c", "y")], CONV, shape=("N", 3, "h", "w"))
    with pytest.raises(DataError, match="'x' has the shape"):
        read(tmp_path, content)
    assert read(tmp_path, content, size=(20, 24)).spec.stored_shape == (20, 24, 3)


HALF = {"kernel_shape": [2, 2], "strides": [2, 2]}
REFUSED = [
    (
        [node("MaxPool", "x", "p i", **HALF), node("MaxUnpool", "p p", "y", **HALF)],
        {},
        "(MaxUnpool): its input 1, 'p', is not the indices of a MaxPool",
    ),
    (
        [node("MaxPool", "x", "p i", **HALF), node("MaxUnpool", "p i", "y", kernel_shape=[2, 2])],
        {},
        "(MaxUnpool): only the windows of its MaxPool are translated",
    ),
    (
        [node("MaxPool", "x", "p i", **HALF, storage_order=1), node("MaxUnpool", "p i", "y", **HALF)],
        {},
        "(MaxUnpool): only the windows of its MaxPool are translated",
    ),
    (
        [node("MaxPool", "x", "p i", **HALF), node("MaxUnpool", "p i s", "y", **HALF)],
        {"s": ints(1, 3, 20, 20)},
        "(MaxUnpool): its shape is not that of its MaxPool's image",
    ),
    (
        [node("Transpose", "x", "y", perm=[0, 2, 3, 1])],
        {},
        "node 'Transpose_y' (Transpose): no layer computes",
    ),
    ([node("LRN", "x", "y", size=4)], {}, "node 'LRN_y' (LRN): the size must be odd"),
    ([node("Conv", "x w", "y", group=2)], CONV, "node 'Conv_y' (Conv): the weight [8, 3, 3, 3] in 2 groups"),
    ([node("Clip", "x low", "y")], {"low": np.float32(-1)}, "(Clip): values are limited to -1 and inf"),
    ([node("Relu", "x", "r"), node("Mul", "x r", "y")], {}, "(Mul): only products with constants"),
    ([node("Concat", "x x", "y", axis=2)], {}, "(Concat): joins along axis 2"),
    ([node("Softmax", "x", "s", axis=1), node("Relu", "s", "y")], {}, "(Relu): reads a softmax"),
    ([node("Softmax", "x", "y", axis=3)], {}, "(Softmax): axis 3 is not that of the channels"),
    (
        [node("Pad", "x p", "z"), node("MaxPool", "z", "y", kernel_shape=[2, 2])],
        {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)},
        "(MaxPool): only convolutions and means",
    ),
    ([node("Reshape", "x s", "y")], {"s": ints(0, 3, 4, -1)}, "(Reshape): gives the shape [0, 3, 4, -1]"),
    ([node("Gemm", "x w", "y")], {"w": normal(3, 4)}, "(Gemm): reads an image, not a row of values"),
    (
        [node("Conv", "x q", "y")],
        {},
        "(Conv): its input 1, the weight, must be a constant, not the result 'q'",
    ),
    ([node("Add", "x m", "y")], {"m": normal(16)}, "(Add): the constant [16] is no number for each channel"),
    ([node("Conv", "x w", "y", domain="com.microsoft")], CONV, "is of the domain 'com.microsoft'"),
    ([node("Shape", "x", "y")], {}, "no node computes the output 'y'"),
    ([node("Identity", "x", "y")], {}, "there is no layer"),
    ([node("Conv", "x w b", "y")], {"w": CONV["w"], "b": np.full(8, np.nan, np.float32)}, "are not finite"),
    (
        [node("Conv", "x w b", "y")],
        {"w": CONV["w"], "b": normal(7)},
        "the bias must have a value for each of the 8",
    ),
]


@pytest.mark.parametrize(
    ("nodes", "weights", "text"), REFUSED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_refused_with_file_node_and_reason(nodes: Any, weights: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path, model(nodes, weights))
    assert str(error.value).startswith(str(tmp_path / "model.onnx")) and text in str(error.value)


@pytest.mark.parametrize("opset", [6, 23])
def test_other_versions_of_operators_are_refused(opset: int, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"has version {opset} of ONNX's operators"):
        read(tmp_path, model([node("Relu", "x", "y")], {}, opset=opset))


# ---- real models -----------------------------------------------------------------------------------------

# The number of weights of each light model.
MODELS = {
    "bvlc_alexnet": 60_965_224,
    "densenet121": 8_062_504,
    "inception_v1": 6_998_552,
    "inception_v2": 11_214_888,
    "resnet50": 25_610_152,
    "squeezenet": 1_235_496,
    "vgg19": 143_667_240,
    "zfnet512": 87_250_536,
}


@pytest.mark.parametrize("name", MODELS)
def test_a_light_model_is_read_without_memory_for_its_weights(name: str) -> None:
    imported = onnx_reader.read(LIGHT / f"light_{name}.onnx")
    assert sum(tensor.size for tensor in imported.tensors.values()) == MODELS[name]
    kinds = {type(layer) for layer in imported.spec.layers}
    assert {ConvSpec, PoolSpec} <= kinds and (SumSpec in kinds) == (name == "resnet50")
    kept = [tensor for tensor in imported.tensors.values() if any(tensor.strides)]
    assert sum(tensor.nbytes for tensor in kept) < 2e6


@pytest.mark.parametrize(
    "name",
    [
        *("squeezenet", "inception_v1", "densenet121"),
        *(pytest.param(name, marks=pytest.mark.long) for name in ("resnet50", "inception_v2")),
        *(pytest.param(name, marks=pytest.mark.long) for name in ("bvlc_alexnet", "zfnet512", "vgg19")),
    ],
)
def test_a_model_with_random_weights_gives_the_logits_of_onnxruntime(name: str, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(with_random_weights(name).SerializeToString())
    imported = onnx_reader.read(file)
    images = pictures(imported, 1)
    wanted = peer(str(file), planes(images)).reshape(1, -1)
    found = answers(without_softmax(imported), images).reshape(1, -1)
    assert wanted.std() > 0
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("name", ["squeezenet", "densenet121"])
def test_a_light_model_gives_its_own_output(name: str) -> None:
    file = LIGHT / f"light_{name}.onnx"
    imported = onnx_reader.read(file)
    images = pictures(imported, 1)
    wanted = onnx.numpy_helper.to_array(
        onnx.TensorProto.FromString((LIGHT / f"light_{name}_output_0.pb").read_bytes())
    )
    softmax = name == "squeezenet"
    found = answers(imported if softmax else without_softmax(imported), images)
    assert np.abs(found.reshape(-1) - wanted.reshape(-1)).max() <= 1e-4


def test_shufflenet_is_refused_naming_transpose() -> None:
    with pytest.raises(
        DataError, match=r"light_shufflenet\.onnx: node .* \(Transpose\): no layer computes Transpose"
    ):
        onnx_reader.read(LIGHT / "light_shufflenet.onnx")
