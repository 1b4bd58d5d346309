"""The state of a network: all that training changes, by the names that checkpoints use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cconvnet.network.batch import type_and_shape
from cconvnet.optim import Parameter

Array = np.ndarray[Any, Any]


def stateful(parameters: Mapping[str, Parameter]) -> dict[str, tuple[Parameter, str]]:
    """By the name of each tensor of the state: its parameter, and "value" or "velocity"."""
    found = {}
    for name, parameter in parameters.items():
        found[name] = (parameter, "value")
        if parameter.learns:
            found[f"{name}.velocity"] = (parameter, "velocity")
    return found


def copy_state(parameters: Mapping[str, Parameter]) -> dict[str, Array]:
    """Return host copies of the state; see Network.state."""
    return {name: parameter.host(tensor) for name, (parameter, tensor) in stateful(parameters).items()}


def load_state(net: str, parameters: Mapping[str, Parameter], state: Mapping[str, Array]) -> None:
    """Set parameters to a state.

    Args:
        net: the network's name, for errors.
        parameters: all parameters.
        state: host copies of the state.

    Raises:
        ValueError: naming a missing, unknown or wrong tensor; nothing has been changed then.
    """
    targets = stateful(parameters)
    for name in state:
        if name not in targets:
            raise ValueError(f"the network {net} has no tensor {name!r}")
    for name, (parameter, _) in targets.items():
        if name not in state:
            raise ValueError(f"the tensor {name!r} is missing")
        dtype = parameter.pieces[0].value.dtype
        if state[name].shape != parameter.shape or state[name].dtype != dtype:
            wanted = f"{dtype}{list(parameter.shape)}"
            raise ValueError(f"the tensor {name!r} must be {wanted}, not {type_and_shape(state[name])}")
    for name, (parameter, tensor) in targets.items():
        parameter.fill(tensor, state[name])
