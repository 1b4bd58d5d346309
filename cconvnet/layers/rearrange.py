"""Layers that rearrange or blur channels and learn nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cconvnet._problem import ConvProblem
from cconvnet.bfloat16 import pack
from cconvnet.layers.base import Array, Layer, Site, Tensor, only, several
from cconvnet.nets import BlurSpec, ConcatSpec, SelectSpec
from cconvnet.optim import FusedUpdates


class ConcatLayer(Layer):
    """The channels of several inputs of one height and width, in the order of the inputs.

    Inputs that have a place in its array are computed there, and their gradient is the array's part. Others
    are copied.
    """

    type = "concat"
    several_inputs = True
    joins_channels = True

    def __init__(self, spec: ConcatSpec, inputs: Sequence[Sequence[Tensor]], site: Site) -> None:
        tensors = several(inputs)
        if len({x.image[:3] for x in tensors}) != 1:
            raise ValueError(
                "inputs must have one height and width, not "
                + ", ".join(f"{x.name} {x.shape}" for x in tensors)
            )
        images = [x.image for x in tensors]
        channels = sum(c for *_, c in images)
        flat = all(len(x.shape) == 2 for x in tensors)
        shape = (images[0][0], channels) if flat else (*images[0][:3], channels)
        whole = next((x.place.whole for x in tensors if x.place is not None), None)
        super().__init__(spec.name, site, tensors, shape, array=whole)

    @property
    def moved_bytes(self) -> int:
        """The bytes of the inputs that are copied to their channels; the others are computed there."""
        return sum(int(x.array.nbytes) for x in self.inputs if x.place is None)

    def _parts(self, whole: Any) -> list[Any]:
        """The channels of each input."""
        ends = np.cumsum([x.image[3] for x in self.inputs])
        return [whole[..., end - x.image[3] : end] for x, end in zip(self.inputs, ends.tolist(), strict=True)]

    def forward(self, train: bool) -> None:
        """Copy each input to its channels of the output."""
        with self.device:
            for x, part in zip(self.inputs, self._parts(self.output.array), strict=True):
                if x.place is None:
                    part[...] = x.array.reshape(part.shape)

    def backward(self, updates: FusedUpdates | None = None) -> None:
        """Copy each input's channels of the gradient."""
        with self.device:
            parts = self._parts(self.output.gradient)
            for x, dx, part in zip(self.inputs, self.input_gradients, parts, strict=True):
                if dx is not None and x.place is None:
                    dx.reshape(part.shape)[...] = part


class _FixedFilterLayer(Layer):
    """A convolution whose filters never change and are no parameters."""

    def __init__(self, name: str, x: Tensor, site: Site, filters: Array, groups: int) -> None:
        k, r, s, _ = filters.shape
        padding = (r // 2, s // 2)
        self.problem = ConvProblem(*x.image, k, r, s, (1, 1), padding, groups, precision=site.precision)
        shape = (x.shape[0], k) if len(x.shape) == 2 else self.problem.y_shape
        super().__init__(name, site, [x], shape)
        values = pack(filters) if site.element == np.uint16 else filters
        self._filters = site.allocate(site.device, filters.shape, site.element)
        site.device.fill(self._filters, values)

    def workspace_bytes(self) -> int:
        """The bytes of workspace of the more demanding pass."""
        module = self.device.module
        needs = [module.conv_fprop_workspace(self.problem)]
        if self.inputs[0].needs_gradient:
            needs.append(module.conv_dgrad_workspace(self.problem))
        return int(max(needs))

    def forward(self, train: bool) -> None:
        """Convolve the input with the filters."""
        x, y = self.inputs[0].array, self.output.array
        self.device.module.conv_fprop(
            self.problem,
            x.reshape(self.problem.x_shape),
            self._filters,
            None,
            False,
            y.reshape(self.problem.y_shape),
            self.workspace,
            self.device.stream,
        )

    def backward(self, updates: FusedUpdates | None = None) -> None:
        """Compute the input's gradient."""
        dy, dx = self.output.gradient, self.input_gradients[0]
        if dx is not None:
            self.device.module.conv_dgrad(
                self.problem,
                dy.reshape(self.problem.y_shape),
                self._filters,
                dx.reshape(self.problem.x_shape),
                self.workspace,
                self.device.stream,
            )


class SelectLayer(_FixedFilterLayer):
    """Some of the input's channels, by filters of one pixel: 1 for the channel, 0 for all others.

    Products with 1 and sums with 0 change no value, so each channel is bit-identical to the input's.
    """

    type = "select"

    def __init__(self, spec: SelectSpec, inputs: Sequence[Sequence[Tensor]], site: Site) -> None:
        x = only(inputs)
        if max(spec.copied) >= x.channels:
            raise ValueError(
                f"channels must be below {x.channels}, as many as {x.name} has, not {max(spec.copied)}"
            )
        filters = np.zeros((len(spec.channels), 1, 1, x.channels), np.float32)
        targets = [target for target, channel in enumerate(spec.channels) if channel is not None]
        filters[targets, 0, 0, spec.copied] = 1
        super().__init__(spec.name, x, site, filters, groups=1)


def gaussian_window(spec: BlurSpec) -> Array:
    """Return the filter of a blur, float64[size,size], whose sum is 1."""
    line = np.exp(-((np.arange(spec.size) - spec.size // 2) ** 2) / (2 * spec.stdev**2))
    found: Array = np.outer(line, line) / line.sum() ** 2
    return found


class BlurLayer(_FixedFilterLayer):
    """Each channel convolved with the same Gaussian."""

    type = "blur"

    def __init__(self, spec: BlurSpec, inputs: Sequence[Sequence[Tensor]], site: Site) -> None:
        x = only(inputs)
        if spec.size > min(x.image[1:3]):
            raise ValueError(f"size must be at most the image's side, {min(x.image[1:3])}, not {spec.size}")
        window = gaussian_window(spec)
        filters = np.broadcast_to(window[None, :, :, None], (x.channels, spec.size, spec.size, 1))
        super().__init__(spec.name, x, site, filters.astype(np.float32), groups=x.channels)
