"""Networks of several costs, heads that run in training only, and networks without a cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.small_networks import assert_equal, batch_of, train, two_devices

import cconvnet as cc
from cconvnet.devices import Device
from cconvnet.layers import Layer
from cconvnet.nets import NetSpec, place
from cconvnet.nets.transform import without_heads
from cconvnet.network import Network
from cconvnet.network.footprint import Plan
from cconvnet.network.gradcheck import gradcheck
from cconvnet.network.step import StepResult
from cconvnet.optim import Parameter


def with_heads(coeff: float = 0.3) -> NetSpec:
    """Return a network whose second value is read by its trunk and by a head, and another by two more."""
    x = cc.image(8, 7, 2, stored=(9, 8), scale=1 / 64).conv(8, 3, pad=1).relu()
    first = x.mean().fc(6).relu().dropout(0.3).fc(4).head(coeff, name="first")
    x = x.maxpool(2, rounding="ceil").conv(8, 3, pad=1)
    second = x.fc(4, name="aux").head(coeff, name="second")
    return x.relu().dropout(0.2).fc(4, name="last").softmax("heads", heads=[first, second])


HEADS = with_heads()
APART = place(HEADS, {"fc1": 1, "aux": 1, "last": 1})
OF_HEADS = ["mean1", "fc1", "dropout1", "fc2", "first", "aux", "second"]


def layers_run(network: Network, work: Callable[[], None]) -> list[str]:
    """Return the names of the layers whose forward passes run, copies left out."""
    found: list[str] = []

    def observer(
        owner: Layer | Parameter, device: Device, phase: str, work: Callable[..., None], *args: Any
    ) -> None:
        if phase == "forward" and isinstance(owner, Layer) and not owner.is_copy:
            found.extend(owner.names)
        work(*args)

    with network.observed(observer):
        work()
    return found


def test_gradients_are_those_of_the_sum_of_all_costs(device: Device) -> None:
    report = gradcheck(HEADS, device, batch=3)
    assert report.ok, report.failures


def test_heads_on_another_device_change_nothing(device: Device) -> None:
    one = Network(HEADS, batch=4, devices=device)
    two = Network(APART, batch=4, devices=two_devices(device))
    assert train(one, 3) == train(two, 3)
    assert_equal(one.state(), two.state())
    assert one.result().head_losses == two.result().head_losses


def test_one_step_is_its_three_passes_and_missing_rows_count_for_nothing(device: Device) -> None:
    whole, parts = (Network(HEADS, batch=4, devices=device, fuse=fuse) for fuse in (True, False))
    full = Network(HEADS, batch=3, devices=device)
    for step in range(3):
        batch = batch_of(HEADS, 3, seed=step)
        for network in (whole, parts, full):
            network.load(**batch)
        whole.train_step(step, 0.05, 0.9)
        full.train_step(step, 0.05, 0.9)
        parts.forward(train=True, step=step)
        parts.backward()
        parts.update(0.05, 0.9)
        assert whole.result().head_losses == parts.result().head_losses
        assert whole.result().head_losses == pytest.approx(full.result().head_losses, rel=1e-5)
    assert_equal(whole.state(), parts.state())
    for name, value in full.state().items():
        assert np.allclose(value, whole.state()[name], rtol=1e-4, atol=1e-6), name


def test_the_result_is_that_of_the_main_cost(device: Device) -> None:
    network = Network(HEADS, batch=4, devices=device)
    network.load(**batch_of(HEADS, 3))
    network.forward(train=True)
    result = network.result()
    assert list(result.head_losses) == ["first", "second"] and result.heads["first"].shape == (3,)
    assert len({result.loss, *result.head_losses.values()}) == 3
    wanted = result.loss + 0.3 * sum(result.head_losses.values())
    assert network.objective() == pytest.approx(wanted, rel=1e-12)
    network.forward(train=False)
    plain = Network(without_heads(HEADS), batch=4, devices=device)
    plain.load_state({name: value for name, value in network.state().items() if name in plain.state_shapes()})
    plain.load(**batch_of(HEADS, 3))
    plain.forward(train=False)
    assert network.result().losses.tolist() == plain.result().losses.tolist()
    assert network.result().heads == {}


@pytest.mark.parametrize("spec", [HEADS, APART])
def test_outside_of_training_no_layer_of_a_head_runs(spec: NetSpec) -> None:
    devices = ["cpu:0", "cpu:1"][: 2 if spec is APART else 1]
    network = Network(spec, batch=4, devices=devices)
    network.load(**batch_of(spec, 4))
    every = layers_run(network, lambda: network.forward(train=True))
    copied = network.copied_bytes
    needed = layers_run(network, lambda: network.forward(train=False))
    assert sorted(set(every) - set(needed)) == sorted(OF_HEADS)
    assert sorted(needed) == sorted(["data", *(layer.name for layer in without_heads(spec).layers)])
    assert network.describe()["train_only"] == OF_HEADS
    assert (network.copied_bytes - copied < copied) == (spec is APART)  # the heads' copies are left out too


def test_the_output_of_a_head_is_refused_after_a_pass_without_it() -> None:
    network = Network(HEADS, batch=2, devices="cpu:0")
    network.load(**batch_of(HEADS, 2))
    network.forward(train=True)
    assert network.outputs("aux").shape == (2, 4)
    network.forward(train=False)
    with pytest.raises(ValueError, match=r"layer aux runs in training only; forward\(train=True\)"):
        network.outputs("aux")


def test_a_forward_pass_needs_no_memory_for_heads() -> None:
    needs, plain = (Plan(spec, batch=64, devices="cpu:0").needs() for spec in (HEADS, without_heads(HEADS)))
    parameters = needs.state - plain.state
    small = 2048 + 3 * parameters  # their weights, labels and losses are there
    assert plain.forward["cpu:0"] <= needs.forward["cpu:0"] <= plain.forward["cpu:0"] + small
    assert needs.training["cpu:0"] > plain.training["cpu:0"] + small


@pytest.mark.parametrize("of", ["aux", "last"])
@pytest.mark.parametrize("spec", [HEADS, APART])
def test_a_loss_that_is_not_finite_moves_nothing_whichever_cost_it_is_of(
    device: Device, spec: NetSpec, of: str
) -> None:
    network = Network(spec, batch=4, devices=two_devices(device) if spec is APART else device)
    state = network.state()
    state[f"{of}.bias"][2] = np.nan
    network.load_state(state)
    network.load(**batch_of(spec, 3))
    with np.errstate(all="ignore"):
        network.train_step(0, 0.1, 0.9)
        assert not network.result().finite
        assert_equal(network.state(), state)
        bad = network.find_bad()
    assert bad is not None and bad.tensor == f"{of}.bias"
    network.load_state({**state, f"{of}.bias": np.zeros(4, np.float32)})
    network.train_step(1, 0.1, 0.9)
    assert network.result().finite and np.any(network.state()["aux.weight"] != state["aux.weight"])


def test_a_network_without_a_cost_computes_features(device: Device) -> None:
    x = cc.image(8, 7, 2, stored=(9, 8), scale=1 / 64).conv(8, 3, pad=1).relu().maxpool(2)
    features, whole = x.features("trunk"), x.fc(4).softmax()
    network, other = (Network(spec, batch=3, devices=device) for spec in (features, whole))
    batch = batch_of(whole, 3)
    other.load(**batch)
    del batch["labels"]
    network.load(**batch)
    for one in (network, other):
        one.forward(train=False)
    assert network.outputs("pool1").tobytes() == other.outputs("pool1").tobytes()
    assert network.find_bad() is None
    for work in (lambda: network.train_step(0, 0.1, 0.9), network.backward):
        with pytest.raises(ValueError, match="trunk cannot be trained: it has no cost, and ends in pool1"):
            work()
    with pytest.raises(ValueError, match="trunk has no cost, so it has no loss"):
        network.result()


def test_features_are_refused_where_training_would_begin(tmp_path: Any) -> None:
    net = cc.image(8, 8, 1).conv(4, 3).features("trunk")
    images = np.zeros((20, 8, 8, 1), np.uint8)
    with pytest.raises(ValueError, match="trunk has no cost, so there is nothing to train"):
        cc.train(net, (images, np.arange(20) % 4), out=tmp_path / "run", devices="cpu:0", quiet=True)
    assert not (tmp_path / "run").exists()


# ---- labels of pixels -----------------------------------------------------------------------------------


def of_pixels(ignore: int | None = 255, smoothing: float = 0.0) -> NetSpec:
    x = cc.image(6, 5, 2, scale=1 / 64).conv(6, 3, pad=1).relu()
    how: dict[str, Any] = {"per_pixel": True, "ignore": ignore, "smoothing": smoothing}
    head = x.conv(3, 1).head(0.5, **how)
    return x.conv(4, 3, pad=1).tanh().conv(3, 1).softmax(**how, heads=[head])


def test_gradients_of_labels_of_pixels(device: Device) -> None:
    for ignore, smoothing in ((None, 0.0), (255, 0.0), (0, 0.0), (255, 0.2)):
        report = gradcheck(of_pixels(ignore, smoothing), device, batch=2)
        assert report.ok, report.failures


def test_the_loss_is_smoothed_in_training_alone(device: Device) -> None:
    smooth, plain = (Network(of_pixels(255, part), batch=3, devices=device) for part in (0.2, 0.0))
    batch = {"images": batch_of(plain.spec, 2)["images"]}
    labels = np.random.default_rng(0).integers(0, 4, (2, 6, 5))
    batch["labels"] = np.where(labels == 3, 255, labels)
    found: dict[bool, list[StepResult]] = {}
    for training in (True, False):
        for network in (smooth, plain):
            network.load(**batch)
            network.forward(train=training)
        found[training] = [network.result() for network in (smooth, plain)]
        assert found[training][0].rank.tolist() == found[training][1].rank.tolist()
    assert found[False][0].losses.tolist() == found[False][1].losses.tolist()
    assert np.all(found[True][0].losses != found[True][1].losses)
    assert found[True][0].head_losses != found[True][1].head_losses


def test_smoothed_labels_of_pixels_are_those_of_pytorch(device: Device) -> None:
    torch = pytest.importorskip("torch")
    network = Network(of_pixels(255, 0.2), batch=2, devices=device)
    labels = np.random.default_rng(0).integers(0, 4, (2, 6, 5))
    labels = np.where(labels == 3, 255, labels)
    network.load(batch_of(network.spec, 2)["images"], labels)
    network.forward(train=True)
    cost = network.graph.cost
    logits = torch.from_numpy(network.outputs("conv4")).permute(0, 3, 1, 2).requires_grad_()
    options = {"ignore_index": 255, "label_smoothing": 0.2}
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels), **options)
    loss.backward()
    assert abs(network.result().loss - loss.item()) <= 1e-6
    gradient = device.host(cost.input_gradients[0]).reshape(2, 6, 5, 3)
    assert np.abs(gradient - logits.grad.permute(0, 2, 3, 1).numpy()).max() <= 1e-6


def test_only_pixels_that_count_are_in_the_result(device: Device) -> None:
    network, plain = (Network(of_pixels(ignore), batch=3, devices=device) for ignore in (255, None))
    batch = {"images": batch_of(network.spec, 2)["images"]}
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 3, (2, 6, 5))
    counts = draws.random(labels.shape) < 0.7
    network.load(**batch, labels=np.where(counts, labels, 255))
    plain.load(**batch, labels=labels)
    for one in (network, plain):
        one.forward(train=True)
    found, whole = network.result(), plain.result()
    assert whole.count == 60 and found.count == counts.sum() < 60
    for name in ("losses", "rank"):
        assert getattr(found, name).tolist() == getattr(whole, name)[counts.ravel()].tolist()
    assert found.heads["cost1"].tolist() == whole.heads["cost1"][counts.ravel()].tolist()
    assert found.loss == pytest.approx(float(whole.losses[counts.ravel()].mean()), rel=1e-6)
    assert network.outputs("cost").shape == (3, 6, 5, 3)
    assert np.allclose(network.outputs("cost").sum(-1), 1)


def test_a_batch_without_a_label_moves_nothing(device: Device) -> None:
    network = Network(of_pixels(), batch=2, devices=device)
    state = network.state()
    images = batch_of(network.spec, 2)["images"]
    for step in range(2):
        network.load(images, np.full((2, 6, 5), 255))
        network.train_step(step, 0.1, 0.9)
        assert (network.result().loss, network.objective()) == (0, 0)
        assert network.result().head_losses == {"cost1": 0}
    assert_equal(network.state(), state)
    # The number of labels is an argument of the launches, which would be captured with them.
    assert network.runner.captured == {}
    network.load(images, np.zeros((2, 6, 5), int))
    network.train_step(2, 0.1, 0.9)
    assert np.any(network.state()["conv1.weight"] != state["conv1.weight"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full((2, 6, 5), 3), "labels must be from 0 to 2 or 255, which is ignored, not 3"),
        (np.full((2, 6, 5), -1), "labels must be from 0 to 2 or 255, which is ignored, not -1"),
        (np.zeros(2, int), r"labels must be integers\[2, 6, 5\], not int64\[2\]"),
        (np.zeros((2, 6, 5)), r"labels must be integers\[2, 6, 5\], not float64\[2, 6, 5\]"),
        (None, r"labels must be integers\[2, 6, 5\], not object\[\]"),
    ],
)
def test_wrong_labels_of_pixels_are_refused(labels: Any, message: str) -> None:
    network = Network(of_pixels(), batch=2, devices="cpu:0")
    with pytest.raises(ValueError, match=message):
        network.load(batch_of(network.spec, 2)["images"], labels)


# ---- targets --------------------------------------------------------------------------------------------


def of_boxes() -> NetSpec:
    """Return a network that regresses a box, beside a class and a map as heads."""
    x = cc.image(6, 5, 2, scale=1 / 64).conv(6, 3, pad=1).relu()
    heads = [x.conv(2, 3).l2_head(0.1, name="map"), x.fc(3).head(0.5, name="class")]
    return x.fc(8).tanh().fc(4, name="box").l2("boxes", cost="boxes", heads=heads)


BOXES = of_boxes()


def wanted(n: int, seed: int = 0) -> dict[str, Any]:
    """Return the arguments of a batch of boxes."""
    draws = np.random.default_rng(seed)
    return {
        "images": draws.integers(0, 256, (n, 6, 5, 2), np.uint8),
        "labels": draws.integers(0, 3, n),
        "targets": {"boxes": draws.normal(0, 1, (n, 4)), "map": draws.normal(0, 1, (n, 4, 3, 2))},
    }


def test_gradients_of_targets(device: Device) -> None:
    assert (report := gradcheck(BOXES, device, batch=3)).ok, report.failures


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loss_is_half_the_squared_distance(precision: str) -> None:
    network = Network(BOXES, batch=4, devices="emulator:0", precision=precision)
    batch = wanted(3)
    network.load(**batch)
    network.forward(train=True)
    result = network.result()
    for name, losses in (("boxes", result.losses), ("map", result.heads["map"])):
        output = network.outputs(name)[:3]
        distances = (output - batch["targets"][name]).reshape(3, -1)
        assert np.allclose(losses, 0.5 * (distances**2).sum(1), rtol=1e-6)
    assert network.outputs("boxes").tobytes() == network.outputs("box").tobytes()
    assert result.rank.tolist() == [-1, -1, -1] and result.count == 3
    assert list(result.heads) == ["map", "class"]
    network.backward()
    first = network.objective()
    for step in range(3):
        network.train_step(step, 0.01, 0.9)
    network.forward(train=True)
    assert network.objective() < first
    network.forward(train=False)
    assert network.result().heads == {}


def test_boxes_on_two_devices_are_those_of_one(device: Device) -> None:
    apart = place(BOXES, {"conv2": 1, "box": 1, "boxes": 0})
    one = Network(BOXES, batch=4, devices=device)
    two = Network(apart, batch=4, devices=two_devices(device))
    for step in range(2):
        for network in (one, two):
            network.load(**wanted(3, step))
            network.train_step(step, 0.05, 0.9)
        assert one.result().losses.tolist() == two.result().losses.tolist()
    assert_equal(one.state(), two.state())


def test_a_target_that_is_not_finite_moves_nothing() -> None:
    network = Network(BOXES, batch=4, devices="cpu:0")
    state, batch = network.state(), wanted(4)
    batch["targets"]["map"][1, 2, 0, 1] = np.inf
    network.load(**batch)
    network.train_step(0, 0.1, 0.9)
    assert not network.result().finite
    assert_equal(network.state(), state)
    assert str(network.find_bad()).startswith("map, forward pass, the losses: 1 of 4 values")


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (None, "targets must have an array for the layer map"),
        ({"boxes": np.zeros((2, 4))}, "targets must have an array for the layer map"),
        ({"box": np.zeros((2, 4))}, "targets: no L2 cost is called 'box'"),
        ({"map": np.zeros((2, 4, 3, 3))}, r"targets of map must be floats\[2, 4, 3, 2\], not .*3, 3\]"),
        ({"map": np.zeros((2, 4, 3, 2), int)}, r"targets of map must be floats\[2, 4, 3, 2\], not int64"),
    ],
)  # fmt: skip
def test_wrong_targets_are_refused(targets: Any, message: str) -> None:
    network = Network(BOXES, batch=2, devices="cpu:0")
    batch = wanted(2)
    with pytest.raises(ValueError, match=message):
        network.load(batch["images"], batch["labels"], targets=targets)


def test_data_without_the_targets_of_a_cost_are_refused(tmp_path: Any) -> None:
    images = np.zeros((20, *BOXES.stored_shape[:2], 3), np.uint8)
    with pytest.raises(ValueError, match="layer map needs targets, which data have not"):
        cc.train(BOXES, (images, np.arange(20) % 4), out=tmp_path / "run", devices="cpu:0", quiet=True)


def test_costs_of_different_labels_are_refused() -> None:
    x = cc.image(6, 5, 2).conv(3, 3)
    for end, message in (
        (
            lambda: x.fc(3).softmax(heads=[x.head(per_pixel=True)]),
            "layer cost1: reads 4x3x3, but cost reads 1x1x3",
        ),
        (
            lambda: x.softmax(per_pixel=True, heads=[x.head(per_pixel=True, ignore=255)]),
            "layer cost1: has ignore=255, but cost has ignore=None",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            end()
    spec = of_pixels()
    head = dataclasses.replace(spec.costs[0], ignore=7)
    layers = tuple(head if layer.name == head.name else layer for layer in spec.layers)
    with pytest.raises(
        ValueError,
        match=r"layer cost: it needs labels of 6x5 pixels with 255 ignored, but cost1 needs.*with 7",
    ):
        Network(dataclasses.replace(spec, layers=layers), batch=2, devices="cpu:0")
