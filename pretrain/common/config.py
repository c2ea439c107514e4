"""YAML files and `KEY VALUE` overrides in, one frozen CfgNode out (fvcore's, as in Detectron2).

Each file of a `_BASE_` chain is checked on its own against the defaults before merging, so that an
error names the guilty file and key.
"""

from __future__ import annotations

import hashlib
from ast import literal_eval
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from pretrain.common.errors import InputError
from pretrain.common.lookup import near_matches

CHECKOUT = Path(__file__).resolve().parents[2]  # of an installed wheel: site-packages
BASE_KEY = "_BASE_"


def is_checkout() -> bool:
    """Whether this code runs from a checkout of the project, and not from an installed wheel."""
    return (CHECKOUT / "setup.cfg").is_file() and (CHECKOUT / "tools").is_dir()


def shipped_folder(name: str) -> Path:
    """The folder `configs` or `tools` that ships with the code.

    A wheel holds it below `mscn` (see `setup.py`).

    Raises:
        InputError: the folder is missing, so that nothing can be compared with it or started.
    """
    folder = CHECKOUT / name if is_checkout() else CHECKOUT / "mscn" / name
    if not folder.is_dir():
        raise InputError(f"{folder} is missing, which ships with mscn; install mscn again")
    return folder


def find_config(name: str, folder: str = "configs") -> Path:
    """Returns the path of a config given as a path, or as a name found below `configs/`.

    Args:
        name: a path, or `NAME.yaml` (the suffix may be left out) somewhere below `configs/` of the
            current folder, of the checkout, or of the installed wheel.
        folder: the command's own folder below `configs/`, for the list in the message.

    Raises:
        InputError: no such config, or two of that name.
    """
    if Path(name).is_file():
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
    hint = near_matches(wanted, known) or f"; known: {', '.join(known)}"
    raise InputError(f"no config {name!r}: neither a file nor a name below configs/{hint}")


def load_config(
    name: str, defaults: CfgNode, overrides: Sequence[str] = (), folder: str = "configs"
) -> CfgNode:
    """Loads a config with its bases, applies overrides, and freezes it.

    Args:
        defaults: every known key with its default; left unchanged.
        overrides: KEY VALUE pairs, flat.
        folder: see `find_config`.

    Raises:
        InputError: unknown file, key or type, a loop of bases, or bad overrides.
    """
    cfg = defaults.clone()
    for path, content in reversed(list(_base_chain(find_config(name, folder)))):
        _merge(cfg, content, str(path))
    for key, text in _pairs(overrides):
        _merge(cfg, _nest(key, _parse(text)), f"override {key}")
    cfg.freeze()
    return cfg


def dump_yaml(cfg: CfgNode) -> str:
    """The merged config as YAML text with sorted keys (no timestamps, no comments)."""
    return yaml.safe_dump(_plain(cfg), sort_keys=True, default_flow_style=None)


def config_sha256(cfg: CfgNode, ignore: Sequence[str] = ("OUTPUT_DIR", "SEED")) -> str:
    """Identity of a protocol: sha256 of the config without the top-level keys in `ignore`."""
    kept = {key: value for key, value in _plain(cfg).items() if key not in ignore}
    return hashlib.sha256(yaml.safe_dump(kept, sort_keys=True).encode()).hexdigest()


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config's values by their dotted keys, tuples as lists."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        found.update(flat(value, f"{name}.") if isinstance(value, dict) else {name: _plain(value)})
    return found


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], free: tuple[str, ...] = ()
) -> list[str]:
    """["KEY (a then, b now)"] of two `flat` configs, by key; those that begin with `free` may
    differ."""
    return [
        f"{key} ({old.get(key)} then, {new.get(key)} now)"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and not key.startswith(free)
    ]


def check_no_differences(found: Sequence[str], what: str) -> None:
    """Raises InputError about `what`, with the first of the differences, if there is one."""
    if found:
        raise InputError(
            f"{what} another config: {', '.join(found[:3])}; take the same one, or another "
            "--output (in a suite: or another name)"
        )


def _base_chain(path: Path) -> Iterator[tuple[Path, dict]]:
    """Yields (file, content) from the given file up to its last base."""
    seen: list[Path] = []
    while True:
        path = path.resolve()
        if path in seen:
            raise InputError(
                f"{seen[-1]}: {BASE_KEY} loops back to {path}; remove one of the links"
            )
        seen.append(path)
        content = _read_yaml(path)
        base = content.pop(BASE_KEY, None)
        yield path, content
        if base is None:
            return
        if not isinstance(base, str):
            raise InputError(f"{path}: {BASE_KEY} must be one file name, got {base!r}")
        path = _base_file(base, path)


def _base_file(base: str, path: Path) -> Path:
    """The base that a config names: a file beside it, else the shipped config of that name.

    The second lets a config of one's own extend a shipped one, wherever that is installed.
    """
    beside = path.parent / base  # an absolute base stays as it is
    if beside.is_file():
        return beside
    try:
        return find_config(base)
    except InputError as error:
        raise InputError(f"{path}: {BASE_KEY} names a missing file {beside}; {error}") from None


def _read_yaml(path: Path) -> dict:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{path}: a config is a mapping of keys, got {type(content).__name__}")
    return content


def _merge(cfg: CfgNode, content: dict, where: str, prefix: str = "") -> None:
    """Merges `content` into `cfg` in place, key by key, each checked against what is there."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if key not in cfg:
            known = [f"{prefix}{other}" for other in cfg]
            hint = near_matches(name, known) or f"; known here: {', '.join(known)}"
            raise InputError(f"{where}: unknown key {name}{hint}")
        if isinstance(cfg[key], CfgNode):
            if not isinstance(value, dict):
                raise InputError(f"{where}: {name} is a section of keys, got {value!r}")
            _merge(cfg[key], value, where, f"{name}.")
        else:
            cfg[key] = _coerce(value, cfg[key], name, where)


def _coerce(value: Any, default: Any, name: str, where: str) -> Any:
    """Returns `value` in the default's type; an int serves as float, a single string as tuple."""
    if isinstance(default, float) and isinstance(value, str):
        value = _parse(value)  # YAML 1.1 reads 1e-4 (no dot) as a string
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, (tuple, list)):
        items = [value] if isinstance(value, (str, int, float)) else value
        if isinstance(items, str) or not isinstance(items, (tuple, list)):
            raise InputError(f"{where}: {name} must be a list, got {value!r}")
        return type(default)(items)
    if default is None or type(value) is type(default):
        return value
    if value is None:
        raise InputError(f"{where}: {name} has no value; give it one, or leave it out")
    expected = type(default).__name__
    raise InputError(f"{where}: {name} must be {expected}, got {type(value).__name__} {value!r}")


def _pairs(overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    for word in overrides[::2]:
        if word.startswith("-"):
            raise InputError(f"option {word} stands among the KEY VALUE pairs; put options first")
    if len(overrides) % 2:
        raise InputError(f"overrides come in KEY VALUE pairs; {overrides[-1]!r} has no value")
    yield from zip(overrides[::2], overrides[1::2])


def _nest(key: str, value: Any) -> dict:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _parse(text: str) -> Any:
    """A Python literal where it is one, else the text itself (as yacs reads overrides)."""
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text.lower(), text)


def _plain(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, (tuple, list)):
        return [_plain(value) for value in node]
    return node
