"""Our side of a comparison of training steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cconvnet.bench import processes
from cconvnet.bench.peers.dropout_masks import dropout_masks
from cconvnet.bench.timing import wall_seconds
from cconvnet.nets import spec_from_dict
from cconvnet.network import Network
from cconvnet.network.synthetic import Training

Array = np.ndarray[Any, Any]

# Our side's files for the others: the first weights, images and labels; the dropout masks of the first steps;
# the velocities after them. Every other side saves its velocities in a file named after its form and END.
START, MASKS, END = "start.npz", "masks.npz", "end.npz"
GENTLE = 0.05  # the part of the loss by which a step that is compared may lower it


class OurStep:
    """Our training step, and the interface of every other side.

    Args:
        spec: The network, as spec_to_dict returns it.
        batch: Images in a batch.
        devices: Names of the devices.
        precision: One of cconvnet.devices.PRECISIONS.
        folder: The folder for START, MASKS and END.
    """

    def __init__(
        self, spec: dict[str, Any], batch: int, devices: list[str], precision: str, folder: str
    ) -> None:
        net = spec_from_dict(spec)
        self.network = Network(net, batch=batch, devices=devices, seed=0, precision=precision)
        self.training = Training(self.network)
        self.folder = Path(folder)

    def about(self) -> dict[str, Any]:
        """Return the properties of this side: in ``what``, what computes its steps, and others."""
        described = self.network.describe()
        return {
            "what": self.network.devices[0].reason,
            "device": described["device"],
            "parameters": described["parameters"],
            "memory_bytes": described["memory_bytes"],
        }

    def gentle_rate(self, lr: float) -> float:
        """Return a rate up to `lr` at which a step lowers the loss by little, for steps that are compared.

        Deep networks with their first weights may leap at their recipe's rate, where each step multiplies
        differences of rounding. By the gradient, a step at the returned rate lowers the loss by GENTLE of it
        at most. Weights and velocities stay as they are.
        """
        before = self.network.state()
        self.training.lr = lr
        loss = self.training.step()
        after, fall = self.network.state(), 0.0
        for name, parameter in self.network.parameters.items():
            rate = lr * parameter.rate_factor
            if rate > 0 and parameter.learns:
                # From rest, the velocity is the step itself.
                step = after[f"{name}.velocity"].astype(np.float64)
                fall += float((step * step).sum()) / rate
        self.network.load_state(before)
        return lr * min(1.0, GENTLE * loss / fall) if fall > 0 else lr

    def first_steps(self, count: int, lr: float) -> list[float]:
        """Do `count` steps and return their losses; files in the folder let other sides do the same steps."""
        self.training.lr = lr
        start: dict[str, Any] = {"images": self._cropped(), "labels": self.training.labels}
        np.savez(self.folder / START, **start, **self._state(velocities=False))
        losses: list[float] = []
        masks: dict[str, Any] = {}
        for step in range(count):
            own = dropout_masks(self.network, self.training.count)
            losses.append(self.training.step())
            masks.update({f"{name}.{step}": mask for name, mask in own.items()})
        np.savez(self.folder / MASKS, **masks)
        np.savez(self.folder / END, **self._state(velocities=True))
        return losses

    def _state(self, velocities: bool) -> dict[str, Any]:
        state = self.network.state()
        return {name: value for name, value in state.items() if name.endswith(".velocity") == velocities}

    def _cropped(self) -> Array:
        """Return the images as the network reads them, uint8[N,H,W,C], before their mean is subtracted."""
        net, given = self.network.spec, self.training
        crops = np.empty((len(given.images), net.input.height, net.input.width, net.input.channels), np.uint8)
        offsets = zip(crops, given.images, given.top, given.left, given.mirror, strict=True)
        for crop, image, top, left, mirror in offsets:
            cut = image[top : top + net.input.height, left : left + net.input.width]
            crop[...] = cut[:, ::-1] if mirror else cut
        return crops

    def prepare(self, lr: float) -> None:
        """Prepare the steps that are timed; the peak of memory is theirs."""
        self.training.lr = lr
        processes.forget_peak()

    def step(self) -> float:
        """Return the seconds of one step: images to the device, forward, backward, update, loss read."""
        return wall_seconds(self.training.step, 1)[0]

    def memory(self) -> dict[str, int]:
        """Return ``peak_rss_bytes`` of the process, and on a GPU ``peak_device_bytes`` of its allocator."""
        found = {"peak_rss_bytes": processes.peak_bytes()}
        gpus = {device.ordinal: device for device in self.network.devices if device.kind == "cuda"}
        held = 0
        for device in gpus.values():
            with device:
                held += int(device.xp.get_default_memory_pool().total_bytes())
        return found | ({"peak_device_bytes": held} if gpus else {})
