"""Hand-written CUDA kernels that train AlexNet, on one GPU, on two, or on none.

Everything public is here and imported at its first use:

    >>> import cconvnet as cc
    >>> x = cc.image(32, 32, 3).conv(32, 5, pad=2).relu().maxpool(3, 2)
    >>> net = x.fc(10).softmax(name="mine")
    >>> print(net.table())

``cc.ops`` contains the operations on arrays, ``cc.nets`` the built-in networks and the specs of layers,
``cc.data`` the readers of data. ``cc.Network`` runs a network step by step.
``dir(cconvnet)`` lists all names. ``import cconvnet.torch`` makes the operations differentiable for PyTorch.
"""

from __future__ import annotations

import importlib
import os
import pathlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# The folder named here contains other builds of the modules, such as instrumented ones; they come first.
if _folder := os.environ.get("CCONVNET_MODULE_PATH"):
    # Without this the package's own modules would run in place of them, unnoticed.
    if not any(pathlib.Path(_folder).glob("_*")):
        raise ImportError(f"CCONVNET_MODULE_PATH={_folder} contains no compiled module")
    __path__.insert(0, _folder)

if TYPE_CHECKING:
    from cconvnet import data, nets, ops
    from cconvnet.api import Run, load, train
    from cconvnet.nets import NetSpec, TrainRecipe, Value, add, concat, image, maximum
    from cconvnet.network import Network

# The module that each public name comes from; a package stands for itself.
_MODULES = {
    "NetSpec": "cconvnet.nets",
    "Network": "cconvnet.network",
    "Run": "cconvnet.api",
    "TrainRecipe": "cconvnet.nets",
    "Value": "cconvnet.nets",
    "add": "cconvnet.nets",
    "concat": "cconvnet.nets",
    "data": "cconvnet.data",
    "image": "cconvnet.nets",
    "load": "cconvnet.api",
    "maximum": "cconvnet.nets",
    "nets": "cconvnet.nets",
    "ops": "cconvnet.ops",
    "train": "cconvnet.api",
}

__all__ = [
    "NetSpec",
    "Network",
    "Run",
    "TrainRecipe",
    "Value",
    "add",
    "concat",
    "data",
    "image",
    "load",
    "maximum",
    "nets",
    "ops",
    "train",
]


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])


if not TYPE_CHECKING:  # mypy knows the names from above, and refuses others

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(_MODULES[name])
        value = module if module.__name__ == f"{__name__}.{name}" else getattr(module, name)
        globals()[name] = value
        return value
