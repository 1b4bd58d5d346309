"""Parts that several built-in networks share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from cconvnet.nets.builder import Value, image
from cconvnet.nets.shapes import Shape

# Of ImageNet's pixels, as in torchvision.
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def normalised(shape: Shape, stored: tuple[int, int] | None = None) -> Value:
    """Begin with images (H, W, C), whose colours are normalised as in torchvision.

    Grey images are minus their mean, with a deviation of about 1.
    """
    if shape[2] == 3:
        return image(*shape, stored=stored, mean=MEAN, deviation=DEVIATION, scale=1.0)
    return image(*shape, stored=stored, scale=1 / 58)


def conv_bn(
    x: Value, name: str, filters: int, window: int, stride: int = 1, gamma: float = 1.0, decay: float = 1e-4
) -> Value:
    """Add a padded convolution without a bias, normalised."""
    x = x.conv(filters, window, stride, window // 2, bias=None, weight_decay=decay, name=name)
    return x.bn(gamma=gamma, name=f"{name}_bn")


def residual(x: Value, name: str, steps: Sequence[tuple[int, int, int]], stride: int) -> Value:
    """Add normalised convolutions, each of (filters, window, stride), and the input to the last of them.

    Where the shape changes, the input is convolved by 1x1 filters with this stride. The last gamma is 0.
    """
    y = x
    for i, (filters, window, own) in enumerate(steps, 1):
        y = conv_bn(y, f"{name}_conv{i}", filters, window, own, gamma=float(i < len(steps)))
        y = y.relu() if i < len(steps) else y
    if x.shape != y.shape:
        x = conv_bn(x, f"{name}_shortcut", y.channels, 1, stride)
    return (x + y).relu()


def vgg_blocks(x: Value, counts: Iterable[int], weight_decay: float, bn: bool = False) -> Iterator[Value]:
    """Yield the pooled output of each of VGG's blocks, of `counts` convolutions of 3x3."""
    for block, (count, filters) in enumerate(zip(counts, (64, 128, 256, 512, 512), strict=True), 1):
        for i in range(1, count + 1):
            x = x.conv(filters, 3, pad=1, weight_decay=weight_decay, name=f"conv{block}_{i}")
            x = (x.bn(name=f"conv{block}_{i}_bn") if bn else x).relu()
        yield (x := x.maxpool(2))
