"""Named shapes for tests and benchmarks: real networks' layers, shapes that kernels get wrong, random ones.

>>> layers("alexnet")["conv2"].problem(n=128)
ConvProblem(n=128, h=27, w=27, c=96, k=256, r=5, s=5, stride=(1, 1), padding=(2, 2), groups=2, ...)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cconvnet._problem import (
    BiasProblem,
    ContrastNormProblem,
    ConvProblem,
    DropoutProblem,
    FcProblem,
    FilterBlocksProblem,
    InputProblem,
    LocalProblem,
    LrnProblem,
    NeuronProblem,
    NormLimitProblem,
    PoolProblem,
    SgdProblem,
    SoftmaxProblem,
)
from cconvnet.devices import PRECISIONS

# ---- the layers of real networks -------------------------------------------------------------------

_TYPES: dict[str, Any] = {
    "conv": ConvProblem,
    "fc": FcProblem,
    "maxpool": PoolProblem,
    "avgpool": PoolProblem,
    "lrn": LrnProblem,
}


def multiply_adds(problem: Any) -> int:
    """How much work an operation is: multiply-adds, or elements of all windows."""
    match problem:
        case ConvProblem() | FcProblem():
            return int(problem.flops) // 2
        case PoolProblem():
            return int(np.prod(problem.y_shape)) * problem.window_h * problem.window_w
        case LrnProblem():
            return int(np.prod(problem.x_shape)) * problem.size
    raise TypeError(f"no layer has a {type(problem).__name__}")


@dataclass(frozen=True)
class Layer:
    """One layer of a network: all of its problem but the number of images.

    Attributes
        name: the layer's name in its network.
        kind: conv, fc, maxpool, avgpool or lrn.
        shape: the problem's other arguments.
    """

    name: str
    kind: str
    shape: dict[str, Any]

    def named(self, name: str) -> Layer:
        return replace(self, name=name)

    def problem(self, n: int = 1) -> Any:
        return _TYPES[self.kind](n=n, **self.shape)

    def small(self, work: int, n: int = 1) -> Any:
        """The like problem of at most `work` multiply-adds (or as near as its filter allows).

        First the image shrinks, down to a few windows, then the channels are halved, as far as the
        groups allow. Filter, stride, padding and groups stay.
        """
        shape = dict(self.shape)

        def too_large() -> bool:
            return multiply_adds(_TYPES[self.kind](n=n, **shape)) > work

        if "h" in shape:
            least_h, least_w = self._least_image()
            while too_large() and (shape["h"] > least_h or shape["w"] > least_w):
                shape["h"] = max(least_h, shape["h"] * 3 // 4)
                shape["w"] = max(least_w, shape["w"] * 3 // 4)
        groups = shape.get("groups", 1)
        channels = [name for name in ("c", "k") if isinstance(shape.get(name), int)]
        while too_large():
            name = max(channels, key=lambda name: shape[name])
            if shape[name] % (2 * groups) != 0:
                break
            shape[name] //= 2
        return _TYPES[self.kind](n=n, **shape)

    def _least_image(self) -> tuple[int, int]:
        """The smallest image that still has a window beside another one."""
        stride = self.shape.get("stride", (1, 1))
        window = self.shape.get("window", (self.shape.get("r", 1), self.shape.get("s", 1)))
        return min(self.shape["h"], window[0] + stride[0]), min(self.shape["w"], window[1] + stride[1])


def _conv(
    name: str,
    hw: int,
    c: int,
    k: int,
    rs: int,
    *,
    stride: int = 1,
    padding: int = 0,
    **rest: Any,
) -> Layer:
    pairs = {"stride": (stride, stride), "padding": (padding, padding)}
    return Layer(name, "conv", {"h": hw, "w": hw, "c": c, "k": k, "r": rs, "s": rs, **pairs, **rest})


def _pool(name: str, hw: int, c: int, size: int, stride: int, *, kind: str = "maxpool", **rest: Any) -> Layer:
    pairs = {"window": (size, size), "stride": (stride, stride)}
    return Layer(name, kind, {"h": hw, "w": hw, "c": c, **pairs, **rest})


def _fc(name: str, c: int, k: int) -> Layer:
    return Layer(name, "fc", {"c": c, "k": k})


def _lrn(name: str, hw: int, c: int, **rest: Any) -> Layer:
    return Layer(name, "lrn", {"h": hw, "w": hw, "c": c, **rest})


def _alexnet() -> Iterator[Layer]:
    """As it was in 2012: images of 224 pixels, sizes rounded up, two towers as groups."""
    up: dict[str, Any] = {"rounding": "ceil"}
    yield _conv("conv1", 224, 3, 96, 11, stride=4, **up)
    yield _lrn("lrn1", 55, 96, groups=2, alpha=2e-5, k=2.0)
    yield _pool("pool1", 55, 96, 3, 2, **up)
    yield _conv("conv2", 27, 96, 256, 5, padding=2, groups=2, **up)
    yield _lrn("lrn2", 27, 256, groups=2, alpha=2e-5, k=2.0)
    yield _lrn("lrn2_map", 27, 256, alpha=4e-5, region="same_map")
    yield _pool("pool2", 27, 256, 3, 2, **up)
    yield _conv("conv3", 13, 256, 384, 3, padding=1, **up)
    yield _conv("conv4", 13, 384, 384, 3, padding=1, groups=2, **up)
    yield _conv("conv5", 13, 384, 256, 3, padding=1, groups=2, **up)
    yield _pool("pool5", 13, 256, 3, 2, **up)
    yield _fc("fc6", 9216, 4096)
    yield _fc("fc7", 4096, 4096)
    yield _fc("fc8", 4096, 1000)


def _vgg16() -> Iterator[Layer]:
    hw, c = 224, 3
    for stage, (k, count) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], start=1):
        for i in range(1, count + 1):
            yield _conv(f"conv{stage}_{i}", hw, c, k, 3, padding=1)
            c = k
        yield _pool(f"pool{stage}", hw, c, 2, 2)
        hw //= 2
    yield _fc("fc6", 25088, 4096)
    yield _fc("fc7", 4096, 4096)
    yield _fc("fc8", 4096, 1000)


def _googlenet() -> Iterator[Layer]:
    yield _conv("conv1", 224, 3, 64, 7, stride=2, padding=3)
    yield _pool("pool1", 112, 64, 3, 2, rounding="ceil")
    yield _lrn("lrn1", 56, 64, alpha=2e-5)
    yield _conv("conv2_reduce", 56, 64, 64, 1)
    yield _conv("conv2", 56, 64, 192, 3, padding=1)
    yield _lrn("lrn2", 56, 192, alpha=2e-5)
    yield _pool("pool2", 56, 192, 3, 2, rounding="ceil")
    # Input channels, then the filters of: 1x1; 3x3 and its reduction; 5x5 and its; behind the pool.
    for name, hw, c, ones, reduce3, threes, reduce5, fives, pooled in (
        ("3a", 28, 192, 64, 96, 128, 16, 32, 32),
        ("3b", 28, 256, 128, 128, 192, 32, 96, 64),
        ("4a", 14, 480, 192, 96, 208, 16, 48, 64),
        ("4b", 14, 512, 160, 112, 224, 24, 64, 64),
        ("4c", 14, 512, 128, 128, 256, 24, 64, 64),
        ("4d", 14, 512, 112, 144, 288, 32, 64, 64),
        ("4e", 14, 528, 256, 160, 320, 32, 128, 128),
        ("5a", 7, 832, 256, 160, 320, 32, 128, 128),
        ("5b", 7, 832, 384, 192, 384, 48, 128, 128),
    ):
        yield _conv(f"{name}_1x1", hw, c, ones, 1)
        yield _conv(f"{name}_3x3_reduce", hw, c, reduce3, 1)
        yield _conv(f"{name}_3x3", hw, reduce3, threes, 3, padding=1)
        yield _conv(f"{name}_5x5_reduce", hw, c, reduce5, 1)
        yield _conv(f"{name}_5x5", hw, reduce5, fives, 5, padding=2)
        yield _pool(f"{name}_pool", hw, c, 3, 1, padding=(1, 1))
        yield _conv(f"{name}_pool_proj", hw, c, pooled, 1)
    yield _pool("pool3", 28, 480, 3, 2, rounding="ceil")
    yield _pool("pool4", 14, 832, 3, 2, rounding="ceil")
    yield _pool("pool5", 7, 1024, 7, 1, kind="avgpool")
    yield _fc("fc", 1024, 1000)


def _resnet50() -> Iterator[Layer]:
    """With the stride in the 3x3 convolution, as it is trained today; equal blocks appear once."""
    yield _conv("conv1", 224, 3, 64, 7, stride=2, padding=3)
    yield _pool("pool1", 112, 64, 3, 2, padding=(1, 1))
    hw, c = 56, 64
    for stage, width in enumerate([64, 128, 256, 512], start=2):
        stride = 1 if stage == 2 else 2
        yield _conv(f"conv{stage}_1_reduce", hw, c, width, 1)
        yield _conv(f"conv{stage}_1_3x3", hw, width, width, 3, stride=stride, padding=1)
        yield _conv(f"conv{stage}_1_project", hw, c, 4 * width, 1, stride=stride)
        hw, c = hw // stride, 4 * width
        yield _conv(f"conv{stage}_expand", hw, width, c, 1)
        yield _conv(f"conv{stage}_reduce", hw, c, width, 1)
        yield _conv(f"conv{stage}_3x3", hw, width, width, 3, padding=1)
    yield _pool("pool5", 7, 2048, 7, 1, kind="avgpool")
    yield _fc("fc", 2048, 1000)


def _cifar_quick() -> Iterator[Layer]:
    yield _conv("conv1", 32, 3, 32, 5, padding=2)
    yield _pool("pool1", 32, 32, 3, 2, rounding="ceil")
    yield _conv("conv2", 16, 32, 32, 5, padding=2)
    yield _pool("pool2", 16, 32, 3, 2, kind="avgpool", rounding="ceil")
    yield _conv("conv3", 8, 32, 64, 5, padding=2)
    yield _pool("pool3", 8, 64, 3, 2, kind="avgpool", rounding="ceil")
    yield _fc("fc64", 1024, 64)
    yield _fc("fc10", 64, 10)


_NETWORKS: dict[str, Callable[[], Iterator[Layer]]] = {
    "alexnet": _alexnet,
    "vgg16": _vgg16,
    "googlenet": _googlenet,
    "resnet50": _resnet50,
    "cifar-quick": _cifar_quick,
}
NETWORKS = tuple(_NETWORKS)


def layers(network: str) -> dict[str, Layer]:
    """The layers of a network by name, in order: those of NETWORKS."""
    if network not in _NETWORKS:
        raise ValueError(f"network must be one of {', '.join(NETWORKS)}, not {network!r}")
    return {layer.name: layer for layer in _NETWORKS[network]()}


# ---- precisions ------------------------------------------------------------------------------------


def with_precision(problem: Any, precision: str) -> Any:
    """The same product in another precision."""
    o = problem
    if isinstance(o, FcProblem):
        return FcProblem(o.n, o.c, o.k, precision=precision)
    return type(o)(
        *(o.n, o.h, o.w, o.c, o.k, o.r, o.s),
        stride=(o.stride_h, o.stride_w),
        padding=(o.pad_h, o.pad_w),
        groups=o.groups,
        precision=precision,
        outputs=(o.p, o.q),
        dilation=(o.dilation_h, o.dilation_w),
    )


# ---- shapes that kernels get wrong -----------------------------------------------------------------

CONV = {
    "plain": ConvProblem(2, 8, 8, 16, 32, 3, 3, padding=(1, 1)),
    "tail": ConvProblem(3, 7, 9, 13, 37, 3, 3, padding=(1, 1)),
    "one_of_each": ConvProblem(1, 1, 1, 1, 1, 1, 1),
    "one_channel": ConvProblem(2, 9, 6, 1, 5, 3, 2),
    "one_filter": ConvProblem(2, 6, 9, 7, 1, 2, 3),
    "strided": ConvProblem(2, 13, 11, 8, 12, 3, 3, stride=(2, 2), padding=(1, 1)),
    "stride_beyond_filter": ConvProblem(2, 10, 13, 5, 6, 2, 2, stride=(3, 4)),
    "stride_of_two_axes": ConvProblem(1, 12, 11, 4, 8, 3, 4, stride=(1, 3), padding=(2, 0)),
    "1x1": ConvProblem(2, 5, 7, 24, 40, 1, 1),
    "1x1_strided": ConvProblem(2, 9, 7, 12, 20, 1, 1, stride=(2, 2)),
    "1x1_padded": ConvProblem(1, 4, 5, 8, 8, 1, 1, padding=(1, 2)),
    "whole_image": ConvProblem(4, 6, 6, 8, 24, 6, 6),
    "padded_beyond_filter": ConvProblem(1, 4, 5, 4, 8, 2, 3, padding=(3, 5)),
    "padded_and_strided": ConvProblem(2, 5, 6, 3, 8, 3, 3, stride=(2, 3), padding=(4, 3)),
    "filter_beyond_image": ConvProblem(1, 2, 3, 8, 4, 5, 5, padding=(2, 2)),
    "one_image": ConvProblem(1, 10, 10, 32, 64, 3, 3, padding=(1, 1)),
    "many_images": ConvProblem(37, 3, 3, 4, 8, 3, 3, padding=(1, 1)),
    "groups": ConvProblem(2, 6, 6, 16, 24, 3, 3, padding=(1, 1), groups=2),
    "groups_tail": ConvProblem(2, 5, 7, 9, 15, 3, 3, padding=(1, 1), groups=3),
    "groups_strided": ConvProblem(1, 9, 9, 8, 12, 5, 5, stride=(2, 2), padding=(2, 2), groups=4),
    "depthwise": ConvProblem(2, 6, 5, 7, 7, 3, 3, padding=(1, 1), groups=7),
    "rectangular": ConvProblem(2, 5, 14, 6, 10, 1, 5, padding=(0, 2)),
    "tall": ConvProblem(1, 17, 3, 4, 8, 7, 1, stride=(2, 1), padding=(3, 0)),
    "ceil": ConvProblem(2, 8, 10, 8, 16, 3, 3, stride=(2, 2), rounding="ceil"),
    "ceil_hangs_over": ConvProblem(1, 20, 20, 3, 16, 11, 11, stride=(4, 4), rounding="ceil"),
    "ceil_groups_padded": ConvProblem(
        2, 7, 8, 8, 8, 3, 4, stride=(3, 3), padding=(1, 1), groups=2, rounding="ceil"
    ),
    "dilated": ConvProblem(2, 11, 10, 8, 12, 3, 3, padding=(2, 2), dilation=(2, 2)),
    "dilated_tail": ConvProblem(3, 9, 12, 7, 13, 3, 2, padding=(3, 1), dilation=(3, 4)),
    # The stride's and the dilation's common divisors: 2 and 1, 3 and 2.
    "dilated_strided": ConvProblem(
        2, 13, 12, 4, 8, 3, 4, stride=(4, 3), padding=(3, 2), dilation=(2, 2), rounding="ceil"
    ),
    "dilated_groups": ConvProblem(
        2, 18, 12, 6, 8, 4, 3, stride=(3, 1), padding=(3, 0), groups=2, dilation=(6, 4)
    ),
    "dilated_beyond_image": ConvProblem(1, 4, 3, 8, 8, 3, 3, padding=(5, 4), dilation=(5, 3)),
    # As TensorFlow pads "SAME": what is odd goes below and to the right.
    "padded_below": ConvProblem(2, 8, 7, 8, 12, 3, 4, stride=(2, 1), padding=((0, 1), (1, 2))),
    "padded_above": ConvProblem(2, 7, 6, 5, 9, 3, 3, padding=((2, 0), (1, 0)), groups=1),
    "padded_far_below": ConvProblem(1, 4, 5, 4, 8, 2, 3, stride=(1, 2), padding=((0, 4), (1, 5))),
    "fewer_outputs": ConvProblem(2, 9, 10, 4, 8, 3, 3, padding=(1, 1), outputs=(4, 6)),
    "more_outputs": ConvProblem(2, 6, 5, 6, 8, 3, 2, stride=(2, 2), groups=2, outputs=(4, 3)),
    "unequal_and_dilated": ConvProblem(
        2, 9, 10, 6, 10, 3, 3, stride=(2, 1), padding=((1, 3), (0, 2)), groups=2, dilation=(1, 2)
    ),
    "rgb": ConvProblem(2, 16, 16, 3, 32, 5, 5, padding=(2, 2)),
    "rgb_padded_below": ConvProblem(2, 15, 14, 3, 32, 5, 5, stride=(2, 2), padding=((1, 2), (0, 3))),
    "rgb_dilated": ConvProblem(2, 14, 13, 3, 32, 3, 3, padding=((2, 3), (2, 1)), dilation=(2, 2)),
    "wide_k": ConvProblem(1, 3, 4, 8, 150, 3, 3, padding=(1, 1)),
    "wide_c": ConvProblem(1, 3, 4, 150, 8, 3, 3, padding=(1, 1)),
}

LOCAL = {
    "plain": LocalProblem(5, 6, 6, 8, 12, 3, 3, padding=(1, 1)),
    "tail": LocalProblem(3, 4, 5, 7, 37, 3, 3, padding=(1, 1)),
    "one_of_each": LocalProblem(1, 1, 1, 1, 1, 1, 1),
    "one_channel": LocalProblem(2, 7, 5, 1, 5, 3, 2),
    "one_image": LocalProblem(1, 5, 5, 16, 8, 3, 3, padding=(1, 1)),
    "many_images": LocalProblem(70, 3, 3, 4, 36, 3, 3, padding=(1, 1)),
    "wide": LocalProblem(34, 2, 3, 36, 40, 2, 2),
    "strided": LocalProblem(2, 9, 8, 4, 8, 3, 3, stride=(2, 2), padding=(1, 1)),
    "stride_beyond_filter": LocalProblem(2, 10, 9, 5, 6, 2, 2, stride=(3, 4)),
    "stride_of_two_axes": LocalProblem(1, 9, 7, 4, 8, 3, 4, stride=(1, 3), padding=(2, 0)),
    "1x1": LocalProblem(6, 3, 4, 12, 20, 1, 1),
    "whole_image": LocalProblem(4, 4, 4, 8, 24, 4, 4),
    "padded_beyond_filter": LocalProblem(1, 3, 4, 4, 8, 2, 3, padding=(3, 5)),
    "filter_beyond_image": LocalProblem(2, 2, 3, 8, 4, 5, 5, padding=(2, 2)),
    "groups": LocalProblem(3, 4, 4, 16, 24, 3, 3, padding=(1, 1), groups=2),
    "groups_tail": LocalProblem(2, 4, 3, 9, 15, 3, 3, padding=(1, 1), groups=3),
    "depthwise": LocalProblem(2, 4, 3, 5, 5, 3, 3, padding=(1, 1), groups=5),
    "padded_below": LocalProblem(2, 6, 5, 4, 8, 3, 2, stride=(2, 1), padding=((0, 2), (1, 0))),
    "more_outputs": LocalProblem(2, 4, 5, 6, 8, 3, 3, padding=(1, 0), groups=2, outputs=(5, 4)),
    "ceil_hangs_over": LocalProblem(2, 7, 8, 8, 8, 3, 4, stride=(3, 3), groups=2, rounding="ceil"),
    # So much to sum that it is split: 9 taps of 64 channels forward, of 64 filters backward.
    "long_sum": LocalProblem(4, 3, 3, 64, 64, 3, 3, padding=(1, 1)),
    "long_batch": LocalProblem(520, 2, 2, 4, 4, 2, 1),
}

FC = {
    "plain": FcProblem(16, 64, 32),
    "tail": FcProblem(7, 37, 13),
    "one_image": FcProblem(1, 96, 40),
    "one_of_each": FcProblem(1, 1, 1),
    "one_output": FcProblem(9, 50, 1),
    "one_input": FcProblem(5, 1, 21),
    "many_images": FcProblem(150, 12, 10),
    "long_sum": FcProblem(2, 3001, 3),
    "beyond_a_tile": FcProblem(130, 70, 131),
}

POOL = {
    "plain": PoolProblem(2, 8, 8, 16),
    "overlapping": PoolProblem(2, 9, 11, 5, window=(3, 3), stride=(2, 2)),
    "tail": PoolProblem(3, 7, 5, 13, window=(2, 2), stride=(2, 2)),
    "ceil": PoolProblem(2, 8, 10, 6, window=(3, 3), stride=(2, 2), rounding="ceil"),
    "padded": PoolProblem(1, 6, 7, 4, window=(3, 3), stride=(2, 2), padding=(1, 1)),
    "ceil_padded": PoolProblem(2, 7, 8, 3, window=(4, 3), stride=(3, 2), padding=(2, 1), rounding="ceil"),
    "gaps": PoolProblem(2, 11, 9, 4, window=(2, 2), stride=(3, 4)),
    "stride_1": PoolProblem(1, 6, 6, 8, window=(3, 3), stride=(1, 1), padding=(1, 1)),
    "whole_image": PoolProblem(3, 4, 4, 9, window=(4, 4), stride=(1, 1)),
    "window_beyond_image": PoolProblem(1, 2, 3, 4, window=(4, 4), stride=(1, 1), padding=(2, 2)),
    "rectangular": PoolProblem(2, 5, 12, 4, window=(1, 4), stride=(1, 3)),
    "begins_inside": PoolProblem(2, 9, 10, 5, window=(3, 3), stride=(2, 2), padding=(-1, -2)),
    "begins_inside_gaps": PoolProblem(1, 12, 13, 8, window=(2, 3), stride=(3, 4), padding=(-2, -1)),
    "begins_at_the_last_pixel": PoolProblem(2, 3, 4, 4, padding=(-2, -3), outputs=(1, 1)),
    "fewer_windows": PoolProblem(2, 9, 11, 12, window=(3, 3), stride=(2, 2), outputs=(3, 2)),
    "more_windows": PoolProblem(2, 6, 7, 3, window=(3, 3), stride=(2, 2), padding=(1, 0), outputs=(4, 4)),
    "some_of_the_windows": PoolProblem(1, 11, 8, 6, window=(4, 2), padding=(-3, 1), outputs=(2, 3)),
    "padded_below": PoolProblem(2, 8, 7, 5, window=(3, 2), stride=(2, 1), padding=((0, 1), (0, 1))),
    "padded_above": PoolProblem(1, 7, 8, 8, window=(3, 3), stride=(2, 2), padding=((2, 0), (1, 0))),
    "count_padding": PoolProblem(2, 7, 8, 5, padding=(1, 1), count_padding=True),
    # The last windows hang over the padding, which they do not count.
    "count_padding_ceil": PoolProblem(
        2, 7, 8, 12, (4, 3), (3, 3), padding=(2, 1), rounding="ceil", count_padding=True
    ),
    "count_padding_below": PoolProblem(
        1, 6, 7, 8, (4, 5), (3, 2), padding=((0, 2), (1, 3)), count_padding=True
    ),
    "count_padding_of_some": PoolProblem(
        2, 9, 8, 4, padding=((2, 1), (0, 2)), outputs=(4, 4), count_padding=True
    ),
    "1x1": PoolProblem(2, 3, 4, 5, window=(1, 1), stride=(1, 1)),
    "one_of_each": PoolProblem(1, 1, 1, 1, window=(1, 1), stride=(1, 1)),
}

LRN = {
    "paper": LrnProblem(2, 5, 5, 32, alpha=1e-4, k=2.0),
    "strong": LrnProblem(2, 4, 5, 24, alpha=0.2, k=1.0),
    "towers": LrnProblem(1, 5, 4, 24, alpha=0.1, groups=2),
    "tail": LrnProblem(3, 3, 5, 13, size=3, alpha=0.3, beta=0.5),
    "even_window": LrnProblem(2, 3, 3, 17, size=4, alpha=0.2),
    "window_beyond_group": LrnProblem(2, 3, 4, 12, size=9, alpha=0.1, groups=4),
    "one_channel_window": LrnProblem(1, 4, 4, 8, size=1, alpha=0.5, beta=1.0),
    "other_beta": LrnProblem(1, 4, 4, 8, alpha=0.3, beta=0.6, k=1.5),
    "one_of_each": LrnProblem(1, 1, 1, 1, alpha=0.5),
    "same_map": LrnProblem(2, 7, 8, 6, alpha=0.05, region="same_map"),
    "same_map_3_vectors": LrnProblem(2, 7, 5, 12, size=3, alpha=0.05, region="same_map"),
    "same_map_5_vectors": LrnProblem(1, 19, 3, 8, size=5, alpha=0.05, region="same_map"),
    "same_map_even": LrnProblem(1, 6, 5, 5, size=4, alpha=0.1, region="same_map"),
    "same_map_beyond_image": LrnProblem(2, 3, 4, 7, size=9, alpha=0.1, region="same_map"),
}

LRN_POOL = {
    "alexnet": (
        LrnProblem(2, 9, 9, 32, groups=2, alpha=2e-5, k=2.0),
        PoolProblem(2, 9, 9, 32, rounding="ceil"),
    ),
    "strong": (LrnProblem(2, 8, 7, 24, alpha=0.2), PoolProblem(2, 8, 7, 24, (2, 2), (2, 2))),
    "overlapping": (LrnProblem(1, 7, 9, 16, alpha=0.1), PoolProblem(1, 7, 9, 16, (3, 3), (1, 1), (1, 1))),
    "tail": (LrnProblem(3, 6, 5, 13, size=3, alpha=0.3, beta=0.5), PoolProblem(3, 6, 5, 13)),
    "even_window": (LrnProblem(2, 5, 5, 17, size=4, alpha=0.2), PoolProblem(2, 5, 5, 17, rounding="ceil")),
    "window_beyond_group": (
        LrnProblem(2, 5, 6, 12, size=9, alpha=0.1, groups=4),
        PoolProblem(2, 5, 6, 12, (4, 2), (2, 1), (1, 0)),
    ),
    "other_beta": (LrnProblem(1, 6, 6, 8, alpha=0.3, beta=0.6, k=1.5), PoolProblem(1, 6, 6, 8)),
    "gaps": (LrnProblem(2, 9, 8, 20, alpha=0.1), PoolProblem(2, 9, 8, 20, (2, 2), (3, 3))),
    "begins_inside": (LrnProblem(1, 9, 10, 8, alpha=0.1), PoolProblem(1, 9, 10, 8, padding=(-1, -2))),
    "wide": (LrnProblem(1, 4, 4, 600, alpha=0.1), PoolProblem(1, 4, 4, 600)),
    # More than one block shares the rows, the columns and, unequally, the channels.
    "shared": (LrnProblem(1, 19, 21, 264, alpha=0.1), PoolProblem(1, 19, 21, 264, padding=(1, 1))),
    "one_of_each": (LrnProblem(1, 1, 1, 1, alpha=0.5), PoolProblem(1, 1, 1, 1, (1, 1), (1, 1))),
}

CONTRAST_NORM = {
    "plain": ContrastNormProblem(2, 7, 8, 6, alpha=0.05),
    "weak": ContrastNormProblem(2, 6, 6, 16, alpha=1e-4, k=2.0),
    "strong": ContrastNormProblem(2, 5, 6, 8, size=3, alpha=0.5),
    "even_window": ContrastNormProblem(1, 6, 5, 5, size=4, alpha=0.1),
    "other_beta": ContrastNormProblem(1, 5, 5, 4, alpha=0.3, beta=0.6, k=1.5),
    "window_beyond_image": ContrastNormProblem(2, 3, 4, 7, size=9, alpha=0.1),
    "window_of_one": ContrastNormProblem(1, 4, 4, 8, size=1, alpha=0.5),
    "one_of_each": ContrastNormProblem(1, 1, 1, 1, alpha=0.5),
}


# ---- random problems -------------------------------------------------------------------------------


def _size(random: np.random.Generator, largest: int) -> int:
    """From 1 to `largest`, often small, often a multiple of 4 as fast kernels want it."""
    size = int(np.exp(random.uniform(0, np.log(largest + 1))))
    return min(largest, max(1, size if random.random() < 0.5 else -(-size // 4) * 4))


def _pair(random: np.random.Generator, low: int, high: int) -> tuple[int, int]:
    first, second = (int(v) for v in random.integers(low, high + 1, 2))
    return (first, second) if random.random() < 0.5 else (first, first)


def _one_of(random: np.random.Generator, values: list[Any]) -> Any:
    return values[random.integers(len(values))]


def _image(random: np.random.Generator, window: tuple[int, int], padding: tuple[int, int]) -> dict[str, int]:
    """A height and width that hold at least one window."""
    return {
        name: max(1, size - 2 * pad, int(random.integers(1, 15)))
        for name, size, pad in zip("hw", window, padding, strict=True)
    }


def _rounding(random: np.random.Generator) -> str:
    return str(random.choice(["floor", "ceil"]))


def random_conv(
    random: np.random.Generator, kind: type[Any] = ConvProblem, images: int = 5, channels: int = 48
) -> Any:
    """A ConvProblem, perhaps dilated, or LocalProblem of at most so many `images` and input `channels`."""
    groups = int(random.choice([1, 1, 1, 2, 3, 4]))
    window, padding = _pair(random, 1, 5), _pair(random, 0, 3)
    dilation = (1, 1) if kind is LocalProblem or random.random() < 0.6 else _pair(random, 1, 4)
    extent = (window[0] - 1) * dilation[0] + 1, (window[1] - 1) * dilation[1] + 1
    arguments: dict[str, Any] = {
        "n": _size(random, images),
        **_image(random, extent, padding),
        "c": groups * _size(random, channels // groups),
        "k": groups * _size(random, 2 * channels // groups),
        "r": window[0],
        "s": window[1],
        "stride": _pair(random, 1, 4),
        "padding": padding,
        "groups": groups,
        "rounding": _rounding(random),
        "dilation": dilation,
    }
    unequal = random.random()
    if unequal < 0.2:
        arguments["padding"] = tuple((pad, pad + int(random.integers(0, 3))) for pad in padding)
    elif unequal < 0.4:
        o = kind(**arguments)
        arguments["outputs"] = tuple(int(random.integers(1, most + 2)) for most in (o.p, o.q))
    return kind(**arguments)


def random_pool(random: np.random.Generator, window: tuple[int, int] | None = None) -> PoolProblem:
    window = window or _pair(random, 1, 5)
    low = int(random.choice([0, 0, -3]))  # below 0 the first window begins inside the image
    padding = int(random.integers(low, window[0])), int(random.integers(low, window[1]))
    arguments: dict[str, Any] = {
        "n": _size(random, 4),
        **_image(random, window, padding),
        "c": _size(random, 70),
        "window": window,
        "stride": _pair(random, 1, 4),
        "padding": padding,
    }
    if min(padding) >= 0 and random.random() < 0.4:
        fewest = (
            max(0, window[0] - padding[0] - arguments["h"]),
            max(0, window[1] - padding[1] - arguments["w"]),
        )
        ends = (int(random.integers(low, size)) for low, size in zip(fewest, window, strict=True))
        arguments["padding"] = tuple(zip(padding, ends, strict=True))
        arguments["count_padding"] = bool(random.random() < 0.7)
    if random.random() < 0.75:
        return PoolProblem(**arguments, rounding=_rounding(random))
    p, q = (
        int(random.integers(1, (arguments[size] - 1 + pad) // stride + 2))
        for size, pad, stride in zip("hw", padding, arguments["stride"], strict=True)
    )
    return PoolProblem(**arguments, outputs=(p, q))


def random_lrn(random: np.random.Generator) -> LrnProblem:
    groups = int(random.choice([1, 1, 2, 3]))
    return LrnProblem(
        n=_size(random, 4),
        h=_size(random, 9),
        w=_size(random, 9),
        c=groups * _size(random, 70 // groups),
        size=int(random.integers(1, 10)),
        alpha=float(random.choice([1e-4, 0.01, 0.2])),
        beta=float(random.choice([0.75, 0.75, 0.5, 0.6])),
        k=float(random.choice([1.0, 2.0])),
        groups=groups,
        region=str(random.choice(["across_channels", "same_map"])),
    )


def random_lrn_pool(
    random: np.random.Generator, alpha: float | None = None
) -> tuple[LrnProblem, PoolProblem]:
    """A normalisation across channels, with a given `alpha` and k = 1 or any, and the pooling behind it."""
    pool = random_pool(random)
    divisors = [groups for groups in (1, 2, 3) if pool.c % groups == 0]
    lrn = LrnProblem(
        *(pool.n, pool.h, pool.w, pool.c),
        size=int(random.integers(1, 10)),
        alpha=float(random.choice([1e-4, 0.01, 0.2])) if alpha is None else alpha,
        beta=float(random.choice([0.75, 0.75, 0.5, 0.6])),
        k=float(random.choice([1.0, 2.0])) if alpha is None else 1.0,
        groups=int(random.choice(divisors)),
    )
    return lrn, pool


def random_contrast_norm(random: np.random.Generator) -> ContrastNormProblem:
    n, h, w, c = (_size(random, largest) for largest in (4, 9, 9, 70))
    return ContrastNormProblem(
        *(n, h, w, c),
        size=int(random.integers(1, 10)),
        alpha=float(random.choice([1e-4, 0.01, 0.2])),
        beta=float(random.choice([0.75, 0.75, 0.5, 0.6])),
        k=float(random.choice([1.0, 2.0])),
    )


def _random_neuron(random: np.random.Generator, data: str) -> NeuronProblem:
    exact = ["linear", "relu", "abs", "square", "sqrt", "brelu"]
    neurons = exact if data == "exact" else [*exact, "tanh", "logistic", "softrelu"]
    a, b = random.choice([0.5, 1.0, 2.0, 3.0], 2)
    return NeuronProblem(_size(random, 3000), str(random.choice(neurons)), float(a), float(b))


# With a sum over a power of two of integers, a mean is exact however it is computed.
_POWERS_OF_TWO = [(1, 1), (2, 2), (2, 4), (4, 4)]


# Operations whose problems are not those of the others with their first word.
_OF_ITS_OWN = ("relu_bias_backward", "lrn_maxpool_forward", "lrn_maxpool_backward")


def random_case(seed: int, operations: dict[str, Any]) -> tuple[str, Any, dict[str, Any]]:
    """The operation, problem and further arguments of one random check (cconvnet.testing.check).

    A function of the seed alone; `operations` is check.OPERATIONS.
    """
    random = np.random.default_rng(seed)
    operation = str(random.choice(sorted(operations)))
    arguments: dict[str, Any] = {"seed": seed, "data": str(random.choice(["exact", "real"]))}
    problem: Any
    match operation if operation in _OF_ITS_OWN else operation.split("_")[0]:
        case "conv":
            problem = random_conv(random)
        case "local":
            problem = random_conv(random, LocalProblem, images=12, channels=12)
        case "fc":
            problem = FcProblem(_size(random, 70), _size(random, 600), _size(random, 150))
        case "bias" | "relu_bias_backward":
            problem = BiasProblem(_size(random, 2000), _size(random, 150))
        case "relu" | "add" | "eltmax" | "to" | "from":
            problem = NeuronProblem(_size(random, 5000))
        case "neuron":
            problem = _random_neuron(random, arguments["data"])
        case "lrn_maxpool_backward":
            # A maximum is known by its bits; only where nothing rounds are they the reference's.
            problem, arguments["data"] = random_lrn_pool(random, alpha=0.0), "real"
        case "lrn_maxpool_forward":
            problem, arguments["data"] = random_lrn_pool(random), "real"
        case "lrn":
            problem, arguments["data"] = random_lrn(random), "real"
        case "contrast":
            problem, arguments["data"] = random_contrast_norm(random), "real"
        case "maxpool":
            problem = random_pool(random)
        case "avgpool":
            problem, arguments["data"] = random_pool(random), "real"
        case "dropout":
            keep, scale = float(random.choice([0.25, 0.5, 0.9, 1.0])), float(random.choice([1.0, 2.0]))
            draws = (int(v) for v in random.integers(0, 2**63, 2))
            rows, columns = _size(random, 70), _size(random, 70)
            if random.random() < 0.5:
                problem = DropoutProblem(rows * columns, keep, scale, *draws)
            else:
                first = int(random.integers(0, 50))
                stride = first + columns + int(random.integers(0, 50))
                part = {"columns": columns, "row_stride": stride, "first": first}
                problem = DropoutProblem(rows * columns, keep, scale, *draws, **part)
        case "softmax":
            problem, arguments["data"] = SoftmaxProblem(_size(random, 60), _size(random, 300)), "real"
        case "sgd":
            # Powers of two, so that the order of the products does not matter.
            rates = (float(v) for v in 2.0 ** -random.integers(0, 4, 3))
            problem = SgdProblem(_size(random, 5000), *rates)
        case "limit":
            # About half of the rows of either kind of data are too long, fewer too short.
            rows, columns = _size(random, 60), _size(random, 2000)
            limit = 2.0 ** math.floor(math.log2(columns) / 2) * 2.0 ** random.integers(-1, 2)
            low = float(_one_of(random, [0.0, 0.5, 1.0])) * float(limit)
            problem = NormLimitProblem(rows, columns, float(limit), low, bool(random.random() < 0.5))
        case "input":
            h, w = _size(random, 12), _size(random, 12)
            crop = int(random.integers(1, h + 1)), int(random.integers(1, w + 1))
            block = int(random.choice([1, 1, 2, 3, 4]))
            pad = int(random.integers(0, 4)) if block > 1 else 0
            problem = InputProblem(_size(random, 6), h, w, _size(random, 5), *crop, block=block, pad=pad)
            arguments["data"] = "exact"
        case "filters":
            k, r, s, c = (_size(random, largest) for largest in (40, 12, 12, 8))
            problem = FilterBlocksProblem(k, r, s, c, int(random.integers(1, 6)))
        case "watch":
            problem = NeuronProblem(_size(random, 700))
            arguments["bad"] = _one_of(random, [None, np.inf, -np.inf, np.nan])
        case _:
            raise ValueError(f"no random problems are known for {operation}")
    sums = operation.startswith(("conv", "local", "fc", "bias"))
    if sums and min(math.prod(shape) for shape in operations[operation].outputs(problem).values()) < 64:
        # The errors of a few long sums are no measure: either side may be lucky.
        arguments["data"] = "exact"
    if hasattr(problem, "precision"):
        problem = with_precision(problem, str(random.choice(PRECISIONS)))
    elif random.random() < 0.5 and operations[operation].has_elements:
        arguments["element"] = "bf16"
    if operation == "bias_add":
        arguments["relu"] = bool(random.integers(0, 2))
    if operation == "add" and random.random() < 0.5:
        # Few enough bits that every product and sum of integers is exact.
        arguments["alpha"], arguments["beta"] = (float(v) for v in random.choice([-1, 0, 0.5, 1, 3], 2))
    if operation.endswith("fprop"):
        arguments["bias"], arguments["relu"] = (bool(v) for v in random.integers(0, 2, 2))
        arguments["dropout"] = _one_of(random, [None, None, "whole", "part", "odd_part"])
    if operation.endswith("wgrad"):
        arguments["update"] = _one_of(random, [None, None, "plain", "full", "halted"])
    if operation == "sgd_update":
        arguments["update"] = _one_of(random, ["plain", "full", "halted"])
    fused = arguments.get("dropout") or arguments.get("update")
    if getattr(problem, "precision", None) == "tf32" and not fused and arguments["data"] == "real":
        arguments["data"] = _one_of(random, ["real", "unrounded"])
    if operation == "lrn_maxpool_backward":
        arguments["relu"] = bool(random.integers(0, 2))
    if operation == "dropout" and random.random() < 0.5:
        arguments["step"] = int(random.integers(0, 2**63))
    if operation == "input_transform":
        arguments["mean"], arguments["shift"] = (bool(v) for v in random.integers(0, 2, 2))
    if random.random() < 0.25:
        arguments["offset"] = 4
    spec, element = operations[operation], arguments.get("element", "fp32")
    output = next(iter(spec.outputs(problem)))
    # An array that is read as floats and one of bfloat16s are never the same.
    places = [name for name in spec.in_place if spec.dtype(name, element) == spec.dtype(output, element)]
    if places and random.random() < 0.3:
        arguments["in_place"] = str(random.choice(places))
    # Zeros may be many: few elements kept, windows in the padding. tests/kernels/test_random.py looks at
    # them all.
    arguments["nonzero"] = 0.0
    return operation, problem, arguments
