"""PyTorch's training step of true AlexNet on the CPU: the peer of benchmarks/alexnet_step_cpu.py.

The network is the paper's (two channel groups in conv2, conv4 and conv5, response normalisation inside each
half, ceil geometry, dropout), the update is SGD with momentum and weight decay.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYOUTS = ("nchw", "channels_last")
# How the response normalisation is written. "library" is F.local_response_norm; "sum" adds the
# five shifted squares, which saves the library's average pooling and its power function.
LRN_FORMS = ("library", "sum")


def _library_lrn(x: Tensor) -> Tensor:
    # The library divides alpha by the window's size; here, as in the paper, alpha is plain.
    return F.local_response_norm(x, size=5, alpha=5e-4, beta=0.75, k=2.0)


def _sum_lrn(x: Tensor) -> Tensor:
    channels = x.shape[1]
    squares = F.pad(x * x, (0, 0, 0, 0, 2, 2))
    total = squares[:, 0:channels]
    for shift in range(1, 5):
        total = total + squares[:, shift : shift + channels]
    root = (2.0 + 1e-4 * total).rsqrt()
    return x * (root * root.sqrt())


class AlexNet(nn.Module):
    """The 2012 paper's network for images[N, 3, 224, 224] of 1000 classes."""

    def __init__(self, lrn: str = "library") -> None:
        super().__init__()
        if lrn not in LRN_FORMS:
            raise ValueError(f"lrn must be one of {', '.join(LRN_FORMS)}, not {lrn!r}")
        self.lrn = {"library": _library_lrn, "sum": _sum_lrn}[lrn]
        self.conv1 = nn.Conv2d(3, 96, 11, stride=4)
        self.conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=2)
        self.fc6 = nn.Linear(9216, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, 1000)
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(parameter, std=0.01)
            else:
                one = name in ("conv2.bias", "conv4.bias", "conv5.bias", "fc6.bias", "fc7.bias")
                nn.init.constant_(parameter, 1.0 if one else 0.0)

    def _lrn_in_halves(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if x.is_contiguous():
            return self.lrn(x.view(2 * n, c // 2, h, w)).view(n, c, h, w)
        return torch.cat([self.lrn(half) for half in x.chunk(2, dim=1)], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        # 55 outputs of stride 4 cover 227 pixels: the three missing ones are zeros.
        x = F.relu(self.conv1(F.pad(x, (0, 3, 0, 3))), inplace=True)
        x = F.max_pool2d(self._lrn_in_halves(x), 3, 2, ceil_mode=True)
        x = F.relu(self.conv2(x), inplace=True)
        x = F.max_pool2d(self._lrn_in_halves(x), 3, 2, ceil_mode=True)
        x = F.relu(self.conv3(x), inplace=True)
        x = F.relu(self.conv4(x), inplace=True)
        x = F.relu(self.conv5(x), inplace=True)
        x = F.max_pool2d(x, 3, 2, ceil_mode=True).flatten(1)
        x = F.dropout(F.relu(self.fc6(x), inplace=True), 0.5, self.training)
        x = F.dropout(F.relu(self.fc7(x), inplace=True), 0.5, self.training)
        return self.fc8(x)


def build(
    batch: int,
    seed: int,
    *,
    layout: str = "channels_last",
    lrn: str = "library",
) -> Callable[[], float]:
    """A function that runs one training step on a fixed random batch and returns its loss.

    Args:
        batch: images per step, [batch, 3, 224, 224] on the 0-255 scale less their mean.
        seed: seeds the weights, the images and the dropout masks.
        layout: one of LAYOUTS, of images, activations and weights.
        lrn: one of LRN_FORMS.

    Raises:
        ValueError: an unknown layout or lrn.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, not {layout!r}")
    torch.manual_seed(seed)
    model = AlexNet(lrn).train()
    images = torch.rand(batch, 3, 224, 224) * 255 - 128
    labels = torch.randint(1000, (batch,))
    if layout == "channels_last":
        model = model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    weights = [p for name, p in model.named_parameters() if name.endswith("weight")]
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    # The rates are low enough for random labels not to blow up in a long measurement.
    optimizer = torch.optim.SGD(
        [{"params": weights, "weight_decay": 0.0005}, {"params": biases, "lr": 2e-3}],
        lr=1e-3,
        momentum=0.9,
        fused=True,
    )

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step
