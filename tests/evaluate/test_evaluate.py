"""Evaluation of trained networks: one view and ten, one network and the average of several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cconvnet import data, nets
from cconvnet.data import decode_image
from cconvnet.data.preprocessing import UNRECORDED
from cconvnet.evaluate import (
    Answers,
    Ensemble,
    Tally,
    View,
    evaluate_run,
    evaluate_runs,
    judge,
    load_trained,
    mean_probabilities,
    predict,
    read_picture,
    views_of,
)
from cconvnet.nets import (
    RELU,
    ConvSpec,
    FcSpec,
    InputSpec,
    NetSpec,
    PoolSpec,
    SoftmaxCostSpec,
    TrainRecipe,
    chain,
    gaussian,
)
from cconvnet.network import Network
from cconvnet.runs import checkpoint
from cconvnet.runs.checkpoint import MEAN, Checkpoint

CLASSES = [f"class {number}" for number in range(7)]
STORED, SEEN = (13, 11), (8, 8)
Floats = npt.NDArray[np.float64]


def spec(filters: int = 6, stored: tuple[int, int] = STORED) -> NetSpec:
    layers = chain(
        ConvSpec(name="conv1", filters=filters, window=(3, 3), neuron=RELU, init=gaussian(0.02)),
        PoolSpec(name="pool1", window=(2, 2), stride=(2, 2)),
        FcSpec(name="fc1", outputs=len(CLASSES), init=gaussian(0.01)),
        SoftmaxCostSpec(name="cost"),
    )
    recipe = TrainRecipe(batch=10, epochs=1, lr=0.01)
    return NetSpec("small", layers, InputSpec(*SEEN, 3), stored, len(CLASSES), recipe)


def pictures(count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *STORED, 3)).astype(np.uint8)


def source(count: int = 45, classes: list[str] = CLASSES) -> data.Source:
    images = pictures(count)
    labels = (np.arange(count) % len(classes)).astype(np.int32)
    split = data.MemorySplit("test", images, labels)
    return data.Source("noise", classes, split, split)


def save(path: Path, seed: int, filters: int = 6, **changes: Any) -> Path:
    """Save a checkpoint of a network with initial weights of this seed."""
    network = Network(spec(filters), batch=4, devices="cpu:0", seed=seed)
    mean = np.random.default_rng(seed).uniform(0, 255, (*STORED, 3)).astype(np.float32)
    settings = {
        "batch": 10,
        "seed": seed,
        "classes": CLASSES,
        "image_shape": [*STORED, 3],
        "data": None,
        "size": None,
        "precision": "fp32",
    }
    checkpoint.save(
        path,
        Checkpoint(
            tensors={**network.state(), MEAN: mean},
            spec=nets.spec_to_dict(network.spec),
            settings={**settings, **changes},
            progress={"step": 0},
        ),
    )
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("saved")
    return [save(folder / f"{seed}.safetensors", seed, filters) for seed, filters in ((1, 6), (2, 6), (3, 9))]


def by_hand(path: Path, images: npt.NDArray[np.uint8], views: list[tuple[int, int, bool]]) -> Floats:
    """Return the averaged probabilities for pictures that NumPy cut and mirrored."""
    content = checkpoint.load(path)
    filters = content.tensors["conv1.weight"].shape[0]
    network = Network(spec(filters, stored=SEEN), batch=len(images), devices="cpu:0", seed=0)
    mean = content.tensors[MEAN]
    network.load_state({name: tensor for name, tensor in content.tensors.items() if name != MEAN})
    outputs = []
    for top, left, mirror in views:
        step = -1 if mirror else 1
        cut = (slice(top, top + SEEN[0]), slice(left, left + SEEN[1]))
        network.set_mean(np.ascontiguousarray(mean[cut][:, ::step]))
        shown = np.ascontiguousarray(images[:, cut[0], cut[1]][:, :, ::step])
        network.load(shown, np.zeros(len(images), np.int32))
        network.forward(train=False)
        outputs.append(network.outputs("cost").astype(np.float64))
    return np.mean(outputs, axis=0)


CORNERS = [(0, 0), (0, 3), (2, 1), (5, 0), (5, 3)]
TEN = [(top, left, mirror) for mirror in (False, True) for top, left in CORNERS]


# ---- views -----------------------------------------------------------------------------------------------


def test_views_are_the_papers() -> None:
    """They are 224x224 of 256x256: corners, centre, and their mirror images."""
    alexnet = nets.build("alexnet")
    places = [(0, 0), (0, 32), (16, 16), (32, 0), (32, 32)]
    assert views_of(alexnet, "ten") == [View(*place, m) for m in (False, True) for place in places]
    assert views_of(alexnet, "center") == [View(16, 16)]


def test_where_nothing_is_cropped_there_are_two_views() -> None:
    assert views_of(nets.build("cifar-quick"), "ten") == [View(0, 0, False), View(0, 0, True)]
    # Cropped in one direction: three places.
    assert len(views_of(spec(stored=(SEEN[0], SEEN[1] + 4)), "ten")) == 6


def test_unknown_views() -> None:
    with pytest.raises(ValueError, match="--views must be one of center, ten, not 'tne'; did you mean 'ten'"):
        views_of(spec(), "tne")


def test_ten_views_are_averaged(saved: list[Path]) -> None:
    images = pictures(9)
    trained = load_trained(saved[0], devices=["cpu:0"], batch=9)
    found = mean_probabilities(trained.network, images, views_of(trained.network.spec, "ten"))
    expected = by_hand(saved[0], images, TEN)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    one = by_hand(saved[0], images, [(2, 1, False)])
    assert np.abs(found - one).max() > 0.01  # the views do differ
    centre = mean_probabilities(trained.network, images, views_of(trained.network.spec, "center"))
    np.testing.assert_allclose(centre, one, rtol=1e-5)


# ---- errors and losses of averages -----------------------------------------------------------------------


def test_ranks_and_losses_of_averages() -> None:
    chance = np.random.default_rng(4)
    probabilities = chance.dirichlet(np.ones(9), 200)
    probabilities[50:100] = np.round(probabilities[50:100] * 8) / 8  # many equal ones, many zeros
    labels = chance.integers(0, 9, 200).astype(np.int32)
    result = judge(probabilities, labels)
    for row, label, rank, loss in zip(probabilities, labels, result.rank, result.losses, strict=True):
        order = sorted(range(9), key=lambda index: (-row[index], index))
        assert order.index(label) == rank
        assert loss == pytest.approx(-np.log(max(row[label], np.finfo(np.float32).tiny)))
    assert np.isfinite(result.losses).all()


def test_the_error_in_ten_views(saved: list[Path]) -> None:
    trained, noise = load_trained(saved[0], devices=["cpu:0"], batch=8), source()
    tally = evaluate_run(trained, noise, views="ten")
    images, labels = noise.test.read(np.arange(45))
    expected = by_hand(saved[0], images, TEN)
    order = np.argsort(-expected, axis=1)
    assert tally.count == 45
    assert tally.wrong_top1 == np.count_nonzero(order[:, 0] != labels)
    assert tally.wrong_top5 == np.count_nonzero((order[:, :5] != labels[:, None]).all(axis=1))
    losses = -np.log(np.take_along_axis(expected, labels[:, None].astype(np.int64), axis=1))
    assert tally.mean_loss == pytest.approx(losses.mean(), rel=1e-5)
    centre = evaluate_run(trained, noise)
    assert centre.mean_loss != tally.mean_loss
    one = judge(by_hand(saved[0], images, [(2, 1, False)]), labels)
    assert centre.mean_loss == pytest.approx(one.loss, rel=1e-5)


def test_predictions_in_ten_views(saved: list[Path], tmp_path: Path) -> None:
    from PIL import Image

    images = np.random.default_rng(1).integers(0, 256, (3, 13, 13, 3)).astype(np.uint8)
    files = [tmp_path / f"{index}.png" for index in range(3)]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file)
    trained = load_trained(saved[0], devices=["cpu:0"], batch=2)
    stored = np.stack([read_picture(file, (*STORED, 3)) for file in files])
    np.testing.assert_allclose(predict(trained, files, "ten"), by_hand(saved[0], stored, TEN), rtol=1e-5)
    center = by_hand(saved[0], stored, [(2, 1, False)])
    np.testing.assert_allclose(predict(trained, files), center, rtol=1e-5)


# ---- ensembles -------------------------------------------------------------------------------------------


def evaluate_noise(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[list[Tally], Tally]:
    noise = source()
    monkeypatch.setattr(data, "open_source", lambda where, size, **how: noise)
    found = evaluate_runs(paths, "noise", devices=["cpu:0"], **options)
    assert found.source is noise
    return [result.tally for result in found.results], found.tally


@pytest.mark.parametrize("views", ["center", "ten"])
def test_an_ensemble_is_the_average_of_its_members(
    views: str, saved: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks of two kinds."""
    members, together = evaluate_noise(saved, monkeypatch, views=views, batch=8)
    images, labels = source().test.read(np.arange(45))
    shown = TEN if views == "ten" else [(2, 1, False)]
    each = [by_hand(path, images, shown) for path in saved]
    expected = judge(np.mean(each, axis=0), labels)
    assert together.count == 45
    assert together.wrong_top1 == np.count_nonzero(expected.rank >= 1)
    assert together.wrong_top5 == np.count_nonzero(expected.rank >= 5)
    assert together.mean_loss == pytest.approx(expected.loss, rel=1e-5)
    for member, probabilities in zip(members, each, strict=True):
        assert member.mean_loss == pytest.approx(judge(probabilities, labels).loss, rel=1e-5)
    assert len({member.mean_loss for member in members}) == 3


@pytest.mark.parametrize("views", ["center", "ten"])
@pytest.mark.parametrize("members", [1, 3])
def test_answers_are_those_of_the_averages(
    members: int, views: str, saved: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = source()
    monkeypatch.setattr(data, "open_source", lambda where, size, **how: noise)
    found = evaluate_runs(saved[:members], "noise", devices=["cpu:0"], views=views, batch=8)
    images, _ = noise.test.read(np.arange(45))
    shown = TEN if views == "ten" else [(2, 1, False)]
    expected = np.mean([by_hand(path, images, shown) for path in saved[:members]], axis=0)
    assert found.classes == CLASSES
    assert found.answers.predicted.tolist() == expected.argmax(axis=1).tolist()
    np.testing.assert_allclose(found.answers.probability, expected.max(axis=1), rtol=1e-5)
    assert found.confusion.sum() - np.trace(found.confusion) == found.tally.wrong_top1
    assert sum(one.wrong for one in found.per_class) == found.tally.wrong_top1
    first = found.worst(1)[0]
    assert np.array_equal(found.picture(first), images[first.index])
    assert f"top-1 error {100 * found.error_top1:.2f}%, " in repr(found)


def test_five_classes_have_no_top5_error_to_show() -> None:
    tally = Tally(loss=10, wrong_top1=2, wrong_top5=1, count=4)
    assert tally.text(6) == "top-1 error 50.00%, top-5 error 25.00%, loss 2.5000"
    assert tally.text(5) == "top-1 error 50.00%, loss 2.5000"


def test_part_of_the_test_images(saved: list[Path]) -> None:
    trained, noise = load_trained(saved[0], devices=["cpu:0"], batch=4), source()
    numbers = np.arange(1, 45, 5)
    answers = Answers(noise.test.labels, CLASSES)
    tally = evaluate_run(trained, noise, answers=answers, numbers=numbers)
    assert tally.count == len(numbers)
    assert np.flatnonzero(answers.predicted >= 0).tolist() == numbers.tolist()
    whole = Answers(noise.test.labels, CLASSES)
    evaluate_run(trained, noise, answers=whole)
    assert np.array_equal(answers.predicted[numbers], whole.predicted[numbers])


def test_data_may_be_given_instead_of_its_folder(saved: list[Path]) -> None:
    noise = source()
    found = evaluate_runs(saved[:1], noise, devices=["cpu:0"])
    assert found.source is noise and found.images == 45
    with pytest.raises(ValueError, match="does not fit"):
        evaluate_runs(saved[:1], source(classes=["a", "b"]), devices=["cpu:0"])


def test_a_network_averaged_with_itself_is_itself(saved: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    (member, _), together = evaluate_noise([saved[0], saved[0]], monkeypatch)
    assert (together.wrong_top1, together.wrong_top5) == (member.wrong_top1, member.wrong_top5)
    assert together.mean_loss == pytest.approx(member.mean_loss, rel=1e-12)


def test_broken_test_images_count_for_no_member(saved: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    noise = source()
    noise.test.skipped[3] = "broken"
    monkeypatch.setattr(data, "open_source", lambda where, size, **how: noise)
    found = evaluate_runs(saved[:2], "noise", devices=["cpu:0"])
    assert [result.tally.count for result in found.results] == [44, 44]
    assert found.images == found.confusion.sum() == 44


def test_an_ensemble_averages_what_it_is_given() -> None:
    ensemble = Ensemble(4, 3)
    ensemble.add(np.array([2, 0]), np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]))
    ensemble.add(np.array([0, 2]), np.array([[0.5, 0.4, 0.1], [0.1, 0.6, 0.3]]))
    tally = ensemble.tally(np.array([2, 0, 1, 0], np.int32))
    # Image 0: 0.3, 0.3, 0.4, right; image 2: 0.3, 0.45, 0.25, right; nobody saw the others.
    assert (tally.count, tally.wrong_top1) == (2, 0)
    assert tally.mean_loss == pytest.approx(-(np.log(0.4) + np.log(0.45)) / 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": [*CLASSES[:-1], "other"]}, "its classes is class 0, "),
        ({"image_shape": [13, 12, 3]}, "its image shape is 13, 12, 3, there 13, 11, 3"),
    ],
)
def test_networks_that_do_not_fit_together(
    change: dict[str, Any], words: str, saved: list[Path], tmp_path: Path
) -> None:
    other = save(tmp_path / "other.safetensors", 4, **change)
    with pytest.raises(ValueError, match=f"{other} cannot be averaged with {saved[0]}: {words}"):
        evaluate_runs([saved[0], other])


def test_views_are_refused_before_anything_is_read() -> None:
    with pytest.raises(ValueError, match="--views must be one of center, ten, not 'nine'"):
        evaluate_runs([Path("nowhere")], views="nine")


# How the stored rows and columns become those one sees. Source: Exif 2.32, 4.6.4, tag Orientation.
UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_photographs_are_looked_at_upright(orientation: int, tmp_path: Path) -> None:
    stored = np.random.default_rng(orientation).integers(0, 256, (40, 60, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "photo.png", exif=exif)
    seen = read_picture(tmp_path / "photo.png", (40, 40, 3))
    assert np.array_equal(seen, UPRIGHT[orientation](stored[:, 10:50]))
    content = (tmp_path / "photo.png").read_bytes()
    assert np.array_equal(decode_image(content, 40), seen)
    as_stored = decode_image(content, 40, preprocessing=UNRECORDED)
    assert np.array_equal(as_stored, stored[:, 10:50])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03", b"?" * 99])
def test_damaged_exif_says_nothing(exif: bytes, tmp_path: Path) -> None:
    Image.new("RGB", (30, 40), "red").save(tmp_path / "photo.jpg", exif=exif)
    assert (read_picture(tmp_path / "photo.jpg", (30, 30, 3))[..., 0] > 250).all()
