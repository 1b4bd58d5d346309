"""One good call of every function of cconvnet.ops, and the tools to make variants of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cconvnet import bfloat16, ops
from cconvnet.devices import Device
from cconvnet.operations import OPERATIONS

Array = np.ndarray[Any, Any]

Arguments = dict[str, Any]


def floats(*shape: int) -> Array:
    random = np.random.default_rng(len(shape))
    return random.integers(-4, 5, shape).astype(np.float32)


def integers(values: list[int], dtype: Any = np.int32) -> Array:
    return np.array(values, dtype)


X, DY_CONV, W = (2, 5, 6, 4), (2, 5, 6, 6), (6, 3, 3, 2)

CONV: Arguments = {"padding": 1, "groups": 2}

W_LOCAL = (5, 6, *W)

POOLED = (2, 2, 2, 4)

BLOCKS = (6, 2, 2, 8)  # of W, cut into squares of 2

GOOD: dict[str, Callable[[], Arguments]] = {
    "conv_fprop": lambda: {"x": floats(*X), "w": floats(*W), "bias": floats(6), **CONV},
    "conv_dgrad": lambda: {"dy": floats(*DY_CONV), "w": floats(*W), "x_shape": X, **CONV},
    "conv_wgrad": lambda: {"x": floats(*X), "dy": floats(*DY_CONV), "filter_size": 3, **CONV},
    "local_fprop": lambda: {"x": floats(*X), "w": floats(*W_LOCAL), "bias": floats(5, 6, 6), **CONV},
    "local_dgrad": lambda: {"dy": floats(*DY_CONV), "w": floats(*W_LOCAL), "x_shape": X, **CONV},
    "local_wgrad": lambda: {"x": floats(*X), "dy": floats(*DY_CONV), "filter_size": 3, **CONV},
    "fc_fprop": lambda: {"x": floats(3, 5), "w": floats(4, 5), "bias": floats(4)},
    "fc_dgrad": lambda: {"dy": floats(3, 4), "w": floats(4, 5)},
    "fc_wgrad": lambda: {"x": floats(3, 5), "dy": floats(3, 4)},
    "batch_norm_statistics": lambda: {"x": floats(*X), "counted": 1},
    "batch_norm_forward": lambda: {
        # Nothing rounds, so that the two roundings to bfloat16 are one.
        "x": floats(*X), "mean": floats(4), "variance": 0 * floats(4) + 3.75, "gamma": floats(4),
        "beta": floats(4), "shortcut": -floats(*X), "relu": True, "eps": 0.25,
    },
    "batch_norm_backward": lambda: {
        "x": floats(*X), "dy": floats(*X), "mean": floats(4), "variance": abs(floats(4)), "gamma": floats(4),
        "y": -floats(*X), "eps": 0.25,
    },
    "bias_add": lambda: {"x": floats(*X), "bias": floats(4), "relu": True},
    "bias_grad": lambda: {"dy": floats(*X)},
    "relu_bias_backward": lambda: {"y": floats(*X), "dy": floats(*X), "scale": 2.0},
    "relu_forward": lambda: {"x": floats(*X)},
    "relu_backward": lambda: {"y": floats(*X), "dy": floats(*X)},
    "neuron_forward": lambda: {"x": floats(*X), "neuron": "brelu", "a": 2.0},
    "neuron_backward": lambda: {
        "x": floats(*X), "y": floats(*X), "dy": floats(*X), "neuron": "abs", "a": 1.0,
    },
    "lrn_forward": lambda: {"x": floats(*X), "groups": 2},
    "lrn_backward": lambda: {"x": floats(*X), "dy": floats(*X), "groups": 2},
    "lrn_maxpool_forward": lambda: {"x": floats(*X), "groups": 2},
    # Nothing rounds, so that maxima are the same on all devices.
    "lrn_maxpool_backward": lambda: {
        "x": floats(*X), "y": ops.maxpool_forward(floats(*X)), "dy": floats(*POOLED), "alpha": 0.0, "k": 1.0,
        "relu": True,
    },
    "contrast_norm_forward": lambda: {"x": floats(*X), "size": 3},
    "contrast_norm_backward": lambda: {"x": floats(*X), "dy": floats(*X), "size": 3},
    "maxpool_forward": lambda: {"x": floats(*X)},
    "maxpool_backward": lambda: {"x": floats(*X), "y": floats(*POOLED), "dy": floats(*POOLED)},
    "maxunpool_forward": lambda: {"x": floats(*POOLED), "u": floats(*X)},
    "maxunpool_backward": lambda: {"u": floats(*X), "dy": -floats(*X)},
    "avgpool_forward": lambda: {"x": floats(*X)},
    "avgpool_backward": lambda: {"dy": floats(*POOLED), "x_shape": X},
    "eltmax_forward": lambda: {"a": floats(*X), "b": -floats(*X)},
    "eltmax_backward": lambda: {"x": floats(*X), "y": abs(floats(*X)), "dy": floats(*X)},
    "dropout": lambda: {"x": floats(*X), "keep": 0.5, "seed": 3},
    "softmax_forward": lambda: {"logits": floats(3, 7)},
    "softmax_cross_entropy_forward": lambda: {
        "logits": floats(3, 7), "labels": integers([6, 0, 2]),
    },
    "softmax_cross_entropy_backward": lambda: {
        "probabilities": floats(3, 7), "labels": integers([6, 0, 2]), "scale": 0.5,
    },
    "softmax_cross_entropy": lambda: {
        "logits": floats(3, 7), "labels": integers([6, 0, 2]), "scale": 0.5,
    },
    "l2_cost_forward": lambda: {"x": floats(3, 7), "target": -floats(3, 7)},
    "l2_cost_backward": lambda: {"x": floats(3, 7), "target": -floats(3, 7), "scale": 0.5},
    "watch_losses": lambda: {"loss": floats(8)},
    "sgd_update": lambda: {"g": floats(*X), "v": floats(*X), "w": floats(*X), "lr": 0.5},
    "lars_rate": lambda: {
        "w": floats(*X), "g": -floats(*X), "rates": np.array([0.5, 0.75], np.float32), "eta": 0.25,
        "eps": 0.125,
    },
    "limit_norm": lambda: {"w": floats(*W), "limit": 10.5, "low": 10.25, "centered": True},
    "tree_sum": lambda: {"x": floats(3, 7), "merges": [0, 1, 1], "scale": 0.5},
    "input_transform": lambda: {
        "images": np.arange(2 * 5 * 6 * 3, dtype=np.uint8).reshape(2, 5, 6, 3), "size": (4, 3),
        "top": integers([0, 1]), "left": integers([2, 3]), "mirror": integers([0, 1], np.uint8),
        "mean": floats(5, 6, 3), "shift": floats(2, 3), "scale": 0.5,
    },
    "filters_to_blocks": lambda: {"w": floats(*W), "block": 2},
    "filters_from_blocks": lambda: {"dblocks": floats(*BLOCKS), "w_shape": W, "block": 2},
    "add": lambda: {"a": floats(*X), "b": floats(*X)},
    "to_bf16": lambda: {"x": floats(*X)},
    "from_bf16": lambda: {"x": bfloat16.pack(floats(*X))},
}  # fmt: skip
# Operations without a problem need only arrays of one shape.
GOOD |= {
    name: lambda described=described: {given.name: floats(*X) for given in described.inputs}
    for name, described in OPERATIONS.items()
    if name not in GOOD and not described.has_problem
}

# The position of `out` among several results.
PLACE_OF_OUT = {"batch_norm_backward": 0, "relu_bias_backward": 0, "softmax_cross_entropy": 3}

# Arrays that are updated by the functions that return nothing.
UPDATED = {"sgd_update": ("v", "w"), "limit_norm": ("w",)}


def poison(shape: tuple[int, ...], dtype: Any) -> Array:
    """Return an array of NaN."""
    return np.full(shape, 0x7FFF if dtype == bfloat16.BITS else np.nan, dtype)


def arrays_of(arguments: Arguments) -> dict[str, Array]:
    return {name: value for name, value in arguments.items() if isinstance(value, np.ndarray)}


def call(function: str, arguments: Arguments) -> Any:
    return getattr(ops, function)(**arguments)


def on(device: Device, arguments: Arguments) -> Arguments:
    """Return the arguments with their arrays on a device, and with the device."""
    moved = {name: device.array(value) for name, value in arrays_of(arguments).items()}
    return {**arguments, **moved, "device": device}


def results(device: Device, function: str, arguments: Arguments) -> list[Array]:
    """Return the results of a call, or the arrays that it updates if it returns nothing."""
    returned = call(function, arguments)
    if returned is None:
        returned = tuple(arguments[name] for name in UPDATED[function])
    return [device.host(array) for array in (returned if isinstance(returned, tuple) else (returned,))]


def in_bf16(function: str) -> Arguments:
    """Return a good call's arguments with all arrays as bfloat16s that may be, its output included."""
    arguments, spec = GOOD[function](), OPERATIONS[function]
    for name, value in arrays_of(arguments).items():
        if value.dtype == np.float32 and spec.dtype(name, "bf16") == bfloat16.BITS:
            arguments[name] = bfloat16.pack(value)
    return arguments


class Exporter:
    """An array of another library that offers nothing but DLPack."""

    def __init__(self, array: Array, device: tuple[int, int] | None = None) -> None:
        self.array, self.device = array, device

    def __dlpack__(self, **arguments: Any) -> Any:
        return self.array.__dlpack__(**arguments)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device or self.array.__dlpack_device__()


def wider(array: Array) -> Array:
    return array.astype(np.float64 if array.dtype == np.float32 else np.int64)
