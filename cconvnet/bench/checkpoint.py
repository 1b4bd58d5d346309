"""Cost of checkpoints: how long training pauses, how long a file takes, and the steps meanwhile."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cconvnet.bench.timing import summary, wall_seconds
from cconvnet.checks import whole
from cconvnet.devices import machine
from cconvnet.formats.netfiles import AnyNet
from cconvnet.formats.networks import build_network
from cconvnet.nets import spec_to_dict
from cconvnet.network.synthetic import Training
from cconvnet.runs.checkpoint import Checkpoint, Folder
from cconvnet.training.saver import Saver


def checkpoint(
    net: AnyNet,
    *,
    devices: list[str] | None = None,
    batch: int | None = None,
    precision: str | None = None,
    folder: Path = Path(),
    steps: int = 5,
    saves: int = 5,
    stepped: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Train on random images for `steps` steps without a checkpoint, then while `saves` of them are saved.

    Args:
        net: A network, or its name or file; see cconvnet.formats.netfiles.resolve.
        devices: Names of the devices; None: the default device.
        batch: Images in a batch; None: the network's own.
        precision: One of cconvnet.devices.PRECISIONS; None: the default.
        folder: A folder on the disk to write to. All that is written there is removed.
        steps: Timed steps without a checkpoint.
        saves: Checkpoints.
        stepped: Called with the number of finished parts, of ``steps + saves``.

    Returns:
        ``stall_seconds`` of each checkpoint, for which training paused; ``write_seconds`` of each, in which
        the background checked, hashed, wrote and synced it; ``bytes`` of one; ``megabytes_per_second`` of the
        median one; ``step`` and ``step_while_saving``, the time of steps without and with a checkpoint being
        saved; and the settings.

    Raises:
        ValueError: The text names the argument.
        DeviceUnavailable: The device cannot be used.
        OSError: The folder cannot be written.
    """
    whole("--steps", steps, 1)
    whole("--saves", saves, 1)
    network = build_network(net, devices, batch, precision)
    training = Training(network)
    training.step()  # allocates its memory
    alone = []
    for done in range(1, steps + 1):
        alone += wall_seconds(training.step, 1)
        stepped(done)
    stalls, writings, beside, size = [], [], [], 0
    with (
        tempfile.TemporaryDirectory(prefix="cconvnet-checkpoint-", dir=folder) as place,
        Saver(network, Folder(Path(place))) as saver,
    ):
        for done in range(1, saves + 1):
            training.step()
            content = Checkpoint({}, spec_to_dict(network.spec), {}, {"step": done})
            begun = time.perf_counter()
            saver.begin(content, None)
            stalls.append(time.perf_counter() - begun)
            while saver.busy:
                seconds = wall_seconds(training.step, 1)
                if saver.busy:  # otherwise the save ended during the step
                    beside += seconds
            saved = saver.collect()
            assert saved is not None
            writings.append(saved.seconds)
            size = saved.bytes
            stepped(steps + done)
    return {
        "what": "checkpoint",
        "machine": machine.describe(network.devices[0]),
        "net": network.spec.name,
        "batch": network.batch,
        "precision": network.precision,
        "device": ",".join(device.name for device in network.devices),
        "parameters": network.describe()["parameters"],
        "bytes": size,
        "stall_seconds": stalls,
        "write_seconds": writings,
        "megabytes_per_second": size / 1e6 / statistics.median(writings),
        "step": summary(alone),
        "step_while_saving": summary(beside) if beside else None,
    }


def lines(result: Mapping[str, Any]) -> list[str]:
    """Return the result as lines of text."""

    def milliseconds(values: list[float]) -> str:
        return f"{1e3 * statistics.median(values):,.1f} ms, at most {1e3 * max(values):,.1f} ms"

    alone, beside = result["step"], result["step_while_saving"]
    slower = "no whole step ran during a save"
    if beside is not None:
        share = beside["seconds"] / alone["seconds"]
        slower = f"{1e3 * beside['seconds']:,.1f} ms while one is written ({share:.2f} times)"
    return [
        f"a checkpoint: {result['bytes'] / 1e6:,.1f} MB, {result['parameters']:,} parameters and momentum",
        f"training pauses: {milliseconds(result['stall_seconds'])} of {len(result['stall_seconds'])}",
        f"written in the background: {milliseconds(result['write_seconds'])}, "
        f"{result['megabytes_per_second']:,.0f} MB/s",
        f"a step: {1e3 * alone['seconds']:,.1f} ms, {slower}",
    ]
