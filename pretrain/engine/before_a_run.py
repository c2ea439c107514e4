"""What a suite and the doctor ask about a pretraining run before it starts.

`transfer` must not import this package, so its commands are given this module. The names are those
of `transfer.suite.check.Pretraining`, which says what each function takes.
"""

from pretrain.defaults import get_defaults
from pretrain.engine.checks import batch_note, load_checked, queue_note
from pretrain.engine.footprint import run_needs
from pretrain.engine.run import check_inputs
from pretrain.engine.state import check_same_config

__all__ = [
    "batch_note",
    "check_inputs",
    "check_same_config",
    "get_defaults",
    "load_checked",
    "queue_note",
    "run_needs",
]
