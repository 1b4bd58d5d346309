"""Statistics of all training images: the mean image and the variation of colours.

Computing them takes as long as reading all pictures. So they are saved in a file in the pictures' folder, one
file for each size that images are resized to. The file records its source. The statistics are computed again
if a picture is added, removed or changed, or if another program decodes them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cconvnet.data.color_noise import color_components
from cconvnet.data.loader import mean_image
from cconvnet.data.preprocessing import UNRECORDED
from cconvnet.data.sources import Source
from cconvnet.data.splits import Progress
from cconvnet.system.outputs import write_output

Floats = npt.NDArray[np.float32]


@dataclass
class Statistics:
    """The mean image float32[H,W,C] and, if requested, color_components() float32[C,C]."""

    mean: Floats | None = None
    colors: Floats | None = None


def gather(
    source: Source,
    *,
    mean: bool = True,
    colors: bool = False,
    workers: int | None = None,
    say: Callable[[str], None] = lambda text: None,
    progress: Callable[[str], Progress] | None = None,
) -> Statistics:
    """Return the requested statistics of a source's training images, stored or computed.

    Statistics that came with the data (``Source.mean``, ``Source.colors``) are used unchanged.

    Args:
        source: The source.
        mean: Whether the mean image is wanted.
        colors: Whether color_components() are wanted.
        workers: Processes that decode; None chooses.
        say: Receives messages: the file that the statistics are read from or saved in, or why they are not
            saved.
        progress: called with the name of the computation. It returns a function to call with the images done
            and their total.

    Raises:
        DataError: too many images are broken.
    """
    wanted = [name for name, asked in (("mean", mean), ("colors", colors)) if asked]
    given = Statistics(source.mean, source.colors)
    if all(getattr(given, name) is not None for name in wanted):
        return given
    file = statistics_file(source)
    key = fingerprint(source, progress and progress("reading files")) if file is not None else ""
    kept = _read(file, key, source.image_shape) if file is not None else Statistics()
    kept.mean = kept.mean if given.mean is None else given.mean
    kept.colors = kept.colors if given.colors is None else given.colors
    missing = [name for name in wanted if getattr(kept, name) is None]
    if file is not None and len(missing) < len(wanted):
        say(f"data: statistics of the pictures are read from {file}")
    if "mean" in missing:
        kept.mean = mean_image(source.train, progress and progress("mean image"), workers)
    if "colors" in missing:
        kept.colors = color_components(source.train, progress and progress("colours"))
    if file is not None and missing:
        try:
            write_output(file, [_packed(kept, key)])
            say(f"data: statistics of the pictures are saved in {file}")
        except OSError as error:
            say(f"data: statistics of the pictures are saved in the run only: {file}: {error.strerror}")
    return kept


def statistics_file(source: Source) -> Path | None:
    """Return the file for a source's statistics; None if it has too few images for one."""
    if source.folder is None:
        return None
    return source.folder / f".cconvnet-{'x'.join(map(str, source.image_shape))}.npz"


def fingerprint(source: Source, progress: Progress | None = None) -> str:
    """Return a text that changes with the training pictures, their byte ranges and their decoder.

    It depends on the name, length and time of every file. `progress` is called with the number of files
    examined and their total.
    """
    ranges = source.ranges
    assert ranges is not None
    rules = "" if source.preprocessing == UNRECORDED else f"{source.preprocessing.record()} "
    digest = hashlib.sha256(f"2 {source.decoder} {rules}{source.image_shape} {len(ranges)}\n".encode())
    digest.update(ranges.fingerprint(str(source.folder), progress))
    return digest.hexdigest()


def _read(file: Path, key: str, shape: tuple[int, int, int]) -> Statistics:
    """Read the statistics in a file; they are empty if it is missing, damaged or of other pictures."""
    shapes = {"mean": shape, "colors": (shape[2], shape[2])}
    try:
        with np.load(file, allow_pickle=False) as arrays:
            if str(arrays["fingerprint"]) != key:
                return Statistics()
            found = {name: arrays[name] for name in shapes if name in arrays}
    except Exception:  # a damaged zip file raises nearly anything
        return Statistics()
    good = {
        name: array
        for name, array in found.items()
        if array.shape == shapes[name] and array.dtype == np.float32 and np.isfinite(array).all()
    }
    return Statistics(**good)


def _packed(statistics: Statistics, key: str) -> bytes:
    """Return the bytes of the file, an .npz, which any NumPy can read."""
    arrays = {name: array for name, array in vars(statistics).items() if array is not None}
    buffer = io.BytesIO()
    np.savez(buffer, fingerprint=np.array(key), **arrays)
    return buffer.getvalue()
