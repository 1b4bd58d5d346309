"""Predicted class of each test image: confusion matrix, error of each class, worst mistakes."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from cconvnet.data import Split
from cconvnet.data.label_images import has_pixels
from cconvnet.evaluate.views import Array


@dataclasses.dataclass(frozen=True)
class ClassResult:
    """Result of one class.

    Attributes:
        label: The number of the class.
        name: Its name.
        images: The number of its test images.
        wrong: The number of those with another predicted class.
        taken_for: The class most often predicted for those; None if there are none.
        taken_for_images: The number of images with that predicted class.
    """

    label: int
    name: str
    images: int
    wrong: int
    taken_for: str | None
    taken_for_images: int

    @property
    def error(self) -> float | None:
        """The share of its images that are wrong, from 0 to 1; None without images."""
        return self.wrong / self.images if self.images else None


@dataclasses.dataclass(frozen=True)
class PixelFigures:
    """Results of labels of pixels, from 0 to 1.

    Source: Long, Shelhamer and Darrell 2015, "Fully Convolutional Networks for Semantic Segmentation",
    section 5. Means are over the classes that there are.

    Attributes:
        pixel_accuracy: The share of pixels that are right.
        mean_accuracy: The mean over classes of the share of their pixels that are right.
        mean_iu: The mean over classes of their intersection over union.
        frequency_weighted_iu: The same mean, weighted by the classes' pixels.
    """

    pixel_accuracy: float
    mean_accuracy: float
    mean_iu: float
    frequency_weighted_iu: float

    @classmethod
    def of(cls, confusion: Array) -> PixelFigures:
        """Return the figures of int64[classes, classes], the pixels of right class by predicted class."""
        right, of_class = confusion.diagonal(), confusion.sum(axis=1)
        overlap, there = overlaps(confusion), of_class > 0
        if not there.any():
            return cls(0.0, 0.0, 0.0, 0.0)
        return cls(
            float(right.sum() / of_class.sum()),
            float((right[there] / of_class[there]).mean()),
            float(np.nanmean(overlap)),
            float((of_class * np.nan_to_num(overlap)).sum() / of_class.sum()),
        )

    def __str__(self) -> str:
        names = ("pixel accuracy", "mean accuracy", "mean IU", "frequency-weighted IU")
        values = dataclasses.astuple(self)
        return ", ".join(f"{name} {value:.2%}" for name, value in zip(names, values, strict=True))


def overlaps(confusion: Array) -> Array:
    """Return the intersection over union of each class, float64[classes]; NaN for one without pixels.

    A class that is only predicted has an intersection of 0.
    """
    right = confusion.diagonal()
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - right
    return np.where(union > 0, right / np.maximum(union, 1), np.nan)


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Images of one class for which another one was predicted.

    Attributes:
        name: The right class.
        predicted: The predicted class.
        images: The number of such images.
        share: Their share of the right class's images, from 0 to 1.
    """

    name: str
    predicted: str
    images: int
    share: float


@dataclasses.dataclass(frozen=True)
class Answer:
    """Predicted class of one test image.

    Attributes:
        index: Its number among the test images.
        file: The name of its file, or a name with its number.
        name: The right class.
        predicted: The predicted class.
        probability: The probability of the predicted class.
        probability_of_right: The probability of the right class.
    """

    index: int
    file: str
    name: str
    predicted: str
    probability: float
    probability_of_right: float


def readable_names(classes: Sequence[str], titles: Sequence[str] | None) -> list[str]:
    """Return a name of each class for people: the first word of its title if there are titles.

    Classes that would have the same name keep their own beside it, such as ImageNet's two cranes.
    """
    if titles is None:
        return list(classes)
    first = [title.partition(",")[0] for title in titles]
    count = collections.Counter(first)
    return [f"{name} ({own})" if count[name] > 1 else name for name, own in zip(first, classes, strict=True)]


class Answers:
    """Predicted class and probabilities of each test image.

    It takes 24 bytes an image, and the confusion matrix 8 bytes a pair of classes: 8 MB for 1000 classes.

    Args:
        labels: int32[images], the right classes.
        classes: The names of the classes.
        files: Returns the name of an image.

    Attributes:
        labels: int32[images], the right classes.
        classes: The names of the classes.
        predicted: int32[images], the predicted classes; -1 for images that were not tested.
        probability: float64[images], the probability of the predicted class.
        probability_of_right: float64[images], the probability of the right class.
    """

    def __init__(self, labels: Array, classes: Sequence[str], files: Callable[[int], str] = str) -> None:
        self.labels = labels
        self.classes = list(classes)
        self._files = files
        self.predicted = np.full(len(labels), -1, np.int32)
        self.probability = np.zeros(len(labels))
        self.probability_of_right = np.zeros(len(labels))

    def add(self, indices: Array, probabilities: Array, rank: Array) -> None:
        """Add images.

        Args:
            indices: int64[n], their numbers.
            probabilities: float[n, classes].
            rank: int32[n], the number of classes before the right one. It decides whether an image is right,
                because rounded probabilities may be equal where the logits are not.
        """
        rows = np.arange(len(indices))
        labels = self.labels[indices]
        others = probabilities.copy()
        others[rows, labels] = -1.0
        predicted = np.where(rank == 0, labels, others.argmax(axis=1))
        self.predicted[indices] = predicted
        self.probability[indices] = probabilities[rows, predicted]
        self.probability_of_right[indices] = probabilities[rows, labels]

    @property
    def confusion(self) -> Array:
        """int64[classes, classes]: the images of each right class (row) by predicted class (column)."""
        count = len(self.classes)
        tested = self.predicted >= 0
        pairs = self.labels[tested].astype(np.int64) * count + self.predicted[tested]
        return np.bincount(pairs, minlength=count * count).reshape(count, count)

    @property
    def per_class(self) -> list[ClassResult]:
        """The result of each class, that of the highest error first; classes without images come last."""
        confusion = self.confusion
        images = confusion.sum(axis=1)
        right = confusion.diagonal().copy()
        others = confusion - np.diag(right)
        most, taken_for = others.max(axis=1, initial=0), others.argmax(axis=1)
        found = [
            ClassResult(
                label,
                name,
                int(images[label]),
                int(images[label] - right[label]),
                self.classes[taken_for[label]] if most[label] else None,
                int(most[label]),
            )
            for label, name in enumerate(self.classes)
        ]
        return sorted(found, key=lambda one: (one.error is None, -(one.error or 0.0), one.label))

    def confused(self, count: int) -> list[Confusion]:
        """Return the pairs of classes that were confused most often, at most `count`."""
        confusion = self.confusion
        images = confusion.sum(axis=1)
        np.fill_diagonal(confusion, 0)
        flat = confusion.ravel()
        pairs = np.flatnonzero(flat)
        found = []
        for pair in pairs[np.argsort(-flat[pairs], kind="stable")][:count].tolist():
            right, predicted = divmod(pair, len(self.classes))
            share = float(flat[pair] / images[right])
            found.append(Confusion(self.classes[right], self.classes[predicted], int(flat[pair]), share))
        return found

    def worst(self, count: int) -> list[Answer]:
        """Return the wrong predicted classes of the highest probability, at most `count`."""
        wrong = np.flatnonzero((self.predicted >= 0) & (self.predicted != self.labels))
        order = np.argsort(-self.probability[wrong], kind="stable")[:count]
        return [self._answer(index) for index in wrong[order].tolist()]

    def __iter__(self) -> Iterator[Answer]:
        """Yield the answer of each tested image."""
        return map(self._answer, np.flatnonzero(self.predicted >= 0).tolist())

    def _answer(self, index: int) -> Answer:
        return Answer(
            index,
            self._files(index),
            self.classes[self.labels[index]],
            self.classes[self.predicted[index]],
            float(self.probability[index]),
            float(self.probability_of_right[index]),
        )


class PixelAnswers(Answers):
    """Predicted classes of test images' pixels: their confusion matrix, and no answer of a single pixel.

    Args:
        classes: The names of the classes.

    Attributes:
        images: The number of images.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(np.zeros(0, np.int32), classes)
        self._confusion = np.zeros((len(classes),) * 2, np.int64)
        self.images = 0

    @property
    def figures(self) -> PixelFigures:
        """The results in four figures."""
        return PixelFigures.of(self._confusion)

    @property
    def overlaps(self) -> Array:
        """float64[classes], the intersection over union of each class; NaN for one without pixels."""
        return overlaps(self._confusion)

    def add_pixels(self, labels: Array, probabilities: Array) -> None:
        """Add images.

        Args:
            labels: int32[n,H,W], the right classes; others than classes count for nothing.
            probabilities: float[n,H,W, classes].
        """
        count = len(self.classes)
        self.images += len(labels)
        known = (labels >= 0) & (labels < count)
        pairs = labels[known].astype(np.int64) * count + probabilities.argmax(3)[known]
        self._confusion += np.bincount(pairs, minlength=count * count).reshape(count, count)

    @property
    def confusion(self) -> Array:
        """int64[classes, classes]: the pixels of each right class (row) by predicted class (column)."""
        return self._confusion.copy()


def answers_for(split: Split, classes: Sequence[str]) -> Answers:
    """Return what receives the predicted classes of a split's images, or of their pixels."""
    if has_pixels(split.labels):
        return PixelAnswers(classes)
    return Answers(split.labels, classes, split.file)
