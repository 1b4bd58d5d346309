"""A network on its own, without data: to be measured or described."""

from __future__ import annotations

from collections.abc import Mapping

from cconvnet.checks import whole
from cconvnet.devices import check_precision, devices_of
from cconvnet.formats.netfiles import NetFiles, build_sized
from cconvnet.nets import NetSpec, place
from cconvnet.network.network import Network


def build_spec(
    net: str | NetFiles | NetSpec,
    batch: int | None = None,
    precision: str | None = None,
    size: int | None = None,
    places: Mapping[str, int | str] | None = None,
) -> tuple[NetSpec, int]:
    """A network's spec, for images of its own size or of `size` in both directions, and the batch.

    Raises ValueError naming the argument.
    """
    check_precision(precision)
    if batch is not None:
        whole("--batch", batch, 1)
    spec = net if isinstance(net, NetSpec) else build_sized(net, size)[0]
    return place(spec, places or {}), spec.recipe.batch if batch is None else batch


def build_network(
    net: str | NetFiles,
    devices: list[str] | None = None,
    batch: int | None = None,
    precision: str | None = None,
    size: int | None = None,
    places: Mapping[str, int | str] | None = None,
) -> Network:
    """A network on its own, without data: for images of its own size, or of `size` in both directions.

    Raises
        ValueError: naming the argument.
        DeviceUnavailable: a device cannot be used.
    """
    spec, batch = build_spec(net, batch, precision, size, places)
    names = [device.name for device in devices_of(devices)]
    return Network(spec, batch=batch, devices=names, seed=0, precision=precision or "fp32")
