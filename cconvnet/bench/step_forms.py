"""Our training step in each form: from pageable memory, pinned, pipelined as by the trainer, replayed.

    python -m cconvnet.bench.step_forms --net alexnet --batch 128 --device cuda:0 --json FILE

One process measures all precisions. It writes a JSON line for each, and again after each form: the last one
counts.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cconvnet import nets
from cconvnet.bench.timing import summary, wall_seconds
from cconvnet.devices import PRECISIONS, Device, get_device, machine
from cconvnet.nets import NetSpec
from cconvnet.network import Network
from cconvnet.network.synthetic import Training

WARMUP = 4  # the second step is captured


def tiny() -> NetSpec:
    """Return an AlexNet for devices on which a real one would take minutes."""
    return nets.alexnet.build((67, 67, 3), 10, width=1 / 24)


def step_forms(
    spec: NetSpec,
    device: Device,
    batch: int,
    precision: str,
    steps: int,
    found: Callable[[dict[str, Any]], None] = lambda line: None,
) -> dict[str, Any]:
    """Time a network's training step in each form.

    Returns ``forms``, each with ``seconds`` and ``images_per_second``. ``pageable`` and ``pinned`` are steps
    from load to loss, with images in ordinary and in pinned memory. In ``pipelined`` steps the next batch is
    loaded while a step computes and losses are read a step late, as by the trainer. ``replay`` is the
    captured work alone, without images, back to back on the device. The result also contains ``losses`` of
    the first steps, ``made_seconds`` and ``memory_bytes``. `found` is called with the line so far after each
    form.
    """
    begin = time.perf_counter()
    network = Network(spec, batch=batch, devices=[device], precision=precision)
    staged = Training(network)
    losses = [staged.step() for _ in range(WARMUP)]
    line: dict[str, Any] = {
        "what": "step forms",
        "net": spec.name,
        "batch": batch,
        "precision": precision,
        "device": device.name,
        "made_seconds": time.perf_counter() - begin,
        "memory_bytes": network.describe()["memory_bytes"],
        "losses": losses,
        "forms": {},
    }

    def add(form: str, times: dict[str, Any]) -> None:
        line["forms"][form] = times | {"images_per_second": batch / times["seconds"]}
        found(line)

    for form, training in (("pinned", staged), ("pageable", Training(network, pageable=True))):
        training.step()
        add(form, summary(wall_seconds(training.step, steps)))
    _pipelined(staged, 3)
    add("pipelined", {"seconds": _pipelined(staged, steps) / steps, "calls": steps})
    if (seconds := _replayed(network, steps)) is not None:
        add("replay", {"seconds": seconds / steps, "calls": steps})
    line["loss"] = network.result().loss
    found(line)
    return line


def _pipelined(training: Training, steps: int) -> float:
    """Return the seconds of `steps` steps in the trainer's order."""
    network, later = training.network, None
    begin = time.perf_counter()
    for number in range(steps):
        network.load(*training.inputs, targets=training.targets)
        network.train_step(number, training.lr, network.spec.recipe.momentum)
        now = network.result_later()
        if later is not None:
            later()
        later = now
    if later is not None:
        later()
    for device in network.devices:
        device.synchronize()
    return time.perf_counter() - begin


def _replayed(network: Network, steps: int) -> float | None:
    """Return the device's seconds for repetitions of the captured step; None if nothing was captured."""
    works = [work for work in network.runner.captured.values() if work is not None]
    if not works:
        return None
    (device,) = network.devices
    begin = device.moment()
    for _ in range(steps):
        works[0]()
    return device.seconds_between(begin, device.moment())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--net", default="alexnet", help="a network's name, or tiny")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", required=True)
    parser.add_argument("--precisions", default="bf16,tf32,fp32")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0, help="begin no precision after these")
    parser.add_argument("--json", type=Path, required=True, help="append lines to this file")
    options = parser.parse_args(arguments)
    begin = time.monotonic()
    device = get_device(options.device)
    spec = tiny() if options.net == "tiny" else nets.build(options.net)
    about, status = machine.describe(device), 0
    with options.json.open("a", encoding="utf-8") as file:

        def write(line: dict[str, Any]) -> None:
            file.write(json.dumps({"machine": about, **line}) + "\n")
            file.flush()

        for precision in options.precisions.split(","):
            if precision not in PRECISIONS or not device.serves(precision):
                continue
            what = {"what": "step forms", "precision": precision}
            if time.monotonic() - begin >= options.seconds:
                write(what | {"failed": "no time was left"})
                continue
            try:
                step_forms(spec, device, options.batch, precision, options.steps, write)
            except Exception as error:  # another precision may work
                write(what | {"failed": f"{type(error).__name__}: {str(error)[:400]}"})
                status = 1
            gc.collect()
    return status


if __name__ == "__main__":
    sys.exit(main())
