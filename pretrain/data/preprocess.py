"""The input that a network's weights expect: `(N, 3, H, W)` RGB images in, network input out.

Every file of weights contains these facts: channel order, mean, standard deviation, value range,
and MSCN's high-pass filter. `Preprocess.apply` applies them for pretraining,
classification and segmentation; a detector applies them to images before padding
(`transfer/detection/torchvision_engine/detector.py`, `transfer/detection/detectron2_engine.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pretrain.common.errors import InputError
from pretrain.data.highpass import HighPass

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """Describes the normalisation and the filter of a network's input.

    `mean` and `std` are on the scale of `value_range` and in the order of `channel_order`, as
    Detectron2's PIXEL_MEAN is in the order of INPUT.FORMAT. Defaults are torchvision's.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    channel_order: str = "RGB"
    value_range: tuple[float, float] = (0.0, 1.0)
    highpass: HighPass | None = None

    def __post_init__(self) -> None:
        if self.channel_order not in ("RGB", "BGR"):
            raise InputError(f"channel_order {self.channel_order!r} is unknown; known: BGR, RGB")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise InputError(f"mean {self.mean} and std {self.std} must have three values each")
        if len(self.value_range) != 2:
            raise InputError(f"value_range {self.value_range} must have two values")
        if not all(map(math.isfinite, (*self.mean, *self.std, *self.value_range))):
            raise InputError(
                f"mean {self.mean}, std {self.std} and range {self.value_range} must be finite"
            )
        if min(self.std) <= 0:
            raise InputError(f"std {self.std} must be above 0")
        if self.value_range[0] >= self.value_range[1]:
            raise InputError(f"value_range {self.value_range} must be increasing")

    def affine(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the factor and the shift, `(1, 3, 1, 1)` each, that normalise these images, on
        the images' device.
        """
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        low, high = self.value_range
        mean = torch.tensor(self.mean, dtype=torch.float32).view(1, 3, 1, 1)
        std = torch.tensor(self.std, dtype=torch.float32).view(1, 3, 1, 1)
        # (x / scale * (high - low) + low - mean) / std, as one product and one sum. Both are
        # computed on the CPU, so the host does not wait for a GPU to copy six numbers.
        factor, shift = (high - low) / scale / std, (low - mean) / std
        device = images.device
        return factor.to(device, non_blocking=True), shift.to(device, non_blocking=True)

    def normalise(
        self,
        images: Tensor,
        affine: tuple[Tensor, Tensor] | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Converts the range and the channel order, then applies mean and std, without the filter.

        The images are `(N, 3, H, W)` RGB, uint8 or float in [0, 1]. The result is float32 of the
        same shape, and is written to `out` if it is given (it may be the images). If there are many
        small batches, compute `affine` once and pass it.
        """
        factor, shift = self.affine(images) if affine is None else affine
        images = images.float()
        if self.channel_order == "BGR":
            images = images.flip(1)
        return torch.mul(images, factor, out=out).add_(shift)

    def apply(
        self,
        images: Tensor,
        affine: tuple[Tensor, Tensor] | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Normalises, then filters: returns the network's input. Shapes and types are as in
        `normalise`. `out` gets the normalised images, which are also the result if there is no
        filter.
        """
        images = self.normalise(images, affine, out)
        return images if self.highpass is None else self.highpass.apply(images)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain builtins, as stored in checkpoints and in weights files."""
        return {
            "channel_order": self.channel_order,
            "mean": [float(v) for v in self.mean],
            "std": [float(v) for v in self.std],
            "value_range": [float(v) for v in self.value_range],
            "highpass": None if self.highpass is None else self.highpass.to_dict(),
        }

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Preprocess:
        """Inverts `to_dict`; missing keys take the defaults. Raises `InputError` for unknown keys
        and for values of the wrong kind.
        """
        known = ("channel_order", "mean", "std", "value_range", "highpass")
        if not isinstance(facts, Mapping):
            raise InputError(f"preprocess is a {type(facts).__name__}, not a mapping")
        unknown = sorted(map(str, set(facts) - set(known)))
        if unknown:
            raise InputError(f"preprocess has unknown keys {unknown}; known: {', '.join(known)}")
        try:
            values = {key: facts[key] for key in known if key in facts}
            for key in ("mean", "std", "value_range"):
                if key in values:
                    values[key] = tuple(float(v) for v in values[key])
            if values.get("highpass") is not None:
                values["highpass"] = HighPass(**values["highpass"])
            return cls(**values)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"preprocess {dict(facts)} cannot be read: {error}") from error
