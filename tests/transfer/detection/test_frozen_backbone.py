"""Detectors on a frozen backbone: which tensors are trained; the others do not change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretrain.common.errors import InputError
from transfer.checkpoints.read import random_weights
from transfer.detection.config import backbone_name, load_detection_config
from transfer.detection.task import DetectionTask
from transfer.detection.torchvision_engine.detector import DetectorSpec
from transfer.detection.torchvision_engine.engine import make_started_detector
from transfer.results.record import read_record
from transfer.trials.loop import run_trials
from transfer.trials.task import Request

TASK = DetectionTask()
TINY = (
    "SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 4 SOLVER.STEPS (3,) SOLVER.WARMUP_ITERS 1 "
    "TRANSFER.LOG_PERIOD 2 DATALOADER.NUM_WORKERS 0 INPUT.MIN_SIZE_TRAIN (64,) "
    "INPUT.MIN_SIZE_TEST 64 MODEL.RPN.POST_NMS_TOPK_TEST 10 TRANSFER.DRAW_DETECTIONS 0 "
    "DATASETS.TRAIN voc:digits_voc:train DATASETS.TEST voc:digits_voc:test"
).split()
# A pyramid on a small ResNet for CPUs
R18 = "MODEL.RESNETS.DEPTH 18 MODEL.RESNETS.RES2_OUT_CHANNELS 64 MODEL.FPN.OUT_CHANNELS 32".split()
FPN = [*R18, *"MODEL.ROI_BOX_HEAD.FC_DIM 32 TEST.PRECISE_BN.NUM_ITER 2".split()]


@pytest.mark.parametrize("freeze_at", range(6))
def test_freeze_at_is_detectron2s(freeze_at: int) -> None:
    """Its ResNet.freeze: 1 and more freeze the stem, n and more also res2 to res n."""
    words = [*R18, "MODEL.BACKBONE.FREEZE_AT", str(freeze_at)]
    cfg = load_detection_config("voc_frozen_fpn.yaml", words)
    with torch.device("meta"):
        detector = DetectorSpec.from_config(cfg).build()
    frozen = ["stem"] if freeze_at >= 1 else []
    frozen += [f"res{stage}" for stage in range(2, freeze_at + 1)]
    for name, parameter in detector.named_parameters():
        part = name.removeprefix("backbone.bottom_up.").split(".")[0]
        assert parameter.requires_grad == (part not in frozen), name
    trained = {name.split(".")[2] for name, p in detector.named_parameters() if p.requires_grad}
    assert ("res5" in trained) == (freeze_at < 5)


@pytest.mark.parametrize(
    ("config", "words", "changing"),
    [
        ("digits_frozen.yaml", [], ()),
        # What FREEZE_AT freezes becomes FrozenBN, whatever the norm.
        ("digits_frozen.yaml", ["MODEL.RESNETS.NORM", "BN"], ()),
        ("voc_frozen_fpn.yaml", FPN, ()),
        ("voc_ericsson_frozen.yaml", FPN, ("res5",)),
        ("voc_ericsson_finetune.yaml", FPN, ("res3", "res4", "res5")),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_no_tensor_of_a_frozen_stage_changes(
    digits: Path, tmp_path: Path, config: str, words: list[str], changing: tuple[str, ...]
) -> None:
    """A complete run of the torchvision engine; voc_frozen_fpn.yaml has precise batch norm."""
    overrides = (*TINY, *words)
    request = Request(config, "random", str(tmp_path), overrides=overrides, engine="torchvision")
    (path,) = run_trials(TASK, TASK.prepare(request))
    assert read_record(path)["status"] == "shortened"
    found = torch.load(path.parent / "model_final.pth", weights_only=True)["model"]
    cfg = load_detection_config(str(path.parent / "config.yaml"))
    begin = make_started_detector(cfg, random_weights(backbone_name(cfg), 0)).state_dict()
    pyramid = "backbone.bottom_up." if "digits" not in config else "backbone."
    trunk = {name: name.removeprefix(pyramid) for name in begin if name.startswith(pyramid)}
    assert len(trunk) > 30
    for name, part in trunk.items():
        norm = ".norm." in part  # frozen in all stages of these configs
        wanted = not norm and part.split(".")[0] in changing
        assert torch.equal(begin[name], found[name]) != wanted, name
    assert any("roi_heads" in name for name in begin if not torch.equal(begin[name], found[name]))


def test_a_stage_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match="FREEZE_AT 6 is unknown; known: 0, 1, 2, 3, 4, 5"):
        load_detection_config("digits_frozen.yaml", ("MODEL.BACKBONE.FREEZE_AT", "6"))
