"""A network's state: saved, loaded, and refused where it does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.small_networks import BRANCHES, assert_equal, train

from cconvnet.devices import Device
from cconvnet.network import Network


def test_training_goes_on_bitwise_from_a_state(device: Device) -> None:
    whole = Network(BRANCHES, batch=4, devices=device)
    train(whole, 2)
    state = whole.state()
    names = {name for p in whole.parameters for name in (p, f"{p}.velocity")}
    assert state.keys() == names
    resumed = Network(BRANCHES, batch=4, devices=device, seed=0)
    resumed.load_state(state)
    assert_equal(resumed.state(), state)
    assert train(resumed, 2) == train(whole, 2)
    assert_equal(resumed.state(), whole.state())
    # The state is a copy: training has not changed it.
    assert state["trunk.weight"].tobytes() != whole.state()["trunk.weight"].tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trunk.bias": None}, "the tensor 'trunk.bias' is missing"),
        ({"trunk.bios": np.zeros(6, np.float32)}, "has no tensor 'trunk.bios'"),
        ({"trunk.bias": np.zeros(7, np.float32)}, r"'trunk.bias' must be float32\[6\], not float32\[7\]"),
        ({"trunk.bias": np.zeros(6)}, r"'trunk.bias' must be float32\[6\], not float64\[6\]"),
    ],
)
def test_a_wrong_state_is_refused_and_nothing_changed(change: dict[str, Any], message: str) -> None:
    network = Network(BRANCHES, batch=4, devices="cpu:0")
    before = network.state()
    state = {name: tensor + 1 for name, tensor in before.items()} | change
    with pytest.raises(ValueError, match=message):
        network.load_state({name: tensor for name, tensor in state.items() if tensor is not None})
    assert_equal(network.state(), before)
