"""Trained weights from files and from runs, and runs that are made of them without data.

:func:`weights_of` reads what ``--weights`` names. :func:`checkpoint_of` makes a checkpoint of weights and a
network, which predicts as one of a training does, and :func:`write_run` makes a run of that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet import nets
from cconvnet.data.datasets import NONE
from cconvnet.evaluate import network_tensors
from cconvnet.formats.layer_names import Pixels
from cconvnet.formats.netfiles import ChosenNet, FixedNet, NamedNet
from cconvnet.formats.weights import Fitted, Weights, classes_in, fit, misfits, read_weights
from cconvnet.nets import NetSpec
from cconvnet.network.footprint import Plan
from cconvnet.runs import find_checkpoint
from cconvnet.runs.checkpoint import KEEP, MEAN, Checkpoint, is_checkpoint
from cconvnet.runs.folder import Run, new_folder
from cconvnet.training.options import Options
from cconvnet.training.preparation import configuration, surroundings
from cconvnet.training.settings import Progress, Settings

AUTO = "auto"  # among the layers of --except


@dataclass(frozen=True)
class Reading:
    """Choices of how weights are fitted to a network; see :func:`cconvnet.formats.weights.fit`.

    Attributes:
        leave: Layers that stay at their first values; AUTO stands for those whose shapes differ.
        mean: Of each channel of the pixels that the weights were trained on; None: what the file says.
        deviation: Likewise.
        bgr: Whether the first layer of the weights reads blue, green, red; None: what the file says.
    """

    leave: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None
    bgr: bool | None = None

    def fitted(self, weights: Weights, spec: NetSpec) -> Fitted:
        """Fit weights to a network."""
        leave, notes = [layer for layer in self.leave if layer != AUTO], []
        if AUTO in self.leave:
            found = misfits(weights, spec)
            leave += found
            notes = [f"{layer} is left out: {shapes}" for layer, shapes in found.items()]
            notes = notes or ["--except auto leaves out nothing: all shapes are those of the network"]
        fitted = fit(weights, spec, leave, mean=self.mean, deviation=self.deviation, bgr=self.bgr)
        return dataclasses.replace(fitted, notes=[*notes, *fitted.notes])


def is_run(path: Path) -> bool:
    """Return True if a path is that of a run, or of one of its checkpoints."""
    return path.is_dir() or is_checkpoint(path)


def weights_of(path: Path, kind: str | None = None, best: bool = False) -> Weights:
    """Read the weights in a file of another program, or those of a run's newest checkpoint.

    Args:
        path: The file, the run, or one of its checkpoints.
        kind: The file's format, a name of FORMATS; None: that of its content.
        best: Of a run, take the checkpoint with the lowest test error instead.

    Raises:
        CheckpointError, DataError, RunError: It contains no weights, or is damaged.
        OSError: It cannot be read.
    """
    if kind is not None or not is_run(path):
        return read_weights(path, kind)
    file, checkpoint, _ = find_checkpoint(path, best)
    spec = nets.spec_from_dict(checkpoint.spec)
    tensors = {
        name: tensor for name, tensor in network_tensors(checkpoint).items() if not name.endswith(".velocity")
    }
    if spec.input.mean is None and MEAN in checkpoint.tensors:
        tensors[MEAN] = checkpoint.tensors[MEAN]
    return Weights(file, tensors, spec, Pixels.of(spec))


def net_of(weights: Weights) -> ChosenNet | None:
    """Return the network that is in a file of weights, None if it has none.

    A built-in network can be made for other classes.
    """
    if weights.spec is None:
        return None
    name = weights.spec.name
    return NamedNet(name) if name in nets.NAMES else FixedNet(weights.spec, str(weights.path))


def checkpoint_of(
    weights: Weights,
    net: ChosenNet | None = None,
    reading: Reading | None = None,
    classes: Sequence[str] | None = None,
    batch: int | None = None,
) -> tuple[Checkpoint, list[str]]:
    """Make the checkpoint of a run that was trained elsewhere, on data that is not at hand.

    Args:
        weights: The weights.
        net: The network; None: that of the file.
        reading: Choices of how they are fitted.
        classes: The names of the classes; None: numbers, as many as the weights are for.
        batch: The run's images per batch; None: the network's own.

    Returns:
        The checkpoint, and lines for people.

    Raises:
        CheckpointError: The weights do not fit the network.
        ValueError: There is no network, or it is not known what is subtracted from pixels.
    """
    chosen = net or (None if weights.spec is None else FixedNet(weights.spec, str(weights.path)))
    if chosen is None:
        raise ValueError(f"--net is needed: {weights.path} does not contain its network")
    spec, notes = chosen.build(None, None if classes is None else len(classes))
    if classes is None and (count := classes_in(weights, spec)) not in (None, spec.classes):
        spec, notes = chosen.build(None, count)
    fitted = (reading or Reading()).fitted(weights, spec)
    spec = fitted.spec
    mean = weights.tensors.get(MEAN)
    if mean is None or mean.shape != spec.stored_shape:
        mean = None if spec.input.mean is None else np.zeros(spec.stored_shape, np.float32)
    if mean is None:
        raise ValueError(
            f"--mean is needed: {spec.name} subtracts the mean of its training images, which {weights.path} "
            "lacks; or --data, their folder"
        )
    options = Options(net=spec.name, data=NONE, size=chosen.stored_size, batch=batch)
    settings = Settings(
        **{**options.settings(spec.recipe), "batch": batch or spec.recipe.batch},
        classes=[str(number) for number in range(spec.classes)] if classes is None else list(classes),
        image_shape=list(spec.stored_shape),
        train_images=0,
        test_images=0,
        net=spec.name,
        lr_scale={},
        color_noise_epochs=spec.recipe.color_noise_epochs,
        color_noise_shrinks=spec.recipe.color_noise_shrinks,
        imported=True,
    )
    tensors = Plan(spec, batch=1, devices="cpu:0").state(fitted.tensors)
    checkpoint = Checkpoint(
        tensors=tensors | {MEAN: mean},
        spec=nets.spec_to_dict(spec),
        settings=dataclasses.asdict(settings),
        progress=dataclasses.asdict(Progress()),
    )
    return checkpoint, [*notes, *fitted.notes]


def write_run(checkpoint: Checkpoint, out: Path | None = None) -> Path:
    """Write a checkpoint as the first one of a new run, and return the run's folder.

    Args:
        checkpoint: The checkpoint.
        out: The folder; None: one in ``runs/``.

    Raises:
        RunError: The folder is not empty.
        OSError: It cannot be written.
    """
    spec = nets.spec_from_dict(checkpoint.spec)
    plan = Plan(spec, batch=1, devices="cpu:0")
    config: dict[str, Any] = configuration(Settings.from_dict(checkpoint.settings), spec, plan, KEEP)
    path = new_folder(spec.name, "imported") if out is None else out
    with Run.create(path, config | surroundings(plan)) as run:
        run.checkpoints.save(checkpoint)
    return path
