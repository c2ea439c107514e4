"""One image file in, one 8-bit RGB PIL image out, or an `OSError` that names the file.

All readers use this module: pretraining, classification, detection and segmentation. Images with 16
bits per channel are divided by 256, so they equal the 8-bit picture within one level. Images of
32-bit integers or floats are refused, because they do not say which values are black and white.
Images of more than `pixel_limit()` pixels are also refused, in every format.

torchvision decodes JPEG files, because its decoder is faster here (`tools/bench.py loader`). PIL
decodes all other files, and the JPEG files that torchvision refuses (CMYK, truncated ones).
"""

from __future__ import annotations

import functools
import io
import os
import re
import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from pretrain.common.errors import InputError

JPEG_START = b"\xff\xd8\xff"
JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # the image's size follows these markers
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# What is often found in place of any file, by its first bytes
GIT_LFS = (b"version https://git-lfs", "a pointer of Git LFS; run `git lfs pull` in its repository")
ZIP = (b"PK\x03\x04", "a zip archive; unpack it")
# The same in place of a picture
FOREIGN = (
    GIT_LFS,
    (b"<", "a page of markup (HTML, XML, SVG), not a picture; download the file itself again"),
    (b"%PDF", "a PDF; export its pages as pictures"),
    (b"8BPS", "a Photoshop file of a kind that Pillow does not read; export it as PNG or JPEG"),
    ZIP,
)
DICOM = b"DICM"  # after the first 128 bytes
WIDTH, HEIGHT = 256, 257  # TIFF's tags of the stored size
# By default, Pillow refuses PNG files whose text or colour profile is longer than 1 MB as attacks.
PNG_TEXT_BYTES = 64 << 20
ORIENTATION = 0x0112  # EXIF: how the camera was held
TURNED = (5, 6, 7, 8)  # the values of ORIENTATION that exchange width and height
MIRRORED = (2, 3, 4)  # those that mirror the image or turn it upside down
# What a PNG calls EXIF data and XMP, and how many of its last bytes are searched for them
PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
PNG_END = 1 << 16
# TIFF's tags: bits per sample, and the meaning of the smallest value (0: white)
BITS, PHOTOMETRIC, LEAST_IS_WHITE = 258, 262, 0

LIMIT_VARIABLE = "MSCN_MAX_IMAGE_PIXELS"
PILLOW_LIMIT = 2 * 89_478_485  # Pillow itself refuses above this, unless a program changes it
NO_SCALE = (
    "images of 32-bit integers or floats do not say which values are black and white",
    "convert all images with one range, in Python: Image.fromarray(((np.asarray(Image.open(FILE), "
    "float) - LOW) * 255 / (HIGH - LOW)).clip(0, 255).astype(np.uint8)).save(NEW_FILE)",
)
# PIL's readers raise many kinds of errors for damaged files, depending on where parsing fails.
FAULTS = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, struct.error, zlib.error),
)
# Above half of its limit Pillow warns, without the file's name. We simply read such images.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Its other warnings (damaged EXIF data, a palette with transparency) lack the name, too.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, PNG_TEXT_BYTES)


class RefusedImage(OSError):
    """Is raised for an undamaged file of a kind that is not read: its pixels have no scale, or are
    too many.

    Args:
        detail: what was found, such as "mode I, values 0 to 65535" or "182250000 pixels".
        refusal: the kind of images that is refused, and the remedy.
    """

    def __init__(self, path: str, detail: str, refusal: tuple[str, str]) -> None:
        kind, remedy = refusal
        super().__init__(f"{path} ({detail}) is refused: {kind}; {remedy}")
        self.path, self.detail, self.refusal = path, detail, refusal

    def __reduce__(self) -> tuple[type, tuple[str, str, tuple[str, str]]]:
        return RefusedImage, (self.path, self.detail, self.refusal)


@dataclass(frozen=True)
class Header:
    """Holds what a file's header says, before the pixels are decoded.

    Attributes:
        width, height: in pixels, after turning the image as its EXIF data say; 0: not known.
        turned: whether turning the image by its EXIF data exchanges width and height.
        refused: (kind, remedy) if `decode_image` refuses such images, else None.
        same_size: whether the EXIF data turn or mirror the image, and its size stays the same, so
            that an annotation of the stored pixels cannot be told by it.
    """

    width: int
    height: int
    turned: bool = False
    refused: tuple[str, str] | None = None
    same_size: bool = False

    @property
    def stored_size(self) -> tuple[int, int]:
        """Returns (width, height) of the stored pixels; pretraining and classification read them
        so.
        """
        return (self.height, self.width) if self.turned else (self.width, self.height)


def decode_image(path: str, *, fast: bool = True, turn: bool = False) -> Image.Image:
    """Decodes a file as RGB, with 8 bits per channel.

    Args:
        fast: decode JPEG by torchvision, whose pixels differ from PIL's by one level at most.
        turn: turn the image as its EXIF data say, as Detectron2 does; torchvision's ImageFolder
            does not. It needs `fast` to be False.

    Raises:
        RefusedImage: the file is of a kind that is not read. The message gives its mode and range
            of values, or its number of pixels, and the remedy. It is an OSError.
        OSError: the file is missing, truncated or not an image. The message names the path.
    """
    decoded = _decode(path, fast, turn)
    return Image.fromarray(decoded) if isinstance(decoded, np.ndarray) else decoded


def decode_pixels(path: str) -> np.ndarray:
    """Returns the pixels (H, W, 3) uint8 of `decode_image(path)`, as a writable array.

    It avoids the copies through a PIL image of a JPEG. Raises the same errors as `decode_image`.
    """
    decoded = _decode(path, fast=True, turn=False)
    return decoded if isinstance(decoded, np.ndarray) else np.array(decoded)


def _decode(path: str, fast: bool, turn: bool) -> Image.Image | np.ndarray:
    try:
        with open(path, "rb") as file:
            content = file.read()
        if fast and content.startswith(JPEG_START):
            _check_pixels(path, _jpeg_pixels(content))
            pixels = _decode_jpeg(content)
            if pixels is not None:
                return pixels
        return to_rgb(_open(path, content), path, turn)
    except RefusedImage:
        raise
    except FAULTS as error:
        raise _named(path, error) from error


def read_header(path: str) -> Header:
    """Reads the size and kind of an image without decoding it.

    Raises OSError, with the path, for a file that is missing or is not an image.
    """
    limit = pixel_limit()
    try:
        with Image.open(path) as image:
            width, height = image.size
            refused = NO_SCALE if _has_no_scale(image) else None
            if width * height > limit:
                refused = too_large_image()
            orientation = _orientation(image, path)
            turned = orientation in TURNED
            same_size = orientation in MIRRORED or turned and width == height
            if image.format == "TIFF":  # Pillow itself turns these, when it decodes them
                width, height = _tiff_size(image, turned)
                turned = False
    except Image.DecompressionBombError:
        return Header(0, 0, refused=too_large_image())
    except FAULTS as error:
        raise _named(path, error) from error
    return Header(*((height, width) if turned else (width, height)), turned, refused, same_size)


def refused_detail(path: str) -> str:
    """Returns the reason in a refusal of one file: "mode I, values 0 to 65535", or its number of
    pixels.

    It decodes the pixels. It is "" for a file that is read, or is damaged after its header.
    """
    try:
        decode_image(path)
    except RefusedImage as error:
        return error.detail
    except OSError:
        pass
    return ""


def largest_of_16_bits(path: str) -> int | None:
    """Returns the largest value of an image with one 16-bit channel; None for all other files."""
    try:
        with open_from_memory(path) as image:
            if not _has_16_bits(image) or _depth(image) != 16:
                return None
            return int(np.asarray(image).max())
    except (*FAULTS, Image.DecompressionBombError):
        return None


def open_from_memory(path: str) -> Image.Image:
    """Returns Pillow's image of a file whose bytes are read first.

    From an open file Pillow reads as many bytes as a damaged length field says (up to 4 GiB in a
    PNG), and Python reserves that memory before it finds that the file is shorter.

    Raises what Pillow's `Image.open` raises.
    """
    with open(path, "rb") as file:
        return Image.open(io.BytesIO(file.read()))


def pixel_limit() -> int:
    """Returns the most pixels that an image may have: $MSCN_MAX_IMAGE_PIXELS, by default Pillow's
    limit.

    Raises InputError for a value that is not a number.
    """
    text = os.environ.get(LIMIT_VARIABLE)
    return _limit(text) if text else PILLOW_LIMIT


@functools.cache
def _limit(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise InputError(
            f"${LIMIT_VARIABLE} is {text!r}, which is not a number of pixels; "
            "give a positive whole number"
        )
    # Pillow has one limit for the process, which must not be below ours.
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, int(text))
    return int(text)


def _named(path: str, error: Exception) -> OSError:
    """Returns the error of a reader as an OSError with the path."""
    if isinstance(error, UnidentifiedImageError):  # Pillow's text has only a memory address
        return OSError(f"{path} cannot be read as an image ({_foreign(path)})")
    if isinstance(error, FileNotFoundError):
        return OSError(f"{path} cannot be read: it does not exist")
    return OSError(f"{path} cannot be read as an image ({error})")


def _foreign(path: str) -> str:
    with open(path, "rb") as file:
        start = file.read(132)
    if not start:
        return "empty (0 bytes)"
    if start[4:8] == b"ftyp":
        return "HEIC, or a video, which Pillow does not read; save it as JPEG"
    if start[128:] == DICOM:
        return "DICOM, which Pillow does not read; save its pixels as PNG of 16 bits"
    for beginning, what in FOREIGN:
        if start.lstrip().startswith(beginning):
            return what
    if not start.strip(b"\0"):
        return "a run of zeros: the copy or the download failed"
    if start.startswith(TIFF_STARTS):
        return "a TIFF of a kind that Pillow does not read, such as several channels of floats"
    return "its format is unknown"


def _open(path: str, content: bytes) -> Image.Image:
    """Returns PIL's image, not yet decoded. Raises RefusedImage if its size is above the limit."""
    pixel_limit()  # sets Pillow's own limit
    try:
        image = Image.open(io.BytesIO(content))
    except Image.DecompressionBombError as error:
        found = re.search(r"\d+", str(error))  # "Image size (N pixels) exceeds limit of ..."
        detail = f"{found[0]} pixels" if found else str(error)
        raise RefusedImage(path, detail, too_large_image()) from error
    _check_pixels(path, image.width * image.height)
    return image


def _check_pixels(path: str, pixels: int) -> None:
    if pixels > pixel_limit():
        raise RefusedImage(path, f"{pixels} pixels", too_large_image())


def too_large_image() -> tuple[str, str]:
    """Returns the kind of images that have too many pixels, and the remedy."""
    return (
        f"images with more than {pixel_limit()} pixels are not read",
        f"make them smaller, or set ${LIMIT_VARIABLE} to a larger number",
    )


def _has_no_scale(image: Image.Image) -> bool:
    """Returns whether the pixels are 32-bit integers or floats (or signed 16-bit integers)."""
    return image.mode == "F" or (image.mode == "I" and not _has_16_bits(image))


def _has_16_bits(image: Image.Image) -> bool:
    """Returns whether the image has one channel of 16 bits.

    Pillow opens a 16-bit PNG as mode I before its version 10. It opens a PGM file so in all
    versions, with values scaled to 16 bits. Neither format can hold more than 16 bits.
    """
    if image.mode == "I":
        return image.format in ("PNG", "PPM")
    return image.mode.startswith("I;16")


def _depth(image: Image.Image) -> int:
    """Returns the bits per sample of an image that `_has_16_bits`; scientific cameras write 12-bit
    TIFFs.
    """
    return _tiff_tags(image).get(BITS, (16,))[0]


def to_rgb(image: Image.Image, path: str, turn: bool = False) -> Image.Image:
    """Returns an opened image as RGB, 8 bits a channel.

    Args:
        path: names the image in messages.
        turn: see `decode_image`.

    Raises:
        RefusedImage: see `decode_image`.
    """
    if _has_no_scale(image):
        detail = f"mode {image.mode}, values {_value_range(image)}"
        raise RefusedImage(path, detail, NO_SCALE)
    sixteen, depth = _has_16_bits(image), _depth(image)
    # PIL itself inverts images of up to 8 bits
    inverted = _tiff_tags(image).get(PHOTOMETRIC) == LEAST_IS_WHITE
    if turn:
        image = ImageOps.exif_transpose(image)
    if not sixteen:
        return image.convert("RGB")
    values = np.asarray(image) >> (depth - 8)
    levels = values.clip(0, 255).astype(np.uint8)
    return Image.fromarray(255 - levels if inverted else levels).convert("RGB")


def _value_range(image: Image.Image) -> str:
    values = np.asarray(image)
    values = values[np.isfinite(values)]
    return f"{values.min():g} to {values.max():g}" if values.size else "not finite"


def _tiff_tags(image: Image.Image) -> Mapping[int, Any]:
    """Returns the tags of a TIFF; an image of a different format has none."""
    if image.format == "TIFF" and isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.tag_v2
    return {}


def _tiff_size(image: Image.Image, turned: bool) -> tuple[int, int]:
    """Returns (width, height) of a TIFF after decoding; in some versions of Pillow, `size` is the
    same.
    """
    tags = _tiff_tags(image)
    width, height = tags.get(WIDTH), tags.get(HEIGHT)
    if not (isinstance(width, int) and isinstance(height, int)):
        return image.size
    return (height, width) if turned else (width, height)


def _orientation(image: Image.Image, path: str) -> int:
    if image.format != "PNG":
        return image.getexif().get(ORIENTATION, 1)
    # Pillow's own method would decode the pixels of each PNG to find EXIF data behind them.
    found = Image.Image.getexif(image).get(ORIENTATION)
    if found is None and _may_end_in_exif(path):
        with Image.open(path) as again:  # the first one keeps what it found
            found = again.getexif().get(ORIENTATION)
    return found or 1


def _may_end_in_exif(path: str) -> bool:
    """Returns whether a PNG may have EXIF data or XMP behind its pixels, by its last bytes."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - PNG_END))
        end = file.read()
    return any(name in end for name in PNG_EXIF)


def _jpeg_pixels(content: bytes) -> int:
    """Returns the width times height, from a JPEG's frame header; 0 if none is found."""
    place = 2
    while place + 9 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker in JPEG_FRAMES:
            height, width = (content[at] << 8 | content[at + 1] for at in (place + 5, place + 7))
            return height * width
        # A marker may be preceded by any number of bytes 0xFF.
        step = 2 + (content[place + 2] << 8 | content[place + 3])
        place += 1 if marker == 0xFF else step
    return 0


def _decode_jpeg(content: bytes) -> np.ndarray | None:
    """Returns (H, W, 3) by torchvision; None if it refuses. Then PIL reads the file or raises the
    error.
    """
    from torchvision.io import ImageReadMode, decode_jpeg  # a slow import

    try:
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        pixels = decode_jpeg(data, mode=ImageReadMode.RGB)
    except RuntimeError:
        return None
    return pixels.permute(1, 2, 0).numpy()
