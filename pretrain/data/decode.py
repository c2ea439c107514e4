"""One image file in, one RGB PIL image out, or an `OSError` that names the file.

JPEG goes through torchvision's decoder, which is the quicker one here (`tools/bench.py loader`).
Everything else, and what that decoder refuses (CMYK, a truncated file), goes through PIL.
"""

from __future__ import annotations

import io

import torch
from PIL import Image, UnidentifiedImageError

JPEG_START = b"\xff\xd8\xff"


def decode_image(path: str) -> Image.Image:
    """Decode a file as RGB; EXIF rotation is not applied, as in torchvision's ImageFolder.

    Raises `OSError` with the path for a missing, truncated or foreign file.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
        if content.startswith(JPEG_START):
            image = _decode_jpeg(content)
            if image is not None:
                return image
        return Image.open(io.BytesIO(content)).convert("RGB")
    except UnidentifiedImageError as error:  # its own text names a buffer's address
        what = "of no format that is known" if content else "empty (0 bytes)"
        raise OSError(f"{path}: cannot be read as an image ({what})") from error
    except Image.DecompressionBombError as error:
        raise OSError(f"{path}: {error}") from error
    # PIL's readers of damaged files raise whatever their parsing stumbles over.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError) as error:
        raise OSError(f"{path}: cannot be read as an image ({error})") from error


def _decode_jpeg(content: bytes) -> Image.Image | None:
    """torchvision's decoder; None where it refuses, so that PIL decides and words the error."""
    from torchvision.io import ImageReadMode, decode_jpeg  # heavy import

    try:
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        pixels = decode_jpeg(data, mode=ImageReadMode.RGB)
    except RuntimeError:
        return None
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())
