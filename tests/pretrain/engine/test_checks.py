"""Config values that cannot work: each one line that names the key."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fvcore.common.config import CfgNode

from pretrain.common.errors import InputError
from pretrain.engine.checks import check_config


@pytest.mark.parametrize(
    "overrides, processes, message",
    [
        (("SOLVER.BATCH_SIZE", 7), 2, "SOLVER.BATCH_SIZE 7 must be a multiple of the 2"),
        (("SOLVER.BATCH_SIZE", 2), 2, "at least 2 images"),
        (("SOLVER.ACCUMULATE", 4), 1, "SOLVER.ACCUMULATE 4: a contrastive loss"),
        (("METHOD.NAME", "simclr"), 1, "compares 2 views"),
        (("VIEWS.A.COUNT", 0), 1, "VIEWS.A.COUNT"),
        (("VIEWS.B.MASK_PROB", 1.5), 1, "VIEWS.B.MASK_PROB 1.5"),
        (("HIGHPASS.AT_TRANSFER", "maybe"), 1, "known: auto, no, yes"),
        (("VIEWS.SAME_VIEW", True), 1, "VIEWS.SAME_CROP"),
        (("VIEWS.JITTER", "(.4, .4)"), 1, "VIEWS.JITTER"),
        (("MASK.RATIO", "(.1, .2, .3)"), 1, "1 or 2 values"),
        (("SOLVER.EPOCHS", 0), 1, "both 0"),
        (("SOLVER.EPOCHS", -1), 1, "SOLVER.EPOCHS -1"),
        (("METHOD.TEMPERATURE", 0.0), 1, "METHOD.TEMPERATURE"),
        (("DATASETS.KNN_TEST", ""), 1, "go together"),
        (("LOG.EVERY_STEPS", 0), 1, "LOG.EVERY_STEPS"),
    ],
)
def test_refused(
    tiny_config: Callable[..., CfgNode], overrides: tuple, processes: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_config(tiny_config(*overrides), processes)


def test_the_defaults_pass(tiny_config: Callable[..., CfgNode]) -> None:
    check_config(tiny_config(), 4)
