"""The images of a batch on their way into the network: crops, mirror images, mean and colour noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cconvnet._problem import InputProblem
from cconvnet.layers.base import Array, Layer, Site
from cconvnet.nets import DATA, NetSpec
from cconvnet.optim import FusedUpdates


@dataclass(frozen=True)
class ImageBatch:
    """The images of a batch in host memory.

    Attributes:
        images: uint8[n, H, W, C], of the stored size.
        top: int32[n], the first row of each image's crop.
        left: int32[n], the first column of each image's crop.
        mirror: uint8[n], 1 for an image that is mirrored.
        shift: float32[n, C], added to every pixel after the mean is subtracted; None: nothing.
        scale: then multiplies the pixels, in addition to the network's own scale.
    """

    images: Array
    top: Array
    left: Array
    mirror: Array
    shift: Array | None
    scale: float


class InputLayer(Layer):
    """The images of a batch on one device.

    Its input is uint8 images; its output an activation [N, height, width, C] or its blocks.
    """

    type = "data"

    def __init__(
        self,
        net: NetSpec,
        batch: int,
        site: Site,
        blocks: InputProblem | None = None,
        needs_gradient: bool = False,
    ) -> None:
        image = net.input
        self.problem = blocks or InputProblem(
            batch, *net.stored_shape, image.height, image.width, image.center_mean, margin=net.recipe.pad
        )
        super().__init__(DATA, site, (), self.problem.y_shape, needs_gradient)
        self.output.blocks = blocks
        self.scale = self._net_scale = image.scale
        device, allocate = site.device, site.allocate
        self.images = allocate(device, (batch, *net.stored_shape), np.uint8)
        self._feed = device.feed(self.images)
        self.top = allocate(device, (batch,), np.int32)
        self.left = allocate(device, (batch,), np.int32)
        self.mirror = allocate(device, (batch,), np.uint8)
        self._mean = allocate(device, net.stored_shape)
        self._shift = allocate(device, (batch, image.channels))
        self.mean: Any = None
        self.shift: Any = None
        self.factors: Any = None
        if image.deviation is not None:
            self.factors = allocate(device, (image.channels,))
            device.fill(self.factors, 1 / np.array(image.deviation, np.float32))
        self._has_own_mean = image.mean is not None
        if image.mean is not None:
            self.mean = self._mean
            device.fill(
                self._mean, np.broadcast_to(np.array(image.mean, np.float32), net.stored_shape).copy()
            )

    def load(self, batch: ImageBatch) -> None:
        """Start to copy a batch to the device; rows beyond its images are filled with zeros."""
        self.scale = self._net_scale * batch.scale
        self._feed.start(batch.images)
        targets = [(self.top, batch.top), (self.left, batch.left), (self.mirror, batch.mirror)]
        if batch.shift is not None:
            targets.append((self._shift, batch.shift))
        self.shift = None if batch.shift is None else self._shift
        with self.device:
            for target, host in targets:
                self.device.fill(target[: len(host)], host)
                if len(host) < len(target):
                    target[len(host) :] = 0

    def set_mean(self, mean: Array | None) -> None:
        """Set what is subtracted from every image; None: nothing. A mean in the spec stays."""
        if self._has_own_mean:
            return
        self.mean = None if mean is None else self._mean
        if mean is not None:
            self.device.fill(self._mean, mean)

    def forward(self, train: bool) -> None:
        """Crop and mirror the images, and subtract the mean."""
        self._transform(self.problem, self.output.array)

    def backward(self, updates: FusedUpdates | None = None) -> None:
        """Do nothing: the images do not change."""

    def activation(self, name: str) -> Any:
        """The images as an activation; if the output is in blocks, computed again without them."""
        problem = self.problem
        if problem.block == 1:
            return self.output.array
        stored, seen = (problem.n, problem.h, problem.w, problem.c), (problem.p, problem.q)
        plain = InputProblem(*stored, *seen, problem.center_mean, margin=problem.margin)
        y = self.device.empty(plain.y_shape, self.output.array.dtype)
        self._transform(plain, y)
        return y

    def _transform(self, problem: InputProblem, y: Any) -> None:
        self._feed.wait()
        self.device.module.input_transform(
            problem,
            self.images,
            self.top,
            self.left,
            self.mirror,
            self.mean,
            self.shift,
            self.scale,
            self.factors,
            y,
            self.device.stream,
        )
        self._feed.been_read()
