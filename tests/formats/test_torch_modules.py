"""Every built-in network in PyTorch: files load strictly, answers agree, and all bits come back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import there
from helpers.small_networks import reduced
from helpers.trained import drawn, torchvision_models

from cconvnet import nets
from cconvnet.formats.weights import fit, read_weights, write_weights
from cconvnet.nets import NetSpec
from cconvnet.nets.cuts import ending_in

torch = pytest.importorskip("torch")
from helpers import cifar_resnet, torch_module  # noqa: E402

Array = np.ndarray[Any, Any]

# torchvision's models by the networks here; those of many weights are tested in the long run alone.
MODELS = {
    **{"squeezenet-1.0": "squeezenet1_0", "squeezenet-1.1": "squeezenet1_1", "googlenet-bn": "googlenet"},
    **{"resnet18": "resnet18", "resnet50": "resnet50"},
}
LARGE = {
    **{"alexnet-owt": "alexnet", "vgg16-bn": "vgg16_bn"},
    **{name: name for name in ("vgg11", "vgg13", "vgg16", "vgg19", "resnet34", "resnet101", "resnet152")},
}
LONG = [pytest.param(*one, marks=pytest.mark.long) for one in LARGE.items()]
CIFAR = [name for name in nets.NAMES if name in ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")]


def same(found: dict[str, Array], wanted: dict[str, Array]) -> bool:
    return set(found) == set(wanted) and all(np.array_equal(found[name], wanted[name]) for name in wanted)


def difference(spec: NetSpec, tensors: dict[str, Array], model: Any, count: int = 2) -> float:
    """Return the largest difference of two answers to random images, over the largest answer or 1.

    The model's are of pixels as `export` says that the network reads them.
    """
    image = spec.input
    images = np.random.default_rng(3).integers(0, 256, (count, *spec.stored_shape), np.uint8)
    top, left = (spec.stored[0] - image.height) // 2, (spec.stored[1] - image.width) // 2
    seen = images[:, top : top + image.height, left : left + image.width].astype(np.float64)
    seen -= np.zeros(image.channels) if image.mean is None else image.mean
    seen *= image.scale / np.array(image.deviation or 1.0)
    with torch.no_grad():
        x = torch.from_numpy(np.ascontiguousarray(seen.transpose(0, 3, 1, 2), np.float32))
        theirs = model(x).numpy()
    ended = ending_in(spec, spec.answer.inputs[0])
    names = {layer.name for layer in ended.layers}  # without those of heads
    kept = {name: value for name, value in tensors.items() if name.rpartition(".")[0] in names}
    ours = there.answers(ended, kept, images, ended.layers[-1].name)
    ours = ours.transpose(0, 3, 1, 2) if theirs.ndim == 4 else ours.reshape(theirs.shape)
    assert np.ptp(theirs, axis=0).max() > 1e-3 * np.abs(theirs).max()  # the answers depend on the images
    return float(np.abs(ours - theirs).max() / max(1, np.abs(theirs).max()))


def check(folder: Path, spec: NetSpec, model: Callable[[NetSpec], Any]) -> float:
    """Check the way of random weights into a model of PyTorch, its answers and the way back.

    Returns:
        The difference of the answers.
    """
    there_file, back_file, tensors = folder / "there.pth", folder / "back.pth", drawn(spec)
    write_weights(there_file, "torch", spec, tensors)
    fitted = fit(read_weights(there_file), spec)
    assert same(fitted.tensors, tensors)
    theirs = model(fitted.spec).eval()  # of some networks the other program's form is a little other
    theirs.load_state_dict(torch.load(there_file, weights_only=True), strict=True)
    found = difference(fitted.spec, tensors, theirs)
    assert found <= 1e-4
    torch.save(theirs.state_dict(), back_file)
    assert same(fit(read_weights(back_file), spec).tensors, tensors)
    return found


def of_torchvision(name: str) -> Callable[[NetSpec], Any]:
    """Return what makes a model of torchvision."""
    models = torchvision_models()
    options = {"transform_input": False, "init_weights": False} if name == "googlenet" else {}
    return lambda spec: getattr(models, name)(weights=None, num_classes=spec.classes, **options)


@pytest.mark.parametrize("name", nets.NAMES)
def test_a_built_in_network(tmp_path: Path, name: str) -> None:
    check(tmp_path, reduced(name), torch_module.Module)


@pytest.mark.long
@pytest.mark.parametrize("name", nets.NAMES)
def test_a_built_in_network_in_full_size(tmp_path: Path, name: str) -> None:
    # FCNs have a classifier's FC layers at each of many places; few places are enough.
    shape = (128, 128, 3) if name.startswith("fcn") else None
    check(tmp_path, nets.build(name, shape), torch_module.Module)


@pytest.mark.parametrize(("name", "model"), [*MODELS.items(), *LONG])
def test_a_network_of_torchvision(tmp_path: Path, name: str, model: str) -> None:
    check(tmp_path, nets.build(name, classes=10), of_torchvision(model))


@pytest.mark.parametrize("name", CIFAR)
def test_a_residual_network_for_cifar_by_akamasters_names(tmp_path: Path, name: str) -> None:
    """The names that the published files have, in a model that is written from those alone."""
    check(tmp_path, nets.build(name), lambda spec: cifar_resnet.Model(int(name.removeprefix("resnet"))))


def test_published_weights_of_a_residual_network_for_cifar(real: Path) -> None:
    file = real / "pretrained" / "resnet20-12fca82f.th"
    model = cifar_resnet.Model(20).eval()
    state = torch.load(file, "cpu", weights_only=True)["state_dict"]
    model.load_state_dict(
        {name.removeprefix("module."): value for name, value in state.items()}, strict=False
    )
    fitted = fit(read_weights(file), nets.build("resnet20"))
    assert difference(fitted.spec, fitted.tensors, model, count=8) <= 1e-4
