"""Settings that all parts of a report share: devices, sizes and the names of its files."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from gpu_report.running import Absent, Running

# Files in the report's folder.
SMOKE, TESTS, KERNELS, STEP, MACHINE, CONSTANTS = (
    "smoke.log", "tests.log", "kernels.jsonl", "step.jsonl", "machine.jsonl", "constants.json",
)  # fmt: skip
# Names the folder of proofs beside the package's own; cconvnet/devices/proofs.py.
PROVEN = "CCONVNET_PROVEN"
# Networks whose kernels are measured, with their batches: in this order, while time remains.
BATCHES = {"alexnet": 128, "resnet50": 64, "vgg16": 32}
# Environment of processes of which many run at once, each with small products on the host.
FEW_THREADS = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
RESTARTS = 3  # of each process, after cases that lost the device


@dataclass
class Settings:
    """Settings of all parts.

    Attributes:
        device: The name of the device.
        scratch: A folder for temporary files.
        batch: Images in each measurement, instead of each network's own.
        data: Images or shards on which feeding is measured.
        unbuilt: The reason why the modules cannot be used; empty while none is known.
        peers: Processes that measure peers during the build.
        conformance: The process that checks conformance during the build.
    """

    device: str
    scratch: Path
    batch: int | None = None
    data: str | None = None
    unbuilt: str = ""
    peers: list[Running] = field(default_factory=list)
    conformance: Running | None = None

    @property
    def kind(self) -> str:
        """Return the kind of the device."""
        return self.device.partition(":")[0]

    @property
    def on_gpu(self) -> bool:
        """Return whether the device is a GPU."""
        return self.kind == "cuda"

    def need_modules(self) -> None:
        """Raise Absent if the build failed."""
        if self.unbuilt:
            raise Absent(self.unbuilt)

    @property
    def tables(self) -> list[str]:
        """Return the networks whose kernels are measured, as name:batch; a small one if there is no GPU."""
        batches = BATCHES if self.on_gpu else {"cifar-quick": 1}
        return [f"{name}:{self.batch or own}" for name, own in batches.items()]

    @property
    def net(self) -> list[str]:
        """Return the options of the network whose step is measured."""
        if self.on_gpu:
            return ["--net", "alexnet", "--batch", str(self.batch or BATCHES["alexnet"])]
        return ["--net", "lenet", "--batch", str(self.batch or 8)]

    @property
    def select(self) -> str:
        """Return the ``-k`` expression of the tests to run: the variable SELECT, or the device's own.

        These are all of a GPU's tests, or a few of another device's to try the report.
        """
        return os.environ.get("SELECT") or (self.kind if self.on_gpu else f"{self.kind} and plain and fp32")


def cores() -> int:
    """Return the number of processes that may run at once here."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
