"""After which changes of a config a trial in a folder may be continued."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.common.config import dump_yaml
from pretrain.common.errors import InputError
from pretrain.common.run_files import CONFIG
from transfer.detection.config import changed, load_detection_config
from transfer.detection.task import DetectionTask
from transfer.trials.earlier import check_folder


def test_watching_and_machine_keys_may_change_and_the_protocol_may_not(tmp_path: Path) -> None:
    task, weights = DetectionTask(), "mscn.pth"
    cfg = load_detection_config("voc_mscn.yaml")
    (tmp_path / "model_final.pth").touch()
    (tmp_path / CONFIG).write_text(dump_yaml(changed(cfg, {"OUTPUT_DIR": "elsewhere"})))
    for key, value in (
        ("TEST.EVAL_PERIOD", 4000),
        ("VIS_PERIOD", 20),
        ("CUDNN_BENCHMARK", True),
        ("DATALOADER.NUM_WORKERS", 1),
        ("TRANSFER.AMP_DTYPE", "bf16"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", 7),  # set from the data, whose names are compared
    ):
        check_folder(task, tmp_path, changed(cfg, {key: value}), cfg.SEED, weights, None)
    with pytest.raises(InputError, match=r"SOLVER.MAX_ITER \(24000 then, 10 now\)"):
        check_folder(task, tmp_path, changed(cfg, {"SOLVER.MAX_ITER": 10}), cfg.SEED, weights, None)
    with pytest.raises(InputError, match=r"SEED \(0 then, 1 now\)"):
        check_folder(task, tmp_path, cfg, cfg.SEED + 1, weights, None)
