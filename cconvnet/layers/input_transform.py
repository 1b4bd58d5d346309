"""The images of a batch on their way into the network."""

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet._problem import (
    InputProblem,
)
from cconvnet.layers.base import Layer, Place
from cconvnet.nets import (
    DATA,
    NetSpec,
)


class InputLayer(Layer):
    """The images of a batch on one device: uint8 in, an activation [N, height, width, C] out, or its
    blocks."""

    type = "data"

    def __init__(self, net: NetSpec, batch: int, place: Place, blocks: InputProblem | None = None) -> None:
        image = net.input
        self.problem = blocks or InputProblem(
            batch, *net.stored_shape, image.height, image.width, image.center_mean
        )
        super().__init__(DATA, place, (), self.problem.y_shape)
        self.output.blocks = blocks
        self.scale = self._net_scale = image.scale
        device, allocate = place.device, place.allocate
        self.images = allocate(device, (batch, *net.stored_shape), np.uint8)
        self._feed = device.feed(self.images)
        self.top = allocate(device, (batch,), np.int32)
        self.left = allocate(device, (batch,), np.int32)
        self.mirror = allocate(device, (batch,), np.uint8)
        self._mean = allocate(device, net.stored_shape)
        self._shift = allocate(device, (batch, image.channels))
        self.mean: Any = None
        self.shift: Any = None

    def load(self, images: Any, top: Any, left: Any, mirror: Any, shift: Any, scale: float) -> None:
        """Host arrays of one batch; rows beyond theirs are filled with zeros."""
        self.scale = self._net_scale * scale
        self._feed.start(images)
        targets = [(self.top, top), (self.left, left), (self.mirror, mirror)]
        if shift is not None:
            targets.append((self._shift, shift))
        self.shift = None if shift is None else self._shift
        with self.device:
            for target, host in targets:
                self.device.fill(target[: len(host)], host)
                if len(host) < len(target):
                    target[len(host) :] = 0

    def set_mean(self, mean: Any) -> None:
        self.mean = None if mean is None else self._mean
        if mean is not None:
            self.device.fill(self._mean, mean)

    def forward(self, train: bool) -> None:
        self._transform(self.problem, self.output.array)

    def activation(self, name: str) -> Any:
        o = self.problem
        if o.block == 1:
            return self.output.array
        plain = InputProblem(o.n, o.h, o.w, o.c, o.p, o.q, o.center_mean)
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
            y,
            self.device.stream,
        )
        self._feed.been_read()
