"""A case of `cases.py` computed by mmsegmentation; importing this needs it.

The packages are mmsegmentation 1.2.2, mmengine 0.10.7 and mmcv-lite 2.1.0. mmcv-lite does not have
mmcv's compiled operations; the heads and backbones compared here use none of them, but
mmsegmentation imports their names, for which `without_operations` gives empty classes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.data.preprocess import IMAGENET_MEAN, IMAGENET_STD
from tests.transfer.segmentation.equality import our_side
from tests.transfer.segmentation.equality.cases import (
    CASES,
    CROP,
    IGNORE,
    STRIDE,
    Run,
    images,
)


class _Operations(ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def without_operations() -> None:
    """Lets mmsegmentation be imported beside mmcv-lite."""
    for name in ("mmcv.ops", "mmcv.ops.point_sample"):
        sys.modules.setdefault(name, _Operations(name))


without_operations()

import mmseg  # noqa: E402
import mmseg.engine  # noqa: E402, F401  (registers the optimizers' constructors)
import mmseg.models  # noqa: E402, F401  (registers the networks)
from mmengine.config import Config  # noqa: E402
from mmengine.optim import build_optim_wrapper  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402
from mmengine.structures import PixelData  # noqa: E402
from mmseg.models.data_preprocessor import SegDataPreProcessor  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402

CONFIGS = Path(mmseg.__file__).parent / ".mim/configs"
# By the beginnings of our names: those of theirs; the first that fits is replaced.
PLACES = {
    "head.pooled.": "decode_head.psp_modules.",
    "head.after_pooling.": "decode_head.bottleneck.",
    "head.laterals.": "decode_head.lateral_convs.",
    "head.smoothing.": "decode_head.fpn_convs.",
    "head.fusion.": "decode_head.fpn_bottleneck.",
    "head.classifier.": "decode_head.conv_seg.",
    "head.": "decode_head.",
    "aux_head.classifier.": "auxiliary_head.conv_seg.",
    "aux_head.": "auxiliary_head.",
    "pyramid.0.": "neck.upsample_4x.",
    "pyramid.1.": "neck.upsample_2x.0.",
}
OF_A_VIT = {
    "patch_embed.proj.": "patch_embed.projection.",
    "blocks.": "layers.",
    ".norm1.": ".ln1.",
    ".norm2.": ".ln2.",
    ".mlp.fc1.": ".ffn.layers.0.0.",
    ".mlp.fc2.": ".ffn.layers.1.",
}
# Of a ViT there: layer scales, which are 1 here, and relative positions, which are 0 here
ADDED = ("gamma_1", "gamma_2", "relative_position_bias_table", "relative_position_index")


def their_name(name: str, vit: bool) -> str:
    """The name there of a tensor of ours; "" for one that no map depends on."""
    if name.startswith("backbone."):
        if not vit:
            return name
        if name.startswith(("backbone.norm.", "backbone.fc_norm.")):
            return ""
        for ours, theirs in OF_A_VIT.items():
            name = name.replace(ours, theirs)
        return name
    ours = next(place for place in PLACES if name.startswith(place))
    found = PLACES[ours] + name.removeprefix(ours)
    if ours.startswith("pyramid.") or ".conv_seg." in found:
        return found
    # A convolution of ours is a Sequential of convolution and norm.
    owner, number, kind = found.rsplit(".", 2)
    inner = ".1" if "psp_modules" in owner else ""  # 0 is the pooling
    return f"{owner}{inner}.{('conv', 'bn')[int(number)]}.{kind}"


def config(case: str) -> Config:
    """mmsegmentation's config of a case, with a smaller network."""
    cfg = Config.fromfile(str(CONFIGS / CASES[case].theirs))
    changes = dict(CASES[case].changes)
    if changes.get("auxiliary_head", ()) is None:
        del changes["auxiliary_head"], cfg.model.auxiliary_head
    cfg.merge_from_dict({"model": changes})
    cfg.model.pretrained = cfg.model.data_preprocessor = None
    cfg.model.test_cfg = {"mode": "whole"}
    return cfg


def build(ours: nn.Module, case: str) -> tuple[nn.Module, dict[str, str]]:
    """Their segmenter with the weights of ours, and their name of each name of ours."""
    state = ours.state_dict()
    model = MODELS.build(config(case).model)
    vit = "backbone.pos_embed" in state
    names = {name: found for name in state if (found := their_name(name, vit))}
    missing, unexpected = model.load_state_dict(
        {found: state[name] for name, found in names.items()}, strict=False
    )
    assert not unexpected, unexpected
    assert all(name.endswith(ADDED) for name in missing), missing
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(ADDED):
                parameter.fill_(1.0 if "gamma" in name else 0.0)
    return model, names


def run(case: str) -> Run:
    """See `our_side.run`."""
    ours = our_side.build(case)
    model, names = build(ours, case)
    model.eval()
    with torch.no_grad():
        whole, large = (ours._input(pixels) for pixels in images(case))
        scores = model.inference(whole, [_facts(whole)])
        model.test_cfg = Config(
            {"mode": "slide", "crop_size": (CROP,) * 2, "stride": (STRIDE,) * 2}
        )
        windows = model.inference(large, [_facts(large)])
    inputs, masks = ours.collate(our_side.training_items())
    samples = [SegDataSample(gt_sem_seg=PixelData(data=mask[None])) for mask in masks]
    torch.manual_seed(0)
    found = model.train().loss(inputs, samples)
    losses = {"loss_sem_seg": found["decode.loss_ce"]}
    if "aux.loss_ce" in found:
        losses["loss_aux"] = found["aux.loss_ce"]
    torch.stack(list(losses.values())).sum().backward()
    parameters, state = dict(model.named_parameters()), model.state_dict()
    gradients = {n: parameters[found].grad for n, found in names.items() if found in parameters}
    return Run(
        scores,
        windows,
        losses,
        {name: grad for name, grad in gradients.items() if grad is not None},
        {name: state[found] for name, found in names.items() if ".running_" in name},
    )


def optimizer(model: nn.Module, case: str) -> torch.optim.Optimizer:
    """What their config of the case makes of their segmenter's parameters."""
    DefaultScope.get_instance("mmseg", scope_name="mmseg")  # where names of its registry are found
    return build_optim_wrapper(model, config(case).optim_wrapper).optimizer


def preprocessed(pixels: list[Tensor], masks: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Images (N, 3, h, w) and masks (N, h, w) as mmsegmentation normalises and pads them."""
    preprocess = SegDataPreProcessor(
        mean=[255 * value for value in IMAGENET_MEAN],
        std=[255 * value for value in IMAGENET_STD],
        size=(CROP, CROP),
        seg_pad_val=IGNORE,
    )
    samples = [SegDataSample(gt_sem_seg=PixelData(data=mask[None].long())) for mask in masks]
    found = preprocess({"inputs": pixels, "data_samples": samples}, training=True)
    return found["inputs"], torch.cat([one.gt_sem_seg.data for one in found["data_samples"]])


def _facts(x: Tensor) -> dict[str, Any]:
    size = tuple(x.shape[-2:])
    return {"ori_shape": size, "img_shape": size, "pad_shape": size}
