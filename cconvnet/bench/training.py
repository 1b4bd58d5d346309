"""Training steps on random images, to be timed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cconvnet.bench.step import TIMED_LR
from cconvnet.network import Network


class Training:
    """Steps of a network: images in, weights updated, loss read.

    The uint8 images lie in host memory, so the copy to the device is part of a step.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        spec = network.spec
        random = np.random.default_rng(0)
        self._images = random.integers(0, 256, (network.batch, *spec.stored_shape), np.uint8)
        self._labels = random.integers(0, spec.classes, network.batch).astype(np.int32)
        self._count = 0

    def step(self, begins: Callable[[str], None] = lambda phase: None) -> float:
        """Does one step and waits for the devices; returns the loss.

        `begins` is told "load", "forward", "backward", "update" and "result" as each begins.
        """
        network = self.network
        begins("load")
        network.load(self._images, self._labels)
        begins("forward")
        network.forward(train=True, step=self._count)
        begins("backward")
        network.backward()
        begins("update")
        network.update(TIMED_LR, network.spec.recipe.momentum)
        begins("result")
        self._count += 1
        loss = network.result().loss
        for device in network.devices:
            device.synchronize()
        return loss
