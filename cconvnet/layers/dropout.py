"""Dropout, as a layer or fused into the layer before it."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

from cconvnet._problem import (
    DropoutProblem,
)
from cconvnet.layers.base import Layer, Place, Tensor, only
from cconvnet.nets import (
    DropoutSpec,
)
from cconvnet.optim import Updates


class Dropout:
    """What a dropout does to the tensor x, by itself or as part of another layer.

    Attributes
        step: int64[1] on the device, added to the problem's subsequence.
        last: the problem of the last forward pass.
    """

    def __init__(self, spec: DropoutSpec, x: Tensor, place: Place) -> None:
        # No two layers and no two steps draw the same mask; a part draws that of its channels of the whole.
        place_in_whole = {}
        if x.channels != x.of_channels:
            place_in_whole = {"columns": x.channels, "row_stride": x.of_channels, "first": x.first}
        # At test time everything is kept.
        self._test = self.last = DropoutProblem(x.count, 1.0, 1.0 if spec.inverted else spec.keep)
        self._train = self._test
        if spec.enabled:
            scale = 1 / spec.keep if spec.inverted else 1.0
            subsequence = zlib.crc32(spec.name.encode()) << 32
            self._train = DropoutProblem(x.count, spec.keep, scale, place.seed, subsequence, **place_in_whole)
        self.step = place.step

    def problem(self, train: bool) -> DropoutProblem:
        self.last = self._train if train else self._test
        return self.last


class DropoutLayer(Layer):
    type = "dropout"
    backward_in_place = True

    def __init__(self, spec: DropoutSpec, inputs: Sequence[Sequence[Tensor]], place: Place) -> None:
        x = only(inputs)
        super().__init__(spec.name, place, [x], x.shape)
        self.dropout = Dropout(spec, x, place)

    def forward(self, train: bool) -> None:
        self._apply(self.dropout.problem(train), self.inputs[0].array, self.output.array)

    def backward(self, updates: Updates | None = None) -> None:
        self._apply(self.dropout.last, self.output.gradient, self.input_gradients[0])

    def _apply(self, problem: DropoutProblem, x: Any, y: Any) -> None:
        self.device.module.dropout(problem, x, y, self.device.stream, step=self.dropout.step)
