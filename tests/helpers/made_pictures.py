"""Small folders of images from which tests make shards."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from helpers.commands import Listener
from PIL import Image

from cconvnet.data import datasets
from cconvnet.data.shards.encoding import choose
from cconvnet.data.shards.format import JOURNAL, ShardSet
from cconvnet.data.shards.prepare import SHARD_BYTES, Preparation

COUNTS = {"train": {"ant": 9, "bee": 14, "cat": 11}, "test": {"ant": 3, "bee": 2, "cat": 4}}


def photo(height: int, width: int, seed: int) -> Image.Image:
    """Return smooth noise like a photograph's, which a JPEG nearly preserves."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def make_folder(
    root: Path, counts: dict[str, dict[str, int]] = COUNTS, sides: tuple[int, int] | None = None
) -> Path:
    """JPEGs and a few PNGs, some of them grey, of `sides` (height, width), else of many sizes."""
    chance = np.random.default_rng(1)
    for split, classes in counts.items():
        for name, count in classes.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                height, width = sides or tuple(chance.integers(20, 60, 2).tolist())
                image = photo(height, width, int(chance.integers(2**32)))
                if number % 5 == 3:
                    image = image.convert("L")
                kind = "PNG" if number % 7 == 2 and sides is None else "JPEG"
                (root / split / name / f"{number:03}.{kind.lower()}").write_bytes(encoded(image, kind))
    return root


def preparation(src: Path | str, dst: Path, shard_bytes: int = SHARD_BYTES, **asked: object) -> Preparation:
    dataset = datasets.open_dataset(src)
    return Preparation(dataset, dst, *choose(dataset, **asked), shard_bytes)  # type: ignore[arg-type]


def prepare(
    src: Path | str, dst: Path, shard_bytes: int = SHARD_BYTES, workers: int = 0, **asked: object
) -> ShardSet:
    return preparation(src, dst, shard_bytes, **asked).run(Listener(), workers)


def digests(root: Path) -> dict[str, str]:
    """Return the digest of each file in a folder of shards, except the journal."""
    return {
        entry.name: hashlib.sha256(entry.read_bytes()).hexdigest()
        for entry in root.iterdir()
        if entry.name != JOURNAL
    }
