"""SqueezeNet with its authors' weights, on photographs of the folder CCONVNET_TEST_DATA.

Wrong channels, padding or rounding of sizes leave a network that still answers, only worse, so that counts of
right answers are exact here.
"""

from __future__ import annotations

import dataclasses
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.photographs import logits, photographs, projections, right
from safetensors.numpy import load

from cconvnet.nets import squeezenet
from cconvnet.network import Network

Array = np.ndarray[Any, Any]
SIDE = 227
BLUE, GREEN, RED = 104, 117, 123  # the means of the weights' training
# PyTorch 2.13's five largest logits of three photographs, and their classes.
TOP = {
    0: ([23.38104, 18.85004, 17.77137, 16.89165, 16.74272], [0, 395, 29, 1, 389]),
    37: ([14.51668, 12.69674, 12.56201, 12.33311, 12.30879], [370, 373, 376, 371, 374]),
    99: ([17.21988, 15.61036, 14.85644, 14.09914, 14.04882], [964, 990, 112, 931, 928]),
}
# Of PyTorch's logits of each photograph.
# fmt: off
PROJECTIONS = np.array([
    4.11880, -1.13539, -2.31979, 2.49191, 0.18801, 2.91691, 1.56027, -0.23092, -1.60450, 2.01721,
    -2.16906, 1.15066, -3.09495, -1.78488, -2.64754, -0.43289, 4.74937, 2.49490, 2.54961, 4.89911,
    5.67248, 2.91778, 4.15669, 1.71521, 3.97335, 0.87574, 2.54840, 3.08294, -1.05435, 2.64675,
    0.08232, -0.24891, 0.79095, 1.72689, 1.92232, -3.14762, -1.90525, -0.36783, -1.16623, -0.60274,
    2.34572, -3.26135, 2.58824, -0.61886, 4.08646, 0.01921, -3.63697, 3.17187, 0.10619, 3.42884,
    -0.92727, -1.56869, 0.28476, -0.71604, -5.56393, 3.07057, 1.26682, 2.02287, -1.29822, 3.34259,
    -0.16251, 0.91337, 2.08372, 3.66520, 0.81497, 4.03886, -1.60034, 1.01510, 2.49944, -0.38233,
    2.21601, 0.75644, 3.76188, -0.70139, 1.62867, 2.15549, 0.16399, 1.64280, -5.67038, 0.85391,
    3.92454, 0.93646, -1.91846, 1.56952, 2.15197, 3.36462, -2.87490, 0.28822, 1.20603, -0.60214,
    -3.12867, 0.43597, -3.67724, 3.87676, 2.70054, 4.16556, 3.68260, -3.30585, -1.10746, 3.66317,
])
# fmt: on


@pytest.fixture(scope="module")
def images(real: Path) -> Array:
    return photographs(real, SIDE)


def theirs(layer: str) -> str:
    """The name of a layer in the file of weights."""
    fire, _, part = layer.partition("_")
    parts = {"squeeze": "conv1x1_1", "expand1": "conv1x1_2", "expand3": "conv3x3_2"}
    return f"{fire}/{parts[part]}" if part else {"conv10": "conv_final"}.get(layer, layer)


@pytest.fixture(scope="module")
def answer(real: Path) -> Callable[[Array, tuple[int, int, int]], Array]:
    """The pretrained network: a function of photographs and the mean of each channel."""
    packed = (real / "pretrained/squeezenet1_0-caffe-names.safetensors.xz").read_bytes()
    weights = load(lzma.decompress(packed))
    spec = squeezenet.build()
    image = dataclasses.replace(spec.input, scale=1.0)  # these weights are for pixels from 0 to 255
    spec = dataclasses.replace(spec, input=image, stored=(SIDE, SIDE))
    network = Network(spec, batch=20, devices="cpu:0", needs="forward")
    for parameter in network.parameters.values():
        value = weights[f"{theirs(parameter.layer)}.{parameter.of}"]
        parameter.fill("value", value.transpose(0, 2, 3, 1) if parameter.of == "weight" else value)

    def compute(images: Array, mean: tuple[int, int, int]) -> Array:
        network.set_mean(np.broadcast_to(np.array(mean, np.float32), (SIDE, SIDE, 3)).copy())
        return logits(network, images, "mean1")

    return compute


def test_its_authors_weights_answer_as_in_pytorch(images: Array, answer: Any) -> None:
    found = answer(images[..., ::-1], (BLUE, GREEN, RED))
    assert right(found) == (61, 83)
    for photo, (values, classes) in TOP.items():
        assert np.argsort(-found[photo], kind="stable")[:5].tolist() == classes
        assert np.abs(found[photo, classes] - values).max() <= 1e-4
    assert np.abs(projections(found) - PROJECTIONS).max() <= 1e-4


def test_channels_in_the_wrong_order_answer_worse(images: Array, answer: Any) -> None:
    assert right(answer(images, (RED, GREEN, BLUE))) == (41, 67)
