"""The role of a config key: it belongs to the protocol, or it says where and how a run is done.

Next to its defaults, each package has a table of the keys and nodes that do not simply belong to
the protocol. The protocol's hash, the check before a resume, the columns of a report and the check
whether a shipped config was changed all read this table, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.common.config import config_sha256, flat


class Role(Enum):
    """Says what kind of thing a key decides."""

    PROTOCOL = "protocol"  # the numbers: two values are two protocols
    DATA = "data"  # follows from the data sets, whose names are already compared
    WEIGHTS = "weights"  # a fact of the checkpoint, which replaces the config's value
    MACHINE = "machine"  # where a run is done and how fast
    WATCHING = "watching"  # what is shown, kept or measured in addition to the protocol's numbers
    TRIAL = "trial"  # which of several runs of one protocol it is


class Hashed(Enum):
    """Says what the hash has in place of a key's value, if it is not a fixed value."""

    VALUE = "value"  # the value itself
    DEFAULT = "default"  # the default, so a config that never set the key keeps its hash
    NOTHING = "nothing"  # nothing: the key was added after records with a hash existed


@dataclass(frozen=True)
class KeyRole:
    """Is the role of a key, or of all keys below a node.

    Attributes:
        role: what the key decides.
        hashed: what the protocol's hash has in its place: a `Hashed`, or a fixed value. For a key
            of the protocol itself this applies only while `when` is false.
        when: whether the key has an effect under a config; None: always. A key without an effect
            does not belong to the protocol.
    """

    role: Role
    hashed: Any = Hashed.DEFAULT
    when: Callable[[CfgNode], bool] | None = None

    def belongs(self, cfg: CfgNode) -> bool:
        """Returns whether two values of the key make two protocols under this config."""
        return self.role is Role.PROTOCOL and (self.when is None or self.when(cfg))

    def replaced(self, cfg: CfgNode) -> bool:
        """Returns whether the hash has something else in place of the key's value."""
        if self.hashed is Hashed.VALUE:
            return False
        return not self.belongs(cfg)


def only(when: Callable[[CfgNode], bool], hashed: Any = Hashed.NOTHING) -> KeyRole:
    """Returns the role of a key of the protocol that has an effect only under some configs."""
    return KeyRole(Role.PROTOCOL, hashed, when)


class Roles:
    """Holds the roles of all keys of a package's configs.

    Args:
        make_defaults: every key with its default.
        entries: the role of each key or node. A key that no entry covers belongs to the protocol.
            If two entries cover a key, the longer one counts.
    """

    def __init__(
        self, make_defaults: Callable[[], CfgNode], entries: Mapping[str, KeyRole]
    ) -> None:
        self.make_defaults = make_defaults
        self.entries = dict(entries)

    def entry(self, key: str) -> KeyRole:
        """Returns the entry that covers a key."""
        parts = key.split(".")
        for length in range(len(parts), 0, -1):
            found = self.entries.get(".".join(parts[:length]))
            if found is not None:
                return found
        return KeyRole(Role.PROTOCOL)

    def belongs(self, key: str, cfg: CfgNode) -> bool:
        """Returns whether two values of a key make two protocols under this config."""
        covering = [name for name in self.entries if key == name or key.startswith(f"{name}.")]
        return all(self.entries[name].belongs(cfg) for name in covering)

    def protocol(self, cfg: CfgNode) -> dict[str, Any]:
        """Returns, by key, the values of all keys that belong to the protocol under this config."""
        return {key: value for key, value in flat(cfg).items() if self.belongs(key, cfg)}

    def identity(self, cfg: CfgNode) -> CfgNode:
        """Returns the config from which the hash is computed: every key that does not belong to the
        protocol has a fixed value, or is left out."""
        kept, defaults = cfg.clone(), self.make_defaults()
        kept.defrost()
        for key in sorted(self.entries, key=lambda key: key.count(".")):  # nodes before their keys
            entry = self.entries[key]
            *parents, last = key.split(".")
            node = _node(kept, parents)
            if node is None or last not in node or not entry.replaced(cfg):
                continue
            if entry.hashed is Hashed.NOTHING:
                del node[last]
            elif entry.hashed is Hashed.DEFAULT:
                node[last] = _node(defaults, parents)[last]
            else:
                node[last] = entry.hashed
        return kept

    def sha256(self, cfg: CfgNode) -> str:
        """Returns the protocol's identity as 64 hexadecimal digits."""
        return config_sha256(self.identity(cfg), ignore={})

    def completed(self, content: Mapping[str, Any]) -> CfgNode:
        """Returns a record's config, with defaults for keys that were added after the record was
        written.

        Args:
            content: the parsed YAML; unknown keys, and values of a wrong type, are left out.
        """
        cfg = self.make_defaults()
        _fill(cfg, content)
        return cfg


def _node(cfg: CfgNode, parents: list[str]) -> Any:
    node: Any = cfg
    for parent in parents:
        node = node.get(parent)
        if node is None:
            return None
    return node


def _fill(cfg: CfgNode, content: Mapping[str, Any]) -> None:
    for key, value in content.items():
        if isinstance(cfg.get(key), CfgNode):
            if isinstance(value, Mapping):
                _fill(cfg[key], value)
        elif key in cfg and _same_kind(cfg[key], value):
            cfg[key] = value


def _same_kind(default: Any, value: Any) -> bool:
    """Returns whether a value has the type of a key; a record from elsewhere may contain
    anything.
    """
    if default is None or value is None:
        return True
    for kinds in ((bool,), (int, float), (str,), (list, tuple)):
        if isinstance(default, kinds):
            return isinstance(value, kinds)
    return True
