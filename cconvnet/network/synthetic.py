"""Training steps on random images, to be timed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cconvnet.checks import whole
from cconvnet.network.network import Network

MEAN = 127.5  # of the images' pixels, which is subtracted from them

# A rate of 0 would freeze, which is no work; one that learns would sooner or later leave the random labels
# with numbers that are not finite.
TIMED_LR = 1e-9


def check_counts(steps: int, warmup: int) -> None:
    """Raises ValueError for numbers of timed and untimed steps that make no sense."""
    whole("--steps", steps, 1)
    whole("--warmup", warmup, 0)


class Training:
    """Steps of a network on one batch: images in, cropped and mirrored, weights updated, loss read.

    The uint8 images are in host memory, so the copy to the device is part of a step. As the trainer's batches
    they are in memory that the device stages, pinned on a GPU, where PyTorch's are pinned too.

    Args:
        pageable: whether the images are in ordinary memory instead, to measure what that costs.

    Attributes:
        images, labels, top, left, mirror: what Network.load is given.
        lr: the learning rate.
    """

    def __init__(self, network: Network, pageable: bool = False) -> None:
        self.network = network
        spec, batch = network.spec, network.batch
        network.set_mean(np.full(spec.stored_shape, MEAN, np.float32))
        random = np.random.default_rng(0)
        images = random.integers(0, 256, (batch, *spec.stored_shape), np.uint8)
        self.images = images
        if not pageable:
            self.images = network.devices[0].staging(images.shape, np.uint8)
            self.images[...] = images
        self.labels = random.integers(0, spec.classes, batch).astype(np.int32)
        self.top = random.integers(0, spec.stored[0] - spec.input.height + 1, batch).astype(np.int32)
        self.left = random.integers(0, spec.stored[1] - spec.input.width + 1, batch).astype(np.int32)
        self.mirror = random.integers(0, 2, batch, np.uint8)
        self.lr = TIMED_LR
        self._count = 0

    def step(self, begins: Callable[[str], None] = lambda phase: None) -> float:
        """Does one step and waits for the devices; returns the loss.

        `begins` is told "load", "train" and "result" as each begins.
        """
        network = self.network
        begins("load")
        network.load(self.images, self.labels, self.top, self.left, self.mirror)
        return self.train(begins)

    def train(self, begins: Callable[[str], None] = lambda phase: None) -> float:
        """The rest of a step, with a batch that has been loaded."""
        network = self.network
        begins("train")
        network.train_step(self._count, self.lr, network.spec.recipe.momentum)
        begins("result")
        self._count += 1
        loss = network.result().loss
        for device in network.devices:
            device.synchronize()
        return loss
