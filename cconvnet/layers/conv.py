"""Convolution layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from cconvnet._problem import ConvProblem, InputProblem
from cconvnet.layers.base import Site, Tensor
from cconvnet.layers.blocks import blocks_serve
from cconvnet.layers.weighted import FilterLayer
from cconvnet.nets import ConvSpec, NetSpec


class ConvLayer(FilterLayer):
    """A convolution, with the bias, the activation function and the dropout after it."""

    type = "conv"
    problem_type = ConvProblem

    @staticmethod
    def fuses(chain: Sequence[Any]) -> bool:
        """True if nothing but a ReLU is between the product and the dropout."""
        neuron = chain[0].neuron
        return neuron is None or neuron.kind == "relu"

    @classmethod
    def fuse(cls, chain: Sequence[Any], inputs: Sequence[Sequence[Tensor]], site: Site) -> Self:
        """Make the convolution with its dropout."""
        first, dropout = chain
        return cls(first, inputs, site, dropout)

    @property
    def can_measure(self) -> bool:
        """True if one pass computes the output, which is dense and not dropped."""
        return self.fused and self.neuron is None and self.dropout is None and self.output.place is None

    @staticmethod
    def can_be_placed(spec: ConvSpec) -> bool:
        """True if one pass computes the product with its bias and ReLU, and one their gradients."""
        relu = spec.neuron is not None and spec.neuron.kind == "relu"
        return relu and spec.bias is not None and spec.shared_bias and len(spec.inputs) == 1

    @staticmethod
    def image_blocks(spec: ConvSpec, net: NetSpec, batch: int) -> InputProblem | None:
        """The layout of images in blocks over which this convolution has stride 1.

        None where it does not pay or cannot be.
        """
        own, image = spec.for_input(0), net.input
        block, pad = own.stride[0], own.padding[0]
        form = (own.window, own.stride, own.padding, own.dilation, own.groups)
        if not isinstance(pad, int) or not blocks_serve(image.channels, *form):
            return None
        stored, seen = net.stored_shape, (image.height, image.width)
        return InputProblem(batch, *stored, *seen, image.center_mean, block, pad, net.recipe.pad)
