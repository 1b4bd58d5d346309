"""Predictions for picture files, which are read as the run read its images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from cconvnet import data
from cconvnet.data.preprocessing import CURRENT, Preprocessing
from cconvnet.evaluate.trained import Trained
from cconvnet.evaluate.views import Array, View, mean_probabilities, views_of


def predict(trained: Trained, pictures: Sequence[Path], views: str = "center") -> Array:
    """Return the probability of each class for each picture, averaged over views.

    Pictures are preprocessed by the rules that the run recorded.

    Args:
        trained: The network.
        pictures: JPEG or PNG files.
        views: A name from VIEWS.

    Returns:
        float64[pictures, classes].

    Raises:
        DataError: A picture cannot be read; the text names it.
    """
    found = []
    for result in predict_each(trained, pictures, views):
        if isinstance(result, data.DataError):
            raise result
        found.append(result)
    return np.stack(found)


def predict_each(
    trained: Trained, pictures: Sequence[Path], views: str = "center"
) -> Iterator[Array | data.DataError]:
    """Yield the probabilities of each picture in turn, or the error if it cannot be read; see predict().

    At most one batch of pictures is in memory at a time.
    """
    network = trained.network
    chosen = image_views(trained, views)
    for start in range(0, len(pictures), network.batch):
        results = read_each(pictures[start : start + network.batch], trained)
        images = [result for result in results if not isinstance(result, data.DataError)]
        found = iter(mean_probabilities(network, np.stack(images), chosen) if images else ())
        for result in results:
            yield result if isinstance(result, data.DataError) else next(found)


def image_views(trained: Trained, views: str) -> list[View]:
    """Return the views by which a network answers for an image; see views_of().

    Raises:
        ValueError: It answers for pixels, or there are no such views.
    """
    if trained.of_pixels:
        raise ValueError(
            f"{trained.path}: the network answers for each pixel, and not for images; `cconvnet predict` "
            "writes label images, and `cconvnet report` shows some"
        )
    return views_of(trained.network.spec, views)


def read_each(pictures: Sequence[Path], trained: Trained) -> list[Array | data.DataError]:
    """Read each picture as a stored image uint8[H,W,C]; an unreadable one yields its error instead."""
    results: list[Array | data.DataError] = []
    for path in pictures:
        try:
            results.append(read_picture(path, trained.image_shape, trained.preprocessing))
        except data.DataError as error:
            results.append(error)
    return results


def read_picture(path: Path, shape: tuple[int, int, int], preprocessing: Preprocessing = CURRENT) -> Array:
    """Read a picture file as uint8[H,W,C] of a given shape.

    Args:
        path: A JPEG or PNG file.
        shape: (height, width, channels); one channel gives grey.
        preprocessing: The rules by which the picture is decoded and resized.

    Raises:
        DataError: The picture cannot be read; the text names it.
    """
    from cconvnet.data.images import fit_image

    return _read(path, shape[2], lambda content: fit_image(content, shape[:2], preprocessing))


def read_whole(path: Path, channels: int, preprocessing: Preprocessing = CURRENT) -> Array:
    """Read a picture file as uint8[H,W,channels] of its own size; see read_picture()."""
    return _read(path, channels, lambda content: data.decode_image(content, None, None, None, preprocessing))


def _read(path: Path, channels: int, decode: Callable[[bytes], Array]) -> Array:
    from PIL import Image

    from cconvnet.data.byte_ranges import ByteRange
    from cconvnet.data.images import read_bytes

    try:
        pixels = decode(read_bytes(ByteRange(str(path))))
    except data.BrokenImage as error:
        raise data.DataError(f"{path} is not a readable JPEG or PNG: {error}") from error
    except OSError as error:
        raise data.DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise data.DataError(f"there is not enough memory to decode {path}") from error
    if channels == 1:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    return pixels


def not_turned(pictures: Sequence[Path], preprocessing: Preprocessing) -> str:
    """Return a note on pictures whose EXIF orientation is ignored by these rules, or an empty text."""
    from cconvnet.data.containers import UPRIGHT, orientation

    if preprocessing.orientation == "exif":
        return ""
    turned = []
    for path in pictures:
        with contextlib.suppress(OSError):
            if orientation(path.read_bytes()) != UPRIGHT:
                turned.append(path)
    if not turned:
        return ""
    return (
        f"the EXIF orientation of {len(turned):,} of the pictures is ignored, as it was in this network's "
        f"training; the first is {turned[0]}"
    )
