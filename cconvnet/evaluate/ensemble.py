"""The error of trained networks on test images: of one, or of several and their average."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet import data, runs
from cconvnet.data import datasets
from cconvnet.data.fingerprint import differences
from cconvnet.data.preprocessing import Preprocessing
from cconvnet.evaluate.tally import Tally
from cconvnet.evaluate.trained import Trained, check_source, load_trained, recorded_preprocessing
from cconvnet.evaluate.views import Array, check_views, judge, mean_probabilities, views_of

Stepped = Callable[[int, int], None]  # batches done, batches in all


class Ensemble:
    """The sum of its members' probabilities for each test image."""

    def __init__(self, images: int, classes: int) -> None:
        self.sum = np.zeros((images, classes))
        self.members = np.zeros(images, np.int32)  # how many have looked at each image; broken ones: none

    def add(self, indices: Array, probabilities: Array) -> None:
        self.sum[indices] += probabilities
        self.members[indices] += 1

    def tally(self, labels: Array) -> Tally:
        """Loss and errors of the averaged probabilities."""
        seen = np.flatnonzero(self.members)
        tally = Tally()
        for start in range(0, len(seen), 1024):
            part = seen[start : start + 1024]
            tally.add(judge(self.sum[part] / self.members[part, None], labels[part]))
        return tally


def evaluate_run(
    trained: Trained,
    source: data.Source,
    stepped: Stepped = lambda done, total: None,
    views: str = "center",
    ensemble: Ensemble | None = None,
) -> Tally:
    """The error of a trained network on a source's test images.

    Args
        stepped: called after each batch with the number of batches done and of all.
        views: see views_of(); outputs are averaged over them before they are judged.
        ensemble: is given the probabilities.

    Raises
        ValueError: the source's classes or image size are not those the network was trained on.
    """
    check_source(trained, source)
    network = trained.network
    chosen = views_of(network.spec, views)
    tally = Tally()
    with data.Loader(
        source.test,
        batch=network.batch,
        crop=(network.spec.input.height, network.spec.input.width),
        shuffle=False,
        drop_last=False,
    ) as loader:
        for done, batch in enumerate(loader.epoch(0), start=1):
            if len(chosen) == 1 and ensemble is None:
                # As training tests: the loss is taken from the logits, which no probability of 0 disturbs.
                network.load(batch.images, batch.labels, batch.top, batch.left)
                network.forward(train=False)
                tally.add(network.result())
            else:
                probabilities = mean_probabilities(network, batch.images, chosen)
                tally.add(judge(probabilities, batch.labels))
                if ensemble is not None:
                    ensemble.add(batch.indices, probabilities)
            stepped(done, loader.steps_per_epoch)
    return tally


@dataclasses.dataclass(frozen=True)
class Result:
    """What one trained network was found to do on the test images, in how many views of each."""

    path: Path
    net: str
    device: str
    precision: str
    views: int
    tally: Tally


def evaluate_runs(
    paths: list[Path],
    where: str | None = None,
    *,
    devices: list[str] | None = None,
    batch: int | None = None,
    best: bool = False,
    views: str = "center",
    precision: str | None = None,
    say: Callable[[str], None] = lambda text: None,
    stepped: Stepped = lambda done, total: None,
) -> tuple[data.Source, list[Result], Tally]:
    """Tests one network, or several and the average of their probabilities.

    The networks are in memory one after another; the probabilities of all test images stay. Every checkpoint
    is read before the first is tested, so that what cannot be used is found out early.

    Args
        paths: runs or checkpoints; best: of runs, take the best checkpoint instead of the newest.
        where: the data's folder; None: that of the first run.
        precision: None: that in which each was trained.
        say: is told of damaged checkpoints that were passed over, and of the data.

    Returns
        The data, each network's result, and the ensemble's errors; of one network its own.

    Raises
        RunError, CheckpointError: a run has no sound checkpoint.
        ValueError, DeviceUnavailable: networks or data do not fit together, or the device cannot be used.
    """
    check_views(views)
    files: list[Path] = []
    read_by: list[Preprocessing] = []
    known: list[dict[str, str]] = []
    settings: dict[str, Any] = {}
    for path in paths:
        file, checkpoint, skipped = runs.find_checkpoint(path, best)
        for line in skipped:
            say(f"skipped: {line}")
        settings = settings or checkpoint.settings
        for name in ("classes", "image_shape"):
            if checkpoint.settings[name] != settings[name]:
                raise ValueError(
                    f"{file} cannot be averaged with {files[0]}: its {name.replace('_', ' ')} is "
                    f"{_short(checkpoint.settings[name])}, there {_short(settings[name])}"
                )
        files.append(file)
        known.append(checkpoint.settings.get("pictures", {}))
        read_by.append(recorded_preprocessing(checkpoint))
    sources: dict[Preprocessing, data.Source] = {}

    def source_of(rules: Preprocessing) -> data.Source:
        """The data, read as the pictures were that a network was trained on."""
        if rules not in sources:
            # The training pictures, of which there are most, are not looked at: none is decoded before it
            # is read.
            sources[rules] = data.open_source(
                datasets.stored(settings["data"]) if where is None else where,
                settings["size"],
                cache_bytes=0,
                preprocessing=rules,
            )
            found = sources[rules].preprocessing
            if found != rules:
                say(f"pictures: {found.describe()}; the network was trained on pictures {rules.describe()}")
        return sources[rules]

    source = source_of(read_by[0])
    for line in source.account.lines() if source.account is not None else []:
        say(f"data: {line}")
    for file, began in zip(files, known, strict=True):
        for line in differences(began, source.fingerprints, f"{file} was trained with"):
            say(f"data: {line}")
    ensemble = Ensemble(len(source.test), len(settings["classes"])) if len(files) > 1 else None

    def test(file: Path) -> Result:  # a function, whose network is gone before the next is made
        trained = load_trained(file, devices=devices, batch=batch, precision=precision)
        tally = evaluate_run(trained, source_of(trained.preprocessing), stepped, views, ensemble)
        network = trained.network
        count = len(views_of(network.spec, views))
        device = network.describe()["device"]
        return Result(file, network.spec.name, device, network.precision, count, tally)

    results = [test(file) for file in files]
    return source, results, ensemble.tally(source.test.labels) if ensemble is not None else results[0].tally


def _short(values: list[Any]) -> str:
    text = ", ".join(map(str, values))
    return text if len(text) < 60 else f"{text[:57]}..."
