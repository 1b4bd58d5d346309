"""Contact sheets of augmented training images: the network's input for a few images, epoch after epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cconvnet import data, ops
from cconvnet.checks import MAX_SEED, whole
from cconvnet.data.color_noise import color_shifts
from cconvnet.data.statistics import gather
from cconvnet.nets import NetSpec, value_text
from cconvnet.system.outputs import save_picture

_GAP = 4  # pixels
_BACKGROUND = 128  # grey: photographs often end in white
_SMALLEST_CELL = 96  # pixels; smaller pictures are enlarged

Indices = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]


def augmented(
    split: data.Split, numbers: Indices, spec: NetSpec, epochs: int, seed: int = 0, colors: Any = None
) -> list[Pixels]:
    """Augment images as training would.

    The loader distorts images and chooses crops and mirror images, and the input kernel applies these. The
    mean image is not subtracted: it would have to be added back for viewing. Values are rounded and clipped
    to 0..255.

    Args:
        split: The training images.
        numbers: Those of the images to augment, which must be readable.
        spec: The network, whose recipe says what is augmented.
        epochs: The number of epochs.
        seed: The random seed.
        colors: color_components() of the training images; without them there is no colour noise.

    Returns:
        An array uint8[n,h,w,C] for each epoch.
    """
    recipe, size = spec.recipe, (spec.input.height, spec.input.width)
    seen = []
    with data.Loader(
        split,
        len(numbers),
        seed,
        crop=size,
        shuffle=False,
        workers=0,
        numbers=numbers,
        **data.augmentation(recipe),
    ) as loader:
        for epoch in range(epochs):
            (batch,) = loader.epoch(epoch)
            shift = None
            if colors is not None:
                shift = color_shifts(colors, recipe.color_noise, len(batch), seed, epoch, 0)
            shown = ops.input_transform(
                batch.images,
                size,
                top=batch.top,
                left=batch.left,
                mirror=batch.mirror,
                shift=shift,
                margin=recipe.pad,
            )
            seen.append(np.clip(np.rint(shown), 0, 255).astype(np.uint8))
    return seen


def contact_sheet(rows: list[list[Pixels]]) -> Pixels:
    """Arrange pictures in rows of one picture uint8[H,W,C]; those smaller than the first are centred."""
    height, width, channels = rows[0][0].shape
    factor = max(1, _SMALLEST_CELL // min(height, width))
    cell = (factor * height + _GAP, factor * width + _GAP)
    shape = (len(rows) * cell[0] + _GAP, max(map(len, rows)) * cell[1] + _GAP, channels)
    sheet = np.full(shape, _BACKGROUND, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            large = picture.repeat(factor, axis=0).repeat(factor, axis=1)
            top = i * cell[0] + _GAP + (factor * height - len(large)) // 2
            left = j * cell[1] + _GAP + (factor * width - large.shape[1]) // 2
            sheet[top : top + len(large), left : left + large.shape[1]] = large
    return sheet


def _good(split: data.Split, number: int) -> tuple[int, Pixels]:
    """Return an image of a split and its number, or the next one that is readable."""
    while True:  # ends, because every split has a readable image
        images, _ = split.read([number])
        if len(images):
            return number, images[0]
        number = (number + 1) % len(split)


def write_sheet(
    out: Path,
    source: data.Source,
    spec: NetSpec,
    *,
    images: int = 6,
    epochs: int = 8,
    seed: int = 0,
    workers: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Write a sheet with a row for each image: the stored image, then the network's input in each epoch.

    The images are spread evenly over the training images. An unreadable one is replaced by the next readable
    one.

    Args:
        out: The file, .png.
        source: The data.
        spec: The network.
        images: The number of images.
        epochs: The number of epochs.
        seed: The random seed.
        workers: The number of processes that decode images.
        say: Receives lines about the sheet.

    Raises:
        ValueError: An argument is not allowed; the text names it.
        DataError: The images cannot be read.
        OSError: `out` cannot be written.
    """
    from PIL import Image

    for name, value in (("images", images), ("epochs", epochs)):
        whole(f"--{name}", value, 1)
    whole("--seed", seed, 0, MAX_SEED)
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out must end with .png, not {out.name!r}")
    count = len(source.train)
    if images > count:
        raise ValueError(
            f"--images must be at most {count:,}, the training images of {source.name}, not {images}"
        )
    recipe = spec.recipe
    colors = None
    if recipe.color_noise:
        colors = gather(source, mean=False, colors=True, workers=workers, say=say).colors
    found = [_good(source.train, number) for number in (np.arange(images) * count // images).tolist()]
    numbers = np.array([number for number, _ in found])
    seen = augmented(source.train, numbers, spec, epochs, seed, colors)
    rows = [[image, *(shown[index] for shown in seen)] for index, (_, image) in enumerate(found)]
    sheet = contact_sheet(rows)
    save_picture(Image.fromarray(sheet[:, :, 0] if sheet.shape[2] == 1 else sheet), out)
    size = f"{spec.input.height}x{spec.input.width} of {spec.stored[0]}x{spec.stored[1]}"
    size += f" padded by {recipe.pad}" if recipe.pad else ""
    kind = "random crops" if recipe.crop or recipe.pad else "centre crops"
    if recipe.random_resized_crop:
        kind = "random-resized crops ({:g} to {:g} of the area)".format(*recipe.area)
    noise = f"colour noise {recipe.color_noise:g}" if recipe.color_noise else "no colour noise"
    say(
        f"{len(rows)} images, {epochs} epochs: {kind} of {size}, "
        f"{'mirror images' if recipe.mirror else 'no mirror images'}, {noise}, "
        f"distortion: {value_text(recipe.distort)}"
    )
