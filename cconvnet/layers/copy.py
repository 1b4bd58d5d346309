"""Copies of activations and gradients between devices."""

from __future__ import annotations

import dataclasses
from typing import Any

from cconvnet.devices import Device
from cconvnet.layers.base import Layer, Site, Tensor
from cconvnet.optim import FusedUpdates


class CopyLayer(Layer):
    """An edge of the graph that crosses devices.

    It copies the activation forward and its gradient back, both while other work runs. A copy starts when its
    source is computed and its target is no longer read. Only layers that need the copy wait for it.

    Attributes:
        reader: the first layer that needs it on this device.
        bytes: the size of one copy in one direction.
        copied_bytes: the size of all copies so far.
    """

    type = "copy"
    is_copy = True

    def __init__(self, source: Tensor, reader: str, site: Site) -> None:
        whole = dataclasses.replace(site, part=0, parts=1)
        super().__init__(f"{source.name}@{site.device.name}", whole, (source,), source.shape)
        self.output.first, self.output.of_channels = source.first, source.of_channels
        self.reader = reader
        self.bytes = int(source.array.nbytes)
        self.copied_bytes = 0
        self._there = source.device.transfer(self.output.array, self.device, source.array)
        self._back: Any = None
        self._read: Any = None  # the mark behind the last reader of the copied activation
        self._done: Any = None  # the mark behind the last copy

    def forward(self, train: bool) -> None:
        """Start to copy the activation."""
        self._done = self._there.start(self.inputs[0].device.mark(), self._read)
        self.copied_bytes += self.bytes

    def backward(self, updates: FusedUpdates | None = None) -> None:
        """Start to copy the gradient back."""
        source, gradient = self.inputs[0].device, self.input_gradients[0]
        if self._back is None:
            self._back = self.device.transfer(gradient, source, self.output.gradient)
        # The source's mark: its memory held other gradients before.
        self._done = self._back.start(self.device.mark(), source.mark())
        self.copied_bytes += self.bytes

    def last_copies(self, back: bool) -> list[tuple[Device | None, Any, Any]]:
        """The parts of the last copy forward, or back; see Transfer."""
        return list((self._back if back else self._there).last)

    def wait(self) -> None:
        """Make later work of both devices wait for the last copy.

        One device needs it; the other may overwrite its source.
        """
        self.device.wait(self._done)
        self.inputs[0].device.wait(self._done)

    def wait_here(self) -> None:
        """Make later work of the receiving device wait for the activation."""
        self.device.wait(self._done)

    def been_read(self) -> None:
        """Note that the next copy needs to wait only for the work that its device has been given so far."""
        self._read = self.device.mark()

    @property
    def seconds(self) -> float:
        """The seconds that its copies took so far."""
        return float(self._there.seconds + (self._back.seconds if self._back else 0.0))
