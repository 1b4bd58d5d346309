"""Folders of pictures with label images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cconvnet.data.label_images import IGNORED

Array = np.ndarray[Any, Any]

CLASSES = ("sky", "grass", "cow")


def pair(sides: tuple[int, int], seed: int) -> tuple[Array, Array]:
    """Return a picture uint8[H,W,3] and its labels uint8[H,W], by which its red is bright.

    The labels are blocks of 4x4 pixels, so that a network can learn them.
    """
    draws = np.random.default_rng(seed)
    blocks = draws.integers(0, len(CLASSES), (-(-sides[0] // 4), -(-sides[1] // 4)), np.uint8)
    labels = np.kron(blocks, np.ones((4, 4), np.uint8))[: sides[0], : sides[1]]
    picture = draws.integers(0, 256, (*sides, 3), np.uint8)
    picture[..., 0] = 100 * labels
    labels[draws.integers(sides[0]), draws.integers(sides[1])] = IGNORED
    return picture, labels


def save_labels(file: Path, labels: Array, indexed: bool = True) -> None:
    """Write a label image as a PNG with a palette, or as a grey one."""
    image = Image.fromarray(labels, "P" if indexed else "L")
    if indexed:
        image.putpalette([value for label in range(256) for value in (label, 255 - label, 7)])
    image.save(file)


def make_label_folder(
    root: Path, sides: list[tuple[int, int]], test_sides: list[tuple[int, int]], seed: int = 0
) -> Path:
    """Make train/images, train/labels and the same of test, with PNGs of these heights and widths."""
    for split, some in (("train", sides), ("test", test_sides)):
        for name in ("images", "labels"):
            (root / split / name).mkdir(parents=True)
        for number, own in enumerate(some):
            picture, labels = pair(own, seed)
            seed += 1
            Image.fromarray(picture).save(root / split / "images" / f"{number:03}.png")
            save_labels(root / split / "labels" / f"{number:03}.png", labels, number % 2 == 0)
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return root
