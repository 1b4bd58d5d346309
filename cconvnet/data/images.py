"""One image file to a uint8 array: decoding, the many kinds of pixels made RGB, resizing.

Files come from strangers. What a file claims in its header is checked before anything is allocated for
its pixels, and whatever is wrong with its contents becomes a BrokenImage with the reason.
"""

from __future__ import annotations

import importlib.metadata
import io
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, ImageChops, UnidentifiedImageError, features

try:
    import simplejpeg
except ImportError:  # an extra: about 1.4 times as fast on JPEGs
    simplejpeg = None

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 64 * 2**20  # 192 MiB as RGB; ImageNet's largest photographs have about 20 million
MAX_FILE_BYTES = 256 * 2**20
DECODERS = ("simplejpeg", "pillow")


class DataError(ValueError):
    """Data cannot be used; the text names the file or folder and says what would be right."""


class BrokenImage(Exception):
    """The contents of one image file cannot be decoded; the text is the reason."""


def default_decoder() -> str:
    """The faster of DECODERS that is installed."""
    return "pillow" if simplejpeg is None else "simplejpeg"


def describe_decoder(decoder: str) -> str:
    """`decoder` with its version and that of the JPEG library, for a run's records.

    Pixel values may differ in the last bit between versions of the JPEG library. With one version the
    two decoders give the same pixels.
    """
    if decoder == "simplejpeg":
        return f"simplejpeg {importlib.metadata.version('simplejpeg')}"
    turbo = features.version("libjpeg_turbo")
    jpeg = f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version('jpg')}"
    return f"Pillow {PIL.__version__} with {jpeg}"


def read_image(
    path: str | Path,
    size: int | None,
    shape: tuple[int, int, int] | None = None,
    decoder: str = "pillow",
) -> Pixels:
    """Reads and decodes a file; the arguments are decode_image's.

    With `shape` the image must come out as exactly that. Errors: BrokenImage for its contents; DataError
    for another shape than `shape`; OSError when the file cannot be read at all.
    """
    with Path(path).open("rb") as file:
        length = os.fstat(file.fileno()).st_size
        if length == 0:
            raise BrokenImage("the file is empty")
        if length > MAX_FILE_BYTES:
            raise BrokenImage(f"the file has {length:,} bytes, more than {MAX_FILE_BYTES:,}")
        data = file.read()
    pixels = decode_image(data, size, decoder)
    if shape is not None and pixels.shape != shape:
        raise DataError(
            f"{path} has {pixels.shape[0]}x{pixels.shape[1]} pixels (height x width), other images "
            f"{shape[0]}x{shape[1]}; give a size, and all are resized to it"
        )
    return pixels


def decode_image(data: bytes, size: int | None, decoder: str = "pillow") -> Pixels:
    """Decodes a JPEG or PNG, whatever its name said, to uint8[H,W,3].

    With `size` the shorter side becomes `size` (bilinear, antialiased: the filter widens with the
    reduction) and the centre size x size square is kept. Grey, palette, CMYK and 16-bit images become RGB
    of 8 bits; transparency is dropped. EXIF orientation is ignored, which is how ImageNet is used
    everywhere. Errors: BrokenImage.
    """
    try:
        image = None
        if decoder == "simplejpeg" and data.startswith(b"\xff\xd8\xff"):
            image = _decode_simplejpeg(data, size)
        if image is None:
            image = _decode_pillow(data, size)
        return np.asarray(_centre_square(image, size))
    except (BrokenImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BrokenImage("it is neither a JPEG nor a PNG") from error
    except Exception as error:  # decoders raise nearly anything on damaged data: SyntaxError, KeyError
        raise BrokenImage(str(error) or type(error).__name__) from error


def resize_image(pixels: Pixels, size: int) -> Pixels:
    """uint8[H,W,C] with C of 1 or 3 to uint8[size,size,C], by decode_image's rule."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    return np.asarray(_centre_square(image, size)).reshape(size, size, -1)


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BrokenImage(f"the header says {width}x{height} pixels, more than {MAX_PIXELS:,}")


def _reduction(width: int, height: int, size: int | None) -> int:
    """The largest of 8, 4, 2, 1 by which a JPEG may be reduced while decoding, which saves most work."""
    shorter = min(width, height)
    return next((f for f in (8, 4, 2) if size is not None and shorter >= f * size), 1)


def _decode_simplejpeg(data: bytes, size: int | None) -> Image.Image | None:
    """None where Pillow has to decide: CMYK, and files that libjpeg finds anything wrong with.

    simplejpeg refuses files with harmless faults, such as stray bytes between segments, which Pillow
    accepts. So both decoders accept the same files.
    """
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        _check_pixels(width, height)
        if colors not in ("Gray", "YCbCr", "RGB"):
            return None
        factor = _reduction(width, height, size)
        least = {"min_height": -(-height // factor), "min_width": -(-width // factor)}
        return Image.fromarray(simplejpeg.decode_jpeg(data, "RGB", **(least if factor > 1 else {})))
    except ValueError:
        return None


def _decode_pillow(data: bytes, size: int | None) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
    _check_pixels(*image.size)
    factor = _reduction(*image.size, size)
    if factor > 1:  # only JPEG can; Pillow rounds this request to the factor itself
        image.draft(None, (image.width // factor, image.height // factor))
    image.load()
    if image.mode.startswith("I"):  # 16-bit grey, of which the high byte is kept, as for 16-bit RGB
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "CMYK" and "adobe" not in image.info:
        # Adobe stores ink inverted, and Pillow takes every CMYK file for one of Adobe's.
        return ImageChops.invert(image).convert("RGB")
    return image.convert("RGB")


def _centre_square(image: Image.Image, size: int | None) -> Image.Image:
    """The centre square, resized: the same as resizing the whole and cutting after it.

    But cutting first never makes a huge picture of a long thin one.
    """
    if size is None:
        return image
    shorter = min(image.size)
    left, top = (image.width - shorter) // 2, (image.height - shorter) // 2
    box = (left, top, left + shorter, top + shorter)
    if shorter == size:
        return image.crop(box)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)
