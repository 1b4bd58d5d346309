"""Predicted classes of test images: confusion matrix, errors of classes, worst mistakes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from cconvnet.evaluate import Answers, judge, readable_names

CLASSES = ["ant", "bee", "cat", "dog"]


def answered(
    labels: list[int], probabilities: np.ndarray, numbers: list[int] | None = None, batch: int = 3
) -> Answers:
    """Return the answers of images that are added in batches."""
    chosen = np.arange(len(labels)) if numbers is None else np.array(numbers)
    right = np.array(labels, np.int32)
    answers = Answers(right, CLASSES, "image {}".format)
    for start in range(0, len(chosen), batch):
        part = chosen[start : start + batch]
        answers.add(part, probabilities[part], judge(probabilities[part], right[part]).rank)
    return answers


@pytest.fixture(scope="module")
def many() -> tuple[list[int], np.ndarray]:
    draws = np.random.default_rng(3)
    return draws.integers(0, 3, 200).tolist(), draws.dirichlet(np.ones(4), 200)


def test_the_matrix_counts_pairs_of_classes(many: tuple[list[int], np.ndarray]) -> None:
    labels, probabilities = many
    confusion = answered(labels, probabilities).confusion
    expected = Counter(zip(labels, probabilities.argmax(axis=1).tolist(), strict=True))
    assert confusion.shape == (4, 4) and confusion.dtype == np.int64
    assert {pair: count for pair, count in np.ndenumerate(confusion) if count} == expected
    assert confusion.sum() == 200


def test_errors_of_classes_agree_with_the_matrix(many: tuple[list[int], np.ndarray]) -> None:
    answers = answered(*many)
    confusion = answers.confusion
    found = answers.per_class
    errors = [one.error for one in found[:3]]
    assert errors == sorted(errors, reverse=True)
    for one in found[:3]:
        row = confusion[one.label].copy()
        assert (one.name, one.images, one.wrong) == (
            CLASSES[one.label],
            row.sum(),
            row.sum() - row[one.label],
        )
        assert one.error == one.wrong / one.images
        row[one.label] = 0
        assert (one.taken_for, one.taken_for_images) == (CLASSES[row.argmax()], row.max())
    # No image is a dog.
    assert (found[3].name, found[3].images, found[3].error, found[3].taken_for) == ("dog", 0, None, None)


def test_the_most_confused_pairs(many: tuple[list[int], np.ndarray]) -> None:
    answers = answered(*many)
    confusion = answers.confusion
    pairs = answers.confused(100)
    assert len(pairs) == 9  # of three classes, each with three others
    assert sum(one.images for one in pairs) == 200 - np.trace(confusion)
    assert [one.images for one in pairs] == sorted((one.images for one in pairs), reverse=True)
    for one in pairs:
        row, column = CLASSES.index(one.name), CLASSES.index(one.predicted)
        assert one.images == confusion[row, column]
        assert one.share == pytest.approx(one.images / confusion[row].sum())
    assert answers.confused(2) == pairs[:2]


def test_the_most_confident_mistakes_come_first(many: tuple[list[int], np.ndarray]) -> None:
    labels, probabilities = many
    answers = answered(labels, probabilities)
    wrong = [n for n in range(200) if probabilities[n].argmax() != labels[n]]
    wrong.sort(key=lambda n: -probabilities[n].max())
    found = answers.worst(7)
    assert [one.index for one in found] == wrong[:7]
    for one in found:
        assert one.file == f"image {one.index}"
        assert one.name == CLASSES[labels[one.index]]
        assert one.predicted == CLASSES[probabilities[one.index].argmax()]
        assert one.probability == probabilities[one.index].max()
        assert one.probability_of_right == probabilities[one.index, labels[one.index]]
    assert len(answers.worst(1000)) == len(wrong)


def test_images_that_were_not_tested_count_nowhere(many: tuple[list[int], np.ndarray]) -> None:
    labels, probabilities = many
    numbers = list(range(5, 200, 7))
    answers = answered(labels, probabilities, numbers)
    assert answers.confusion.sum() == sum(one.images for one in answers.per_class) == len(numbers)
    assert {one.index for one in answers.worst(200)} <= set(numbers)
    assert [one.index for one in answers] == numbers
    nothing = answered(labels, probabilities, [])
    assert (nothing.confusion.sum(), nothing.worst(3), nothing.confused(3)) == (0, [], [])
    assert all(one.error is None for one in nothing.per_class)


def test_the_rank_decides_where_rounded_probabilities_are_equal() -> None:
    """Logits may differ where float32 probabilities do not."""
    answers = Answers(np.array([1, 0], np.int32), CLASSES)
    equal = np.array([[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0]], np.float32)
    answers.add(np.array([0, 1]), equal, np.array([0, 1], np.int32))
    assert answers.predicted.tolist() == [1, 1]
    assert answers.confusion[1, 1] == 1 and answers.confusion[0, 1] == 1


def test_a_thousand_classes() -> None:
    names = [f"n{number:08}" for number in range(1000)]
    labels = np.arange(3000, dtype=np.int32) % 1000
    answers = Answers(labels, names)
    probabilities = np.zeros((3000, 1000), np.float32)
    probabilities[np.arange(3000), (labels + (labels == 7)) % 1000] = 1
    answers.add(np.arange(3000), probabilities, (labels == 7).astype(np.int32))
    assert answers.confusion.nbytes == 8_000_000
    assert [(one.name, one.predicted, one.images) for one in answers.confused(5)] == [(names[7], names[8], 3)]
    assert answers.per_class[0].name == names[7] and answers.per_class[1].error == 0


def test_names_for_people() -> None:
    titles = ["crane", "crane", "tench, Tinca tinca"]
    assert readable_names(["n1", "n2", "n3"], titles) == ["crane (n1)", "crane (n2)", "tench"]
    assert readable_names(["n1", "n2"], None) == ["n1", "n2"]
