"""Training steps on random images, to be timed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from cconvnet.checks import whole
from cconvnet.network.batch import random_wanted
from cconvnet.network.network import Network

Array = np.ndarray[Any, Any]

MEAN = 127.5  # subtracted from the pixels

# A rate of 0 would freeze the parameters, which saves work. A rate that learns would sooner or later diverge
# on the random labels.
TIMED_LR = 1e-9


def check_counts(steps: int, warmup: int) -> None:
    """Check the numbers of timed and untimed steps.

    Raises:
        ValueError: there is no timed step, or a number is negative.
    """
    whole("--steps", steps, 1)
    whole("--warmup", warmup, 0)


class Training:
    """Training steps of a network on one batch: load, crop and mirror images, update weights, read the loss.

    The uint8 images are in host memory, so the copy to the device is part of a step. Like the trainer's
    batches they are in staging memory of the device, pinned on a GPU, where PyTorch's are pinned too. Of a
    network with a share each of this rank's shards is this batch.

    Args:
        network: the network.
        pageable: whether the images are in ordinary memory instead, to measure its cost.

    Attributes:
        images: uint8 images of the stored size.
        labels: their classes.
        targets: of L2 costs, by their layers.
        top: the first rows of crops.
        left: the first columns of crops.
        mirror: which images are mirrored.
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
        wanted = random_wanted(spec, batch, random)
        self.labels, self.targets = wanted["labels"], wanted["targets"]
        self.top = random.integers(0, spec.stored[0] - spec.input.height + 1, batch).astype(np.int32)
        self.left = random.integers(0, spec.stored[1] - spec.input.width + 1, batch).astype(np.int32)
        self.mirror = random.integers(0, 2, batch, np.uint8)
        self.lr = TIMED_LR
        self.count = 0

    @property
    def inputs(self) -> tuple[Array, Array, Array, Array, Array]:
        """The arguments of :meth:`Network.load`, in their order, like those of a batch of the loader."""
        return self.images, self.labels, self.top, self.left, self.mirror

    def step(self, begins: Callable[[str], None] = lambda phase: None) -> float:
        """Do one step, wait for the devices and return the loss.

        Args:
            begins: called with "load", "train" and "result" as each begins.
        """
        network = self.network
        share = None if network.graph.shards is None else network.graph.shards.share
        loads = [
            functools.partial(self._load, shard, begins) for shard in ([0] if share is None else share.own)
        ]
        if share is not None and share.hybrid:
            results = network.train_together(loads, self.lr, network.spec.recipe.momentum)
            return self._end(results[-1]().loss)
        for load in loads[:-1]:
            load()
            begins("train")
            network.accumulate(self.count, ends_shard=True)
        loads[-1]()
        return self.train(begins)

    def _load(self, shard: int, begins: Callable[[str], None]) -> int:
        """Load the batch as a shard, and return the number of the step."""
        begins("load")
        self.network.load(*self.inputs, targets=self.targets, first_row=shard * self.network.batch)
        return self.count

    def train(self, begins: Callable[[str], None] = lambda phase: None) -> float:
        """Do the rest of a step, with a batch that has been loaded; see :meth:`step`."""
        network = self.network
        begins("train")
        network.train_step(self.count, self.lr, network.spec.recipe.momentum)
        begins("result")
        return self._end(network.result().loss)

    def _end(self, loss: float) -> float:
        """End a step with this loss, once the devices are done."""
        self.count += 1
        for device in self.network.devices:
            device.synchronize()
        return loss
