"""YAML files and `KEY VALUE` overrides in, one frozen CfgNode out (fvcore's, as in Detectron2).

Before merging, each file of a `_BASE_` chain is checked alone against the defaults. So an error
names the file and the key that are wrong.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from pretrain.common.config_values import Items, coerce, declared_lists, parse_literal
from pretrain.common.errors import InputError
from pretrain.common.lookup import did_you_mean, near_matches
from pretrain.common.printable import MOST, printable, shown
from pretrain.common.safe_yaml import has_inert, read_config_file

CHECKOUT = Path(__file__).resolve().parents[2]  # site-packages if a wheel is installed
BASE_KEY = "_BASE_"
MOST_FILES = 100  # for a config and all its bases: these could name each other without end
ANY = object()
# The command that reads the configs of each folder below configs/
COMMANDS = {
    "pretrain": "tools/train_ssl.py",
    "detection": "tools/train_det.py",
    "classification": "tools/train_cls.py",
    "suites": "tools/run_suite.py",
}
# The identity of a pretraining config leaves these out: keys of the machine that were added after
# the first checkpoints, and newer keys of the recipe at the value that older checkpoints had.
PRETRAIN_IGNORED: Mapping[str, Any] = {
    "OUTPUT_DIR": ANY,
    "SEED": ANY,
    "LOGGER": ANY,
    "DATALOADER.PREFETCH_GIB": ANY,
    "BACKBONE.CHECKPOINTING": ANY,
    "SOLVER.COMPILE": ANY,
    "SOLVER.SIDE_STREAM": ANY,
    "SOLVER.TF32": False,
    "MASK.NOISE_RELATIVE": False,
    "VIEWS.RESIZE": "pillow",
}
UNREADABLE = (OSError, UnicodeDecodeError, yaml.YAMLError, pickle.UnpicklingError)


def is_checkout() -> bool:
    """Returns whether this code runs from a checkout of the project, and not from an installed
    wheel.
    """
    return (CHECKOUT / "setup.cfg").is_file() and (CHECKOUT / "tools").is_dir()


def shipped_folder(name: str) -> Path:
    """Returns the folder `configs` or `tools` that ships with the code.

    A wheel has it below `mscn` (see `setup.py`).

    Raises:
        InputError: the folder is missing.
    """
    folder = CHECKOUT / name if is_checkout() else CHECKOUT / "mscn" / name
    if not folder.is_dir():
        raise InputError(f"{folder} is missing, but it is a part of mscn; install mscn again")
    return folder


def find_config(name: str, folder: str = "configs") -> Path:
    """Returns the path of a config given as a path, or as a name found below `configs/`.

    Args:
        name: a path, or `NAME.yaml` (the suffix may be left out) somewhere below `configs/` of the
            current folder, of the checkout, or of the installed wheel.
        folder: the command's folder below `configs/`, for the list in the message.

    Raises:
        InputError: there is no such config, or there are two of that name.
    """
    if os.path.isfile(name):  # False for a name that no file system accepts
        return Path(name)
    wanted = name if name.endswith((".yaml", ".yml")) else f"{name}.yaml"
    here = Path("configs")
    roots = {root.resolve() for root in (here, shipped_folder("configs")) if root.is_dir()}
    files = {path for root in roots for path in root.rglob("*.yaml")}
    matches = sorted(path for path in files if str(path).endswith(f"/{wanted}"))
    if len(matches) > 1:
        raise InputError(
            f"config {name!r} is ambiguous: {', '.join(map(str, matches))}; give a path"
        )
    if matches:
        return matches[0]
    known = sorted(path.name for path in files if folder in path.parts)
    hint = near_matches(wanted, known) or f"; known: {_some(known)}"
    raise InputError(
        f"no config {shown(name, MOST)}: neither a file nor a name below configs/{hint}"
    )


def _some(names: Sequence[str], most: int = 12) -> str:
    """Returns the first names and the number of the others, because all names would fill a
    screen.
    """
    others = f", and {len(names) - most} others" if len(names) > most else ""
    return f"{', '.join(names[:most])}{others}"


def load_config(
    name: str,
    defaults: CfgNode,
    overrides: Sequence[str] = (),
    folder: str = "configs",
    *,
    keep_inert: bool = False,
) -> CfgNode:
    """Loads a config with its bases, applies overrides, and freezes it.

    Args:
        defaults: every known key with its default; left unchanged.
        overrides: KEY VALUE pairs, flat.
        folder: see `find_config`.
        keep_inert: keep expressions that were not run in the config; the caller refuses them.

    Raises:
        InputError: unknown file, keys or types (one message for all of a file, and one for all
            overrides), an expression in a file, a loop of bases, or a config for a different
            command.
    """
    cfg = defaults.clone()
    chain = list(base_chain(find_config(name, folder)))
    for path, _ in chain:
        base = "" if path is chain[0][0] else f" (its base is {path})"
        _check_command(f"{name}{base}", path, folder)
    for path, content in reversed(chain):
        _merge(cfg, content, str(path), keep_inert)
    _merge_overrides(cfg, overrides)
    cfg.freeze()
    return cfg


def _check_command(name: str, path: Path, folder: str) -> None:
    """Raises InputError if the file of a config, or of its base, is in another command's folder."""
    parts = path.resolve().parts
    theirs = next((two for one, two in zip(parts, parts[1:]) if one == "configs"), "")
    if folder in COMMANDS and theirs in COMMANDS and theirs != folder:
        raise InputError(
            f"{name} is a config for {COMMANDS[theirs]}, not for {COMMANDS[folder]}: start "
            f"that command, or choose a config from configs/{folder}"
        )


def override_words(overrides: Mapping[str, Any] | Sequence[Any]) -> list[str]:
    """Overrides given in Python as the KEY VALUE words of a command line: {"SOLVER.EPOCHS": 2} and
    ["SOLVER.EPOCHS", 2] become ["SOLVER.EPOCHS", "2"]."""
    if isinstance(overrides, Mapping):
        return [word for pair in overrides.items() for word in map(_as_word, pair)]
    return list(map(_as_word, overrides))


def _as_word(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def load_keys(path: Path, defaults: CfgNode, keys: Collection[str]) -> CfgNode:
    """Reads some keys from a file of a different program and ignores its other keys.

    Args:
        keys: dotted names, all in `defaults`. A key that the file and its bases do not set keeps
            its default.

    Raises:
        InputError: the file is unreadable, or one of these keys has the wrong type.
    """
    cfg = defaults.clone()
    for file, content in reversed(list(base_chain(path))):
        _merge(cfg, _picked(content, keys), str(file))
    return cfg


def _picked(content: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """Returns the nested mapping with only these dotted keys."""
    found: dict[str, Any] = {}
    for section in {key.partition(".")[0] for key in keys} & set(content):
        below = [key.partition(".")[2] for key in keys if key.startswith(f"{section}.")]
        value = content[section]
        if not below:
            found[section] = value
        elif isinstance(value, dict):
            found[section] = _picked(value, below)
    return found


def dump_yaml(cfg: CfgNode) -> str:
    """Returns the merged config as YAML text with sorted keys (no timestamps, no comments)."""
    return yaml.safe_dump(_plain(cfg), sort_keys=True, default_flow_style=None)


def config_sha256(cfg: CfgNode, ignore: Mapping[str, Any] = PRETRAIN_IGNORED) -> str:
    """Returns the identity of a protocol: sha256 of the config without some keys.

    Args:
        ignore: for dotted keys, the value at which a key is left out, or `ANY`. The default are the
            keys that the identity of a pretraining config leaves out, see `pretrain/roles.py`.
    """
    kept = _plain(cfg)
    for key, value in ignore.items():
        *parents, last = key.split(".")
        node = kept
        for parent in parents:
            node = node.get(parent, {})
        if last in node and value in (ANY, node[last]):
            del node[last]
    return hashlib.sha256(yaml.safe_dump(kept, sort_keys=True).encode()).hexdigest()


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a config's values by their dotted keys, tuples as lists."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        found.update(flat(value, f"{name}.") if isinstance(value, dict) else {name: _plain(value)})
    return found


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], free: tuple[str, ...] = ()
) -> list[str]:
    """Returns the differences of two `flat` configs, as ["KEY (a then, b now)"] in the order of the
    keys. Keys that begin with one of `free` may differ.
    """
    return [
        f"{key} ({old.get(key)} then, {new.get(key)} now)"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and not key.startswith(free)
    ]


def check_no_differences(found: Sequence[str], what: str, further: str = "") -> None:
    """Raises InputError about `what`, with the first differences, if there are any.

    Args:
        further: one more remedy.
    """
    if found:
        raise InputError(
            f"{what} a different config: {', '.join(found[:3])}; use the same config, or choose "
            f"another --output (in a suite: or another name){f'; {further}' if further else ''}"
        )


def has_section(path: Path, name: str) -> bool:
    """Returns whether the file or one of its bases has a section (or key) of this name at the top.

    Raises InputError as `base_chain` does.
    """
    return any(name in content for _, content in base_chain(path))


def base_chain(path: Path) -> Iterator[tuple[Path, dict]]:
    """Yields (file, content) from the given file up to its last base; contents are unchecked.

    A file decides before its bases, and of a list of bases a later one before an earlier one, as
    in fvcore.

    Raises InputError for a file that is missing or not a mapping, and for a loop.
    """
    read = 0
    waiting: list[tuple[Path, tuple[Path, ...]]] = [(path.resolve(), ())]
    while waiting:
        path, above = waiting.pop()
        if path in above:
            raise InputError(
                f"{above[-1]}: {BASE_KEY} loops back to {path}; remove one of the links"
            )
        read += 1
        if read > MOST_FILES:
            raise InputError(
                f"{path}: {BASE_KEY} leads to more than {MOST_FILES} files; name fewer"
            )
        content = _read_yaml(path)
        base = content.pop(BASE_KEY, None)
        yield path, content
        bases = base if isinstance(base, list) else [] if base is None else [base]
        for name in bases:
            if not isinstance(name, str):
                raise InputError(
                    f"{path}: {BASE_KEY} must be a file name or a list of them, got {shown(base)}"
                )
            waiting.append((_base_file(name, path).resolve(), (*above, path)))


def _base_file(base: str, path: Path) -> Path:
    """Returns the base that a config names: a file relative to it, or the shipped config of that
    name.

    So a user's config can extend a shipped one without knowing where mscn is installed.
    """
    if "://" in base:
        raise InputError(
            f"{path}: {BASE_KEY} {shown(base, MOST)} is an address, which is not fetched; download "
            "the file, and name it"
        )
    beside = path.parent / os.path.expanduser(base)  # an absolute base is not changed
    if os.path.isfile(beside):
        return beside
    try:
        return find_config(base)
    except InputError as error:
        raise InputError(
            f"{path}: {BASE_KEY} names a missing file {printable(beside)}; {error}"
        ) from None


def _read_yaml(path: Path) -> dict:
    if path.suffix == ".py":
        raise InputError(
            f"{path} is Python code, as Detectron2's lazy configs and OpenMMLab's configs are, and "
            "is not run; write a YAML file with the keys that it sets"
        )
    try:
        content = read_config_file(path)
    except UNREADABLE as error:
        reason = printable(" ".join(str(error).split()), 2 * MOST)
        raise InputError(f"{path}: not readable as YAML: {reason}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{path}: a config must map keys to values, got {type(content).__name__}")
    return content


def _merge(cfg: CfgNode, content: dict, where: str, keep_inert: bool = False) -> None:
    """Merges `content` into `cfg` in place; one InputError names all wrong keys and values."""
    unknown: list[str] = []
    wrong = list(_merged(cfg, content, "", unknown, keep_inert, declared_lists(cfg)))
    _refuse(cfg, unknown, wrong, where)


def _merge_overrides(cfg: CfgNode, overrides: Sequence[str]) -> None:
    """Merges KEY VALUE pairs into `cfg` in place; one InputError names all wrong pairs."""
    unknown: list[str] = []
    wrong: list[str] = []
    keys: list[str] = []
    for key, text in _pairs(overrides):
        before = len(unknown) + len(wrong)
        content = _nest(key, parse_literal(text))
        wrong += _merged(cfg, content, "", unknown, False, declared_lists(cfg))
        if len(unknown) + len(wrong) > before:
            keys.append(key)
    _refuse(cfg, unknown, wrong, f"override {keys[0]}" if len(keys) == 1 else "overrides")


def _refuse(cfg: CfgNode, unknown: list[str], wrong: list[str], where: str) -> None:
    """Raises InputError if one place has unknown keys or wrong values."""
    texts = [_unknown(cfg, unknown), *wrong] if unknown else wrong
    if texts:
        raise InputError(f"{where}: {'; '.join(texts)}")


def _merged(
    cfg: CfgNode,
    content: dict,
    prefix: str,
    unknown: list[str],
    keep_inert: bool,
    lists: Mapping[str, Items],
) -> Iterator[str]:
    """Merges key by key and checks each value against the present one. Yields a text for each wrong
    value, and adds the names of unknown keys to `unknown`."""
    for key, value in content.items():
        name = printable(f"{prefix}{key}")
        if key not in cfg:
            unknown.append(name)
        elif isinstance(cfg[key], CfgNode):
            if isinstance(value, dict):
                yield from _merged(cfg[key], value, f"{name}.", unknown, keep_inert, lists)
            else:
                yield f"{name} is a section of keys, got {shown(value)}"
        elif keep_inert and has_inert(value):
            cfg[key] = value
        else:
            try:
                cfg[key] = coerce(value, cfg[key], name, lists.get(name))
            except InputError as error:
                yield str(error)


def _unknown(cfg: CfgNode, names: list[str]) -> str:
    """Returns one text about all unknown keys, each with known keys of that name or a similar
    spelling.
    """
    texts = []
    for name in names:
        prefix, _, last = name.rpartition(".")
        known = [f"{prefix}.{key}" if prefix else key for key in _section(cfg, prefix)]
        elsewhere = [key for key in flat(cfg) if key.rpartition(".")[2] == last]
        hint = did_you_mean(elsewhere[:2]) or near_matches(name, known)
        if not hint and len(names) == 1:
            hint = f"; known here: {', '.join(known)}"
        texts.append(f"{name}{hint}")
    return f"unknown key{'s' if len(names) > 1 else ''} {', '.join(texts)}"


def _section(cfg: CfgNode, prefix: str) -> CfgNode:
    """Returns the section of that name, or its deepest parent that exists: a file's key may have
    dots.
    """
    for part in filter(None, prefix.split(".")):
        if not isinstance(cfg.get(part), CfgNode):
            break
        cfg = cfg[part]
    return cfg


def _pairs(overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    for word in overrides[::2]:
        if word.startswith("-"):
            raise InputError(f"option {word} is among the KEY VALUE pairs; put options first")
    if len(overrides) % 2:
        raise InputError(f"overrides come in KEY VALUE pairs; {shown(overrides[-1])} has no value")
    yield from zip(overrides[::2], overrides[1::2])


def _nest(key: str, value: Any) -> dict:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _plain(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, (tuple, list)):
        return [_plain(value) for value in node]
    return node
