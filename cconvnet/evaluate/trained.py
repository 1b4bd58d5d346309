"""Trained networks: weights, mean image and preprocessing rules from a run's checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cconvnet import data, nets, runs
from cconvnet.data.datasets import NONE
from cconvnet.data.names import composed
from cconvnet.data.preprocessing import Preprocessing
from cconvnet.nets.costs import answers_for_pixels
from cconvnet.nets.values import Pair
from cconvnet.network import Network
from cconvnet.runs.checkpoint import COLORS, MEAN, Checkpoint, Tensors, check_tensors

DENSE = (False, True, "fine")  # the values of `dense`


@dataclasses.dataclass
class Trained:
    """Network with the weights of a checkpoint, ready for images.

    Attributes:
        network: The network.
        classes: The names of its classes.
        image_shape: (height, width, channels) of stored images, before the crop.
        path: The checkpoint's file.
        checkpoint: Its content.
        skipped: One line for each damaged checkpoint that was skipped.
        dense: Whether it classifies every place of an image.
    """

    network: Network
    classes: list[str]
    image_shape: tuple[int, int, int]
    path: Path
    checkpoint: Checkpoint
    skipped: list[str]
    dense: bool = False

    @property
    def of_pixels(self) -> bool:
        """True if it was trained to answer for each pixel, unlike a dense classifier."""
        return answers_for_pixels(nets.spec_from_dict(self.checkpoint.spec))

    @property
    def preprocessing(self) -> Preprocessing:
        """Rules by which the run read its images; see recorded_preprocessing()."""
        return recorded_preprocessing(self.checkpoint)


def recorded_preprocessing(checkpoint: Checkpoint) -> Preprocessing:
    """Return the rules by which a checkpoint's run read its images.

    Raises:
        ValueError: The rules are of a newer version.
    """
    return Preprocessing.recorded(checkpoint.settings.get("preprocessing"))


def load_trained(
    path: Path,
    *,
    devices: list[str] | None = None,
    batch: int | None = None,
    best: bool = False,
    precision: str | None = None,
    folded: bool = False,
    dense: bool | str = False,
    image: Pair | None = None,
    pixels_batch: int | None = None,
) -> Trained:
    """Load a network from a run or a checkpoint.

    Args:
        path: A run's folder, or one of its checkpoints.
        devices: The devices; the default one if not given.
        batch: Images per batch; the run's if not given.
        best: Of a run, take the best checkpoint instead of the newest undamaged one.
        precision: Precision of products; the run's if not given.
        folded: Fold batch normalisations into the products before them; see Network.folded.
        dense: Classify every place of whole stored images instead of crops; see Network.dense. "fine":
            closer places.
        image: Height and width of the images of a dense network; those of stored images if not given.
        pixels_batch: Images per batch of a network that answers for each pixel, instead of `batch`.

    Raises:
        RunError: The folder contains no run.
        CheckpointError: There is no checkpoint, or the given one is damaged.
        ValueError: The device or the precision has no such name.
        DeviceUnavailable: The device cannot be used.
    """
    _check_dense(dense)
    file, checkpoint, skipped = runs.find_checkpoint(path, best)
    options: dict[str, Any] = {"devices": devices, "batch": batch, "precision": precision}
    options |= {"folded": folded, "dense": dense, "image": image, "pixels_batch": pixels_batch}
    found = trained_of(checkpoint, file, **options)
    found.skipped = skipped
    return found


def trained_of(
    checkpoint: Checkpoint,
    file: Path,
    *,
    devices: list[str] | None = None,
    batch: int | None = None,
    precision: str | None = None,
    folded: bool = False,
    dense: bool | str = False,
    image: Pair | None = None,
    pixels_batch: int | None = None,
) -> Trained:
    """Make the network of a checkpoint, whose file is `file`; the other arguments are load_trained()'s.

    Raises:
        CheckpointError: The checkpoint is of another network.
        ValueError, DeviceUnavailable: As load_trained().
    """
    _check_dense(dense)
    settings = checkpoint.settings
    spec = nets.spec_from_dict(checkpoint.spec)
    if pixels_batch is not None and answers_for_pixels(spec):
        batch = pixels_batch
    network = Network(
        spec,
        batch=settings["batch"] if batch is None else batch,
        devices=devices,
        seed=settings["seed"],
        precision=settings["precision"] if precision is None else precision,
        needs="forward",
    )
    restore(network, checkpoint, file)
    if folded:
        network = network.folded()
    shape = tuple(settings["image_shape"])
    if dense:
        network = network.dense(image, fine=dense == "fine")
        shape = network.spec.stored_shape
    return Trained(network, settings["classes"], shape, file, checkpoint, [], bool(dense))


def _check_dense(dense: bool | str) -> None:
    if dense not in DENSE:
        raise ValueError(f"dense must be True, False or 'fine', not {dense!r}")


def network_tensors(checkpoint: Checkpoint) -> Tensors:
    """Return the tensors of a checkpoint that belong to the network."""
    return {name: tensor for name, tensor in checkpoint.tensors.items() if name not in (MEAN, COLORS)}


def restore(network: Network, checkpoint: Checkpoint, path: Path) -> None:
    """Set a network's weights and mean image to those of a checkpoint."""
    tensors = network_tensors(checkpoint)
    check_tensors(path, tensors, network.state_shapes())
    network.load_state(tensors)
    network.set_mean(checkpoint.tensors.get(MEAN))


def are_numbers(classes: Sequence[str]) -> bool:
    """Return True if classes have numbers from 0 on instead of names."""
    return list(classes) == [str(number) for number in range(len(classes))]


def check_source(trained: Trained, source: data.Source) -> None:
    """Refuse data that a network was not trained for.

    Raises:
        ValueError: Classes or image size differ from those of the training. Weights that were imported with
            neither data nor names of classes take any names.
    """
    numbered = trained.checkpoint.settings["data"] == NONE and are_numbers(trained.classes)
    same_count = numbered and len(source.classes) == len(trained.classes)
    if not same_count and list(map(composed, source.classes)) != list(map(composed, trained.classes)):
        ours, theirs = len(trained.classes), len(source.classes)
        what = f"{theirs} classes, the network {ours}"
        if ours == theirs:
            pair = next(p for p in zip(source.classes, trained.classes, strict=True) if p[0] != p[1])
            what = f"a class {pair[0]!r} where the network has {pair[1]!r}"
        raise ValueError(f"data {source.name} does not fit {trained.path}: it has {what}")
    check_images(trained, source)


def check_images(trained: Trained, source: data.Source) -> None:
    """Refuse images of another shape than a network's.

    Raises:
        ValueError: The shapes differ.
    """
    if tuple(source.image_shape) != trained.image_shape:
        raise ValueError(
            f"data {source.name} does not fit {trained.path}: its images are "
            f"{'x'.join(map(str, source.image_shape))}, the network's "
            f"{'x'.join(map(str, trained.image_shape))}"
        )
