"""PyTorch's training step of one of our networks, in the forms in which a PyTorch user could write it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

# This import comes first: it reports a missing PyTorch.
from cconvnet.bench.peers.pytorch import set_up

# isort: split

import torch
from torch import Tensor

from cconvnet.bench import processes
from cconvnet.bench.peers.cconvnet_step import END, MASKS, START
from cconvnet.bench.peers.forms import form_precision
from cconvnet.bench.peers.pytorch_net import Net, input_factor
from cconvnet.nets import spec_from_dict
from cconvnet.network.synthetic import MEAN


class PyTorchStep:
    """PyTorch's side of a comparison of steps, with OurStep's methods, network, weights and images.

    Args:
        spec: The network, as spec_to_dict returns it.
        batch: Images in a batch.
        ordinal: The GPU's number in the driver; None is the CPU.
        precision: "fp32", "tf32" (matrix products and convolutions may use it), or "bf16" (autocast), unless
            the form names another.
        folder: The folder with OurStep's weights and images. This side's file there is named after the form.
        form: Words that cconvnet.bench.peers.forms.WORDS explains.

    Raises:
        PeerMissing: PyTorch is not there, has no such device, or lacks a layer of the network.
        ValueError: `batch` differs from that of the images.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        batch: int,
        ordinal: int | None,
        precision: str,
        folder: str,
        form: str,
    ) -> None:
        words = form.split("+")
        precision = form_precision(form, precision)
        self.device = set_up(ordinal, precision)
        self.on_gpu = ordinal is not None
        self.folder, self.form = folder, form
        self.bf16_model = "bf16_model" in words
        self.autocast = precision == "bf16" and not self.bf16_model
        # Shapes are constant, so trying every algorithm once is worth it.
        torch.backends.cudnn.benchmark = True

        net = spec_from_dict(spec)
        with np.load(f"{folder}/{START}", allow_pickle=False) as start:
            images, labels = start["images"], start["labels"]
            model = Net(net, start, lrn_by_hand="lrn_by_hand" in words)
        if len(images) != batch:
            raise ValueError(f"batch must be that of the images, {len(images)}, not {batch}")
        self.layout = torch.channels_last if "channels_last" in words else torch.contiguous_format
        # nn.Module.to counts memory formats among its keyword arguments only.
        self.model = model.to(device=self.device, memory_format=self.layout)  # type: ignore[call-overload]
        # The tensor that SGD updates for each parameter: itself, or the floats from which it is rounded.
        self.moved = {id(p): p for p in self.model.parameters()}
        if self.bf16_model:
            self.moved = {id(p): torch.nn.Parameter(p.detach().clone()) for p in self.model.parameters()}
            self.model.to(torch.bfloat16)
        self.factor = input_factor(net.input, self.device)
        # As from a data loader: cropped, in the model's layout, and in pinned memory for a GPU.
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=self.layout)
        self.labels = torch.from_numpy(labels).long()
        if self.on_gpu:
            self.images, self.labels = self.images.pin_memory(), self.labels.pin_memory()
        # The mean has one number for each channel; a mean image costs the same.
        mean = net.input.mean or [MEAN] * images.shape[3]
        self.mean = torch.tensor(mean, device=self.device).view(1, -1, 1, 1)
        self.optimizer: torch.optim.Optimizer = torch.optim.SGD([torch.empty(0)])
        self.momentum, self.nesterov = net.recipe.momentum, net.recipe.nesterov
        self.losses: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = self._losses
        if "compiled" in words:
            self.losses = torch.compile(self._losses)
        self.captured: Any = None

    def _losses(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of uint8 images on the device, and the sum of all costs with their factors."""
        x = images.to(torch.float32).sub_(self.mean)
        if self.factor is not None:
            x = x.mul_(self.factor)
        if self.bf16_model:
            x = x.to(torch.bfloat16)
        # Each weight is used once, and cached casts must not outlive a capture.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast, cache_enabled=False):
            logits = self.model(x)
        found: tuple[Tensor, Tensor] = self.model.losses(logits, labels)
        return found

    def _train(self, images: Tensor, labels: Tensor) -> Tensor:
        self.model.zero_grad(set_to_none=True)
        loss, objective = self.losses(images, labels)
        objective.backward()
        if not self.bf16_model:
            self.optimizer.step()
            return loss.detach()
        rounded = list(self.model.parameters())
        moved = [self.moved[id(p)] for p in rounded]
        for own, p in zip(moved, rounded, strict=True):
            own.grad = None if p.grad is None else p.grad.float()
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(rounded, moved)
        return loss.detach()

    def _set_rate(self, lr: float) -> None:
        """Make a new optimizer, with velocities of zero."""
        groups = self.model.param_groups(lr, self.momentum)
        for group in groups:
            group["params"] = [self.moved[id(p)] for p in group["params"]]
        rates = {"lr": lr, "momentum": self.momentum, "nesterov": self.nesterov}
        self.optimizer = torch.optim.SGD(groups, **rates, fused=True)

    def about(self) -> dict[str, Any]:
        """Return ``what`` computes."""
        where = f"{torch.get_num_threads()} threads"
        if self.on_gpu:
            where = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
        return {"what": f"PyTorch {torch.__version__}, {where}"}

    def first_steps(self, count: int, lr: float) -> list[float]:
        """Return the losses of `count` steps with our dropout masks; save the velocities in the folder.

        Every tied maximum of a window gets the gradient, as in ours. Timed steps use PyTorch's own pooling.
        """
        self._set_rate(lr)
        for pool in self.model.pools:
            pool.every_tie = True
        losses = []
        images, labels = self.images.to(self.device), self.labels.to(self.device)
        with np.load(f"{self.folder}/{MASKS}", allow_pickle=False) as masks:
            for step in range(count):
                own = {name: masks[f"{name}.{step}"] for name in self.model.dropouts}
                self.model.set_masks(own, self.layout)
                losses.append(float(self._train(images, labels)))
        for dropout in self.model.dropouts.values():
            dropout.mask = None
        for pool in self.model.pools:
            pool.every_tie = False
        np.savez(f"{self.folder}/{self.form}-{END}", **self._velocities())
        return losses

    def _velocities(self) -> dict[str, Any]:
        """Return the velocities by our names, in our shapes and with our sign: ours is the step itself."""
        rates = {id(p): group["lr"] for group in self.optimizer.param_groups for p in group["params"]}
        found = {}
        for name, own in self.model.learned.items():
            moved = self.moved[id(own.tensor)]
            momentum = self.optimizer.state[moved]["momentum_buffer"]
            found[f"{name}.velocity"] = own.to_ours(momentum) * np.float32(-rates[id(moved)])
        return found

    def prepare(self, lr: float) -> None:
        """Prepare the steps that are timed."""
        self._set_rate(lr)
        if "graph" in self.form.split("+"):
            self._capture()
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        processes.forget_peak()

    def _capture(self) -> None:
        """Capture the step in one CUDA graph, which reads images and labels from fixed memory."""
        images, labels = self.images.to(self.device), self.labels.to(self.device)
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(3):
                self._train(images, labels)
        torch.cuda.current_stream(self.device).wait_stream(side)
        # The capture then allocates gradients in the graph's own memory.
        self.model.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = self._train(images, labels)
        self.captured = graph, images, labels, loss

    def step(self) -> float:
        """Return the seconds of one step: images to the device, forward, backward, update, loss read."""
        begin = time.perf_counter()
        if self.captured is not None:
            graph, images, labels, loss = self.captured
            images.copy_(self.images, non_blocking=True)
            labels.copy_(self.labels, non_blocking=True)
            graph.replay()
        else:
            images = self.images.to(self.device, non_blocking=True)
            loss = self._train(images, self.labels.to(self.device, non_blocking=True))
        loss.item()
        if self.on_gpu:
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - begin

    def memory(self) -> dict[str, int]:
        """Return the peak memory of the process and of the GPU."""
        found = {"peak_rss_bytes": processes.peak_bytes()}
        if self.on_gpu:
            # Reserved memory, as on our side, and its peak use.
            found["peak_device_bytes"] = torch.cuda.max_memory_reserved(self.device)
            found["peak_allocated_device_bytes"] = torch.cuda.max_memory_allocated(self.device)
        return found
