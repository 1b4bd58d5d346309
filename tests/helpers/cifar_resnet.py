"""The ResNets for CIFAR-10 of github.com/akamaster/pytorch_resnet_cifar10: its structure and its names.

Where the shape changes, the shortcut takes every second pixel and adds channels of zeros on either side, the
option A of He et al. 2015, "Deep Residual Learning for Image Recognition", section 4.2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions and a shortcut without parameters."""

    def __init__(self, read: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(read, filters, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.stride, self.more = stride, filters - read

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.more:
            half = self.more // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        return F.relu(x + y)


class Model(nn.Module):
    """A network of this depth, 6 n + 2."""

    def __init__(self, depth: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        read, count = 16, (depth - 2) // 6
        for stage, filters in enumerate((16, 32, 64), 1):
            blocks = []
            for index in range(count):
                blocks.append(Block(read, filters, 2 if stage > 1 and index == 0 else 1))
                read = filters
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits."""
        x = F.relu(self.bn1(self.conv1(x)))
        for layer in (self.layer1, self.layer2, self.layer3):
            x = layer(x)
        return self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
