"""Short trainings on the digits, and comparisons of the runs that they leave."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.commands import Listener
from PIL import Image

from cconvnet import runs
from cconvnet.console import Reporter
from cconvnet.evaluate import Tally
from cconvnet.training.options import Options
from cconvnet.training.session import train
from cconvnet.training.settings import Settings
from cconvnet.training.trainer import Outcome

# Small batches make many steps: 45 an epoch, and little work in each.
SETTINGS: dict[str, Any] = {
    "devices": ["cpu:0"],
    "batch": 32,
    "epochs": 2,
    "seed": 5,
    "lr": 0.05,
    "log_every": 4,
}
FLAGS = [
    "--device",
    "cpu:0",
    "--batch",
    "32",
    "--epochs",
    "2",
    "--seed",
    "5",
    "--lr",
    "0.05",
    "--log-every",
    "4",
]
STEPS = 90


def made_settings(**changes: Any) -> Settings:
    """Return the settings of a made-up run."""
    values: dict[str, Any] = {
        **{"net": "lenet", "data": None, "size": None, "classes": list("abc"), "image_shape": [28, 28, 1]},
        **{"train_images": 640, "test_images": 64, "batch": 32, "epochs": 2, "towers": 1, "seed": 5},
        **{"lr": 0.05, "momentum": 0.9, "lr_steps": (), "lr_plateau": 0, "lr_scale": {}, "crop": False},
        **{"mirror": False, "color_noise": 0.0, "color_noise_epochs": None, "color_noise_shrinks": False},
        "precision": "fp32",
    }
    return Settings(**values | changes)


def run_training(listener: Reporter | None = None, **changes: Any) -> Outcome:
    return train(Options(**{**SETTINGS, **changes}), listener or Listener())


def resume(path: Path, listener: Reporter | None = None, **changes: Any) -> Outcome:
    return train(
        Options(**{"devices": ["cpu:0"], "resume": path, "log_every": 4, **changes}), listener or Listener()
    )


def log_without_times(run: Path) -> list[dict[str, Any]]:
    lines = runs.read_log(run)
    assert len(lines) == len((run / "log.jsonl").read_text().splitlines())
    times = ("images_per_second", "copy_seconds", "test_seconds")
    # When checkpoints are written depends on how fast that is.
    return [
        {key: value for key, value in line.items() if key not in times}
        for line in lines
        if "checkpoint" not in line
    ]


def steps_in_log(run: Path) -> list[dict[str, Any]]:
    """Return the lines of windows of steps, without those of epochs and checkpoints."""
    return [line for line in runs.read_log(run) if "loss" in line]


def assert_same_run(run: Path, other: Path) -> None:
    """Check that two runs have bit-identical weights, and the same log but for its times."""
    _, one, _ = runs.find_checkpoint(run)
    _, two, _ = runs.find_checkpoint(other)
    assert one.step == two.step
    assert one.tensors.keys() == two.tensors.keys()
    for name, tensor in one.tensors.items():
        assert tensor.tobytes() == two.tensors[name].tobytes(), name
    assert log_without_times(run) == log_without_times(other)
    one_summary, two_summary = (
        {
            key: value
            for key, value in summary.items()
            if key not in ("seconds", "images_per_second", "copy_seconds")
        }
        for summary in (json.loads((path / "summary.json").read_text()) for path in (run, other))
    )
    assert one_summary == two_summary


def colored_pictures(root: Path, count: int, side: int) -> Path:
    """Make coloured images of three classes, which crops, mirroring and colour noise all change."""
    draws = np.random.default_rng(0)
    for number in range(count):
        folder = root / f"class{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = draws.integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(coarse).resize((side + 4, side)).save(folder / f"{number}.png")
    return root


def fake_tests(monkeypatch: pytest.MonkeyPatch, wrong: list[int]) -> None:
    """Let tests find these numbers of wrong images, of 100."""
    numbers = iter(wrong)
    monkeypatch.setattr(
        "cconvnet.training.trainer.evaluate",
        lambda network, batches, stopped, world: Tally(100.0, next(numbers), 0, 100),
    )


def tensors_of(run: Path) -> dict[str, np.ndarray[Any, Any]]:
    return runs.find_checkpoint(run)[1].tensors


def start(*arguments: str, program: str | None = None) -> subprocess.Popen[str]:
    """Start the command, or a program that runs it."""
    begin = ["-m", "cconvnet"] if program is None else ["-c", program]
    return subprocess.Popen(
        [sys.executable, *begin, "train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end, "nothing happened for a minute"
        if process.poll() is not None:
            return
        time.sleep(0.002)
