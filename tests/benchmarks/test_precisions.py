"""Training in several precisions, side by side: benchmarks/precisions.py on a few digits."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from cconvnet.plots import PlotError


@pytest.fixture(scope="module")
def precisions() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "precisions.py"
    spec = importlib.util.spec_from_file_location("precisions", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_runs_of_every_precision_and_seed_are_kept_and_drawn(
    precisions: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    file, picture = tmp_path / "found.json", tmp_path / "found.svg"
    common = ["--plot", str(picture)]
    arguments = ["--data", "digits", "--net", "lenet", "--device", "cpu:0", "--seeds", "2", "--epochs", "2"]
    assert precisions.main([*arguments, "--json", str(file), *common]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in said] == ["fp32", "bf16"]
    assert all("2 seeds" in line for line in said)

    result = json.loads(file.read_text())
    assert [(run["precision"], run["seed"]) for run in result["runs"]] == [
        (precision, seed) for seed in (1, 2) for precision in ("fp32", "bf16")
    ]
    for run in result["runs"]:
        assert [line["epoch"] for line in run["epochs"]] == [1, 2]
        # Two epochs of digits are enough to learn something in either precision.
        assert run["epochs"][1]["train_loss"] < run["epochs"][0]["train_loss"]
        assert run["test_error_top1"] == run["epochs"][-1]["test_error_top1"] < 0.5
    # Seeds and precisions are not the same run under other names.
    assert len({run["epochs"][0]["train_loss"] for run in result["runs"]}) == 4
    epochs, values = precisions.spread(result, "bf16", "test_loss")
    assert epochs == [1, 2] and [len(seeds) for seeds in values] == [2, 2]

    picture.unlink()
    precisions.main(["--draw", str(file), *common])
    text = picture.read_text()
    assert all(f"<!-- {words} -->" in text for words in ("fp32, test", "bf16, training", "top-1 error"))


def test_arguments_that_make_no_sense(
    precisions: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    for arguments in (["--net", "lenet"], ["--data", "digits", "--precisions", "fp8"]):
        with pytest.raises(SystemExit):
            precisions.main([*arguments, "--plot", str(tmp_path / "a.png")])
        assert "--data is needed" in capsys.readouterr().err
    with pytest.raises(PlotError):
        precisions.main(["--data", "digits", "--plot", str(tmp_path / "a.txt")])
    arguments = ["--data", "digits", "--device", "cpu:0", "--precisions", "tf32"]
    with pytest.raises(ValueError, match="tf32 is not for cpu:0"):
        precisions.main([*arguments, "--plot", str(tmp_path / "a.png")])
