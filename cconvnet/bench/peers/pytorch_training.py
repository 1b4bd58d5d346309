"""PyTorch's training of one of our networks, from its first weights to its last test."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

# This import comes first: it reports a missing PyTorch.
from cconvnet.bench.peers.pytorch import set_up

# isort: split

import torch
import torch.nn.functional as F
from torch import Tensor

from cconvnet import nets
from cconvnet.bench.peers.dropout_masks import dropout_masks
from cconvnet.bench.peers.pytorch_net import Net, input_factor
from cconvnet.data import Batch, Loader, augmentation, mean_image, open_source
from cconvnet.data.splits import Split, StoredSplit
from cconvnet.nets import LayerSpec, NetSpec, RateCurve
from cconvnet.nets.layer_spec import WeightedSpec
from cconvnet.network import Network
from cconvnet.network.synthetic import TIMED_LR
from cconvnet.training.option_values import parse_lr_scale
from cconvnet.training.schedule import StepSchedule

Array = np.ndarray[Any, Any]

LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
# Steps that are timed in each layout.
_STEPS = 20


def in_memory(split: Split) -> Split:
    """Return the images decoded. A small source has them in memory already."""
    return split.into_memory() if isinstance(split, StoredSplit) else split


def with_lr_scale(spec: NetSpec, factors: Mapping[str, float]) -> NetSpec:
    """Return the network with the rates of some layers multiplied."""

    def changed(layer: LayerSpec) -> LayerSpec:
        if layer.name not in factors or not isinstance(layer, WeightedSpec):
            return layer
        factor = factors[layer.name]
        return dataclasses.replace(
            layer, lr_scale=factor * layer.lr_scale, bias_lr_scale=factor * layer.bias_lr_scale
        )

    return dataclasses.replace(spec, layers=tuple(map(changed, spec.layers)))


class PyTorchTraining:
    """Train a network on the CPU with our weights, images, rates and dropout masks, tested every epoch.

    Images are decoded before anything is timed, and the faster of the two layouts trains.

    Args:
        net: The network's name.
        data: A folder of pictures, as for `cconvnet train`.
        precision: "fp32", or "bf16": autocast.
        seed: The seed of the weights and of the order.
        recipe: ``epochs``, ``batch``, ``lr``, ``warmup``, ``momentum`` and, if any, ``lr_scale``, as options
            of `cconvnet train`. After the warm-up the rates fall to 0 linearly. Crops and mirroring are those
            of the network's own recipe.
    """

    def __init__(self, net: str, data: str, precision: str, seed: int, recipe: Mapping[str, Any]) -> None:
        set_up(None, precision)
        self.spec = with_lr_scale(nets.build(net), parse_lr_scale(recipe.get("lr_scale", {})))
        self.batch, self.momentum = recipe["batch"], recipe["momentum"]
        self.seed, self.epochs = seed, recipe["epochs"]
        self.schedule = StepSchedule(recipe["lr"], curve=RateCurve("linear"), warmup=recipe["warmup"])
        self.bf16 = precision == "bf16"
        source = open_source(data, size=self.spec.input.height)
        self.images, self.tests = in_memory(source.train), in_memory(source.test)
        mean = self.spec.input.mean
        if mean is None:
            self.mean = torch.from_numpy(mean_image(self.images)).permute(2, 0, 1)[None]
        else:
            self.mean = torch.tensor(mean).view(1, -1, 1, 1)
        self.factor = input_factor(self.spec.input)
        self.ours = Network(self.spec, batch=self.batch, devices=["cpu:0"], seed=seed)
        self.state = self.ours.state()
        seconds = {layout: self._seconds_of_step(layout) for layout in LAYOUTS}
        self.layout = min(LAYOUTS, key=seconds.__getitem__)
        self._begin(self.layout)

    def _begin(self, layout: str) -> None:
        """Set the first weights, in a layout."""
        self.format = LAYOUTS[layout]
        # nn.Module.to counts memory formats among its keyword arguments only.
        self.model = Net(self.spec, self.state).to(memory_format=self.format)  # type: ignore[call-overload]
        groups = self.model.param_groups(1.0, self.momentum)
        self.first_rates = [(group["lr"], group["momentum"]) for group in groups]
        rates = {"lr": self.schedule.lr, "momentum": self.momentum, "nesterov": self.spec.recipe.nesterov}
        self.optimizer = torch.optim.SGD(groups, **rates, fused=True)
        self.last_lr = 0.0

    def _input(self, part: Batch) -> Tensor:
        """Return the images as the first layer reads them: minus the mean, cropped, mirrored and scaled."""
        x = torch.from_numpy(part.images).permute(0, 3, 1, 2).contiguous(memory_format=self.format)
        x = x.to(torch.float32).sub_(self.mean)
        if self.factor is not None:
            x = x.mul_(self.factor)
        pad, height, width = self.spec.recipe.pad, self.spec.input.height, self.spec.input.width
        if x.shape[2:] != (height, width) or part.top.any() or part.left.any():
            padded = F.pad(x, (pad,) * 4)
            corners = zip(padded, part.top + pad, part.left + pad, strict=True)
            x = torch.stack([one[:, top : top + height, left : left + width] for one, top, left in corners])
        if part.mirror.any():
            x = torch.where(torch.from_numpy(part.mirror).bool()[:, None, None, None], x.flip(3), x)
        return x.contiguous(memory_format=self.format)

    def _logits(self, part: Batch) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            logits: list[Tensor] = self.model(self._input(part))
        return [own.float() for own in logits]

    def _loader(self) -> Loader:
        """Return the batches of the training, as `cconvnet train` draws them."""
        crop = (self.spec.input.height, self.spec.input.width)
        return Loader(self.images, self.batch, self.seed, crop=crop, **augmentation(self.spec.recipe))

    def _step(self, part: Batch, lr: float) -> None:
        # PyTorch's momentum sums gradients, ours sums steps: gradients times the rates that they met.
        factor = self.last_lr / lr if self.last_lr else 1.0
        self.last_lr = lr
        for group, (scale, momentum) in zip(self.optimizer.param_groups, self.first_rates, strict=True):
            group["lr"], group["momentum"] = lr * scale, momentum * factor
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        _, objective = self.model.losses(self._logits(part), torch.from_numpy(part.labels).long())
        objective.backward()
        self.optimizer.step()

    def _seconds_of_step(self, layout: str) -> float:
        self._begin(layout)
        with self._loader() as loader:
            given = next(iter(loader.epoch(0)))
        seconds = []
        for _ in range(_STEPS):
            begin = time.perf_counter()
            self._step(given, TIMED_LR)
            seconds.append(time.perf_counter() - begin)
        return statistics.median(seconds)

    def _error(self) -> float:
        wrong = 0
        self.model.eval()
        crop = (self.spec.input.height, self.spec.input.width)
        whole = Loader(self.tests, self.batch, crop=crop, shuffle=False, drop_last=False)
        with torch.no_grad(), whole as loader:
            for part in loader.epoch(0):
                wrong += int((self._logits(part)[0].argmax(1).numpy() != part.labels).sum())
        return wrong / len(self.tests)

    def train(self) -> dict[str, Any]:
        """Train, and return the seconds of all steps and tests and the test error after each epoch."""
        errors = []
        begin = time.perf_counter()
        with self._loader() as loader:
            for epoch in range(self.epochs):
                for index, part in enumerate(loader.epoch(epoch)):
                    done = epoch + index / loader.steps_per_epoch
                    lr = self.schedule.lr * self.schedule.course(done, self.epochs)
                    number = epoch * loader.steps_per_epoch + index
                    self.model.set_masks(dropout_masks(self.ours, number), self.format)
                    self._step(part, lr)
                errors.append(self._error())
        seconds = time.perf_counter() - begin
        what = f"PyTorch {torch.__version__}, {self.layout}, {torch.get_num_threads()} threads"
        return {"what": what, "seconds": seconds, "errors": errors}
