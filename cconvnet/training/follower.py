"""The start of ranks other than the first: they get the run from it, and never write."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import TracebackType
from typing import Any

import cconvnet
from cconvnet import nets
from cconvnet.console import Reporter
from cconvnet.data import datasets
from cconvnet.data.datasets import Arrays
from cconvnet.data.fingerprint import differences
from cconvnet.devices import Device
from cconvnet.ranks import RanksError
from cconvnet.ranks.world import World
from cconvnet.runs.checkpoint import Folder
from cconvnet.runs.folder import Run
from cconvnet.training.options import Options
from cconvnet.training.preparation import make_network, open_data
from cconvnet.training.settings import Settings, identity
from cconvnet.training.trainer import Trainer


class FollowedRun(Run):
    """A run whose folder the first rank writes; this rank may not even see it.

    Args:
        path: The folder.
        config: The content of ``config.json``.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        self.config = self.config_before = config
        self.checkpoints = Folder(path / "checkpoints")
        self.listeners = []

    def __enter__(self) -> FollowedRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def close(self) -> None:
        """Do nothing."""

    def write_config(self, config: dict[str, Any]) -> None:
        """Do nothing."""

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Do nothing."""

    def log(self, line: dict[str, Any]) -> None:
        """Do nothing."""


def told(trainer: Trainer) -> dict[str, Any]:
    """Return what the first rank tells the others of its run, as JSON values."""
    return {
        "version": cconvnet.__version__,
        "path": str(trainer.run.path.absolute()),
        "settings": dataclasses.asdict(trainer.settings),
        "spec": nets.spec_to_dict(trainer.network.spec),
        "identity": identity(trainer.source),
    }


def follow(
    told: dict[str, Any],
    options: Options,
    devices: list[Device],
    reporter: Reporter,
    world: World,
    arrays: Arrays | None,
) -> Trainer:
    """Make the run of the first rank on another one, ready to get its state.

    Raises:
        RanksError: This rank has another version of cconvnet, or other data.
        ValueError, DeviceUnavailable: As :func:`cconvnet.training.session.train`.
    """
    if told["version"] != (own := cconvnet.__version__):
        raise RanksError(f"cconvnet {own} on {world.host}, but {told['version']} on the first rank")
    settings = Settings.from_dict(told["settings"])
    path = Path(told["path"])
    where = datasets.from_settings(settings.data, path) if arrays is None else arrays
    source = open_data(where, settings.size, settings.preprocessing, options, reporter)
    other = differences(settings.pictures, source.fingerprints, "the first rank's has")
    other += [name for name, here in identity(source).items() if here != told["identity"][name]]
    if other:
        raise RanksError(f"the data on {world.host} is not the first rank's: {'; '.join(other)}")
    spec = nets.spec_from_dict(told["spec"])
    network = make_network(spec, settings, devices, options, world)
    return Trainer(FollowedRun(path, {}), settings, network, source, reporter, world)
