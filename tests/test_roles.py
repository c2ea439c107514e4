"""Every config key has one role, and the hash of a protocol follows it."""

from __future__ import annotations

from typing import Any

import pytest
from fvcore.common.config import CfgNode

from pretrain.common.config import flat
from pretrain.common.roles import Hashed, KeyRole, Role, Roles, only
from pretrain.roles import ROLES as PRETRAIN
from transfer.classification.defaults import ROLES as CLASSIFICATION
from transfer.detection.roles import ROLES as DETECTION

PACKAGES = {"classification": CLASSIFICATION, "detection": DETECTION, "pretrain": PRETRAIN}
KEYS = [
    (package, key) for package, roles in PACKAGES.items() for key in flat(roles.make_defaults())
]


def with_value(cfg: CfgNode, key: str, value: Any) -> CfgNode:
    copy = cfg.clone()
    *parents, last = key.split(".")
    node = copy
    for parent in parents:
        node = node[parent]
    node[last] = value
    return copy


def another(value: Any) -> Any:
    """A value of the same kind that differs."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return f"{value}x"
    return (*value, *value, 1) if value is not None else 1


@pytest.mark.parametrize("package, key", KEYS, ids=lambda value: value)
def test_the_hash_moves_with_what_belongs_to_the_protocol(package: str, key: str) -> None:
    roles = PACKAGES[package]
    cfg = roles.make_defaults()
    if key == "MODEL.BACKBONE.NAME":  # a name of the list
        value = "build_resnet_fpn_backbone"
    else:
        value = another(flat(cfg)[key])
    changed = with_value(cfg, key, value)
    moved = roles.sha256(cfg) != roles.sha256(changed)
    role = roles.entry(key).role
    if role is Role.PROTOCOL:
        assert moved == roles.belongs(key, changed)
    elif role is Role.DATA:
        dormant = not all(
            roles.belongs(f"{node}.x", changed)
            for node in ("TRANSFER.SEMANTIC", "MODEL.RETINANET")
            if node in key
        )
        assert moved != dormant
    else:
        kept = roles.entry(key).hashed is Hashed.VALUE  # pretraining's: see pretrain/roles.py
        assert moved == kept and not roles.belongs(key, changed)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_entry_is_of_a_key_or_node_that_exists(package: str) -> None:
    roles = PACKAGES[package]
    keys = flat(roles.make_defaults())
    for name in roles.entries:
        assert name in keys or any(key.startswith(f"{name}.") for key in keys), name


def test_watching_and_dormant_keys_are_not_part_of_a_protocol() -> None:
    cfg = DETECTION.make_defaults()
    for key in ("TEST.EVAL_PERIOD", "VIS_PERIOD", "CUDNN_BENCHMARK", "TRANSFER.AMP_DTYPE"):
        assert not DETECTION.belongs(key, cfg), key
    amp = with_value(cfg, "SOLVER.AMP.ENABLED", True)
    assert DETECTION.belongs("TRANSFER.AMP_DTYPE", amp)
    knn = CLASSIFICATION.make_defaults()
    assert not CLASSIFICATION.belongs("SOLVER.EPOCHS", knn)
    assert CLASSIFICATION.belongs("SOLVER.EPOCHS", with_value(knn, "PROTOCOL.NAME", "linear"))


def small() -> CfgNode:
    return CfgNode({"A": {"ON": False, "SIZE": 3}, "B": 1, "C": "x", "D": 7, "E": 0})


ROLES = Roles(
    small,
    {
        "A": only(lambda cfg: cfg.A.ON),
        "B": KeyRole(Role.MACHINE, 0),
        "C": KeyRole(Role.WATCHING),
        "D": KeyRole(Role.DATA, Hashed.VALUE),
    },
)


def test_identity_holds_values_defaults_or_nothing() -> None:
    cfg = CfgNode({"A": {"ON": False, "SIZE": 9}, "B": 5, "C": "y", "D": 8, "E": 4})
    assert ROLES.identity(cfg) == {"B": 0, "C": "x", "D": 8, "E": 4}
    assert ROLES.protocol(cfg) == {"E": 4}
    on = with_value(cfg, "A.ON", True)
    assert ROLES.identity(on)["A"] == {"ON": True, "SIZE": 9}
    assert ROLES.protocol(on) == {"A.ON": True, "A.SIZE": 9, "E": 4}
    assert cfg.A.SIZE == 9, "the config itself stays as it is"


def test_an_older_record_is_completed_and_a_newer_one_cut() -> None:
    found = ROLES.completed({"A": {"SIZE": 5, "LATER": 1}, "E": 2, "F": 3, "B": None, "D": "?"})
    assert found == {"A": {"ON": False, "SIZE": 5}, "B": None, "C": "x", "D": 7, "E": 2}
    assert ROLES.completed({"A": 3, "C": [1]}) == small()
