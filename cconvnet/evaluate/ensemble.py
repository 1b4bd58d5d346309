"""Errors of trained networks on test images: of each, and of the average of their probabilities."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet import data, nets, runs
from cconvnet.data import datasets
from cconvnet.data.fingerprint import differences
from cconvnet.data.label_images import has_pixels
from cconvnet.data.preprocessing import Preprocessing
from cconvnet.evaluate.answers import (
    Answer,
    Answers,
    ClassResult,
    PixelAnswers,
    PixelFigures,
    answers_for,
    readable_names,
)
from cconvnet.evaluate.tally import Tally
from cconvnet.evaluate.trained import (
    Trained,
    are_numbers,
    check_source,
    load_trained,
    recorded_preprocessing,
)
from cconvnet.evaluate.views import Array, check_views, judge, mean_probabilities, views_of
from cconvnet.nets.costs import answers_for_pixels
from cconvnet.nets.dense import sides_taken
from cconvnet.runs.data_record import account_lines

Stepped = Callable[[int, int], None]  # batches done, batches in all

_ONE_VIEW = "labels of pixels are for one network and one view of each image"


class Ensemble:
    """Sum of its members' probabilities for each test image.

    Attributes:
        sum: float64[images, classes].
        members: int32[images], the number of members that saw each image; unreadable images have none.
    """

    def __init__(self, images: int, classes: int) -> None:
        self.sum = np.zeros((images, classes))
        self.members = np.zeros(images, np.int32)

    def add(self, indices: Array, probabilities: Array) -> None:
        """Add a member's probabilities[n, classes] of the images with these indices."""
        self.sum[indices] += probabilities
        self.members[indices] += 1

    def tally(self, labels: Array, answers: Answers | None = None) -> Tally:
        """Return loss and errors of the averaged probabilities.

        Args:
            labels: int32[images], the right classes.
            answers: Receives the predicted classes.
        """
        seen = np.flatnonzero(self.members)
        tally = Tally()
        for start in range(0, len(seen), 1024):
            part = seen[start : start + 1024]
            probabilities = self.sum[part] / self.members[part, None]
            result = judge(probabilities, labels[part])
            tally.add(Tally.of(result))
            if answers is not None:
                answers.add(part, probabilities, result.rank)
        return tally


def evaluate_run(
    trained: Trained,
    source: data.Source,
    stepped: Stepped = lambda done, total: None,
    views: str = "center",
    ensemble: Ensemble | None = None,
    answers: Answers | None = None,
    numbers: Array | None = None,
) -> Tally:
    """Compute the loss and the errors of a trained network on a source's test images.

    Args:
        trained: The network.
        source: The data.
        stepped: Called after each batch with the number of batches done and in all.
        views: A name from VIEWS; probabilities are averaged over the views before they are judged.
        ensemble: Receives the probabilities.
        answers: Receives the predicted classes.
        numbers: int64[n], the numbers of the test images to use; all if not given.

    Raises:
        ValueError: The source has other classes or another image size than the training had.
    """
    check_source(trained, source)
    network = trained.network
    chosen = views_of(network.spec, views)
    of_pixels = has_pixels(source.test.labels)
    if of_pixels and (len(chosen) > 1 or ensemble is not None):
        raise ValueError(_ONE_VIEW)
    tally = Tally()
    with data.Loader(
        source.test,
        batch=network.batch,
        crop=(network.spec.input.height, network.spec.input.width),
        shuffle=False,
        drop_last=False,
        numbers=numbers,
    ) as loader:
        for done, batch in enumerate(loader.epoch(0), start=1):
            if len(chosen) == 1 and ensemble is None and (of_pixels or not trained.dense):
                # Like the tests of a training: a loss from the logits is finite where a probability is 0.
                network.load(batch.images, batch.labels, batch.top, batch.left)
                network.forward(train=False)
                result = network.result()
                if answers is not None:
                    probabilities = network.outputs(network.spec.answer.name)[: len(batch)]
            else:
                probabilities = mean_probabilities(network, batch.images, chosen)
                result = judge(probabilities, batch.labels)
                if ensemble is not None:
                    ensemble.add(batch.indices, probabilities)
            tally.add(Tally.of(result))
            if isinstance(answers, PixelAnswers):
                answers.add_pixels(batch.labels, probabilities)
            elif answers is not None:
                answers.add(batch.indices, probabilities, result.rank)
            stepped(done, loader.steps_per_epoch)
    return tally


@dataclasses.dataclass(frozen=True)
class Result:
    """Result of one trained network on the test images.

    Attributes:
        path: Its checkpoint.
        net: The network's name.
        device: The devices' names.
        precision: The precision of products.
        views: The number of views of each image.
        tally: Loss and errors.
    """

    path: Path
    net: str
    device: str
    precision: str
    views: int
    tally: Tally


@dataclasses.dataclass(frozen=True, repr=False)
class Evaluation:
    """Result of trained networks on test images, in all and by class.

    With several networks it is that of the average of their probabilities.

        >>> found = cc.load("runs/first").evaluate()
        >>> found
        digits, 355 test images, 1 view: top-1 error 1.69%, top-5 error 0.00%, loss 0.0488
        >>> found.per_class[0]
        ClassResult(label=9, name='9', images=36, wrong=3, taken_for='3', taken_for_images=1)
        >>> found.confusion.sum() - found.confusion.trace()
        6
        >>> plt.imshow(found.picture(found.worst()[0]))

    Attributes:
        source: The data.
        results: The result of each network.
        tally: Loss and errors.
        answers: The predicted class of each test image.
    """

    source: data.Source
    results: list[Result]
    tally: Tally
    answers: Answers

    @property
    def images(self) -> int:
        """The number of test images, or of their pixels with labels."""
        return self.tally.count

    @property
    def loss(self) -> float:
        """The mean loss of an image."""
        return self.tally.mean_loss

    @property
    def error_top1(self) -> float:
        """The share of images, from 0 to 1, whose right class is not the most probable one."""
        return self.tally.error_top1

    @property
    def error_top5(self) -> float:
        """The share of images, from 0 to 1, whose right class is not among the five most probable."""
        return self.tally.error_top5

    @property
    def classes(self) -> list[str]:
        """The names of the classes."""
        return self.answers.classes

    @property
    def confusion(self) -> Array:
        """int64[classes, classes]: the images of each right class (row) by predicted class (column)."""
        return self.answers.confusion

    @property
    def per_class(self) -> list[ClassResult]:
        """The result of each class, that of the highest error first; classes without images come last."""
        return self.answers.per_class

    @property
    def figures(self) -> PixelFigures | None:
        """Of labels of pixels: accuracy and intersection over union; otherwise None."""
        return self.answers.figures if isinstance(self.answers, PixelAnswers) else None

    @property
    def size(self) -> str:
        """The number of test images, and of their pixels if these have labels, in words."""
        if isinstance(self.answers, PixelAnswers):
            return f"{self.answers.images:,} test images, {self.images:,} pixels"
        return f"{self.images:,} test images"

    def __repr__(self) -> str:
        views = self.results[0].views
        if self.figures is not None:
            return f"{self.source.name}, {self.size}: {self.figures}, loss {self.loss:.4f}"
        return (
            f"{self.source.name}, {self.images:,} test images, {views} view{'s' * (views > 1)}: "
            f"{self.tally.text(len(self.classes))}"
        )

    def worst(self, count: int = 20) -> list[Answer]:
        """Return the wrong predicted classes of the highest probability, at most `count`."""
        return self.answers.worst(count)

    def picture(self, answer: Answer) -> Array:
        """Return the stored image uint8[H,W,C] of an answer."""
        image: Array = self.source.test.read([answer.index])[0][0]
        return image


def evaluate_runs(
    paths: list[Path],
    where: datasets.Where | data.Source = None,
    *,
    devices: list[str] | None = None,
    batch: int | None = None,
    best: bool = False,
    views: str = "center",
    precision: str | None = None,
    folded: bool = False,
    dense: bool | str = False,
    say: Callable[[str], None] = lambda text: None,
    stepped: Stepped = lambda done, total: None,
) -> Evaluation:
    """Test one network, or several and the average of their probabilities.

    One network at a time is in memory. Every checkpoint is read before the first is tested, so that one that
    cannot be used is found early.

    Args:
        paths: Runs or checkpoints.
        where: The data's folder, a file of arrays, arrays, or the data opened. If not given, each network is
            tested on the data of its own run, all of which must have the same test images in one order, such
            as digits of several widths.
        devices: The devices; the default one if not given.
        batch: Images per batch; each run's own if not given.
        best: Of runs, take the best checkpoint instead of the newest.
        views: A name from VIEWS.
        precision: The precision of products; that of each training if not given.
        folded: Fold batch normalisations into the products before them; see Network.folded.
        dense: Classify every place of whole images, and average these probabilities; see load_trained(). A
            network that answers for each pixel does so for whole pictures, on a canvas for the largest.
        say: Receives lines about damaged checkpoints that were skipped, and about the data.
        stepped: Called after each batch with the number of batches done and in all.

    Returns:
        The result of each network and of their average. For a single network both are the same.

    Raises:
        RunError: A folder contains no run.
        CheckpointError: A run has no undamaged checkpoint.
        ValueError: Networks or data do not fit together.
        DeviceUnavailable: A device cannot be used.
    """
    check_views(views)
    files: list[Path] = []
    read_by: list[Preprocessing] = []
    known: list[dict[str, str]] = []
    each: list[dict[str, Any]] = []
    specs: list[nets.NetSpec] = []
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
        each.append(checkpoint.settings)
        specs.append(nets.spec_from_dict(checkpoint.spec))
        known.append(checkpoint.settings.get("pictures", {}))
        read_by.append(recorded_preprocessing(checkpoint))
    canvas = partial(sides_taken, specs[0]) if dense and answers_for_pixels(specs[0]) else None
    sources: dict[tuple[Preprocessing, str, int | None], data.Source] = {}

    def source_of(number: int) -> data.Source:
        """Open the data by the rules of a network's training."""
        if isinstance(where, data.Source):
            return where
        own, rules = (each[number] if where is None else settings), read_by[number]
        given = datasets.from_settings(own["data"], runs.folder_of(files[number])) if where is None else where
        key = rules, str(given), own["size"]
        if key not in sources:
            # Without a cache no image is decoded before it is read: training images never are.
            sources[key] = data.open_source(
                given, own["size"], cache_bytes=0, preprocessing=rules, canvas=canvas
            )
            found = sources[key].preprocessing
            if found != rules:
                say(f"pictures: {found.describe()}; the network was trained on pictures {rules.describe()}")
        return sources[key]

    source = source_of(0)
    if len(files) > 1 and has_pixels(source.test.labels):
        raise ValueError(_ONE_VIEW)
    for number, file in enumerate(files[1:], 1):
        if not np.array_equal(source_of(number).test.labels, source.test.labels):
            raise ValueError(
                f"{file} cannot be averaged with {files[0]}: its test images, those of "
                f"{source_of(number).name}, have other labels than those of {source.name}"
            )
    for line in account_lines(source):
        say(f"data: {line}")
    for number, (file, began) in enumerate(zip(files, known, strict=True)):
        for line in differences(began, source_of(number).fingerprints, f"{file} was trained with"):
            say(f"data: {line}")
    ensemble = Ensemble(len(source.test), len(settings["classes"])) if len(files) > 1 else None
    # Imported weights may know their classes by number alone.
    unnamed = settings["data"] == datasets.NONE and are_numbers(settings["classes"])
    names = readable_names(source.classes if unnamed else settings["classes"], source.titles)
    answers = answers_for(source.test, names)

    def test(number: int) -> Result:  # its network is freed before the next one is made
        file = files[number]
        trained = load_trained(
            file,
            devices=devices,
            batch=batch,
            precision=precision,
            folded=folded,
            dense=dense,
            image=source.image_shape[:2] if dense and has_pixels(source.test.labels) else None,
        )
        own = answers if ensemble is None else None
        tally = evaluate_run(trained, source_of(number), stepped, views, ensemble, own)
        network = trained.network
        count = len(views_of(network.spec, views))
        device = network.describe()["device"]
        return Result(file, network.spec.name, device, network.precision, count, tally)

    results = [test(number) for number in range(len(files))]
    together = results[0].tally if ensemble is None else ensemble.tally(source.test.labels, answers)
    return Evaluation(source, results, together, answers)


def _short(values: list[Any]) -> str:
    text = ", ".join(map(str, values))
    return text if len(text) < 60 else f"{text[:57]}..."
