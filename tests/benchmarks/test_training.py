"""Training beside PyTorch's: benchmarks/training.py on a few small pictures."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import cconvnet as cc
from cconvnet.bench.peers.dropout_masks import dropout_masks
from cconvnet.data import mean_image
from cconvnet.network import Network

BATCH = 128


@pytest.fixture
def training() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "training.py"
    spec = importlib.util.spec_from_file_location("training", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of dark and bright noise: two classes, enough of each for three steps."""
    random = np.random.default_rng(0)
    for part, count in (("train", 3 * BATCH // 2), ("test", 10)):
        for name, brightness in (("bright", 200), ("dark", 50)):
            folder = tmp_path / "pictures" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = random.normal(brightness, 20, (32, 32, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(noise).save(folder / f"{number}.png")
    return tmp_path / "pictures"


@pytest.mark.parametrize("side", ["cconvnet", "pytorch"])
def test_a_side_learns_and_is_recorded(
    training: ModuleType, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], side: str
) -> None:
    if side == "pytorch":
        pytest.importorskip("torch")
    file = tmp_path / "found.json"
    arguments = ["--data", str(pictures), "--epochs", "3", "--sides", side, "--precisions", "fp32"]
    arguments += ["--seeds", "1,2", "--plot", str(tmp_path / "found.png")]
    assert training.main([*arguments, "--json", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"{side} in fp32, seed 1",
        f"{side} in fp32, seed 2",
        f"{side} in fp32, median",
    ]
    result = json.loads(file.read_text())
    assert result["machine"]["command"].startswith(
        "training.py --net cifar-quick --data pictures --seeds 1,2 --epochs 3"
    )
    assert [run["seed"] for run in result["runs"]] == [1, 2]
    for run in result["runs"]:
        assert run["seconds"] > 0
        assert len(run["errors"]) == 3
        assert run["errors"][-1] < 0.2  # of two classes, half of which chance would find
    assert (tmp_path / "found.png").stat().st_size > 10_000


SMALL = (
    cc.image(32, 32, 3, scale=1 / 58)
    .conv(8, 5, 2)
    .relu()
    .dropout(0.5, inverted=True)
    .maxpool(3, 2)
    .dropout(0.5, inverted=True)
    .conv(6, 3)
    .relu()
    .mean()
    .fc(2)
    .softmax("small")
)


def test_masks_are_those_of_the_forward_pass() -> None:
    """Of a dropout in the kernel before it, and of a layer alone."""
    network = Network(SMALL, batch=4, devices="cpu:0", seed=3)
    images = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), np.uint8)
    network.load(images, np.zeros(4, np.int32))
    network.forward(train=True, step=7)
    masks = dropout_masks(network, 7)
    names = [layer.name for layer in SMALL.layers]
    dropped = [layer.name for layer in SMALL.layers if layer.type == "dropout"]
    assert list(masks) == dropped
    for name in dropped:
        before = network.outputs(names[names.index(name) - 1])
        assert np.array_equal(network.outputs(name), before * masks[name])
        assert 0.4 < np.mean(masks[name] == 2) < 0.6
        assert not np.array_equal(masks[name], dropout_masks(network, 8)[name])


def test_pytorch_does_our_steps(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With dropout and rates that rise and fall, and without dropout in tests."""
    pytest.importorskip("torch")
    from cconvnet.bench.peers import pytorch_training

    monkeypatch.setattr(pytorch_training.nets, "build", lambda name: SMALL)
    recipe = {"epochs": 2, "batch": 32, "lr": 0.05, "warmup": 1.0, "momentum": 0.9}
    side = pytorch_training.PyTorchTraining("small", str(pictures), "fp32", 1, recipe)
    network = Network(SMALL, batch=32, devices="cpu:0", seed=1)
    network.set_mean(mean_image(side.images))
    first = network.state()
    with side._loader() as loader:
        for number in range(2 * loader.steps_per_epoch):
            epoch, index = divmod(number, loader.steps_per_epoch)
            part = list(loader.epoch(epoch))[index]
            lr = 0.05 * side.schedule.course(number / loader.steps_per_epoch, 2)
            network.load(*part.inputs)
            network.train_step(number, lr, 0.9)
    trained = network.state()
    side.train()
    for name, own in side.model.learned.items():
        moved = np.abs(trained[name] - first[name]).max()
        assert np.abs(own.to_ours(own.tensor) - trained[name]).max() < 1e-3 * moved, name
    network.load(*part.inputs)
    network.forward(train=False)
    side.model.eval()
    logits = side._logits(part)[0].detach().numpy()
    assert np.allclose(logits, network.outputs(SMALL.layers[-2].name), atol=1e-3)
