"""An image without its colour: a PIL image in RGB in, its grey values in all three channels out.

A grey probe sees training and test images without colour. It shows what a network has learned
apart from colour. Grey is ITU-R 601's luma, 0.299 R + 0.587 G + 0.114 B, rounded as in PIL's mode
"L".
"""

from __future__ import annotations

from PIL import Image


def to_gray(image: Image.Image) -> Image.Image:
    """Returns the grey picture in mode RGB and of the same size, as if it were read from a grey
    file.
    """
    return image.convert("L").convert("RGB")
