"""Runs whose batches are cut into shards, in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from helpers.commands import Listener
from helpers.rank_trainings import pictures, quick
from helpers.training import resume, run_training, steps_in_log, tensors_of

from cconvnet.training.options import Options
from cconvnet.training.session import train


def test_shards_of_a_batch_train_as_the_batch(tmp_path: Path) -> None:
    """The same masks, crops, mirror images and colour noise, so that only rounding differs."""
    chance: dict[str, Any] = {"mirror": True, "random_crop": True, "pad": 3, "color_noise": 0.1}
    images = pictures(32)
    for shards in (1, 4):
        options = Options(
            net=quick(4),
            batch=24,
            shards=shards,
            lr=0.01,
            devices=["cpu:0"],
            steps=3,
            log_every=1,
            out=tmp_path / str(shards),
            **chance,
        )
        train(options, Listener(), arrays=images)
    whole, parts = tmp_path / "1", tmp_path / "4"
    losses = [[line["loss"] for line in steps_in_log(run)] for run in (whole, parts)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    one, other = tensors_of(whole), tensors_of(parts)
    for name, value in one.items():
        assert np.abs(value - other[name]).max() <= 1e-3 * np.abs(value).max(), name


def test_a_resumed_run_says_that_its_exchange_differs(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_training(out=run, shards=2, steps=2)
    for changes, lines in (
        ({"wire": "bf16"}, ["wire: bf16 from here on, it was fp32: rounding differs"]),
        ({}, []),
        (
            {"wire": "fp32", "reduction": "fast", "exchange": "gradients", "parallel": "hybrid"},
            [
                "wire: fp32 from here on, it was bf16: rounding differs",
                "reduce: fast from here on, it was tree: rounding differs",
                "exchange: gradients from here on, it was auto: rounding differs",
                "parallel: hybrid from here on, it was data: rounding differs",
            ],
        ),
    ):
        listener = Listener()
        resume(run, listener, steps=2, **changes)
        assert [line for line in listener.lines if "from here on" in line] == lines
