"""Hand-written CUDA kernels that train AlexNet, on one GPU, on two, or on none."""

from __future__ import annotations

import os

__version__ = "0.1.0"

# The folder named here contains other builds of the modules, such as instrumented ones; they come first.
if "CCONVNET_MODULE_PATH" in os.environ:
    __path__.insert(0, os.environ["CCONVNET_MODULE_PATH"])
