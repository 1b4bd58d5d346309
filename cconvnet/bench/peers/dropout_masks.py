"""The masks of our network's dropout layers, with which a peer does the same steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet.layers import Dropout
from cconvnet.network import Network

Array = np.ndarray[Any, Any]


def dropout_masks(network: Network, step: int) -> dict[str, Array]:
    """Return the factors by which each dropout layer multiplies its input in a step of a training.

    Args:
        network: The network, of which nothing changes.
        step: The step's number, from 0 on.

    Returns:
        float32 arrays of the outputs' shapes, by the names of the layers.
    """
    parts: dict[str, list[Array]] = {}
    for layer in network.layers:
        # Dropout is a layer of its own, or the last part of a fused product.
        dropout: Dropout | None = getattr(layer, "dropout", None)
        if dropout is None:
            continue
        device = layer.device
        factors = device.array(np.ones(layer.output.shape, np.float32))
        number = device.array(np.array([step], np.int64))
        device.module.dropout(dropout.training(0), factors, factors, device.stream, step=number)
        parts.setdefault(layer.names[-1], []).append(device.host(factors))
    return {name: np.concatenate(masks, axis=-1) for name, masks in parts.items()}
