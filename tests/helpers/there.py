"""Layers as other programs compute them: images [n,C,H,W], filters [K,C,R,S], FC layers over (C,H,W)."""

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet.nets import NetSpec
from cconvnet.network import Network

Array = np.ndarray[Any, Any]


def conv(x: Array, weight: Array, bias: Array, stride: int = 1, pad: int = 0, groups: int = 1) -> Array:
    """Return a convolution [n,K,P,Q] of images [n,C,H,W]."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    parts = [
        np.einsum("ncpqrs,kcrs->nkpq", own, filters)
        for own, filters in zip(np.split(windows, groups, 1), np.split(weight, groups), strict=True)
    ]
    return np.concatenate(parts, 1) + bias[:, None, None]


def fc(x: Array, weight: Array, bias: Array) -> Array:
    """Return the products of an FC layer, which reads planes one after the other."""
    return x.reshape(len(x), -1) @ weight.T + bias


def drawn(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Array]:
    """Return random tensors of these shapes; variances are above 0."""
    draws = np.random.default_rng(seed)
    return {
        name: (
            draws.uniform(0.5, 2, shape) if name.endswith("running_var") else draws.normal(0, 0.2, shape)
        ).astype(np.float32)
        for name, shape in shapes.items()
    }


def answers(spec: NetSpec, tensors: dict[str, Array], images: Array, layer: str) -> Array:
    """Return what a layer of a network with these parameters computes of images uint8[n,H,W,C]."""
    network = Network(spec, batch=len(images), devices="cpu:0", needs=None)
    for name, value in tensors.items():
        network.parameters[name].fill("value", value)
    network.load(images, np.zeros(len(images), np.int64))
    network.forward(train=False)
    return network.outputs(layer)
