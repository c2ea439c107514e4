"""Formats of small SimCLR projects: sthalles/SimCLR, Spijkervet/SimCLR, HobbitLong/SupContrast.

Read in sthalles/SimCLR simclr.py, models/resnet_simclr.py, data_aug/contrastive_learning_dataset.py
(ToTensor only); Spijkervet/SimCLR model.py, simclr/simclr.py, modules/transformations/simclr.py
(ToTensor only); SupContrast main_supcon.py, util.py and networks/resnet_big.py.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.formats.key_format import TEXT, Flat, KeyFormat, inside, with_ddp
from transfer.checkpoints.formats.other_frameworks import UNIT_RANGE
from transfer.checkpoints.formats.toolboxes import facts_of_lightning
from transfer.checkpoints.provenance import Facts, no_facts, stated


def _facts_of_spijkervet(content: Mapping[str, Any]) -> Facts:
    """Returns the epochs if Lightning saved the file."""
    found = facts_of_lightning(content) if "state_dict" in content else stated(None)(content)
    return found._replace(preprocess=UNIT_RANGE, known={**found.known, "method": "simclr"})


# SupContrast's main_supcon.py set_loader; its "path" takes both from the command line.
_SUPCONTRAST_INPUT = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}


def _view_supcontrast(content: Flat) -> Flat:
    """Returns {} for PyContrast's files: they look alike, but hold a memory or averaged weights."""
    return {} if "contrast" in content or "model_ema" in content else content


def _facts_of_supcontrast(content: Mapping[str, Any]) -> Facts:
    """Returns data set, mean and std from the stored command line, as far as it has them."""
    options = content["opt"]
    options = options if isinstance(options, Mapping) else vars(options)
    method = str(options.get("method", "supcon")).lower()
    found = stated(method)(content)
    values = _SUPCONTRAST_INPUT.get(str(options.get("dataset")))
    try:
        pairs = values or [ast.literal_eval(str(options[key])) for key in ("mean", "std")]
        mean, std = (tuple(float(v) for v in pair) for pair in pairs)
        return found._replace(preprocess=Preprocess(mean, std))
    except (KeyError, TypeError, ValueError, SyntaxError, InputError):
        return found._replace(warnings=no_facts(content).warnings)


def _check_supcontrast(content: Mapping[str, Any]) -> None:
    """Refuses its own ResNets for CIFAR, whose stem is 3x3 without pooling."""
    names = [str(name) for name in inside(content, ("model",)) or {}]
    if any(name.startswith("encoder.") and ".shortcut.0." in name for name in names):
        raise InputError(
            "SupContrast's own ResNet, which has a 3x3 stem without pooling for CIFAR's images: "
            "not a network that is read"
        )


PORTS = (
    KeyFormat(
        "sthalles_simclr",
        "SimCLR (sthalles)",
        TEXT,
        kinds=("torch",),
        containers=(("state_dict",),),
        top=("arch",),
        prefixes=with_ddp("backbone."),
        needs=(r"backbone\.fc\.0\.weight", r"backbone\.fc\.2\.weight"),
        drops={"projector": r"backbone\.fc\..*"},
        facts=stated("simclr", UNIT_RANGE, arch=("arch",)),
    ),
    *(
        KeyFormat(
            name,
            f"SimCLR (Spijkervet{where})",
            TEXT,
            containers=(container,),
            prefixes=with_ddp(f"{head}encoder."),
            needs=(
                rf"{head}projector\.0\.weight".replace("model.", r"model\."),
                rf"{head}projector\.2\.weight".replace("model.", r"model\."),
            ),
            lacks=(r"(.*\.)?projector\.\d\.bias", r"(.*\.)?projector\.[13]\..*"),
            drops={"projector": r"(model\.)?projector\..*", "classifier": r"encoder\.fc\..*"},
            facts=_facts_of_spijkervet,
        )
        for name, container, head, where in (
            ("spijkervet_simclr", (), "", ""),
            ("spijkervet_simclr_lightning", ("state_dict",), "model.", ", main_pl.py"),
        )
    ),
    KeyFormat(
        "supcontrast",
        "SupContrast, with torchvision's ResNets",
        TEXT,
        kinds=("torch",),
        containers=(("model",),),
        top=("opt",),
        view=_view_supcontrast,
        prefixes=("encoder.module.", *with_ddp("encoder.")),
        needs=(r"head\.(0\.|2\.)?weight",),
        drops={"projector": r"head\..*", "classifier": r"encoder\.(module\.)?fc\..*"},
        facts=_facts_of_supcontrast,
        check=_check_supcontrast,
    ),
)
