"""Self-supervised pretraining: images in, `checkpoint.pth` out.

The Python entry, for notebooks and scripts; each name's own help has an example:

    load_config       a shipped config, or a file of your own, with changes
    build_method      the method of a config: networks, loss, masks' pairing; a torch module
    build_views       what the network sees of your images under a config, as tensors or a picture
    run_pretraining   the whole run of a config, as tools/train_ssl.py does it
    make_digits       the embedded data set, for a first try
    InputError        what bad input raises: one line with the remedy

Importing this package imports no torch; a name's module is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pretrain.common.lazy_names import lazy_names

if TYPE_CHECKING:
    from pretrain.common.errors import InputError
    from pretrain.digits.dataset import make_digits
    from pretrain.entry.config import load_config
    from pretrain.entry.training import run_pretraining
    from pretrain.entry.views import build_views
    from pretrain.methods.build import build_method

__all__ = [
    "InputError",
    "build_method",
    "build_views",
    "load_config",
    "make_digits",
    "run_pretraining",
]

PLACES = {
    "InputError": "pretrain.common.errors",
    "build_method": "pretrain.methods.build",
    "build_views": "pretrain.entry.views",
    "load_config": "pretrain.entry.config",
    "make_digits": "pretrain.digits.dataset",
    "run_pretraining": "pretrain.entry.training",
}

__getattr__, __dir__ = lazy_names(__name__, PLACES)
