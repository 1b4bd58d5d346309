"""Networks with batch normalisation: running statistics, short batches, fusion, devices and folding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.small_networks import assert_equal, batch_of, gradients, step_by_step, train, two_devices

import cconvnet as cc
from cconvnet.devices import Device
from cconvnet.nets import NetSpec, place
from cconvnet.network import Network
from cconvnet.network.gradcheck import gradcheck

Array = np.ndarray[Any, Any]


def residual(**norm: Any) -> NetSpec:
    """Return a network with every form: with and without ReLU, with a shortcut on either side, unfused."""
    x = cc.image(8, 7, 2, stored=(9, 8), scale=1 / 64).conv(8, 3, pad=1, bias=None).bn(**norm).relu()
    y = x.conv(8, 3, pad=1, bias=None).bn(**norm).relu().conv(8, 3, pad=1, bias=None).bn(**norm)
    x = (x + y).relu()  # its own input as the shortcut
    y = x.conv(12, 3, 2, pad=1).bn(**norm).relu().conv(12, 1).bn(**norm)
    x = (x.conv(12, 1, 2, bias=None).bn(**norm) + y).relu()  # two normalised inputs
    x = x.maxpool(2, rounding="ceil").bn(**norm)  # behind no product
    x = x + x.conv(12, 3, pad=1, bias=None).bn(**norm)  # no ReLU
    return x.fc(6).bn(**norm).tanh().fc(4).softmax("residual")


RESIDUAL = residual()
VARIANCES = ("mean", "variance")


def loaded(device: Any, n: int = 6, batch: int = 6, **options: Any) -> Network:
    network = Network(RESIDUAL, batch=batch, devices=device, seed=1, **options)
    network.load(**batch_of(RESIDUAL, n, seed=2))
    return network


def running(network: Network) -> dict[str, Array]:
    return {name: value for name, value in network.state().items() if name.endswith(VARIANCES)}


def test_gradients_are_right(device: Device) -> None:
    report = gradcheck(RESIDUAL, device, batch=5)
    assert report.ok, report.failures


def test_what_follows_a_normalisation_is_fused_with_it() -> None:
    fused = [layer.names for layer in loaded("cpu:0").layers if layer.type == "batch_norm"]
    kinds = {layer.name: layer.type for layer in RESIDUAL.layers}
    assert [[kinds[name] for name in names] for names in fused] == [
        ["batch_norm", "neuron"],
        ["batch_norm", "neuron"],
        ["batch_norm", "sum", "neuron"],
        ["batch_norm", "neuron"],
        ["batch_norm"],
        ["batch_norm", "sum", "neuron"],
        ["batch_norm"],
        ["batch_norm", "sum"],
        ["batch_norm"],
    ]


def test_fused_layers_give_the_bits_of_separate_ones(device: Device, precision: str) -> None:
    one, other = (loaded(device, precision=precision, fuse=fuse) for fuse in (True, False))
    losses = [step_by_step(network, 3) for network in (one, other)]
    assert losses[0] == losses[1]
    assert_equal(one.state(), other.state())
    for network in (one, other):
        network.forward(train=True)
    for layer in RESIDUAL.layers[:-1]:
        assert one.outputs(layer.name).tobytes() == other.outputs(layer.name).tobytes(), layer.name


def test_repeats_give_the_same_bits(device: Device, precision: str) -> None:
    schedules = ["forward", "reverse", "random"] if device.kind == "emulator" else [""] * 10
    states = []
    try:
        for schedule in schedules:
            if schedule:
                device.module.set_schedule(schedule, 5)
            network = loaded(device, precision=precision)
            step_by_step(network, 2)
            states.append(network.state())
    finally:
        if device.kind == "emulator":
            device.module.set_schedule("forward")
    for state in states[1:]:
        assert_equal(state, states[0])


def test_a_step_is_its_three_passes(device: Device) -> None:
    whole, parts = (Network(RESIDUAL, batch=5, devices=device) for _ in range(2))
    assert step_by_step(whole, 3) == train(parts, 3)
    assert_equal(whole.state(), parts.state())


def test_running_statistics_are_those_of_pytorch(device: Device) -> None:
    """The new value has a share of 0.1, and the batch's variance is the unbiased one."""
    network = loaded(device)
    network.forward(train=True)
    x = network.outputs("conv1").astype(np.float64).reshape(-1, 8)
    network.backward()
    network.update(0.05, 0.9)
    state = network.state()
    np.testing.assert_allclose(state["bn1.mean"], 0.1 * x.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state["bn1.variance"], 0.9 + 0.1 * x.var(axis=0, ddof=1), rtol=1e-5)


def test_only_an_update_moves_running_statistics(device: Device) -> None:
    network = loaded(device)
    first = network.state()
    for _ in range(2):
        network.forward(train=True)
    network.backward()
    assert network.find_bad(backward=True) is None
    network.forward(train=False)
    network.outputs("bn1")
    assert_equal(network.state(), first)
    network.train_step(0, 0.0, 0.0)  # a rate of 0 freezes what learns, not the averages
    moved = {name for name, value in network.state().items() if value.tobytes() != first[name].tobytes()}
    assert moved == set(running(network))


def test_a_step_of_several_batches_moves_running_statistics_once() -> None:
    network = loaded("cpu:0", accumulates=True)
    network.accumulate(0)
    first = network.parameters["bn1.mean"].host("gradient")
    network.load(**batch_of(RESIDUAL, 6, seed=3))
    network.forward(train=True)
    x = network.outputs("conv1").astype(np.float64).reshape(-1, 8)
    network.train_step(1, 0.05, 0.9)
    np.testing.assert_allclose(
        network.state()["bn1.mean"], 0.1 * (first + x.mean(axis=0)) / 2, rtol=1e-5, atol=1e-6
    )


def test_a_step_whose_loss_is_not_finite_changes_nothing(device: Device) -> None:
    network = loaded(device)
    network.train_step(0, 0.05, 0.9)
    state = network.state()
    state["fc2.bias"][0] = np.inf
    network.load_state(state)
    network.train_step(1, 0.05, 0.9)
    assert not network.result().finite
    assert_equal(network.state(), state)


def test_missing_images_count_for_nothing(device: Device) -> None:
    """Five images in a batch of eight have the outputs and the running statistics of a batch of five."""
    short, full = (Network(RESIDUAL, batch=batch, devices=device) for batch in (8, 5))
    dirty = batch_of(RESIDUAL, 8, seed=9)
    short.load(**dirty)
    short.forward(train=True)  # leaves values in the rows that the next batch lacks
    for network in (short, full):
        network.load(**batch_of(RESIDUAL, 5, seed=2))
        network.forward(train=True)
        network.backward()
    assert short.result().losses.tobytes() == full.result().losses.tobytes()
    for name in ("bn1", "bn3", "bn6", "bn8", "bn9"):
        assert short.outputs(name)[:5].tobytes() == full.outputs(name).tobytes(), name
        assert not short.outputs(name)[5:].any(), name
    for network in (short, full):
        network.update(0.0, 0.0)
    ours, theirs = ({**gradients(network), **running(network)} for network in (short, full))
    for name, gradient in theirs.items():
        if name.startswith("bn"):
            assert ours[name].tobytes() == gradient.tobytes(), name
        else:  # other sums over images may be cut where the batch is larger
            np.testing.assert_allclose(ours[name], gradient, rtol=1e-4, atol=1e-6, err_msg=name)


def test_answers_come_from_running_statistics(device: Device) -> None:
    network = loaded(device)
    step_by_step(network, 4)
    network.load(**batch_of(RESIDUAL, 6, seed=2))
    network.forward(train=False)
    state = network.state()
    x = network.outputs("conv1").astype(np.float64)
    wanted = (x - state["bn1.mean"]) / np.sqrt(state["bn1.variance"] + 1e-5) * state["bn1.weight"]
    np.testing.assert_allclose(network.outputs("bn1"), wanted + state["bn1.bias"], rtol=1e-4, atol=1e-5)
    one = network.outputs(RESIDUAL.answer.name)[:1]
    alone = batch_of(RESIDUAL, 6, seed=2)
    network.load(**{name: value[:1] for name, value in alone.items()})
    network.forward(train=False)
    assert network.outputs(RESIDUAL.answer.name)[:1].tobytes() == one.tobytes()


def test_two_devices_compute_what_one_does(device: Device) -> None:
    apart = place(RESIDUAL, {"conv3": 1, "bn6": 1, "fc1": 1})
    one = Network(RESIDUAL, batch=4, devices=device)
    two = Network(apart, batch=4, devices=two_devices(device))
    assert train(one, 3) == train(two, 3)
    assert_equal(one.state(), two.state())


def test_towers_normalise_their_own_channels(device: Device) -> None:
    x = cc.image(6, 6, 2, scale=1 / 64).conv(8, 3, pad=1, split=True).bn(split=True).relu(split=True)
    spec = x.fc(4).softmax("towers")
    one = Network(spec, batch=4, devices=device, towers=2)
    two = Network(spec, batch=4, devices=two_devices(device), towers=2)
    assert train(one, 3) == train(two, 3)
    assert_equal(one.state(), two.state())


def test_folded_networks_answer_the_same() -> None:
    network = loaded("cpu:0")
    step_by_step(network, 5)
    folded = network.folded()
    kinds = [layer.type for layer in folded.spec.layers]
    assert kinds.count("batch_norm") == 1  # the one behind the pooling
    assert "neuron" in kinds  # behind the sums
    batch = batch_of(RESIDUAL, 6, seed=3)
    for own in (network, folded):
        own.load(**batch)
        own.forward(train=False)
    ours, theirs = (own.outputs(RESIDUAL.answer.name) for own in (network, folded))
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-6)
    assert folded.spec.table().parameters < network.spec.table().parameters


def test_a_product_that_others_read_is_not_folded() -> None:
    x = cc.image(6, 6, 2).conv(4, 3, pad=1)
    network = Network((x + x.bn()).fc(3).softmax("read-twice"), batch=2, devices="cpu:0")
    assert network.folded().spec.layers == network.spec.layers


def test_counts_are_of_what_learns() -> None:
    network = loaded("cpu:0")
    description = network.describe()
    assert description["parameters"] == RESIDUAL.table().parameters
    by_name = {layer["name"]: layer["parameters"] for layer in description["layers"]}
    assert by_name["bn1"] == 16
    assert {f"bn1.{of}" for of in ("weight", "bias", "mean", "variance")} <= set(network.state())
    assert "bn1.mean.velocity" not in network.state()


@pytest.mark.parametrize(
    ("values", "text"),
    [({"eps": 0.0}, "eps must be"), ({"momentum": 1.5}, "momentum must be"), ({"eps": np.inf}, "eps")],
)
def test_bad_values_are_refused(values: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        cc.image(4, 4, 1).bn(**values)
