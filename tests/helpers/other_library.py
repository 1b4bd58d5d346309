"""A library of arrays as another package's: tensors on the host that offer DLPack and have a bfloat16."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from cconvnet import bfloat16


class Type:
    """The library's bfloat16, which NumPy does not know."""

    def __str__(self) -> str:
        return "others.bfloat16"


class Tensor:
    """An array of the library."""

    __module__ = "others.tensors"

    def __init__(self, array: np.ndarray[Any, Any], dtype: Any = None, requires_grad: bool = False) -> None:
        self.array, self.requires_grad = array, requires_grad
        self.dtype = array.dtype if dtype is None else dtype
        self.device = (1, 0)
        self.old = False  # True for DLPack before version 1

    def view(self, dtype: Any) -> Tensor:
        return Tensor(self.array, dtype if isinstance(dtype, Type) else None)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, **arguments: Any) -> Any:
        if isinstance(self.dtype, Type):
            raise BufferError("no such type in DLPack")
        if self.old and arguments:
            raise TypeError("unexpected keyword")
        return self.array.__dlpack__(**arguments)


def from_dlpack(producer: Any) -> Tensor:
    return Tensor(np.from_dlpack(producer))


MODULE: Any = ModuleType("others")
MODULE.from_dlpack, MODULE.Tensor = from_dlpack, Tensor
MODULE.uint16, MODULE.bfloat16 = bfloat16.BITS, Type()


def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the library, which counts as imported; its name is `others`."""
    monkeypatch.setitem(sys.modules, "others", MODULE)
    return MODULE
