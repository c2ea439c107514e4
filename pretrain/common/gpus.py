"""GPUs by name: their memory, and the published speed of training ResNet-50 on them.

A speed is the published number of images per second of a complete training, times the FLOPs of an
image as `step_cost` counts them. It is not the peak of a data sheet. For a card without such a
number, no hours are estimated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pretrain.common.lookup import find

# Share that is added to a step's memory for the CUDA context, kernels' workspace and fragmentation.
# This is our estimate; it is not measured.
WORKSPACE = 0.1
# Factor from compute alone to the hours of a pretraining: by the speed below, MoCo's 200 epochs
# take 32 h on 8 V100; the published time is about 53 h (README of ppwwyyxx/moco.tensorflow).
SLOWEST = 1.6
NVIDIA = "NVIDIA DeepLearningExamples, ResNet-50"


@dataclass(frozen=True)
class Speed:
    """Holds the TFLOP per second of a training, and the published number from which they follow."""

    tflops: float
    source: str


@dataclass(frozen=True)
class Gpu:
    """Describes one kind of card.

    Attributes:
        gib: GiB of memory that torch finds on it, a little less than the maker's gigabytes.
        half: its speed in mixed precision. None: not calibrated.
        full: its speed in float32 as torch computes convolutions by default, that is in TF32 from
            Ampere on. None: not calibrated.
    """

    name: str
    gib: float
    half: Speed | None = None
    full: Speed | None = None

    def speed(self, half: bool) -> Speed | None:
        """Returns the speed of a training in mixed precision (`half`), or in float32."""
        return self.half if half else self.full


A100 = (
    Speed(60.0, f"{NVIDIA} on A100, mixed precision: 2,470 images/s"),
    Speed(23.0, f"{NVIDIA} on A100, TF32: 938 images/s"),
)
V100 = (
    Speed(29.0, f"{NVIDIA} on V100, mixed precision: 1,200 images/s"),
    Speed(8.9, f"{NVIDIA} on V100, float32: 367 images/s"),
)
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100-40", 39.4, *A100),
        Gpu("a100-80", 79.1, *A100),
        Gpu("v100-16", 15.7, *V100),
        Gpu("v100-32", 31.7, *V100),
        Gpu("t4", 14.5),
        Gpu("l4", 22.0),
        Gpu("a10", 22.0),
        Gpu("l40s", 44.4),
        Gpu("a6000", 47.4),
        Gpu("rtx2080ti", 10.7),
        Gpu("rtx3090", 23.6),
        Gpu("rtx4090", 23.5),
        Gpu("h100-80", 79.1),
        Gpu("h200", 139.0),
    )
}


def find_gpu(name: str) -> Gpu:
    """Returns the card of this name. Raises InputError for an unknown name, with the known ones."""
    return find(name.lower(), GPUS, "GPU", "--gpu")


def present_gpu() -> Gpu | None:
    """Returns the machine's card with the least memory; None without CUDA.

    Its speed is known if it is one of the calibrated kinds.
    """
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    if not found:
        return None
    least = min(found, key=lambda card: card.total_memory)
    return _as_gpu(least.name, least.total_memory)


def _as_gpu(name: str, memory: int) -> Gpu:
    half, full = next(
        (s for kind, s in {"A100": A100, "V100": V100}.items() if kind in name), (None, None)
    )
    return Gpu(name, memory / 2**30, half, full)
