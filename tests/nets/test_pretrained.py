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
from helpers.photographs import LABELS, logits, photographs, projections, right

import cconvnet as cc
from cconvnet.formats.weights import fit, read_weights
from cconvnet.nets import squeezenet
from cconvnet.network import Network

Array = np.ndarray[Any, Any]
SIDE = 227
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


@pytest.fixture(scope="module")
def answer(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Array]:
    """The pretrained network: a function of photographs and of what is said of the file's pixels."""
    file = tmp_path_factory.mktemp("weights") / "squeezenet.safetensors"
    packed = (real / "pretrained/squeezenet1_0-caffe-names.safetensors.xz").read_bytes()
    file.write_bytes(lzma.decompress(packed))
    spec = dataclasses.replace(squeezenet.build(), stored=(SIDE, SIDE))
    weights = read_weights(file)

    def compute(images: Array, bgr: bool | None = None) -> Array:
        fitted = fit(weights, spec, bgr=bgr)
        network = Network(fitted.spec, batch=20, devices="cpu:0", needs="forward")
        for name, value in fitted.tensors.items():
            network.parameters[name].fill("value", value)
        return logits(network, images, "mean1")

    compute.file = file  # type: ignore[attr-defined]
    return compute


def test_its_authors_weights_answer_as_in_pytorch(images: Array, answer: Any) -> None:
    found = answer(images)
    assert right(found) == (61, 83)
    for photo, (values, classes) in TOP.items():
        assert np.argsort(-found[photo], kind="stable")[:5].tolist() == classes
        assert np.abs(found[photo, classes] - values).max() <= 1e-4
    assert np.abs(projections(found) - PROJECTIONS).max() <= 1e-4


def test_an_imported_run_evaluates_as_well(real: Path, answer: Any, tmp_path: Path) -> None:
    """Classes are numbers where no data is at hand; photographs of some of them are enough."""
    run = cc.load(answer.file, net="squeezenet-1.0", out=tmp_path / "run")
    found = run.evaluate((photographs(real, 256), LABELS), batch=20, devices="cpu:0", quiet=True)
    assert (found.images, found.error_top1, found.error_top5) == (100, 0.39, 0.17)


def test_channels_in_the_wrong_order_answer_worse(images: Array, answer: Any) -> None:
    assert right(answer(images, bgr=False)) == (41, 67)
