"""PyTorch's DataLoader over the same images, with the transforms of torchvision over Pillow.

They are those of AlexNet's training: open, to RGB, shorter side to `size`, random crop, mirror, float tensor
of [0, 1] in CHW order, normalise. Source: the documentation of torchvision.transforms, whose Resize,
RandomCrop, RandomHorizontalFlip, ToTensor and Normalize these are.
"""

from __future__ import annotations

import io
import itertools
from typing import Any

import numpy as np

# This import comes first: it reports a missing PyTorch.
from cconvnet.bench.peers.pytorch import set_up

# isort: split

import PIL
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cconvnet.bench.peers.feeding import open_streamed, timed, times_over
from cconvnet.data.byte_ranges import ByteRange
from cconvnet.data.splits import StoredSplit

# ImageNet's statistics from PyTorch's examples.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_PREFETCH = 2


class Pictures(Dataset[tuple[Tensor, int]]):
    """Dataset of stored images, decoded and transformed one by one."""

    def __init__(self, pictures: list[ByteRange], labels: list[int], size: int, crop: int) -> None:
        self.pictures, self.labels, self.size, self.crop = pictures, labels, size, crop
        self.mean = torch.tensor(_MEAN).view(3, 1, 1)
        self.std = torch.tensor(_STD).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, offset, length, _ = self.pictures[index]
        with open(path, "rb") as file:  # noqa: PTH123 (as torchvision does)
            file.seek(offset)
            image: Image.Image = Image.open(io.BytesIO(file.read(length))).convert("RGB")
        shorter = min(image.width, image.height)
        if shorter != self.size:
            whole = (self.size * image.width // shorter, self.size * image.height // shorter)
            image = image.resize(whole, Image.Resampling.BILINEAR)
        top = int(torch.randint(0, image.height - self.crop + 1, ()))
        left = int(torch.randint(0, image.width - self.crop + 1, ()))
        image = image.crop((left, top, left + self.crop, top + self.crop))
        if torch.rand(()) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return tensor.to(torch.float32).div(255).sub_(self.mean).div_(self.std), self.labels[index]


class PyTorchData:
    """PyTorch's side of a comparison of loaders; see cconvnet.bench.peers.cconvnet_data.OurData.

    Args:
        data: The data, as for open_source.
        size: The size of stored images, as for open_source.
        crop: Height and width of the crops.
        batch: Images in a batch.
    """

    def __init__(self, data: str | None, size: int, crop: int, batch: int) -> None:
        set_up(None, "fp32")
        split = open_streamed(data, size).train
        assert isinstance(split, StoredSplit)
        times = times_over(len(split), batch)
        stored = split.ranges.select(np.arange(len(split)))
        self.pictures = Pictures(stored * times, split.labels.tolist() * times, size, crop)
        self.batch = batch

    def about(self) -> dict[str, Any]:
        """Describe the versions, and whether memory is pinned."""
        return {
            "what": f"PyTorch {torch.__version__} DataLoader, Pillow {PIL.__version__}",
            "pinned": torch.cuda.is_available(),
        }

    def measure(self, workers: int, seconds: float) -> tuple[int, float]:
        """Load for `seconds` with `workers` processes; return images and seconds."""
        loader = DataLoader(
            self.pictures,
            batch_size=self.batch,
            shuffle=True,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            drop_last=True,
            prefetch_factor=_PREFETCH,
            persistent_workers=True,
        )
        batches = itertools.chain.from_iterable(itertools.repeat(loader))

        def advance() -> int:
            images, _ = next(batches)
            return len(images)

        return timed(advance, seconds, _PREFETCH * workers)
