"""Training steps: loss, images, short batches, dropout, updates, and wrong batches."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from helpers.small_networks import BRANCHES, assert_equal, batch_of, conv, gradients, net_of, train

from cconvnet import nets
from cconvnet.devices import Device
from cconvnet.nets import DropoutSpec, spec_from_dict, spec_to_dict
from cconvnet.network import Network


def test_training_lowers_the_loss(device: Device) -> None:
    spec = nets.build("lenet")
    network = Network(spec, batch=8, devices=device)
    network.load(**batch_of(spec, 8))
    losses = []
    for step in range(12):
        network.forward(train=True, step=step)
        network.backward()
        network.update(0.02, 0.9)
        losses.append(network.result().loss)
    assert losses[-1] < 0.5 * losses[0]


def test_a_second_run_is_bitwise_the_first(device: Device) -> None:
    one, other = (Network(BRANCHES, batch=4, devices=device, seed=3) for _ in range(2))
    assert train(one, 3) == train(other, 3)
    assert_equal(one.state(), other.state())
    third = Network(BRANCHES, batch=4, devices=device, seed=4)
    train(third, 3)
    assert third.state()["trunk.weight"].tobytes() != one.state()["trunk.weight"].tobytes()


def test_the_loss_is_that_of_the_probabilities(device: Device) -> None:
    network = Network(BRANCHES, batch=4, devices=device)
    batch = batch_of(BRANCHES, 4)
    network.load(**batch)
    network.forward(train=False)
    result = network.result()
    p = network.outputs("cost").astype(np.float64)
    own = p[np.arange(4), batch["labels"]]
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(result.losses, -np.log(own), rtol=1e-5)
    assert result.loss == pytest.approx(-np.log(own).mean(), rel=1e-5)
    assert (result.rank == (p > own[:, None]).sum(axis=1)).all()
    assert (result.correct == (p.argmax(axis=1) == batch["labels"])).all()
    assert result.count == 4


def test_a_short_batch_counts_its_own_images_only(device: Device) -> None:
    """It equals a network of that batch size, and what the batch before left behind does not matter."""
    batch = batch_of(BRANCHES, 3, seed=5)
    found = []
    for size in (3, 8):
        network = Network(BRANCHES, batch=size, devices=device)
        network.load(**batch_of(BRANCHES, size, seed=6))
        network.forward(train=True, step=7)
        network.load(**batch)
        network.forward(train=True, step=7)
        network.backward()
        found.append((network.result(), gradients(network)))
    (small, right), (large, given_) = found
    assert large.count == 3
    np.testing.assert_allclose(large.losses, small.losses, rtol=1e-5)
    assert (large.rank == small.rank).all()
    for name, gradient in right.items():
        size = np.linalg.norm(gradient)
        assert size > 0
        assert np.linalg.norm(given_[name] - gradient) <= 1e-5 * size, name


def test_crop_mirror_mean_and_shift_reach_the_first_layer(device: Device) -> None:
    network = Network(BRANCHES, batch=4, devices=device)
    batch = batch_of(BRANCHES, 4)
    mean = np.random.default_rng(1).uniform(0, 255, BRANCHES.stored_shape).astype(np.float32)
    network.set_mean(mean)
    network.load(**batch)
    network.forward(train=False)
    height, width = BRANCHES.input.height, BRANCHES.input.width
    for n, row in enumerate(network.outputs("data")):
        top, left = batch["top"][n], batch["left"][n]
        window = np.s_[top : top + height, left : left + width]
        pixels = batch["images"][n][window] - mean[window].astype(np.float64)
        pixels = pixels[:, ::-1] if batch["mirror"][n] else pixels
        expected = (pixels + batch["shift"][n]) * BRANCHES.input.scale
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-4)
    # Without offsets the crop is in the middle.
    network.set_mean(None)
    network.load(batch["images"], batch["labels"])
    network.forward(train=False)
    middle = batch["images"][:, 1:8, 1:7] * BRANCHES.input.scale
    np.testing.assert_allclose(network.outputs("data"), middle, rtol=1e-6)


def test_each_channel_has_its_mean_and_deviation(device: Device) -> None:
    """Those of the spec hold, whatever mean the training images have."""
    mean, deviation = (100.0, 120.0), (50.0, 64.0)
    values = dataclasses.replace(BRANCHES.input, mean=mean, deviation=deviation, scale=1.0)
    spec = dataclasses.replace(BRANCHES, input=values)
    assert spec_from_dict(spec_to_dict(spec)) == spec
    network = Network(spec, batch=4, devices=device)
    network.set_mean(np.ones(spec.stored_shape, np.float32))
    batch = batch_of(spec, 4)
    network.load(batch["images"], batch["labels"])
    network.forward(train=False)
    expected = (batch["images"][:, 1:8, 1:7] - np.array(mean)) / deviation
    np.testing.assert_allclose(network.outputs("data"), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"mean": (1.0,)}, "mean must be 2 numbers, not 1"),
        ({"deviation": (1.0, 0.0)}, "deviation must be above 0, not 0.0"),
        ({"mean": (1.0, float("nan"))}, "mean must be"),
    ],
)
def test_a_wrong_mean_or_deviation_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(BRANCHES.input, **values)


@pytest.mark.parametrize("inverted", [False, True])
def test_dropout(device: Device, inverted: bool) -> None:
    spec = net_of(DropoutSpec(name="drop", keep=0.25, inverted=inverted), image=(16, 16, 3), stored=(16, 16))
    network = Network(spec, batch=4, devices=device)
    network.load(**batch_of(spec, 4))

    def run(train: bool, step: int) -> tuple[Any, Any]:
        network.forward(train=train, step=step)
        return network.outputs("data"), network.outputs("drop")

    x, y = run(True, 0)
    kept = y != 0
    # 3,072 draws: the share kept is 0.25 +- 0.04 at five standard errors.
    assert abs(kept.mean() - 0.25) < 0.04
    np.testing.assert_array_equal(y[kept], x[kept] * np.float32(4 if inverted else 1))
    assert (run(True, 0)[1] == y).all()
    assert ((run(True, 1)[1] != 0) != kept).any()
    x, y = run(False, 0)
    np.testing.assert_array_equal(y, x * np.float32(1 if inverted else 0.25))


def test_the_update_is_the_papers(device: Device) -> None:
    spec = net_of(
        conv("c", lr_scale=0.5, weight_decay=0.1, bias_lr_scale=3.0),
        conv("frozen", lr_scale=0, bias_lr_scale=0),
    )
    network = Network(spec, batch=2, devices=device)
    train(network, 2)
    before, gradient = network.state(), {}
    network.load(**batch_of(spec, 2, seed=9))
    network.forward(train=True)
    network.backward()
    gradient = gradients(network)
    network.update(0.2, 0.8)
    after = network.state()
    for name, lr, decay in (("c.weight", 0.1, 0.1), ("c.bias", 0.6, 0.0), ("last.weight", 0.2, 0.0)):
        w, v = before[name].astype(np.float64), before[f"{name}.velocity"]
        velocity = 0.8 * v - lr * (gradient[name] + decay * w)
        np.testing.assert_allclose(after[f"{name}.velocity"], velocity, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(after[name], w + velocity, rtol=1e-5, atol=1e-7)
        assert np.abs(after[name] - before[name]).max() > 0
    for name in ("frozen.weight", "frozen.bias"):
        assert np.abs(gradient[name]).max() > 0
        assert after[name].tobytes() == before[name].tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((2, 9, 9, 2), np.float32)}, "images must be uint8.n, 9, 9, 2., not float32"),
        ({"images": np.zeros((2, 9, 9, 3), np.uint8)}, "images must be uint8"),
        ({"images": np.zeros((5, 9, 9, 2), np.uint8)}, "images must be from 1 to 4 in number, not 5"),
        ({"images": np.zeros((0, 9, 9, 2), np.uint8)}, "images must be from 1 to 4 in number, not 0"),
        ({"labels": np.zeros(3, np.int32)}, "labels must be integers.2."),
        ({"labels": np.zeros(2)}, "labels must be integers"),
        ({"labels": np.array([0, 4])}, "labels must be from 0 to 3, not 4$"),
        ({"labels": np.array([-1, 0])}, "labels must be from 0 to 3, not -1$"),
        ({"top": np.array([0, 3])}, "top must be from 0 to 2, not from 0 to 3"),
        ({"left": np.array([0.0, 1.0])}, "left must be integers.2."),
        ({"mirror": np.zeros((2, 1), bool)}, "mirror must be integers.2."),
        ({"shift": np.zeros((2, 3))}, "shift must be floats.2, 2."),
    ],
)
def test_a_wrong_batch_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    network = Network(BRANCHES, batch=4, devices="cpu:0")
    with pytest.raises(ValueError, match=message):
        network.load(**{**batch_of(BRANCHES, 2), **change})


def test_a_step_without_a_batch_is_refused() -> None:
    network = Network(BRANCHES, batch=4, devices="cpu:0")
    for step in (lambda: network.forward(train=True), network.backward, network.result):
        with pytest.raises(RuntimeError, match="load"):
            step()
    with pytest.raises(ValueError, match="mean must have the shape"):
        network.set_mean(np.zeros((7, 6, 2), np.float32))
    with pytest.raises(ValueError, match="did you mean 'trunk'"):
        network.outputs("trunc")
