"""Trainings of small networks as several ranks: `python rank_trainings.py FOLDER STEPS`.

A network whose run is in the folder is resumed. At the end the first rank prints the digest of each run's
weights and momentum, as JSON. No other rank may have written anything there.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

import cconvnet as cc
from cconvnet import runs
from cconvnet.console import reporter
from cconvnet.data.datasets import Arrays
from cconvnet.nets import NetSpec, alexnet
from cconvnet.ranks import join
from cconvnet.training.options import Options
from cconvnet.training.session import train

SHARDS, BATCH = 4, 24


def pictures(side: int, classes: int = 4, each: int = 24) -> Arrays:
    """Return pictures of coarse patterns, one pattern for each class, in noise."""
    draws = np.random.default_rng(side)
    patterns = draws.integers(0, 256, (classes, 4, 4, 3)).repeat(-(-side // 4), 1).repeat(-(-side // 4), 2)
    labels = np.arange(classes * each) % classes
    noise = draws.integers(-60, 61, (len(labels), side, side, 3))
    images = np.clip(patterns[labels, :side, :side] + noise, 0, 255).astype(np.uint8)
    return Arrays.of((images, labels), test=0.3)


def quick(classes: int) -> NetSpec:
    """Return cifar-quick's layers with dropout behind a convolution and an FC layer."""
    x = cc.image(32, 32, 3).conv(32, 5, pad=2).relu().maxpool(3, 2, rounding="ceil").dropout(0.8)
    x = x.conv(32, 5, pad=2).relu().avgpool(3, 2, rounding="ceil")
    x = x.conv(64, 5, pad=2).relu().avgpool(3, 2, rounding="ceil")
    return x.fc(64).relu().dropout(0.5).fc(classes).softmax("quick-dropout")


def normalised(classes: int) -> NetSpec:
    """Return a network whose running averages belong to its state."""
    x = cc.image(28, 28, 3, stored=(32, 32)).conv(8, 3, 2, bias=None).bn().relu()
    x = (x + x.conv(8, 3, pad=1, bias=None).bn()).relu().maxpool(2)
    return x.conv(12, 3, bias=None).bn().relu().fc(classes).softmax("normalised")


def trainings() -> dict[str, dict[str, Any]]:
    """Return the options of each training, by its name."""
    small, large = pictures(32), pictures(72)
    common: dict[str, Any] = {"batch": BATCH, "shards": SHARDS, "lr": 0.01, "devices": ["cpu:0"], "epochs": 9}
    towers = alexnet.build((72, 72, 3), 4, width=1 / 24)
    return {
        "lenet": {**common, "net": "lenet", "epochs": 1, "batch": 64},
        "dropout": {**common, "net": quick(4), "arrays": small, "mirror": True, "color_noise": 0.1},
        "hybrid": {**common, "net": quick(4), "arrays": small, "parallel": "hybrid", "accumulate": 2},
        "towers": {**common, "net": towers, "arrays": large, "towers": 2},
        "normalised": {**common, "net": normalised(4), "arrays": small, "accumulate": 2, "random_crop": True},
    }


def digest(path: Path) -> str:
    """Return a text that is the same for runs with bit-identical weights and momentum."""
    _, checkpoint, _ = runs.find_checkpoint(path)
    found = hashlib.sha256(str(checkpoint.step).encode())
    for name, tensor in sorted(checkpoint.tensors.items()):
        found.update(name.encode() + tensor.tobytes())
    return found.hexdigest()


# Events of Python's audit that change files, and the numbers of those arguments that are paths.
_CHANGES = {"os.mkdir": 1, "os.remove": 1, "os.rmdir": 1, "os.truncate": 1, "os.rename": 2, "os.link": 2}


def watch_writes(folder: Path) -> list[str]:
    """Return the list of what this process changes in a folder, which grows from now on."""
    found: list[str] = []

    def see(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        paths = arguments[: 1 if event == "open" else _CHANGES.get(event, 0)]
        for path in paths:
            if isinstance(path, str | bytes | os.PathLike) and folder in Path(os.fsdecode(path)).parents:
                found.append(f"{event} {os.fsdecode(path)}")

    sys.addaudithook(see)
    return found


def main(folder: Path, steps: int) -> None:
    with join() as world:
        written = watch_writes(folder)
        digests = {}
        for name, options in trainings().items():
            arrays = options.pop("arrays", None)
            path = folder / name
            again = {"resume": path} if world.broadcast(path.exists()) else {**options, "out": path}
            with reporter(quiet=True) as silent:
                train(Options(steps=steps, log_every=2, **again), silent, arrays=arrays, world=world)
            digests[name] = digest(path) if world.first else ""
        assert bool(written) == world.first, f"rank {world.rank} wrote {written[:3]}"
        if world.first:
            print(json.dumps(digests))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
