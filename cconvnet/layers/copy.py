"""Copies of activations and gradients between devices."""

from __future__ import annotations

import dataclasses
from typing import Any

from cconvnet.devices import Device
from cconvnet.layers.base import Layer, Place, Tensor
from cconvnet.optim import Updates


class CopyLayer(Layer):
    """An edge that crosses devices: the activation goes forward, its gradient back, beside other work.

    A copy begins when what it reads is computed and what it overwrites is no longer read, and who needs it
    waits for it; nobody else does.

    Attributes
        reader: the first layer that needs it on this device. bytes: of one copy in one direction.
    """

    type = "copy"

    def __init__(self, source: Tensor, reader: str, place: Place) -> None:
        whole = dataclasses.replace(place, part=0, parts=1)
        super().__init__(f"{source.name}@{place.device.name}", whole, (source,), source.shape)
        self.output.first, self.output.of_channels = source.first, source.of_channels
        self.reader = reader
        self.bytes = int(source.array.nbytes)
        self.copied_bytes = 0
        self._there = source.device.transfer(self.output.array, self.device, source.array)
        self._back: Any = None
        self._read: Any = None  # the mark behind the last reader of the copied activation
        self._done: Any = None  # the mark behind the last copy

    def forward(self, train: bool) -> None:
        self._done = self._there.start(self.inputs[0].device.mark(), self._read)
        self.copied_bytes += self.bytes

    def backward(self, updates: Updates | None = None) -> None:
        source, gradient = self.inputs[0].device, self.input_gradients[0]
        if self._back is None:
            self._back = self.device.transfer(gradient, source, self.output.gradient)
        # The source's mark: other gradients lay in this memory before.
        self._done = self._back.start(self.device.mark(), source.mark())
        self.copied_bytes += self.bytes

    def last(self, back: bool) -> list[tuple[Device | None, Any, Any]]:
        """What the last copy forward, or back, was made of; see Transfer."""
        return list((self._back if back else self._there).last)

    def wait(self) -> None:
        """Later work of both devices finds the last copy done: one needs it, the other may overwrite it."""
        self.device.wait(self._done)
        self.inputs[0].device.wait(self._done)

    def wait_here(self) -> None:
        """Later work of the receiving device finds the activation copied."""
        self.device.wait(self._done)

    def been_read(self) -> None:
        """The next copy need only wait for the work that its device has been given so far."""
        self._read = self.device.mark()

    @property
    def seconds(self) -> float:
        """How long its copies took so far."""
        return float(self._there.seconds + (self._back.seconds if self._back else 0.0))
