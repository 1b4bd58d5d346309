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
