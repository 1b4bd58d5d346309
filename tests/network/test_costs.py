"""Networks of several costs, heads that run in training only, and networks without a cost."""

from __future__ import annotations

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
