"""What each key of a pretraining config decides: `ROLES`, the only list of it.

A key that is not listed belongs to the recipe: a run is continued only if it has the same value.
The keys of the machine, and those of what is shown, kept or measured beside the training, do not
affect its result, so they may differ when it is continued.

They are part of the config's sha256 all the same (`Hashed.VALUE`): shipped configs set some of them
to other values than the defaults, and checkpoints are known by these hashes. Keys that were added
later are not, so that no hash moves. What a checkpoint says of its config,
`pretrain.common.config.config_sha256`, is this table's hash.
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
        # Of a second checkpoint, made when the training has ended
        "PRECISE_BN": KeyRole(Role.WATCHING, Hashed.VALUE),
    },
)
