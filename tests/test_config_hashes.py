"""Shipped configs keep their identity: records that name one still belong to its protocol.

`golden_config_hashes.json` has the sha256 of the protocol of each downstream config, and of each
pretraining config as its checkpoints state it. A new config needs a new line
(`python tests/test_config_hashes.py` writes missing lines). An existing line never changes: a new
key must stay out of the hash while it has its default.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pretrain.common.config import CHECKOUT, config_sha256, load_config
from pretrain.defaults import get_defaults as pretrain_defaults
from pretrain.roles import ROLES as PRETRAIN_ROLES
from transfer.classification.defaults import ROLES, get_defaults
from transfer.classification.features.formats import with_formats
from transfer.detection.config import protocol_sha256
from transfer.detection.defaults import make_defaults

GOLDEN = Path(__file__).with_name("golden_config_hashes.json")
FOLDERS = ("classification", "detection", "pretrain")
CONFIGS = {
    str(path.relative_to(CHECKOUT / "configs")): path
    for folder in FOLDERS
    for path in sorted((CHECKOUT / "configs" / folder).rglob("*.yaml"))
}


def identity_of(name: str, path: Path) -> str:
    """The sha256 that a record (made on a CPU) or a checkpoint of the config as shipped holds."""
    if name.startswith("pretrain/"):
        cfg = load_config(str(path), pretrain_defaults())
        identity = PRETRAIN_ROLES.sha256(cfg)
        assert identity == config_sha256(cfg), "a checkpoint's facts tell the second"
        return identity
    if name.startswith("classification/"):
        cfg = with_formats(load_config(str(path), get_defaults()), torch.device("cpu"))
        return ROLES.sha256(cfg)
    return protocol_sha256(load_config(str(path), make_defaults()))


@pytest.mark.parametrize("name", CONFIGS)
def test_identity_stays(name: str) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert name in golden, "add its line: python tests/test_config_hashes.py"
    assert identity_of(name, CONFIGS[name]) == golden[name], (
        "the identity of a shipped config has changed: older records would belong to a different "
        "protocol; a key that was added must stay out of the hash at its default"
    )


def test_no_config_was_lost() -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert set(golden) == set(CONFIGS), "records and commands name shipped configs"


if __name__ == "__main__":
    present = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    made = {n: present.get(n) or identity_of(n, path) for n, path in CONFIGS.items()}
    GOLDEN.write_text(json.dumps(made, indent=0, sort_keys=True) + "\n", encoding="utf-8")
