"""PyTorch's ResNets as this library's: names and layouts of their tensors, and files of the legacy format."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

Array = np.ndarray[Any, Any]

OF = {"weight": "weight", "bias": "bias", "mean": "running_mean", "variance": "running_var"}


class _Storage:
    """The class of a storage in a file, by its name alone."""

    def __init__(self, name: str) -> None:
        self.dtype = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}[name]


class _Reader(pickle.Unpickler):
    """Read the tensors of a legacy file, whose storages follow the pickles; nothing of it is run."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, Array] = {}

    def persistent_load(self, saved: Any) -> Array:
        _, kind, key, _, count, _ = saved
        return self.storages.setdefault(key, np.empty(count, kind.dtype))

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name.endswith("Storage"):
            return _Storage(name)
        known = {
            **dict.fromkeys(
                (("torch._utils", "_rebuild_tensor"), ("torch._utils", "_rebuild_tensor_v2")), _tensor
            ),
            ("torch._utils", "_rebuild_parameter"): lambda data, requires_grad, hooks: data,
            ("collections", "OrderedDict"): OrderedDict,
        }
        return known[module, name]


def _tensor(storage: Array, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any) -> Array:
    strides = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides)


def legacy_state(path: Path) -> dict[str, Array]:
    """Return the state dict of a file of PyTorch's legacy format, without the names' "module."."""
    with path.open("rb") as file:
        for _ in range(3):  # a magic number, the protocol and the system
            _Reader(file).load()
        reader = _Reader(file)
        state = reader.load()
        for key in _Reader(file).load():
            (count,) = np.fromfile(file, "<i8", 1)
            storage = reader.storages[key]
            storage[:] = np.fromfile(file, storage.dtype, count)
    state = state.get("state_dict", state)
    return {name.removeprefix("module."): np.array(value) for name, value in state.items()}


def torch_name(name: str) -> str:
    """Return torchvision's name of a tensor of ours: layer1.0.bn1.running_mean of layer1_0_conv1_bn.mean."""
    layer, of = name.rsplit(".", 1)
    norm = layer.endswith("_bn")
    layer = layer.removesuffix("_bn").replace("_", ".").replace("shortcut", f"downsample.{int(norm)}")
    return f"{layer.replace('conv', 'bn') if norm else layer}.{OF[of]}"


def as_ours(value: Array) -> Array:
    """Return filters [K,C,R,S] as [K,R,S,C], anything else as it is."""
    return np.ascontiguousarray(value.transpose(0, 2, 3, 1) if value.ndim == 4 else value)


def state_of(
    shapes: Mapping[str, tuple[int, ...]],
    theirs: Mapping[str, Array],
    named: Callable[[str], str] = torch_name,
) -> dict[str, Array]:
    """Return a network's state of these shapes with the values of a state dict, and velocities of 0."""
    return {
        name: np.zeros(shape, np.float32)
        if name.endswith(".velocity")
        else as_ours(theirs[named(name)]).reshape(shape)
        for name, shape in shapes.items()
    }
