"""Dropout, as a layer of its own or fused into the layer before it."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from typing import Any

from cconvnet._problem import DropoutProblem
from cconvnet.layers.base import Layer, Site, Tensor, only
from cconvnet.nets import DropoutSpec
from cconvnet.optim import FusedUpdates


class Dropout:
    """The dropout of a tensor x: its problems for training and testing.

    Attributes:
        training: returns the problem of training of a batch that begins at this row of the whole one.
        step: int64[1] on the device, added to the problem's subsequence.
        last: the problem of the last forward pass.
    """

    def __init__(self, spec: DropoutSpec, x: Tensor, site: Site) -> None:
        # At test time everything is kept.
        self._test = self.last = DropoutProblem(x.count, 1.0, 1.0 if spec.inverted else spec.keep)
        self.step = site.step
        self._loaded = site.loaded
        scale = 1 / spec.keep if spec.inverted else 1.0
        # No two layers and no two steps draw the same mask. A part draws its rows and channels of the whole.
        subsequence = zlib.crc32(spec.name.encode()) << 32
        pixels = x.count // x.shape[0] // x.channels

        @functools.cache
        def training(first_row: int) -> DropoutProblem:
            if not spec.enabled:
                return self._test
            columns = x.channels, x.of_channels, x.first
            first_pixel = first_row * pixels
            return DropoutProblem(
                x.count, spec.keep, scale, site.seed, subsequence, *columns, first_row=first_pixel
            )

        self.training = training

    def problem(self, train: bool) -> DropoutProblem:
        """Return the problem of a forward pass, and keep it as the last one."""
        self.last = self.training(self._loaded.first_row) if train else self._test
        return self.last


class DropoutLayer(Layer):
    """Dropout of the layer before it."""

    type = "dropout"
    backward_in_place = True

    def __init__(self, spec: DropoutSpec, inputs: Sequence[Sequence[Tensor]], site: Site) -> None:
        x = only(inputs)
        super().__init__(spec.name, site, [x], x.shape)
        self.dropout = Dropout(spec, x, site)

    def forward(self, train: bool) -> None:
        """Drop elements in training; scale them at test time."""
        self._apply(self.dropout.problem(train), self.inputs[0].array, self.output.array)

    def backward(self, updates: FusedUpdates | None = None) -> None:
        """Apply the mask of the last forward pass to the gradient."""
        self._apply(self.dropout.last, self.output.gradient, self.input_gradients[0])

    def _apply(self, problem: DropoutProblem, x: Any, y: Any) -> None:
        self.device.module.dropout(problem, x, y, self.device.stream, step=self.dropout.step)
