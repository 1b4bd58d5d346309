"""Training beside PyTorch's: benchmarks/training.py on a few small pictures."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

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
    assert training.main([*arguments, "--json", str(file)]) == 0
    assert capsys.readouterr().out.startswith(f"{side} in fp32: ")
    result = json.loads(file.read_text())
    assert result["machine"]["command"].startswith(
        "training.py --net cifar-quick --data pictures --seed 1 --epochs 3"
    )
    (run,) = result["runs"]
    assert run["seconds"] > 0
    assert len(run["errors"]) == 3
    assert run["errors"][-1] < 0.2  # of two classes, half of which chance would find
