"""Networks on their own, by name or from files, without data: to be measured or described."""

from __future__ import annotations

from collections.abc import Mapping

from cconvnet.checks import whole
from cconvnet.devices import check_precision, devices_of
from cconvnet.formats.netfiles import AnyNet, resolve
from cconvnet.nets import NetSpec, place
from cconvnet.network import Network


def build_spec(
    net: AnyNet,
    batch: int | None = None,
    precision: str | None = None,
    size: int | None = None,
    places: Mapping[str, int | str] | None = None,
) -> tuple[NetSpec, int]:
    """Return a network's spec and its batch.

    Args:
        net: the network, or its name or file; see cconvnet.formats.netfiles.resolve.
        batch: how many images a batch has; None: as many as the recipe's.
        precision: checked to be one; None: the default.
        size: the height and width of the images; None: the network's own.
        places: layers and the devices they are placed on; see cconvnet.nets.place.

    Raises:
        ValueError: naming the argument.
    """
    check_precision(precision)
    if batch is not None:
        whole("--batch", batch, 1)
    if size is not None:
        whole("--size", size, 1)
    spec, _ = resolve(net).build_sized(size)
    return place(spec, places or {}), spec.recipe.batch if batch is None else batch


def build_network(
    net: AnyNet,
    devices: list[str] | None = None,
    batch: int | None = None,
    precision: str | None = None,
    size: int | None = None,
    places: Mapping[str, int | str] | None = None,
) -> Network:
    """Build a network with first weights.

    Args:
        net: the network, or its name or file; see cconvnet.formats.netfiles.resolve.
        devices: the names of its devices; None: the default device.
        batch: how many images a batch has; None: as many as the recipe's.
        precision: of products and activations; None: "fp32".
        size: the height and width of the images; None: the network's own.
        places: layers and the devices they are placed on; see cconvnet.nets.place.

    Raises:
        ValueError: naming the argument.
        DeviceUnavailable: a device cannot be used.
    """
    spec, batch = build_spec(net, batch, precision, size, places)
    names = [device.name for device in devices_of(devices)]
    return Network(spec, batch=batch, devices=names, seed=0, precision=precision or "fp32")
