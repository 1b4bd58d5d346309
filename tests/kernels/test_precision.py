"""Networks and runs in fp32x3, tf32 and bf16: what is rounded, and that training works as in fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.commands import Listener
from helpers.small_networks import ALEXNET, CHAINS, assert_equal, batch_of, step_by_step
from helpers.training import assert_same_run, resume, run_training

from cconvnet import nets, runs
from cconvnet.bfloat16 import BITS, pack
from cconvnet.devices import PRECISIONS, Device, get_device
from cconvnet.evaluate import evaluate_runs
from cconvnet.nets import NetSpec
from cconvnet.network import Network
from cconvnet.training.stopping import TrainingStopped

# How far gradients may be off, as a share of their norm: of the last layer, by rounding alone; of any layer,
# since where the two largest values of a pool differ by less than the rounding, the gradient goes elsewhere,
# which e^2 / 2 of the pixels do at an error of e. Another error of the size would be seen in the last layer.
GRADIENT_ERRORS = {"fp32x3": (1e-5, 1e-2), "tf32": (0.004, 0.2), "bf16": (0.03, 0.35)}


def trains_in_bf16() -> str:
    if not get_device("cpu:0").serves("bf16"):
        pytest.skip("this processor has no instructions for bfloat16")
    return "bf16"


def served(device: Device, precision: str) -> str:
    if not device.serves(precision):
        pytest.skip(f"{device.name} does not compute in {precision}")
    return precision


# ---- networks --------------------------------------------------------------------------------------------


def test_every_device_serves_fp32(device: Device) -> None:
    assert device.serves("fp32")
    if device.kind == "emulator":
        assert all(device.serves(precision) for precision in PRECISIONS)


def test_a_precision_that_a_device_cannot_do_names_those_that_can(device: Device) -> None:
    for precision in PRECISIONS:
        if device.serves(precision):
            continue
        with pytest.raises(
            ValueError, match=f"precision {precision} is not for {device.name}: .* emulator:0"
        ):
            Network(ALEXNET, batch=2, devices=device, precision=precision)
    with pytest.raises(ValueError, match="precision must be one of fp32, fp32x3, tf32, bf16, not 'half'"):
        Network(ALEXNET, batch=2, devices=device, precision="half")


def test_what_bf16_rounds(device: Device) -> None:
    served(device, "bf16")
    network = Network(CHAINS, batch=4, devices=device, precision="bf16")
    step_by_step(network, 2)
    for layer in network.layers[:-1]:
        assert layer.output.array.dtype == BITS, layer.name
        assert layer.output.gradient.dtype == BITS, layer.name
    assert network.layers[-1].output.array.dtype == np.float32
    rounded = 0
    for parameter in network.parameters.values():
        value = parameter.host("value")
        assert value.dtype == np.float32
        (piece,) = parameter.pieces
        if parameter.of == "weight":
            assert np.array_equal(device.host(piece.working), pack(value)), parameter.name
            rounded += np.count_nonzero(pack(value).astype(np.uint32) << 16 != value.view(np.uint32))
        else:
            assert piece.working is piece.value
    assert rounded > 100  # the weights themselves keep all their bits


@pytest.mark.parametrize("coarse", ["fp32x3", "tf32", "bf16"])
@pytest.mark.parametrize("spec", [CHAINS, nets.build("cifar-18pct"), nets.build("cifar-11pct")])
def test_gradients_are_those_of_fp32_to_rounding(device: Device, spec: NetSpec, coarse: str) -> None:
    served(device, coarse)
    found = {}
    for how in ("fp32", coarse):
        network = Network(spec, batch=2, devices=device, precision=how)
        state = network.state()
        draws = np.random.default_rng(3)
        for name, parameter in network.parameters.items():
            if parameter.of == "weight":  # of a size at which every layer passes on what it is given
                sigma = np.sqrt(2 / parameter.fan_in)
                state[name] = draws.normal(0, sigma, parameter.shape).astype(np.float32)
        network.load_state(state)
        network.load(**batch_of(spec, 2))
        network.forward(train=True)
        network.backward()
        found[how] = {name: p.host("gradient") for name, p in network.parameters.items()}
    for name, right in found["fp32"].items():
        error = np.linalg.norm(found[coarse][name] - right) / np.linalg.norm(right)
        last, any_layer = GRADIENT_ERRORS[coarse]
        assert error < (last if name.startswith(spec.layers[-2].name) else any_layer), name
    if coarse == "bf16":
        assert any(not np.array_equal(found["fp32"][name], found["bf16"][name]) for name in found["fp32"])


def test_a_state_goes_from_one_precision_to_another(device: Device) -> None:
    served(device, "bf16")
    one = Network(CHAINS, batch=4, devices=device, precision="bf16")
    step_by_step(one, 2)
    other = Network(CHAINS, batch=4, devices=device, precision="fp32")
    other.load_state(one.state())
    assert_equal(one.state(), other.state())


# ---- runs ------------------------------------------------------------------------------------------------


def test_digits_are_learned_in_bf16_as_in_fp32(tmp_path: Path) -> None:
    trains_in_bf16()
    errors = {
        precision: run_training(
            out=tmp_path / precision, net="lenet", data=None, epochs=5, precision=precision, batch=32
        ).summary["test_error_top1"]
        for precision in ("fp32", "bf16")
    }
    # 355 test images: one of them is 0.28%.
    assert errors["fp32"] < 0.06
    assert abs(errors["bf16"] - errors["fp32"]) < 0.02


def test_a_run_in_bf16_goes_on_bitwise(tmp_path: Path) -> None:
    precision = trains_in_bf16()
    run_training(out=tmp_path / "whole", precision=precision)
    run_training(out=tmp_path / "parts", precision=precision, steps=17)
    resume(tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert runs.find_checkpoint(tmp_path / "parts")[1].settings["precision"] == "bf16"


def test_a_run_goes_on_and_is_tested_in_another_precision(tmp_path: Path) -> None:
    precision = trains_in_bf16()
    run_training(out=tmp_path / "run", precision=precision, steps=17)
    listener = Listener()
    outcome = resume(tmp_path / "run", listener, precision="fp32")
    assert outcome.summary["precision"] == "fp32"
    assert "precision: fp32 from here on, it was bf16" in "\n".join(listener.lines)
    tested = {
        how: evaluate_runs([tmp_path / "run"], devices=["cpu:0"], precision=how).results[0]
        for how in (None, "fp32", "bf16")
    }
    assert [tested[how].precision for how in tested] == ["fp32", "fp32", "bf16"]
    assert tested[None].tally.mean_loss == tested["fp32"].tally.mean_loss != tested["bf16"].tally.mean_loss


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_overflow_is_caught(tmp_path: Path, precision: str) -> None:
    if precision == "bf16":
        trains_in_bf16()
    with pytest.raises(
        TrainingStopped, match=r"the loss is (nan|inf) at step \d+ .*first not finite: \w+, \w+ pass"
    ):
        run_training(out=tmp_path / "run", precision=precision, lr=1e12)
