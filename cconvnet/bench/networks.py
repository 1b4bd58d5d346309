"""A network on its own, without data: to be measured or described."""

from __future__ import annotations

from collections.abc import Mapping

from cconvnet.formats.netfiles import NetFiles, build_sized
from cconvnet.nets.specs import place
from cconvnet.network import Network
from cconvnet.train import check_precision, devices_of


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
    check_precision(precision)
    if batch is not None and batch < 1:
        raise ValueError(f"--batch must be at least 1, not {batch}")
    spec, _ = build_sized(net, size)
    names = [device.name for device in devices_of(devices)]
    spec = place(spec, places or {})
    return Network(
        spec, batch=batch or spec.recipe.batch, devices=names, seed=0, precision=precision or "fp32"
    )
