"""Formats of Hugging Face transformers (ConvNets): names with and without a classifier's prefix.

Read in the source of versions 4 and 5, and compared with the names and shapes of its classes
(5.24). Which input a network wants is in `preprocessor_config.json`, not in its weights: `folder`
reads it if it is next to the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.formats.key_format import CLASS, KeyFormat
from transfer.checkpoints.provenance import Facts, no_facts

HALF = Preprocess((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def class_default(
    processor: str, preprocess: Preprocess, released: str = ""
) -> Callable[[Mapping[str, Any]], Facts]:
    """Returns facts without the processor's file: the class's defaults, with a warning.

    Args:
        processor: the image processor that transformers' `AutoImageProcessor` takes.
        preprocess: what this processor does by default.
        released: what the files of released models say, for the warning.
    """
    values = f"mean {preprocess.mean[0]:g} ..., std {preprocess.std[0]:g} ..."
    warning = (
        "there is no preprocessor_config.json or no config.json next to the file: their values are "
        f"taken from the class's defaults ({processor}: {values}){released}; put both files "
        "next to the weights"
    )
    return lambda content: Facts(preprocess, {}, warnings=(warning,))


IMAGENET_RELEASED = ", where released models state ImageNet's mean and std"
FACTS = class_default("ConvNextImageProcessor", HALF, IMAGENET_RELEASED)

HUGGINGFACE = (
    KeyFormat(
        "hf_resnet",
        "Hugging Face transformers' ResNet",
        CLASS,
        prefixes=("resnet.", ""),
        layouts=("hf_resnet",),
        drops={"classifier": r"classifier\..*"},
        facts=FACTS,
    ),
    KeyFormat(
        "hf_timm_wrapper",
        "Hugging Face transformers' wrapper of timm's networks",
        CLASS,
        prefixes=("timm_model.",),
        layouts=("canonical",),
        drops={"classifier": r"timm_model\.(fc\..*|head\.fc\..*|head\.(weight|bias))"},
        facts=no_facts,  # its config.json has timm's mean and std
    ),
)
