"""The shipped detection protocols: what their headers say, and what their sources say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretrain.common.config import find_config
from transfer.detection.config import load_detection_config, protocol_name, protocol_sha256
from transfer.detection.torchvision_engine.architectures import is_vit
from transfer.detection.torchvision_engine.detector import DetectorSpec
from transfer.detection.weights.starting_weights import has_batch_norm

FOLDER = Path(__file__).parents[3] / "configs" / "detection"
NAMES = sorted(p.stem for p in FOLDER.glob("*.yaml") if p.stem.startswith(("coco_m", "coco_s")))
NAMES += sorted(
    p.stem for p in FOLDER.glob("*.yaml") if p.stem.startswith(("coco_r", "coco_v", "voc_"))
)
for small in ("coco_mini_overfit", "coco_mini_fpn"):  # no protocol of the field
    NAMES.remove(small)
# Their titles say what is trained.
FROZEN = {
    "voc_ericsson_frozen": 4,
    "voc_ericsson_finetune": 2,
    "voc_frozen_fpn": 5,
    "coco_bob_frozen": 5,
}
NAMES += [name for name in FROZEN if name not in NAMES]
NO_BATCH_NORM = ("coco_mscn_convnext_fpn",)  # LayerNorms, which train too
BASELINES = {
    "voc_supervised": "voc_mscn",
    "voc_supervised_msra": "voc_mscn",
    "voc_random": "voc_mscn",
    "coco_supervised": "coco_mscn",
    "coco_supervised_2x": "coco_mscn_2x",
    "coco_supervised_msra": "coco_mscn",
    "coco_supervised_msra_2x": "coco_mscn_2x",
    "coco_supervised_fpn_4conv1fc_1x": "coco_mscn_fpn_4conv1fc_1x",
    "coco_random": "coco_mscn",
    "coco_random_2x": "coco_mscn_2x",
    "coco_random_fpn_4conv1fc_1x": "coco_mscn_fpn_4conv1fc_1x",
}


@pytest.mark.parametrize("name", NAMES)
def test_header(name: str) -> None:
    lines = find_config(f"{name}.yaml").read_text().splitlines()
    header = " ".join(line for line in lines if line.startswith("#")).lower()
    for word in ("source", "hardware", "not measured", "published", "not reproduced here yet"):
        assert word in header, f"{name}: the header says nothing of '{word}'"


@pytest.mark.parametrize("name", NAMES)
def test_builds(name: str) -> None:
    """On the meta device, which uses no memory, the module tree is that of the detector."""
    cfg = load_detection_config(name)
    with torch.device("meta"):
        detector = DetectorSpec.from_config(cfg).build()
    assert (detector.roi_heads.mask_head is not None) == cfg.MODEL.MASK_ON


def test_batch_norm_trains_in_every_protocol() -> None:
    """A random backbone could not train otherwise, and a baseline shares its base's norm.

    Protocols on a frozen backbone have frozen norms.
    """
    for name in NAMES:
        cfg = load_detection_config(name)
        if name in FROZEN:
            assert cfg.MODEL.RESNETS.NORM == "FrozenBN", name
            assert cfg.MODEL.BACKBONE.FREEZE_AT == FROZEN[name], name
            continue
        norms = ("naiveSyncBN", "SyncBN") if name not in NO_BATCH_NORM else ("",)
        assert cfg.MODEL.RESNETS.NORM in norms, name
        assert has_batch_norm(cfg) or is_vit(cfg) or name in NO_BATCH_NORM
        assert cfg.MODEL.BACKBONE.FREEZE_AT == 0, name


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_is_its_bases_protocol(name: str) -> None:
    ours, base = load_detection_config(name), load_detection_config(BASELINES[name])
    assert protocol_sha256(ours) == protocol_sha256(base)
    assert protocol_name(ours, f"{name}.yaml") == BASELINES[name], "one column of a report"
    msra = "msra" in name or "supervised_fpn" in name
    assert (ours.INPUT.FORMAT == "BGR") == msra == (ours.MODEL.PIXEL_STD == [1.0] * 3)
    assert ours.MODEL.RESNETS.STRIDE_IN_1X1 == msra
    assert bool(ours.MODEL.WEIGHTS) == ("supervised" in name)


def test_all_others_are_named_after_their_file() -> None:
    for name in NAMES:
        if name not in BASELINES:
            assert protocol_name(load_detection_config(name), f"x/{name}.yaml") == name


def test_flavours_differ() -> None:
    names = [name for name in NAMES if name not in BASELINES]
    assert len({protocol_sha256(load_detection_config(name)) for name in names}) == len(names)


@pytest.mark.parametrize("name", ["coco_mscn", "coco_mscn_fpn", "coco_mscn_fpn_4conv1fc"])
def test_2x_is_twice_1x(name: str) -> None:
    short = load_detection_config(name if name == "coco_mscn" else f"{name}_1x")
    long = load_detection_config(f"{name}_2x")
    assert long.SOLVER.MAX_ITER == 2 * short.SOLVER.MAX_ITER == 180_000
    assert list(long.SOLVER.STEPS) == [2 * step for step in short.SOLVER.STEPS]
    assert long.MODEL == short.MODEL and long.TEST == short.TEST


def test_4conv1fc_is_normed_throughout() -> None:
    model = load_detection_config("coco_mscn_fpn_4conv1fc_1x").MODEL
    norms = (model.RESNETS, model.FPN, model.ROI_BOX_HEAD, model.ROI_MASK_HEAD)
    assert {node.NORM for node in norms} == {"SyncBN"}
    assert (model.ROI_BOX_HEAD.NUM_CONV, model.ROI_BOX_HEAD.NUM_FC) == (4, 1)
