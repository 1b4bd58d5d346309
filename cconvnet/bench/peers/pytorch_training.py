"""PyTorch's training of one of our networks, from its first weights to its last test."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

# This import comes first: it reports a missing PyTorch.
from cconvnet.bench.peers.pytorch import set_up

# isort: split

import torch
import torch.nn.functional as F
from torch import Tensor

from cconvnet import nets
from cconvnet.bench.peers.pytorch_net import Net
from cconvnet.data import Loader, mean_image, open_source
from cconvnet.data.splits import StoredSplit
from cconvnet.network import Network

Array = np.ndarray[Any, Any]

LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
# Steps that are timed in each layout.
_STEPS = 20


class PyTorchTraining:
    """Train a network on the CPU with our weights, images, order of images and rates, tested every epoch.

    Images are decoded before anything is timed, and the faster of the two layouts trains.

    Args:
        net: The network's name.
        data: A folder of pictures, as for `cconvnet train`.
        precision: "fp32", or "bf16": autocast.
        seed: The seed of the weights and of the order.
        epochs: The length of the training.
        lr: The first rate, which falls to 0 linearly.
    """

    def __init__(self, net: str, data: str, precision: str, seed: int, epochs: int, lr: float) -> None:
        set_up(None, precision)
        self.spec = nets.build(net)
        self.batch, self.momentum = self.spec.recipe.batch, self.spec.recipe.momentum
        self.seed, self.epochs, self.lr = seed, epochs, lr
        self.bf16 = precision == "bf16"
        source = open_source(data, size=self.spec.input.height)
        assert isinstance(source.train, StoredSplit) and isinstance(source.test, StoredSplit)
        self.images, self.tests = source.train.into_memory(), source.test.into_memory()
        self.mean = torch.from_numpy(mean_image(self.images)).permute(2, 0, 1)[None]
        self.state = Network(self.spec, batch=self.batch, devices=["cpu:0"], seed=seed).state()
        seconds = {layout: self._seconds_of_step(layout) for layout in LAYOUTS}
        self.layout = min(LAYOUTS, key=seconds.__getitem__)
        self._begin(self.layout)

    def _begin(self, layout: str) -> None:
        """Set the first weights, in a layout."""
        self.format = LAYOUTS[layout]
        # nn.Module.to counts memory formats among its keyword arguments only.
        self.model = Net(self.spec, self.state).to(memory_format=self.format)  # type: ignore[call-overload]
        groups = self.model.param_groups(1.0, self.momentum)
        self.scales = [group["lr"] for group in groups]
        self.optimizer = torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, fused=True)

    def _logits(self, images: Array) -> Tensor:
        x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=self.format)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            logits: Tensor = self.model(x.to(torch.float32).sub_(self.mean))
        return logits.float()

    def _step(self, images: Array, labels: Array, lr: float) -> None:
        for group, scale in zip(self.optimizer.param_groups, self.scales, strict=True):
            group["lr"] = lr * scale
        self.model.zero_grad(set_to_none=True)
        F.cross_entropy(self._logits(images), torch.from_numpy(labels).long()).backward()
        self.optimizer.step()

    def _seconds_of_step(self, layout: str) -> float:
        self._begin(layout)
        with Loader(self.images, self.batch, self.seed) as loader:
            given = next(iter(loader.epoch(0)))
        seconds = []
        for _ in range(_STEPS):
            begin = time.perf_counter()
            self._step(given.images, given.labels, 0.0)
            seconds.append(time.perf_counter() - begin)
        return statistics.median(seconds)

    def _error(self) -> float:
        wrong = 0
        with torch.no_grad(), Loader(self.tests, self.batch, shuffle=False, drop_last=False) as loader:
            for part in loader.epoch(0):
                wrong += int((self._logits(part.images).argmax(1).numpy() != part.labels).sum())
        return wrong / len(self.tests)

    def train(self) -> dict[str, Any]:
        """Train, and return the seconds of all steps and tests and the test error after each epoch."""
        errors = []
        begin = time.perf_counter()
        with Loader(self.images, self.batch, self.seed) as loader:
            steps = self.epochs * loader.steps_per_epoch
            done = 0
            for epoch in range(self.epochs):
                for part in loader.epoch(epoch):
                    self._step(part.images, part.labels, self.lr * (1 - done / steps))
                    done += 1
                errors.append(self._error())
        seconds = time.perf_counter() - begin
        what = f"PyTorch {torch.__version__}, {self.layout}, {torch.get_num_threads()} threads"
        return {"what": what, "seconds": seconds, "errors": errors}
