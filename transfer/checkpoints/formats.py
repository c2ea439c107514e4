"""The key formats that checkpoints come in: one table entry each, found from the content alone.

An entry says where the tensors lie, which prefix the trunk has, which other keys are dropped by
which rule, and what the file says about its own making. Keys under no rule are an error later.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pretrain.common.checkpoint import FORMAT, VERSION
from pretrain.common.errors import InputError
from pretrain.common.lookup import find
from transfer.checkpoints.layout import NAMES
from transfer.checkpoints.provenance import Facts, facts_of_moco, facts_of_ours, no_facts
from transfer.checkpoints.readers.raw import RawFile

Flat = Mapping[str, Any]


@dataclass(frozen=True)
class KeyFormat:
    """One project's way of naming a trunk inside a file.

    Attributes:
        kinds: the containers of `RawFile.kind` it comes in.
        tensors: content -> the flat mapping that holds the trunk, None when it is another format.
        prefix: of the trunk's names.
        layout: of the names after the prefix, a key of `layout.NAMES`.
        drops: rule -> pattern that a dropped name matches in full.
        facts: content -> what it says about preprocessing and provenance.
    """

    name: str
    kinds: tuple[str, ...]
    tensors: Callable[[Flat], Flat | None]
    prefix: str = ""
    layout: str = "torchvision"
    drops: Mapping[str, str] = field(default_factory=dict)
    facts: Callable[[Flat], Facts] = no_facts

    def canonical(self, name: str) -> str | None:
        """The canonical name of a source name; None where the layout has none."""
        if not name.startswith(self.prefix):
            return None
        return NAMES[self.layout][1](name[len(self.prefix) :])

    def source_name(self, canonical: str) -> str:
        """The name that a canonical tensor has in the source."""
        return f"{self.prefix}{NAMES[self.layout][0](canonical)}"

    def dropped_by(self, name: str) -> str | None:
        """The rule that drops a source name."""
        for rule, pattern in self.drops.items():
            if re.fullmatch(pattern, name):
                return rule
        return None


def _mscn(content: Flat) -> Flat | None:
    if content.get("format") != FORMAT:
        return None
    if not isinstance(content.get("version"), int) or content["version"] > VERSION:
        version = content.get("version")
        raise InputError(f"format version {version!r}, newer than {VERSION}; update mscn")
    return content.get("model")


def _moco(mlp: bool) -> Callable[[Flat], Flat | None]:
    def tensors(content: Flat) -> Flat | None:
        state = content.get("state_dict")
        if not isinstance(state, Mapping):
            return None
        if not any(str(name).startswith("module.encoder_q.") for name in state):
            return None
        has_mlp = any(str(name).startswith("module.encoder_q.fc.2.") for name in state)
        return state if has_mlp == mlp else None

    return tensors


def _torchvision(content: Flat) -> Flat | None:
    bare = any(re.fullmatch(r"conv1\.weight|layer\d\.\d+\.conv\d\.weight", str(k)) for k in content)
    return content if bare else None


def _detectron2(content: Flat) -> Flat | None:
    model = content.get("model")
    return model if isinstance(model, Mapping) and "__author__" in content else None


_MOCO = {
    "prefix": "module.encoder_q.",
    "drops": {
        "momentum copy": r"module\.encoder_k\..*",
        "queue": r"module\.queue(_ptr)?",
        "projector": r"module\.encoder_q\.fc\..*",
    },
    "facts": facts_of_moco,
}

FORMATS: dict[str, KeyFormat] = {
    entry.name: entry
    for entry in (
        KeyFormat(
            "mscn",
            ("torch",),
            _mscn,
            prefix="trunk.",
            drops={
                "projector": r"(projector|expander)\..*",
                "predictor": r"predictor\..*",
                "momentum copy": r"(momentum|target|teacher)_?\w*\..*",
                "queue": r"queue\w*",
                "prototypes": r"prototypes(\..*)?",
                "classifier": r"(classifier|fc)\..*",
            },
            facts=facts_of_ours,
        ),
        KeyFormat("moco_v1", ("torch",), _moco(mlp=False), **_MOCO),
        KeyFormat("moco_v2", ("torch",), _moco(mlp=True), **_MOCO),
        KeyFormat(
            "torchvision", ("torch", "safetensors"), _torchvision, drops={"classifier": r"fc\..*"}
        ),
        KeyFormat(
            "detectron2",
            ("pickle",),
            _detectron2,
            layout="detectron2",
            drops={"classifier": r"stem\.fc\..*"},
        ),
    )
}


def find_format(raw: RawFile, source: str = "auto") -> tuple[KeyFormat, dict[str, Tensor]]:
    """The format of a file, detected or forced, and its flat tensors.

    Args:
        source: "auto", or a name of `FORMATS`.

    Raises:
        InputError: unknown source, no format fits, or the tensors are none.
    """
    wanted = list(FORMATS.values()) if source == "auto" else [find(source, FORMATS, "source")]
    for entry in wanted:
        flat = entry.tensors(raw.content) if raw.kind in entry.kinds else None
        if flat is not None:
            return entry, _only_tensors(flat)
    known = ", ".join(FORMATS) if source == "auto" else source
    raise InputError(f"in none of the known formats ({known}): {_describe(raw)}")


def _only_tensors(flat: Any) -> dict[str, Tensor]:
    if not isinstance(flat, Mapping) or not flat:
        raise InputError("its weights are not a mapping of names to tensors")
    for name, value in flat.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InputError(f"{name!r} is a {type(value).__name__}, not a tensor")
    return dict(flat)


def _describe(raw: RawFile) -> str:
    """What the file looks like instead, for the message."""
    names = [str(name) for name in raw.content]
    inner = next((v for v in raw.content.values() if isinstance(v, Mapping) and len(v) > 4), {})
    names_below = names + [str(name) for name in inner]
    if any("cls_token" in name or re.search(r"blocks\.\d", name) for name in names_below):
        return "its keys are those of a Vision Transformer; only ResNets are read"
    if "conv1_w" in names or "conv1_w" in inner:
        return "its keys are Caffe2's (stride in the first 1x1 convolution), another network"
    more = f", below one of them {', '.join(list(inner)[:3])}" if inner else ""
    return f"its keys begin {', '.join(names[:4]) or '(none)'}{more}"
