"""Hand-written CUDA kernels that train AlexNet, on one GPU, on two, or on none."""

from __future__ import annotations

import os

__version__ = "0.1.0"

# An instrumented or altered build of a module is tried by naming its folder here.
if "CCONVNET_MODULE_PATH" in os.environ:
    __path__.insert(0, os.environ["CCONVNET_MODULE_PATH"])
