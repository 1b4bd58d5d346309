"""How long a whole training step takes: images in, weights updated."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import cconvnet
from cconvnet.bench.networks import build_network
from cconvnet.formats.netfiles import NetFiles
from cconvnet.train import devices_of


def step(
    net: str | NetFiles,
    *,
    devices: list[str] | None = None,
    batch: int | None = None,
    precision: str | None = None,
    size: int | None = None,
    places: Mapping[str, int | str] | None = None,
    steps: int = 20,
    warmup: int = 3,
    stepped: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Times full steps (load, forward, backward, update) on random images.

    Every step ends with reading its loss, which waits for the device; the images lie in host memory, so
    that the copy to the device is part of the step.

    Args
        size: height and width of the images; None is the network's own.
        places: layers and the devices they live on; see cconvnet.nets.specs.place.
        steps, warmup: timed steps, and untimed ones before them.
        stepped: called after each step with the number done.

    Returns
        ``step_seconds`` and ``images_per_second`` (of the median step), ``step_seconds_min``, each step's
        time in ``steps_seconds``, ``peak_rss_bytes``, and what was measured.

    Raises
        ValueError: naming the argument.
    """
    if steps < 1 or warmup < 0:
        raise ValueError(f"--steps must be at least 1 and --warmup at least 0, not {steps} and {warmup}")
    network = build_network(net, devices, batch, precision, size, places)
    spec, batch = network.spec, network.batch
    used = devices_of(devices)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (batch, *spec.stored_shape), np.uint8)
    labels = generator.integers(0, spec.classes, batch).astype(np.int32)
    times = []
    for index in range(warmup + steps):
        begin = time.perf_counter()
        network.load(images, labels)
        network.forward(train=True, step=index)
        network.backward()
        network.update(1e-9, spec.recipe.momentum)  # a rate of 0 would freeze, which is no work
        network.result()
        for device in used:
            device.synchronize()
        times.append(time.perf_counter() - begin)
        stepped(index + 1)
    times = times[warmup:]
    median = statistics.median(times)
    description = network.describe()
    # Linux counts in KiB, macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "net": spec.name,
        "device": description["device"],
        "device_reason": used[0].reason,
        "precision": description["precision"],
        "batch": batch,
        "image": list(spec.stored_shape),
        "images_per_second": batch / median,
        "step_seconds": median,
        "step_seconds_min": min(times),
        "steps_seconds": times,
        "warmup_steps": warmup,
        "parameters": description["parameters"],
        "memory_bytes": description["memory_bytes"],
        "peak_rss_bytes": peak,
        "version": cconvnet.__version__,
    }
