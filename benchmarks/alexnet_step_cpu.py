"""A whole training step of true AlexNet on the CPU against PyTorch's, side by side in one run.

    python benchmarks/alexnet_step_cpu.py --json benchmarks/results/NAME.json

Two groups, LRN, dropout and the momentum update included. Each side lives in a process of its own, so that
its peak memory is its own, and all step in turn, so that a drift of the machine's speed meets all. PyTorch
gets raised malloc thresholds (without them it returns its buffers to the system at every step) and is taken
in its fastest form of those named in SIDES. Needs `pip install torch`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# PyTorch's forms, as arguments of peers/pytorch_alexnet.py's build.
PEERS = {
    "pytorch": {"layout": "nchw"},
    "pytorch-channels-last": {"layout": "channels_last"},
    # Not what the library offers, but what a PyTorch user could write instead.
    "pytorch-lrn-by-hand": {"layout": "nchw", "lrn": "sum"},
    "pytorch-channels-last-lrn-by-hand": {"layout": "channels_last", "lrn": "sum"},
}
SIDES = ("cconvnet", *PEERS)
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}


def build_step(side: str, batch: int) -> tuple[Callable[[], float], str]:
    """A function that does one step and returns its loss, and what does it."""
    if side == "cconvnet":
        import numpy as np

        from cconvnet import nets
        from cconvnet.network import Network

        network = Network(nets.build("alexnet"), batch=batch, devices="cpu:0", seed=0)
        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, (batch, 256, 256, 3), dtype=np.uint8)
        labels = generator.integers(0, 1000, batch, dtype=np.int32)
        offsets = generator.integers(0, 33, batch, dtype=np.int32)
        mirror = generator.integers(0, 2, batch, dtype=np.uint8)
        network.set_mean(np.full((256, 256, 3), 120, np.float32))
        count = 0

        def step() -> float:
            nonlocal count
            network.load(images, labels, top=offsets, left=offsets, mirror=mirror)
            network.forward(train=True, step=count)
            loss = network.result().loss
            network.backward()
            network.update(lr=0.01, momentum=0.9)
            count += 1
            return loss

        return step, network.devices[0].reason
    import torch
    from peers import pytorch_alexnet

    return pytorch_alexnet.build(batch, seed=0, **PEERS[side]), f"PyTorch {torch.__version__}"


def serve(side: str, batch: int) -> None:
    """The worker: a step for each line of input, and last the peak memory."""
    step, what = build_step(side, batch)
    print(json.dumps({"what": what}), flush=True)
    for line in sys.stdin:
        if line.strip() == "quit":
            break
        begin = time.perf_counter()
        loss = step()
        print(json.dumps({"seconds": time.perf_counter() - begin, "loss": loss}), flush=True)
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"peak_mib": peak / 1024}), flush=True)


class Worker:
    def __init__(self, side: str, batch: int) -> None:
        self.side = side
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", side, "--batch", str(batch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | (MALLOC if side != "cconvnet" else {}),
        )
        self.what = self.read()["what"]
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.side} ended with status {self.process.wait()}")
        return json.loads(line)  # type: ignore[no-any-return]

    def say(self, word: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.read()

    def step(self, counted: bool) -> None:
        answer = self.say("step")
        self.losses.append(answer["loss"])
        if counted:
            self.seconds.append(answer["seconds"])

    def result(self, batch: int) -> dict[str, Any]:
        median = statistics.median(self.seconds)
        return {
            "side": self.side,
            "what": self.what,
            "images_per_second": batch / median,
            "step_seconds": median,
            "step_seconds_min": min(self.seconds),
            "step_seconds_max": max(self.seconds),
            "peak_mib": self.say("quit")["peak_mib"],
            "first_losses": self.losses[:3],
        }


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=7, help="counted steps of each side")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(arguments.serve, arguments.batch)

    workers = [Worker(side, arguments.batch) for side in arguments.sides]
    for index in range(2 + arguments.steps):
        for worker in workers:
            worker.step(counted=index >= 2)
    results = [worker.result(arguments.batch) for worker in workers]

    for row in results:
        row["times_as_fast"] = row["step_seconds"] / results[0]["step_seconds"]
        row["times_the_memory"] = results[0]["peak_mib"] / row["peak_mib"]
        print(
            f"{row['side']:34} {row['images_per_second']:7.1f} images/s   median step "
            f"{row['step_seconds']:.3f} s ({row['step_seconds_min']:.3f} to {row['step_seconds_max']:.3f})   "
            f"peak {row['peak_mib']:.0f} MiB   {results[0]['side']} is {row['times_as_fast']:.2f} times as "
            f"fast with {row['times_the_memory']:.2f} times the memory"
        )
    report: dict[str, Any] = {
        "what": "true AlexNet training step (2 groups, LRN, dropout, update), fp32",
        "command": f"python benchmarks/alexnet_step_cpu.py --batch {arguments.batch} "
        f"--steps {arguments.steps}",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
        "processor": processor(),
        "threads": os.cpu_count(),
        "batch": arguments.batch,
        "results": results,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
