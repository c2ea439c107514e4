"""An image without its colour: a PIL image in RGB in, its grey values in all three channels out.

A grey probe sees training and test images so, and tells what a network knows beside colour. Grey is
ITU-R 601's luma, 0.299 R + 0.587 G + 0.114 B, rounded as PIL's mode "L".
"""

from __future__ import annotations

from PIL import Image


def to_gray(image: Image.Image) -> Image.Image:
    """The grey picture, of the same size and in mode RGB, as if it came from a grey file."""
    return image.convert("L").convert("RGB")
