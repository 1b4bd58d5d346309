"""ONNX's own tests of single operators, computed by cconvnet.ops.

ONNX's layout of images is N, C, H, W, which is translated here. An operator that ops cannot express raises
CannotSay. CANNOT_SAY lists each such test by its reason, and all others must pass.

Source: onnx.backend.test, "node" (https://github.com/onnx/onnx/blob/main/docs/OnnxBackendTest.md).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cconvnet import ops
from cconvnet.devices import Device, get_device

onnx = pytest.importorskip("onnx", reason="onnx is not installed; it is one of the extra dev")

Array = np.ndarray[Any, Any]
Axes = list[tuple[int, int]]

# The release whose tests CANNOT_SAY lists, and which pyproject.toml requires.
RELEASE = "1.23"


class CannotSay(Exception):
    """ops cannot express an operator; the text is a reason of CANNOT_SAY."""


NOT_FLOATS = "elements that are not float32"
VOLUMES = "images of three axes"
DILATED_POOLS = "dilated pools"
INDICES = "where the maxima were as an output"
MASK = "the dropout's mask as an output"
RANDOM = "random numbers of another generator"
CROSSED = "a lower bound above the upper one"
POWERS = "powers other than the square"
WEIGHTS = "weights of classes"
IGNORED = "labels that are ignored"
LOG_PROBABILITIES = "logarithms of probabilities as an output"

CANNOT_SAY: dict[str, list[str]] = {
    NOT_FLOATS: [
        "test_maxpool_2d_uint8",
        *(f"test_clip_default_int8_{bound}" for bound in ("min", "max", "inbounds")),
        *(f"test_add_{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16)),
        *("test_add_uint32", "test_add_uint64"),
        *(f"test_max_{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
        *("test_max_float16", "test_max_float64"),
        *(f"test_pow_types_float32_{kind}" for kind in ("int32", "int64", "uint32", "uint64")),
        *(f"test_pow_types_{kind}_float32" for kind in ("int32", "int64")),
        *(f"test_pow_types_{kind}_{kind}" for kind in ("int32", "int64")),
    ],
    VOLUMES: [
        "test_convtranspose_3d",
        "test_maxpool_3d_default",
        "test_maxpool_3d_dilations",
        "test_maxpool_3d_dilations_use_ref_impl",
        "test_maxpool_3d_dilations_use_ref_impl_large",
        "test_averagepool_3d_default",
        "test_averagepool_3d_dilations_small",
        *(
            f"test_averagepool_3d_dilations_large_count_include_pad_is_{counted}_ceil_mode_is_{ceil}"
            for counted in (0, 1)
            for ceil in (True, False)
        ),
    ],
    DILATED_POOLS: ["test_maxpool_2d_dilations", "test_averagepool_2d_dilations"],
    INDICES: [f"test_maxpool_with_argmax_2d_precomputed_{what}" for what in ("pads", "strides")],
    MASK: [
        "test_dropout_default_mask",
        "test_dropout_default_mask_ratio",
        "test_training_dropout_default_mask",
        "test_training_dropout_mask",
        "test_training_dropout_zero_ratio_mask",
    ],
    RANDOM: ["test_training_dropout", "test_training_dropout_default"],
    CROSSED: ["test_clip_min_greater_than_max"],
    POWERS: ["test_pow", "test_pow_bcast_array", "test_pow_example"],
    LOG_PROBABILITIES: [
        f"test_sce_{what}_log_prob"
        for what in (
            *("none", "none_weights", "sum", "mean", "mean_3d", "mean_weight"),
            *(f"mean_{weight}_ii{axes}" for weight in ("weight", "no_weight") for axes in ("", "_3d", "_4d")),
            *(f"NCd1d2d3d4d5_{how}" for how in ("mean_weight", "none_no_weight")),
            *("NCd1_mean_weight_negative_ii", "NCd1d2d3_none_no_weight_negative_ii"),
            "NCd1d2d3_sum_weight_high_ii",
        )
    ],
    WEIGHTS: [
        *("test_sce_none_weights", "test_sce_mean_weight", "test_sce_NCd1d2d3d4d5_mean_weight"),
        *(f"test_sce_mean_weight_ii{axes}" for axes in ("", "_3d", "_4d")),
        *("test_sce_NCd1_mean_weight_negative_ii", "test_sce_NCd1d2d3_sum_weight_high_ii"),
    ],
    IGNORED: [
        *(f"test_sce_mean_no_weight_ii{axes}" for axes in ("", "_3d", "_4d")),
        "test_sce_NCd1d2d3_none_no_weight_negative_ii",
    ],
}


class Node:
    """One operator with its attributes, on a device that computes it."""

    def __init__(self, device: Device, proto: Any, inputs: Sequence[Array]) -> None:
        self.device, self.outputs = device, len(proto.output)
        self.attributes = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
        # An empty name leaves out an input.
        names = [name for name in proto.input if name]
        given = dict(zip(names, inputs, strict=True))
        self.inputs = [given.get(name) for name in proto.input]

    def __getitem__(self, name: str) -> Any:
        return self.attributes[name]

    def get(self, name: str, default: Any) -> Any:
        return self.attributes.get(name, default)

    def input(self, index: int) -> Array | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def x(self) -> Array:
        x = self.inputs[0]
        assert x is not None
        if any(array is not None and array.dtype != np.float32 for array in self.inputs):
            raise CannotSay(NOT_FLOATS)
        return x

    def run(self, operation: str, *arrays: Any, **arguments: Any) -> Array:
        """Return the result of a function of ops on the host; its array arguments are moved to the device."""
        moved = [self.device.array(np.ascontiguousarray(a)) for a in arrays]
        result = getattr(ops, operation)(*moved, **arguments, device=self.device)
        return np.asarray(self.device.host(result))


# ---- images ------------------------------------------------------------------------------------------------


def images(x: Array) -> Array:
    """Return [N,C,H,W] as [N,H,W,C]; of one axis, [N,C,W], the height is 1."""
    if x.ndim == 5:
        raise CannotSay(VOLUMES)
    return np.ascontiguousarray((x if x.ndim == 4 else x[:, :, None]).transpose(0, 2, 3, 1))


def back(y: Array, like: Array) -> Array:
    y = y.transpose(0, 3, 1, 2)
    return y if like.ndim == 4 else y[:, :, 0]


def pair(values: Sequence[int] | None, otherwise: int) -> tuple[int, int]:
    """Return numbers for the axes of an image."""
    first, *rest = values or (otherwise, otherwise)
    return (first, rest[0]) if rest else (otherwise, first)


def shared(total: int, auto_pad: bytes) -> tuple[int, int]:
    """Divide a padding between both ends; an odd pixel is the last, or the first for SAME_LOWER."""
    less, more = total // 2, total - total // 2
    return (more, less) if auto_pad == b"SAME_LOWER" else (less, more)


def padding(node: Node, size: Sequence[int], window: Sequence[int]) -> Axes:
    """Return (before, after) of each axis; `window` is the extent of a window."""
    auto_pad, stride = node.get("auto_pad", b"NOTSET"), pair(node.get("strides", None), 1)
    if auto_pad.startswith(b"SAME"):
        return [
            shared(max((-(-extent // step) - 1) * step + span - extent, 0), auto_pad)
            for extent, step, span in zip(size, stride, window, strict=True)
        ]
    pads = node.get("pads", [])
    if len(pads) == 2:
        return [(0, 0), (pads[0], pads[1])]
    return [(pads[0], pads[2]), (pads[1], pads[3])] if pads else [(0, 0), (0, 0)]


def spans(filters: Array, dilation: tuple[int, int]) -> list[int]:
    return [(taps - 1) * apart + 1 for taps, apart in zip(filters.shape[1:3], dilation, strict=True)]


def conv(node: Node) -> Array:
    x, w, bias = images(node.x()), images(node.inputs[1]), node.input(2)  # type: ignore[arg-type]
    dilation = pair(node.get("dilations", None), 1)
    y = node.run(
        "conv_fprop", x, w, *([] if bias is None else [bias]), stride=pair(node.get("strides", None), 1),
        padding=tuple(padding(node, x.shape[1:3], spans(w, dilation))), dilation=dilation,
        groups=node.get("group", 1),
    )  # fmt: skip
    return back(y, node.x())


def conv_transpose(node: Node) -> Array:
    """Return the gradient by images of the convolution with these filters."""
    x, w = images(node.x()), images(node.inputs[1])  # type: ignore[arg-type]
    dilation, stride = pair(node.get("dilations", None), 1), pair(node.get("strides", None), 1)
    auto_pad, groups = node.get("auto_pad", b"NOTSET"), node.get("group", 1)
    more = pair(node.get("output_padding", None), 0)
    full = [
        (extent - 1) * step + span + extra
        for extent, step, span, extra in zip(x.shape[1:3], stride, spans(w, dilation), more, strict=True)
    ]
    wanted = node.get("output_shape", None)
    if auto_pad.startswith(b"SAME"):
        wanted = [extent * step for extent, step in zip(x.shape[1:3], stride, strict=True)]
    if wanted:
        ends = [shared(max(f - size, 0), auto_pad) for f, size in zip(full, wanted, strict=True)]
    else:
        ends = padding(node, (), ())
        wanted = [f - before - after for f, (before, after) in zip(full, ends, strict=True)]
    # `outputs` of the convolution are the given images, even if there is room for more.
    y = node.run(
        "conv_dgrad", x, w, x_shape=(len(x), *wanted, w.shape[3] * groups), stride=stride, groups=groups,
        padding=tuple(before for before, _ in ends), dilation=dilation, outputs=x.shape[1:3],
    )  # fmt: skip
    return back(y, node.x())


def pool(node: Node, operation: str, **arguments: Any) -> Array:
    x, window = images(node.x()), pair(node["kernel_shape"], 1)
    if any(apart != 1 for apart in node.get("dilations", [])):
        raise CannotSay(DILATED_POOLS)
    y = node.run(
        operation, x, window=window, stride=pair(node.get("strides", None), 1),
        padding=tuple(padding(node, x.shape[1:3], window)),
        rounding="ceil" if node.get("ceil_mode", 0) else "floor", **arguments,
    )  # fmt: skip
    return back(y, node.x())


def max_pool(node: Node) -> Array:
    if node.outputs > 1:
        raise CannotSay(INDICES)
    return pool(node, "maxpool_forward")


def average_pool(node: Node) -> Array:
    return pool(node, "avgpool_forward", count_padding=bool(node.get("count_include_pad", 0)))


def global_pool(operation: str) -> Callable[[Node], Array]:
    def compute(node: Node) -> Array:
        x = images(node.x())
        return back(node.run(operation, x, window=x.shape[1:3], stride=1), node.x())

    return compute


def lrn(node: Node) -> Array:
    parameters = {
        "alpha": node.get("alpha", 1e-4),
        "beta": node.get("beta", 0.75),
        "k": node.get("bias", 1.0),
    }
    y = node.run("lrn_forward", images(node.x()), size=node["size"], average=True, **parameters)
    return back(y, node.x())


# ---- matrices ----------------------------------------------------------------------------------------------


def gemm(node: Node) -> Array:
    a, b, c = node.x(), node.inputs[1], node.input(2)
    assert b is not None
    x, w = a.T if node.get("transA", 0) else a, b if node.get("transB", 0) else b.T
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    if c is not None and c.size == len(w) and alpha == beta == 1:
        return node.run("fc_fprop", x, w, c.reshape(-1))
    y = node.run("fc_fprop", x, w)
    c = np.zeros_like(y) if c is None else np.broadcast_to(c, y.shape)
    return node.run("add", y, c, alpha=alpha, beta=beta)


def softmax(node: Node) -> Array:
    rows = np.moveaxis(node.x(), node.get("axis", -1), -1)
    y = node.run("softmax_forward", rows.reshape(-1, rows.shape[-1]))
    return np.moveaxis(y.reshape(rows.shape), -1, node.get("axis", -1))


def softmax_cross_entropy(node: Node) -> Array:
    if node.outputs > 1:
        raise CannotSay(LOG_PROBABILITIES)
    if node.input(2) is not None:
        raise CannotSay(WEIGHTS)
    if "ignore_index" in node.attributes:
        raise CannotSay(IGNORED)
    logits, labels = node.inputs[:2]
    assert logits is not None and labels is not None
    rows = np.moveaxis(logits, 1, -1)
    arrays = rows.reshape(-1, rows.shape[-1]), labels.reshape(-1).astype(np.int32)
    moved = [node.device.array(np.ascontiguousarray(a)) for a in arrays]
    _, loss, _ = ops.softmax_cross_entropy_forward(*moved, device=node.device)
    loss = np.asarray(node.device.host(loss)).reshape(labels.shape)
    match node.get("reduction", b"mean"):
        case b"none":
            return loss
        case b"sum":
            return np.asarray(loss.sum())
    return np.asarray(loss.mean())


# ---- elements ----------------------------------------------------------------------------------------------


def neuron(name: str, a: float = 1.0, b: float = 0.0) -> Callable[[Node], Array]:
    return lambda node: node.run("neuron_forward", node.x(), neuron=name, a=a, b=b)


def clip(node: Node) -> Array:
    """brelu and relu are clipped at 0 below."""
    y, low, high = node.x(), node.input(1), node.input(2)
    if low is None:
        # min(x, high) = -max(-x, -high)
        if high is None:
            return node.run("neuron_forward", y, neuron="linear")
        y = node.run("neuron_forward", y, neuron="linear", a=-1.0, b=float(high))
        y = node.run("neuron_forward", y, neuron="relu")
        return node.run("neuron_forward", y, neuron="linear", a=-1.0, b=float(high))
    if high is not None and high <= low:
        raise CannotSay(CROSSED)
    y = node.run("neuron_forward", y, neuron="linear", b=-float(low))
    bound = {"neuron": "relu"} if high is None else {"neuron": "brelu", "a": float(high - low)}
    y = node.run("neuron_forward", y, **bound)
    return node.run("neuron_forward", y, neuron="linear", b=float(low))


def power(node: Node) -> Array:
    x, exponent = node.x(), node.inputs[1]
    assert exponent is not None
    if exponent.ndim or exponent != 2:
        raise CannotSay(POWERS)
    return node.run("neuron_forward", x, neuron="square")


def add(node: Node) -> Array:
    x, other = node.x(), node.inputs[1]
    assert other is not None
    return node.run("add" if other.shape == x.shape else "bias_add", x, other)


def chain(operation: str) -> Callable[[Node], Array]:
    """Combine all inputs, two at a time; one input is its own result."""

    def compute(node: Node) -> Array:
        y = node.x()
        if len(node.inputs) == 1:
            return node.run("neuron_forward", y, neuron="linear")
        return functools.reduce(lambda a, b: node.run(operation, a, b), node.inputs[1:], y)  # type: ignore[arg-type, return-value]

    return compute


def dropout(node: Node) -> Array:
    """Keep all elements without training."""
    x, ratio, training = node.inputs[0], node.input(1), node.input(2)
    if node.outputs > 1:
        raise CannotSay(MASK)
    if training is not None and training and (ratio is None or ratio > 0):
        raise CannotSay(RANDOM)
    return node.run("dropout", x, keep=1.0, seed=0)


OPERATORS: dict[str, Callable[[Node], Array]] = {
    "Abs": neuron("abs"),
    "Add": add,
    "AveragePool": average_pool,
    "Clip": clip,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Dropout": dropout,
    "Gemm": gemm,
    "GlobalAveragePool": global_pool("avgpool_forward"),
    "GlobalMaxPool": global_pool("maxpool_forward"),
    "LRN": lrn,
    "Max": chain("eltmax_forward"),
    "MaxPool": max_pool,
    "Neg": neuron("linear", a=-1.0),
    "Pow": power,
    "Relu": lambda node: node.run("relu_forward", node.x()),
    "Sigmoid": neuron("logistic"),
    "Softmax": softmax,
    "SoftmaxCrossEntropyLoss": softmax_cross_entropy,
    "Softplus": neuron("softrelu"),
    "Sqrt": neuron("sqrt"),
    "Sum": chain("add"),
    "Tanh": neuron("tanh", b=1.0),
}


# ---- ONNX's tests ------------------------------------------------------------------------------------------


class Case:
    """One test: a model of one node, and its inputs and outputs in sets.

    onnx 1.19 keeps them in files, 1.23 makes them when asked.
    """

    def __init__(self, case: Any) -> None:
        self.name, self.rtol, self.atol = case.name, case.rtol, case.atol
        self._case, folder = case, Path(case.model_dir or "")
        self.model = case.model if case.model is not None else onnx.load(folder / "model.onnx")

    @property
    def sets(self) -> list[tuple[Sequence[Array], Sequence[Array]]]:
        if self._case.data_sets is not None:
            return [(inputs, outputs) for inputs, outputs in self._case.data_sets]
        folders = sorted(Path(self._case.model_dir).glob("test_data_set_*"))
        return [(self._read(folder, "input"), self._read(folder, "output")) for folder in folders]

    @staticmethod
    def _read(folder: Path, kind: str) -> list[Array]:
        files = sorted(folder.glob(f"{kind}_*.pb"), key=lambda file: int(file.stem.split("_")[1]))
        tensors = [onnx.TensorProto.FromString(file.read_bytes()) for file in files]
        return [onnx.numpy_helper.to_array(tensor) for tensor in tensors]


@functools.cache
def cases() -> dict[str, list[Case]]:
    """Return the tests of each of OPERATORS."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        # Tests of other operators that overflow on purpose.
        warnings.simplefilter("ignore")
        found = [Case(case) for case in load_model_tests(kind="node")]
    by_operator: dict[str, list[Case]] = {operator: [] for operator in OPERATORS}
    for case in found:
        nodes = case.model.graph.node
        # Other tests expand an operator into simpler ones.
        if len(nodes) == 1 and nodes[0].op_type in OPERATORS and "_expanded" not in case.name:
            by_operator[nodes[0].op_type].append(case)
    return by_operator


@pytest.mark.parametrize("operator", OPERATORS)
def test_operator(device: Device, operator: str) -> None:
    reasons = {name: reason for reason, names in CANNOT_SAY.items() for name in names}
    wrong, passed = [], 0
    for case in cases()[operator]:
        (node,) = case.model.graph.node
        for inputs, outputs in case.sets:
            try:
                y = OPERATORS[operator](Node(device, node, inputs))
                assert case.name not in reasons, "it is listed in CANNOT_SAY, but ops says it"
                assert y.shape == outputs[0].shape, f"shape {y.shape}, not {outputs[0].shape}"
                np.testing.assert_allclose(y, outputs[0], rtol=case.rtol, atol=case.atol)
                passed += 1
            except CannotSay as cannot:
                if reasons.get(case.name) != str(cannot):
                    wrong.append(f"{case.name}: CANNOT_SAY must list it under {str(cannot)!r}")
            except (AssertionError, ValueError, TypeError) as error:
                wrong.append(f"{case.name}: {error}")
    assert not wrong, "\n".join(wrong)
    assert passed >= 1


def test_all_that_cannot_be_said_exists() -> None:
    listed = [name for names in CANNOT_SAY.values() for name in names]
    assert len(set(listed)) == len(listed)
    if not onnx.__version__.startswith(f"{RELEASE}."):
        pytest.skip(f"CANNOT_SAY lists the tests of onnx {RELEASE}, not of {onnx.__version__}")
    assert set(listed) <= {case.name for found in cases().values() for case in found}


def test_a_wrong_translation_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison fails, and so do both directions of CANNOT_SAY."""
    device = get_device("cpu:0")
    wrong: dict[str, Callable[[Node], Array]] = {
        "AveragePool": lambda node: pool(node, "avgpool_forward"),
        "LRN": lambda node: back(node.run("lrn_forward", images(node.x()), size=node["size"]), node.x()),
        "Tanh": neuron("logistic"),
    }
    for operator, compute in wrong.items():
        monkeypatch.setitem(OPERATORS, operator, compute)
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            test_operator(device, operator)
    monkeypatch.setitem(CANNOT_SAY, NOT_FLOATS, ["test_abs"])
    with pytest.raises(AssertionError, match="test_abs: it is listed in CANNOT_SAY, but ops says it"):
        test_operator(device, "Abs")
    with pytest.raises(AssertionError, match="test_add_int8: CANNOT_SAY must list it under 'elements"):
        test_operator(device, "Add")
