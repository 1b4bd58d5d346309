"""A network as a run left it: weights, mean image and the rules for reading pictures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from cconvnet import data, nets, runs
from cconvnet.data.datasets.dataset import composed
from cconvnet.data.preprocessing import Preprocessing
from cconvnet.network import Network
from cconvnet.runs.checkpoint import COLORS, MEAN, Checkpoint, Tensors, check_tensors


@dataclasses.dataclass
class Trained:
    """A network as a run left it, ready to look at pictures."""

    network: Network
    classes: list[str]
    image_shape: tuple[int, int, int]  # as stored, before the crop
    path: Path
    checkpoint: Checkpoint
    skipped: list[str]  # a line for each damaged checkpoint that was passed over

    @property
    def preprocessing(self) -> Preprocessing:
        """The rules by which the run's pictures were read. Errors: ValueError of a newer version's."""
        return recorded_preprocessing(self.checkpoint)


def recorded_preprocessing(checkpoint: Checkpoint) -> Preprocessing:
    """The rules by which the pictures of a checkpoint's run were read. Errors: ValueError."""
    return Preprocessing.recorded(checkpoint.settings.get("preprocessing"))


def load_trained(
    path: Path,
    *,
    devices: list[str] | None = None,
    batch: int | None = None,
    best: bool = False,
    precision: str | None = None,
) -> Trained:
    """The network of a run (its newest sound checkpoint, or its best) or of one checkpoint, in the precision
    it was trained in or another.

    Raises
        RunError, CheckpointError: there is none, or it is damaged.
        ValueError, DeviceUnavailable: the device cannot be used.
    """
    file, checkpoint, skipped = runs.find_checkpoint(path, best)
    settings = checkpoint.settings
    spec = nets.spec_from_dict(checkpoint.spec)
    network = Network(
        spec,
        batch=settings["batch"] if batch is None else batch,
        devices=devices,
        seed=settings["seed"],
        precision=settings["precision"] if precision is None else precision,
        needs="forward",
    )
    restore(network, checkpoint, file)
    return Trained(network, settings["classes"], tuple(settings["image_shape"]), file, checkpoint, skipped)


def network_tensors(checkpoint: Checkpoint) -> Tensors:
    """The tensors of a checkpoint that are the network's."""
    return {name: tensor for name, tensor in checkpoint.tensors.items() if name not in (MEAN, COLORS)}


def restore(network: Network, checkpoint: Checkpoint, path: Path) -> None:
    """Gives a network a checkpoint's weights and mean image."""
    tensors = network_tensors(checkpoint)
    check_tensors(path, tensors, network.state_shapes())
    network.load_state(tensors)
    network.set_mean(checkpoint.tensors.get(MEAN))


def check_source(trained: Trained, source: data.Source) -> None:
    if list(map(composed, source.classes)) != list(map(composed, trained.classes)):
        ours, theirs = len(trained.classes), len(source.classes)
        what = f"{theirs} classes, the network {ours}"
        if ours == theirs:
            pair = next(p for p in zip(source.classes, trained.classes, strict=True) if p[0] != p[1])
            what = f"a class {pair[0]!r} where the network has {pair[1]!r}"
        raise ValueError(f"data {source.name} does not fit {trained.path}: it has {what}")
    if tuple(source.image_shape) != trained.image_shape:
        raise ValueError(
            f"data {source.name} does not fit {trained.path}: its images are "
            f"{'x'.join(map(str, source.image_shape))}, the network's "
            f"{'x'.join(map(str, trained.image_shape))}"
        )
