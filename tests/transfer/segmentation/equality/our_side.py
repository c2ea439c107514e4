"""A case of `cases.py` computed by this project's segmenter."""

from __future__ import annotations

import torch
from torch import Tensor

from pretrain.data.preprocess import Preprocess
from tests.transfer.segmentation.equality.cases import (
    CASES,
    CROP,
    STRIDE,
    Run,
    images,
    make_state,
    training_batch,
)
from transfer.segmentation.config import load_segmentation_config
from transfer.segmentation.fcn import Segmenter
from transfer.segmentation.sliding_windows import mean_over_windows
from transfer.segmentation.training import make_segmenter


def build(case: str) -> Segmenter:
    """The case's segmenter with the case's weights."""
    name, *overrides = CASES[case].ours
    model = make_segmenter(load_segmentation_config(name, overrides), Preprocess(), {})
    model.load_state_dict(make_state(model))
    return model


def run(case: str) -> Run:
    """Scores two images, then computes losses and gradients of a batch."""
    model = build(case).eval()
    with torch.no_grad():
        whole, large = (model._input(pixels) for pixels in images(case))
        scores = model.pixel_scores(whole)[0]
        windows = mean_over_windows(large, lambda x: model.pixel_scores(x)[0], CROP, STRIDE)
    torch.manual_seed(0)
    losses = model.train()(training_items())
    assert isinstance(losses, dict)
    torch.stack(list(losses.values())).sum().backward()
    named = model.named_parameters()
    return Run(
        scores,
        windows,
        losses,
        {name: parameter.grad for name, parameter in named if parameter.grad is not None},
        {name: value for name, value in model.state_dict().items() if ".running_" in name},
    )


def training_items() -> list[dict[str, Tensor]]:
    """The training batch as a segmenter takes it."""
    return [{"image": pixels, "mask": mask} for pixels, mask in training_batch()]
