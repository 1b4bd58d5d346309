"""Hand-written CUDA kernels that train AlexNet, on one GPU, on two, or on none."""

from __future__ import annotations

__version__ = "0.1.0"
