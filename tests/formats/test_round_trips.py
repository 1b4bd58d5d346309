"""Every built-in network: to a file, into PyTorch's model of it, and back, bit-identical."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import there
from helpers.trained import torchvision_models

from cconvnet import nets
from cconvnet.formats.layouts import parts
from cconvnet.formats.weights import fit, read_weights, write_weights
from cconvnet.nets import NetSpec
from cconvnet.nets.transform import scaled

Array = np.ndarray[Any, Any]

# torchvision's models by the networks here; those of many weights are tested in the long run alone.
MODELS = {
    **{"squeezenet-1.0": "squeezenet1_0", "squeezenet-1.1": "squeezenet1_1", "googlenet-bn": "googlenet"},
    **{"resnet18": "resnet18", "resnet50": "resnet50"},
}
LARGE = {"alexnet-owt": "alexnet", "vgg11": "vgg11", "vgg16-bn": "vgg16_bn", "resnet152": "resnet152"}
LONG = [pytest.param(*one, marks=pytest.mark.long) for one in LARGE.items()]


def drawn(spec: NetSpec) -> dict[str, Array]:
    """Return random parameters by their names here, as small as He's."""
    tensors = {}
    for number, part in enumerate(parts(spec)):
        draws = np.random.default_rng(number)
        if len(part.shape) > 1:
            read = part.shape[-3:] if len(part.shape) > 2 else part.shape[1:]
            value = draws.normal(0, (2 / np.prod(read)) ** 0.5, part.shape)
        else:
            low, high = {"running_var": (0.5, 2.0), "weight": (0.5, 1.5)}.get(part.of, (-0.2, 0.2))
            value = draws.uniform(low, high, part.shape)
        tensors[part.name] = value.astype(np.float32)
    return tensors


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("name", nets.NAMES)
def test_files_hold_every_bit(tmp_path: Path, name: str, ending: str) -> None:
    spec = scaled(nets.build(name), width=1 / 16)
    tensors = drawn(spec)
    file = tmp_path / f"a.{ending}"
    write_weights(file, {"pth": "torch"}.get(ending, ending), spec, tensors)
    found = fit(read_weights(file), spec)
    assert set(found.tensors) == set(tensors)
    assert all(np.array_equal(found.tensors[tensor], value) for tensor, value in tensors.items())


def test_networks_that_are_much_alike_are_not_confused(tmp_path: Path) -> None:
    """A file of one network is refused by every other one of the same program."""
    file = tmp_path / "a.pth"
    spec = scaled(nets.build("resnet18"), width=1 / 16)
    write_weights(file, "torch", spec, drawn(spec))
    for other in ("resnet34", "resnet50", "vgg11", "googlenet-bn", "squeezenet-1.1"):
        with pytest.raises(ValueError, match=r"a\.pth"):
            fit(read_weights(file), scaled(nets.build(other), width=1 / 16))


@pytest.mark.parametrize(("name", "model"), [*MODELS.items(), *LONG])
def test_torchvisions_models_load_it_strictly_and_answer_alike(tmp_path: Path, name: str, model: str) -> None:
    torch = pytest.importorskip("torch")
    models = torchvision_models()
    spec = nets.build(name, classes=10)
    tensors = drawn(spec)
    write_weights(tmp_path / "a.pth", "torch", spec, tensors)
    # torchvision's form of the network, and the pixels that its weights are for.
    fitted = fit(read_weights(tmp_path / "a.pth"), spec)
    assert all(np.array_equal(fitted.tensors[tensor], value) for tensor, value in tensors.items())
    options = {"transform_input": False, "init_weights": False} if model == "googlenet" else {}
    theirs = getattr(models, model)(weights=None, num_classes=10, **options).eval()
    theirs.load_state_dict(torch.load(tmp_path / "a.pth", weights_only=True), strict=True)
    image = fitted.spec.input
    images = np.random.default_rng(3).integers(0, 256, (2, *fitted.spec.stored_shape), np.uint8)
    top, left = (fitted.spec.stored[0] - image.height) // 2, (fitted.spec.stored[1] - image.width) // 2
    seen = images[:, top : top + image.height, left : left + image.width].astype(np.float64)
    x = ((seen - image.mean) / image.deviation).astype(np.float32).transpose(0, 3, 1, 2)
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(np.ascontiguousarray(x))).numpy()
    found = there.answers(fitted.spec, fitted.tensors, images, fitted.spec.answer.inputs[0]).reshape(2, 10)
    assert np.abs(found - wanted).max() <= 1e-4 * max(1, np.abs(wanted).max())
