"""`ROLES`: the role of each key of a pretraining config.

A key that is not listed belongs to the recipe: a run is continued only if it has the same value.
The keys of the machine, and those for showing, keeping or measuring something in addition to the
training, do not affect its result. So they may differ when a run is continued.

Most of them are still part of the config's sha256 (`Hashed.VALUE`): shipped configs set some of
them to values that are not the defaults, and checkpoints are identified by these hashes. Keys that
were added later are not part of it, so no hash changes. The hash in a checkpoint,
`pretrain.common.config.config_sha256`, is the hash of this table.
"""

from __future__ import annotations

from pretrain.common.roles import Hashed, KeyRole, Role, Roles, only
from pretrain.defaults import get_defaults

ROLES = Roles(
    get_defaults,
    {
        "OUTPUT_DIR": KeyRole(Role.MACHINE, Hashed.NOTHING),
        "SEED": KeyRole(Role.TRIAL, Hashed.NOTHING),
        "DATALOADER": KeyRole(Role.MACHINE, Hashed.VALUE),
        "DATALOADER.PREFETCH_GIB": KeyRole(Role.MACHINE, Hashed.NOTHING),
        "BACKBONE.CHECKPOINTING": KeyRole(Role.MACHINE, Hashed.NOTHING),
        "SOLVER.COMPILE": KeyRole(Role.MACHINE, Hashed.NOTHING),
        "SOLVER.SIDE_STREAM": KeyRole(Role.MACHINE, Hashed.NOTHING),
        "SOLVER.TF32": only(lambda cfg: cfg.SOLVER.TF32),
        "MASK.NOISE_RELATIVE": only(lambda cfg: cfg.MASK.NOISE_RELATIVE),
        "VIEWS.RESIZE": only(lambda cfg: cfg.VIEWS.RESIZE != "pillow"),
        "CHECKPOINT": KeyRole(Role.WATCHING, Hashed.VALUE),
        "LOG": KeyRole(Role.WATCHING, Hashed.VALUE),
        "LOGGER": KeyRole(Role.WATCHING, Hashed.NOTHING),
        "KNN": KeyRole(Role.WATCHING, Hashed.VALUE),
        "DATASETS.KNN_TRAIN": KeyRole(Role.WATCHING, Hashed.VALUE),
        "DATASETS.KNN_TEST": KeyRole(Role.WATCHING, Hashed.VALUE),
        # It affects only a second checkpoint, which is made after the training.
        "PRECISE_BN": KeyRole(Role.WATCHING, Hashed.VALUE),
    },
)
