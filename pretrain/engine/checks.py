"""What is wrong with a pretraining config, found before any process starts: one line each."""

from __future__ import annotations

from fvcore.common.config import CfgNode

from pretrain.common.errors import InputError


def check_config(cfg: CfgNode, num_processes: int) -> None:
    """Raises InputError naming the key whose value cannot work, and the remedy."""
    _check_batch(cfg, num_processes)
    _check_views(cfg)
    for key in ("EPOCHS", "MAX_STEPS", "WARMUP_EPOCHS", "WARMUP_STEPS"):
        if cfg.SOLVER[key] < 0:
            raise InputError(f"SOLVER.{key} {cfg.SOLVER[key]} must not be negative")
    if cfg.SOLVER.EPOCHS == 0 and cfg.SOLVER.MAX_STEPS == 0:
        raise InputError("SOLVER.EPOCHS and SOLVER.MAX_STEPS are both 0; give one of them")
    if cfg.METHOD.TEMPERATURE <= 0:
        raise InputError(f"METHOD.TEMPERATURE {cfg.METHOD.TEMPERATURE} must be above 0")
    if bool(cfg.DATASETS.KNN_TRAIN) != bool(cfg.DATASETS.KNN_TEST):
        raise InputError("DATASETS.KNN_TRAIN and DATASETS.KNN_TEST go together; give both or none")
    if cfg.LOG.EVERY_STEPS < 1:
        raise InputError(f"LOG.EVERY_STEPS {cfg.LOG.EVERY_STEPS} must be at least 1")


def _check_batch(cfg: CfgNode, num_processes: int) -> None:
    batch = cfg.SOLVER.BATCH_SIZE
    if batch % num_processes or batch < 2 * num_processes:
        raise InputError(
            f"SOLVER.BATCH_SIZE {batch} must be a multiple of the {num_processes} processes, "
            "with at least 2 images in each"
        )
    if cfg.SOLVER.ACCUMULATE != 1:
        raise InputError(
            f"SOLVER.ACCUMULATE {cfg.SOLVER.ACCUMULATE}: a contrastive loss over accumulated parts "
            "has fewer negatives and other batch-norm statistics than the whole batch; set it to "
            "1 and lower SOLVER.BATCH_SIZE, or use more GPUs"
        )


def _check_views(cfg: CfgNode) -> None:
    for name in ("A", "B"):
        branch = cfg.VIEWS[name]
        if branch.COUNT < 1:
            raise InputError(f"VIEWS.{name}.COUNT {branch.COUNT} must be at least 1")
        for key in ("BLUR_PROB", "SOLARIZE_PROB", "MASK_PROB"):
            if not 0 <= branch[key] <= 1:
                raise InputError(f"VIEWS.{name}.{key} {branch[key]} is no probability; give 0 to 1")
    count = cfg.VIEWS.A.COUNT + cfg.VIEWS.B.COUNT
    if cfg.METHOD.NAME == "simclr" and count != 2:
        raise InputError(
            f"METHOD.NAME simclr compares 2 views, VIEWS.A.COUNT + VIEWS.B.COUNT is {count}; "
            "set both to 1, or METHOD.NAME mscn"
        )
    if cfg.HIGHPASS.AT_TRANSFER not in ("auto", "yes", "no"):
        raise InputError(
            f"HIGHPASS.AT_TRANSFER {cfg.HIGHPASS.AT_TRANSFER!r} is unknown; known: auto, no, yes"
        )
    if cfg.VIEWS.SAME_VIEW and not cfg.VIEWS.SAME_CROP:
        raise InputError("VIEWS.SAME_VIEW shares the crop too; set VIEWS.SAME_CROP True as well")
    for section, key, lengths in (
        ("VIEWS", "JITTER", (4,)),
        ("VIEWS", "CROP_SCALE", (2,)),
        ("VIEWS", "CROP_RATIO", (2,)),
        ("VIEWS", "BLUR_SIGMA", (2,)),
        ("MASK", "RATIO", (1, 2)),
        ("MASK", "FOCAL_SIZE", (1, 2)),
        ("MASK", "FOCAL_ASPECT", (2,)),
    ):
        value = cfg[section][key]
        if len(value) not in lengths:
            wanted = " or ".join(map(str, lengths))
            raise InputError(f"{section}.{key} {tuple(value)} must have {wanted} values")
