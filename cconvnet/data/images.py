"""One image file decoded to a uint8 array: RGB of 8 bits, upright, resized.

Pictures are turned upright by their EXIF data before they are cropped and resized. So a file gives the same
pixels as one that was stored upright. :mod:`cconvnet.data.preprocessing` defines these rules.

Resizing is this project's own code (bindings/pixels.cpp). It is about five times as fast as Pillow's, and its
results do not depend on Pillow's version. Since version 13.0, Pillow resizes the columns of some pictures
before their rows, which rounds differently.

Files come from strangers. The sizes in a header are checked before memory for the pixels is allocated. Any
fault in the contents becomes a BrokenImage with the reason.
"""

from __future__ import annotations

import importlib.metadata
import io
import math
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, ImageChops, UnidentifiedImageError, features

from cconvnet import _pixels
from cconvnet.data.byte_ranges import ByteRange
from cconvnet.data.containers import UPRIGHT, of_pixels, orientation, turned
from cconvnet.data.preprocessing import CURRENT, Preprocessing
from cconvnet.errors import DataError

try:
    import simplejpeg
except ImportError:  # optional: it decodes small JPEGs about twice as fast
    simplejpeg = None

Box = tuple[float, float, float, float]  # left, top, right, bottom
Pixels = npt.NDArray[np.uint8]
Content = bytes | Pixels  # a picture as its source stores it: a file's bytes, or pixels

MAX_PIXELS = 64 * 2**20  # 192 MiB as RGB; ImageNet's largest photographs have about 20 million
# A PNG may be a single row of millions of pixels. Resizing computes positions in float32, which can represent
# half pixels up to this side.
MAX_SIDE = 2**23
MAX_FILE_BYTES = 256 * 2**20
# A progressive JPEG has about ten scans. Each scan is a pass over all pixels. A small file may contain
# thousands of scans of a large picture, and decoding them would take hours.
MAX_SCANS = 100
DECODERS = ("simplejpeg", "pillow")
_PNG_GREY, _PNG_PALETTE = 0, 3  # colour types


class BrokenImage(Exception):
    """An image file whose contents cannot be decoded. The text is the reason."""


def default_decoder() -> str:
    """Return the fastest of DECODERS that is installed."""
    return "pillow" if simplejpeg is None else "simplejpeg"


def describe_decoder(decoder: str) -> str:
    """Return `decoder` with its version and that of the JPEG library, for a run's records.

    Pixel values may differ in the last bit between versions of the JPEG library. With the same version, both
    decoders give the same pixels.
    """
    if decoder == "simplejpeg":
        return f"simplejpeg {importlib.metadata.version('simplejpeg')}"
    turbo = features.version("libjpeg_turbo")
    jpeg = f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version('jpg')}"
    return f"Pillow {PIL.__version__} with {jpeg}"


def read_bytes(byte_range: ByteRange) -> bytes:
    """Read the bytes of a picture.

    Raises:
        BrokenImage: The file is empty, too long or cut off, or its bytes have changed.
        OSError: The file cannot be read.
    """
    with Path(byte_range.path).open("rb") as file:
        length = byte_range.length
        if length < 0:
            length = os.fstat(file.fileno()).st_size - byte_range.offset
        if length == 0:
            raise BrokenImage("the file is empty")
        if length > MAX_FILE_BYTES:
            raise BrokenImage(f"the file has {length:,} bytes, more than {MAX_FILE_BYTES:,}")
        file.seek(byte_range.offset)
        data = file.read(length)
    if len(data) < length:
        raise BrokenImage(f"{byte_range.path} ends within it")
    if byte_range.crc32 >= 0 and zlib.crc32(data) != byte_range.crc32:
        raise BrokenImage(f"its bytes in {byte_range.path} have changed: the checksum differs")
    return data


def read_raw(byte_range: ByteRange, pixels: Pixels) -> None:
    """Read raw pixels directly into a contiguous uint8[H,W,C].

    The file is not memory-mapped: a process is killed if a file that it has mapped is truncated.

    Raises:
        BrokenImage: The bytes are not the stored ones.
        OSError: The file cannot be read.
    """
    room = pixels.reshape(-1).data
    # For a picture of 32x32 pixels, making a file object would take longer than reading the bytes.
    descriptor = os.open(byte_range.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.lseek(descriptor, byte_range.offset, os.SEEK_SET)
        while room:
            count = os.readv(descriptor, [room])
            if not count:
                raise BrokenImage(f"{byte_range.path} ends within it")
            room = room[count:]
    finally:
        os.close(descriptor)
    if zlib.crc32(pixels.data) != byte_range.crc32:
        raise BrokenImage(f"its bytes in {byte_range.path} have changed: the checksum differs")


def read_image(
    picture: str | Path | ByteRange,
    size: int | None,
    shape: tuple[int, int, int] | None = None,
    decoder: str | None = None,
    out: Pixels | None = None,
    preprocessing: Preprocessing = CURRENT,
) -> Pixels:
    """Read and decode a picture; the other arguments are those of decode_image.

    If `shape` is given, the image must have exactly this shape.

    Raises:
        BrokenImage: The contents cannot be decoded.
        DataError: The image has another shape than `shape`.
        OSError: The file cannot be read.
    """
    byte_range = picture if isinstance(picture, ByteRange) else ByteRange(str(picture))
    pixels, square = _decode(read_bytes(byte_range), size, decoder, preprocessing)
    if shape is not None and size is None and pixels.shape != shape:
        raise DataError(
            f"{byte_range.description} has {pixels.shape[0]}x{pixels.shape[1]} pixels (height x width), "
            f"other images {shape[0]}x{shape[1]}; give a size, and all are resized to it"
        )
    return _resized(pixels, square, size, out)


def read_part(
    picture: ByteRange,
    part: Callable[[int, int], Box],
    decoder: str,
    out: Pixels,
    preprocessing: Preprocessing = CURRENT,
) -> None:
    """Read and decode a picture, and resize a part of it into out[h,w,3].

    Args:
        picture: The picture.
        part: Returns the part of an upright picture of this height and width.
        decoder: One of DECODERS.
        out: The result; any view.
        preprocessing: As of decode_image.

    Raises:
        BrokenImage: The contents cannot be decoded.
        OSError: The file cannot be read.
    """
    data = read_bytes(picture)
    width, height = image_sides(data, preprocessing)
    box = part(height, width)
    zoom = min((box[2] - box[0]) / out.shape[1], (box[3] - box[1]) / out.shape[0])
    # Reduced by no more than the part is.
    least = math.ceil(min(width, height) / zoom)
    pixels, square = _decode(data, least, decoder, preprocessing)
    factor = min(width, height) / (square[2] - square[0])
    left, top, right, bottom = (side / factor for side in box)
    resize_part(pixels, (left, top, right, bottom), out)


def resize_part(pixels: Pixels, box: Box, out: Pixels) -> None:
    """Resize a part of pixels uint8[H,W,C] into out uint8[h,w,C]; `out` may be any view."""
    resized = np.empty((*out.shape[:2], 3), np.uint8)
    for first in range(0, pixels.shape[2], 3):
        channels = pixels[:, :, first : first + 3]
        count = channels.shape[2]
        if count < 3:
            channels = channels[:, :, np.arange(3) % count]
        _pixels.resize_into(np.ascontiguousarray(channels), box, resized)
        out[:, :, first : first + count] = resized[:, :, :count]


def decode_image(
    data: bytes,
    size: int | None,
    decoder: str | None = None,
    out: Pixels | None = None,
    preprocessing: Preprocessing = CURRENT,
) -> Pixels:
    """Decode a JPEG or PNG, whatever its file name, to uint8[H,W,3].

    First the picture is turned upright according to its EXIF data, unless `preprocessing` forbids it. Grey,
    palette, CMYK and 16-bit images become RGB of 8 bits. Transparency is dropped.

    If `size` is given, the shorter side is resized to it, and the centre size x size square is kept. Resizing
    is bilinear and antialiased: the filter widens with the reduction.

    `decoder` is one of DECODERS; None is default_decoder(). The result is written to `out`, if given, which
    must have the result's shape.

    Raises:
        BrokenImage: The image cannot be decoded.
    """
    return _resized(*_decode(data, size, decoder, preprocessing), size, out)


def decode_labels(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode a PNG whose values are labels, 8-bit grey or a palette's indices, to uint8[H,W].

    The colours of a palette mean nothing. Nothing is turned by EXIF data.

    Raises:
        BrokenImage: It cannot be decoded, or its values are no labels.
    """
    if data.startswith(b"\xff\xd8"):
        raise BrokenImage("it is a JPEG, which does not keep values exactly; labels need a PNG")
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 26:
        raise BrokenImage("it is not a PNG")
    depth, kind = data[24], data[25]  # in the first chunk (PNG specification, section 11.2.2)
    if kind not in (_PNG_GREY, _PNG_PALETTE):
        raise BrokenImage("it is a PNG in colour; labels need one of 8-bit grey, or with a palette")
    if kind == _PNG_GREY and depth != 8:
        raise BrokenImage(f"it is a PNG of {depth}-bit grey; labels need one of 8 bits, or with a palette")
    try:
        image = _open(data)
        _check_pixels(*image.size)
        return np.asarray(image)
    except (BrokenImage, MemoryError):
        raise
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise BrokenImage(str(error) or type(error).__name__) from error


def fit_image(data: bytes, sides: tuple[int, int], preprocessing: Preprocessing = CURRENT) -> Pixels:
    """Decode a picture to uint8[*sides,3]; `sides` are height and width.

    If both sides are equal, the result is that of decode_image. A picture that already has these sides is not
    resized. Of any other picture, the largest centre part with the proportions of `sides` is resized.

    Raises:
        BrokenImage: The image cannot be decoded.
    """
    if sides[0] == sides[1]:
        return decode_image(data, sides[0], preprocessing=preprocessing)
    return fit_pixels(decode_image(data, None, preprocessing=preprocessing), sides)


def fit_pixels(pixels: Pixels, sides: tuple[int, int]) -> Pixels:
    """Resize pixels uint8[H,W,C], of 1 or 3 channels, to height and width `sides`, as fit_image() does."""
    height, width = pixels.shape[:2]
    if (height, width) == sides:
        return pixels
    if sides[0] == sides[1]:
        return resize_image(pixels, sides[0])
    scale = min(height / sides[0], width / sides[1])
    rows, columns = min(scale * sides[0], height), min(scale * sides[1], width)
    left, top = (width - columns) / 2, (height - rows) / 2
    out = np.empty((*sides, 3), np.uint8)
    channels = pixels.shape[2]
    colored = np.ascontiguousarray(pixels if channels == 3 else np.repeat(pixels, 3, axis=2))
    _pixels.resize_into(colored, (left, top, left + columns, top + rows), out)
    return out[:, :, :channels]


def image_sides(data: bytes, preprocessing: Preprocessing = CURRENT) -> tuple[int, int]:
    """Return the width and height that a picture is decoded to, from its header.

    Raises:
        BrokenImage: The header is damaged.
    """
    try:
        width, height = _open(data).size
    except UnidentifiedImageError as error:
        raise BrokenImage("its header cannot be read: it is neither a JPEG nor a PNG") from error
    except Exception as error:  # Pillow raises nearly anything for damaged headers
        raise BrokenImage(f"its header cannot be read: {error}") from error
    exchanged = preprocessing.orientation == "exif" and orientation(data) >= 5
    return (height, width) if exchanged else (width, height)


def content_sides(content: Content, preprocessing: Preprocessing = CURRENT) -> tuple[int, int]:
    """Return width and height of an array, or of a file from its header.

    Raises:
        BrokenImage: The header is damaged.
    """
    if not isinstance(content, bytes):
        return content.shape[1], content.shape[0]
    return image_sides(content, preprocessing)


def resize_image(pixels: Pixels, size: int) -> Pixels:
    """Resize uint8[H,W,C], C of 1 or 3, to uint8[size,size,C] by decode_image's rule."""
    height, width, channels = pixels.shape
    colored = pixels if channels == 3 else np.repeat(pixels, 3, axis=2)
    return _resized(colored, _centre_square(width, height), size)[:, :, :channels]


def resize_shorter(pixels: Pixels, size: int) -> Pixels:
    """Resize uint8[H,W,C] so that the shorter side is `size`, without cropping.

    Raises:
        BrokenImage: The image cannot be decoded.
    """
    height, width, channels = pixels.shape
    shorter = min(height, width)
    if shorter == size:
        return pixels
    sides = round(height * size / shorter), round(width * size / shorter)
    if sides[0] * sides[1] > MAX_PIXELS:
        raise BrokenImage(
            f"of {width}x{height} pixels it would become {sides[1]}x{sides[0]}, more than {MAX_PIXELS:,}"
        )
    out = np.empty((*sides, channels), np.uint8)
    resize_part(pixels, (0, 0, width, height), out)
    return out


def _decode(
    data: bytes, size: int | None, decoder: str | None, preprocessing: Preprocessing
) -> tuple[Pixels, Box]:
    """Decode to uint8[H,W,3], perhaps reduced, with the square that decode_image keeps."""
    if data.startswith(b"\xff\xd8") and (scans := _scans(data)) > MAX_SCANS:
        raise BrokenImage(f"it has {scans:,} scans, more than {MAX_SCANS}")
    turn = orientation(data) if preprocessing.orientation == "exif" else UPRIGHT
    # A picture that must be turned is decoded in full, because a reduced one may cover another area.
    least = size if preprocessing.jpeg == "reduced" and turn == UPRIGHT else None
    try:
        decoded = None
        if (decoder or default_decoder()) == "simplejpeg" and data.startswith(b"\xff\xd8\xff"):
            decoded = _decode_simplejpeg(data, least)
        pixels, square = decoded or _decode_pillow(data, least)
    except (BrokenImage, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise BrokenImage(f"the header claims too many pixels: {error}") from error
    except UnidentifiedImageError as error:
        raise BrokenImage("it is neither a JPEG nor a PNG") from error
    except Exception as error:  # decoders raise nearly anything on damaged data: SyntaxError, KeyError
        raise BrokenImage(str(error) or type(error).__name__) from error
    if turn == UPRIGHT:
        return pixels, square
    pixels = turned(pixels, turn)
    return pixels, _centre_square(pixels.shape[1], pixels.shape[0])


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(of_pixels(data)), formats=("JPEG", "PNG"))


def _resized(pixels: Pixels, square: Box, size: int | None, out: Pixels | None = None) -> Pixels:
    """Resize the square of a picture to uint8[size,size,3], or keep the picture unchanged.

    The result equals that of resizing the whole picture and then cropping its centre. But cropping first
    never makes a huge picture of a long thin one.
    """
    left, top, right, _ = square
    if size is not None and right - left != size:
        out = np.empty((size, size, 3), np.uint8) if out is None else out
        _pixels.resize_into(np.ascontiguousarray(pixels), square, out)
        return out
    if size is not None:
        pixels = pixels[int(top) : int(top) + size, int(left) : int(left) + size]
    if out is None:
        return pixels
    out[...] = pixels
    return out


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BrokenImage(f"the header claims {width}x{height} pixels, more than {MAX_PIXELS:,}")
    if max(width, height) > MAX_SIDE:
        raise BrokenImage(f"the header claims {width}x{height} pixels, a side of more than {MAX_SIDE:,}")


def _scans(data: bytes) -> int:
    """Return an upper bound of the number of scans of a JPEG, or 1 if they are too few to count."""
    # Within a scan, 0xFF is followed only by 0 or by a restart marker. So FF DA always begins a scan.
    if data.count(b"\xff\xda") <= MAX_SCANS:
        return 1
    # Segments before the first scan may contain anything, such as small pictures.
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data.count(b"\xff\xda", at)


def _reduction(width: int, height: int, size: int | None) -> int:
    """Return the largest factor of 8, 4, 2, 1 that reduces a JPEG's shorter side to no less than `size`."""
    shorter = min(width, height)
    return next((f for f in (8, 4, 2) if size is not None and shorter >= f * size), 1)


def _centre_square(width: int, height: int, factor: int = 1) -> Box:
    """Return the centre square of a picture, in pixels of that picture reduced by `factor`."""
    shorter = min(width, height)
    left, top = (width - shorter) / 2, (height - shorter) / 2
    return left / factor, top / factor, (left + shorter) / factor, (top + shorter) / factor


def _decode_simplejpeg(data: bytes, size: int | None) -> tuple[Pixels, Box] | None:
    """Decode with simplejpeg; return None for CMYK and for files that simplejpeg refuses.

    simplejpeg refuses files with harmless faults that Pillow accepts, such as stray bytes between segments.
    Pillow decodes these files instead, so that both decoders accept the same files.
    """
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        _check_pixels(width, height)
        if colors not in ("Gray", "YCbCr", "RGB"):
            return None
        factor = _reduction(width, height, size)
        least = {"min_height": -(-height // factor), "min_width": -(-width // factor)}
        pixels = simplejpeg.decode_jpeg(data, "RGB", **(least if factor > 1 else {}))
        return pixels, _centre_square(width, height, factor)
    except ValueError:
        return None


def _decode_pillow(data: bytes, size: int | None) -> tuple[Pixels, Box]:
    image = _open(data)
    width, height = image.size
    _check_pixels(width, height)
    factor = _reduction(width, height, size) if image.format != "PNG" else 1
    if factor > 1:  # Pillow rounds this request to the factor itself
        image.draft(None, (width // factor, height // factor))
    image.load()
    return np.asarray(_to_rgb(image)), _centre_square(width, height, factor)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, of which the high byte is kept, as for 16-bit RGB
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "CMYK" and "adobe" not in image.info:
        # Adobe stores ink inverted, and Pillow treats every CMYK file as Adobe's.
        return ImageChops.invert(image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
