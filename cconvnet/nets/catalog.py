"""The networks that are known by name; each is described in one short module of this package."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cconvnet.errors import nearest
from cconvnet.nets import (
    alexnet,
    alexnet_2012,
    alexnet_owt,
    caffenet,
    cifar_11pct,
    cifar_13pct,
    cifar_18pct,
    cifar_quick,
    efficientnet_lite0,
    fcn,
    googlenet,
    googlenet_bn,
    lenet,
    lenet_5,
    mcdnn_cifar,
    mcdnn_mnist,
    nin,
    nin_cifar,
    overfeat,
    resnet,
    resnet_cifar,
    squeezenet,
    vgg,
    zfnet,
)
from cconvnet.nets.recipe import NetSpec

_BUILDERS: dict[str, Callable[..., NetSpec]] = {
    "lenet": lenet.build,
    "lenet-5": lenet_5.build,
    "lenet-5-plain": partial(lenet_5.build, plain=True),
    "mcdnn-mnist": mcdnn_mnist.build,
    "cifar-quick": cifar_quick.build,
    "cifar-18pct": cifar_18pct.build,
    "cifar-13pct": cifar_13pct.build,
    "cifar-11pct": cifar_11pct.build,
    "mcdnn-cifar": mcdnn_cifar.build,
    "nin-cifar": nin_cifar.build,
    "alexnet": alexnet.build,
    "alexnet-2012": alexnet_2012.build,
    "alexnet-owt": alexnet_owt.build,
    "caffenet": caffenet.build,
    "zfnet": zfnet.build,
    "overfeat-fast": overfeat.build,
    "overfeat-accurate": partial(overfeat.build, accurate=True),
    "nin": nin.build,
    "vgg11": partial(vgg.build, depth=11),
    "vgg13": partial(vgg.build, depth=13),
    "vgg16": partial(vgg.build, depth=16),
    "vgg19": partial(vgg.build, depth=19),
    "googlenet": googlenet.build,
    "vgg16-bn": partial(vgg.build, depth=16, bn=True),
    "googlenet-bn": googlenet_bn.build,
    **{f"resnet{depth}": partial(resnet.build, depth=depth) for depth in resnet.BLOCKS},
    **{f"resnet{depth}": partial(resnet_cifar.build, depth=depth) for depth in (20, 32, 44, 56, 110)},
    "squeezenet-1.0": squeezenet.build,
    "squeezenet-1.1": partial(squeezenet.build, version="1.1", border=0),
    "efficientnet-lite0": efficientnet_lite0.build,
    **{f"fcn{stride}s": partial(fcn.build, stride=stride) for stride in (32, 16, 8)},
}
# The side that images of a folder are resized to, if it is not 256. None: they are left as they are.
_STORED_SIZES = {
    "lenet": None,
    **dict.fromkeys(("lenet-5", "lenet-5-plain", "mcdnn-mnist"), 28),
    **dict.fromkeys(("cifar-quick", "cifar-18pct", "cifar-13pct", "cifar-11pct"), 32),
    **dict.fromkeys(("mcdnn-cifar", "nin-cifar"), 32),
    **dict.fromkeys(("fcn32s", "fcn16s", "fcn8s"), 512),
    **dict.fromkeys(("resnet20", "resnet32", "resnet44", "resnet56", "resnet110"), 32),
}

NAMES: tuple[str, ...] = tuple(_BUILDERS)


def _known(name: str) -> str:
    if name not in _BUILDERS:
        raise ValueError(nearest("net", name, NAMES))
    return name


def build(name: str, image_shape: tuple[int, int, int] | None = None, classes: int | None = None) -> NetSpec:
    """Return a network that is known by name.

    Args:
        name: one of NAMES.
        image_shape: (H, W, C) of the stored images, before any crop; None: those the network was made for.
        classes: how many labels there are; None: as many as the network was made for.

    Raises:
        ValueError: no network has this name (the text names the nearest), or a size is not positive.
    """
    builder = _BUILDERS[_known(name)]
    given = {"image_shape": image_shape, "classes": classes}
    return builder(**{key: value for key, value in given.items() if value is not None})


def module_name(name: str) -> str:
    """Return the name of the module that describes this network."""
    builder = _BUILDERS[_known(name)]
    return (builder.func if isinstance(builder, partial) else builder).__module__


def stored_size(name: str) -> int | None:
    """Return the side in pixels to which images are resized for this network; None: left as they are."""
    return _STORED_SIZES.get(_known(name), 256)
