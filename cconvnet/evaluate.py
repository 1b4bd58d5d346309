"""Testing a network: its error on a split, and what it sees in single pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet import data, nets, runs
from cconvnet.checkpoint import Checkpoint, Tensors, check_tensors
from cconvnet.network import Network, StepResult

# What a checkpoint holds beside the network's tensors: the mean image, and the colour noise's components.
MEAN = "data.mean"
COLORS = "data.colors"


@dataclasses.dataclass
class Tally:
    """Sums over images, from which mean loss and errors follow; they survive a stop and a resume exactly."""

    loss: float = 0.0
    wrong_top1: int = 0
    wrong_top5: int = 0
    count: int = 0

    def add(self, result: StepResult) -> None:
        self.loss += result.loss * result.count
        self.wrong_top1 += int(np.count_nonzero(result.rank >= 1))
        self.wrong_top5 += int(np.count_nonzero(result.rank >= 5))
        self.count += result.count

    def clear(self) -> None:
        self.loss, self.wrong_top1, self.wrong_top5, self.count = 0.0, 0, 0, 0

    @property
    def mean_loss(self) -> float:
        return self.loss / max(1, self.count)

    @property
    def error_top1(self) -> float:
        """The share of images, from 0 to 1, whose right class is not the most probable one."""
        return self.wrong_top1 / max(1, self.count)

    @property
    def error_top5(self) -> float:
        """The share of images, from 0 to 1, whose right class is not among the five most probable."""
        return self.wrong_top5 / max(1, self.count)


def evaluate(
    network: Network, batches: Iterable[Any], stopped: Callable[[], bool] = lambda: False
) -> Tally | None:
    """Loss and errors of a network over batches of images; None when `stopped` said so in between."""
    tally = Tally()
    for batch in batches:
        if stopped():
            return None
        network.load(batch.images, batch.labels, batch.top, batch.left, batch.mirror)
        network.forward(train=False)
        tally.add(network.result())
    return tally


@dataclasses.dataclass
class Trained:
    """A network as a run left it, ready to look at pictures."""

    network: Network
    classes: list[str]
    image_shape: tuple[int, int, int]  # as stored, before the crop
    path: Path
    checkpoint: Checkpoint
    skipped: list[str]  # a line for each damaged checkpoint that was passed over


def load_trained(
    path: Path, *, devices: list[str] | None = None, batch: int | None = None, best: bool = False
) -> Trained:
    """The network of a run (its newest sound checkpoint, or its best) or of one checkpoint.

    Raises
        RunError, CheckpointError: there is none, or it is damaged.
        ValueError, DeviceUnavailable: the device cannot be used.
    """
    file, checkpoint, skipped = runs.find_checkpoint(path, best)
    settings = checkpoint.settings
    spec = nets.spec_from_dict(checkpoint.spec)
    network = Network(spec, batch=batch or settings["batch"], devices=devices, seed=settings["seed"])
    restore(network, checkpoint, file)
    return Trained(network, settings["classes"], tuple(settings["image_shape"]), file, checkpoint, skipped)


def network_tensors(checkpoint: Checkpoint) -> Tensors:
    """The tensors of a checkpoint that are the network's."""
    return {name: tensor for name, tensor in checkpoint.tensors.items() if name not in (MEAN, COLORS)}


def restore(network: Network, checkpoint: Checkpoint, path: Path) -> None:
    """Gives a network a checkpoint's weights and mean image."""
    tensors = network_tensors(checkpoint)
    check_tensors(path, tensors, {name: tensor.shape for name, tensor in network.state().items()})
    network.load_state(tensors)
    network.set_mean(checkpoint.tensors.get(MEAN))


def evaluate_run(
    trained: Trained, source: data.Source, stepped: Callable[[int, int], None] = lambda done, total: None
) -> Tally:
    """The error of a trained network on a source's test images, each cut out at its centre.

    Args
        stepped: called after each batch with the number of batches done and of all.

    Raises
        ValueError: the source's classes or image size are not those the network was trained on.
    """
    _check_source(trained, source)
    network = trained.network
    with data.Loader(
        source.test,
        batch=network.batch,
        crop=(network.spec.input.height, network.spec.input.width),
        random_crop=False,
        mirror=False,
        shuffle=False,
        drop_last=False,
    ) as loader:

        def counted() -> Iterable[Any]:
            for done, batch in enumerate(loader.epoch(0), start=1):
                yield batch
                stepped(done, loader.steps_per_epoch)

        tally = evaluate(network, counted())
    assert tally is not None
    return tally


def _check_source(trained: Trained, source: data.Source) -> None:
    if list(source.classes) != list(trained.classes):
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


def predict(trained: Trained, pictures: list[Path]) -> np.ndarray[Any, Any]:
    """The probability of each class for each picture: float32[len(pictures), classes].

    A picture is treated as the test images were: shorter side resized, centre cut out, mean subtracted.

    Raises
        DataError: a picture cannot be read; the text names it.
    """
    network = trained.network
    images = np.stack([read_picture(path, trained.image_shape) for path in pictures])
    rows = []
    for start in range(0, len(images), network.batch):
        part = images[start : start + network.batch]
        network.load(part, np.zeros(len(part), np.int32))
        network.forward(train=False)
        rows.append(network.outputs(network.spec.layers[-1].name)[: len(part)])
    return np.concatenate(rows)


def read_picture(path: Path, shape: tuple[int, int, int]) -> np.ndarray[Any, Any]:
    """A picture file as uint8[H,W,C] of the given shape."""
    from PIL import Image

    from cconvnet.data.images import BrokenImage, DataError, read_image

    height, width, channels = shape
    try:
        pixels = read_image(path, size=min(height, width))
    except BrokenImage as error:
        raise DataError(f"{path} is not a readable JPEG or PNG: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if channels == 1:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    if pixels.shape != shape:
        pixels = np.asarray(Image.fromarray(pixels.squeeze()).resize((width, height)))
        pixels = pixels.reshape(shape)
    return pixels
