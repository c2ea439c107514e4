"""Which format a file is in: the first of the table that fits, or the one that is asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pretrain.common.errors import InputError
from pretrain.common.lookup import find
from transfer.checkpoints.formats.entry import Found, match
from transfer.checkpoints.formats.refused_convnets import refuse_convnets
from transfer.checkpoints.formats.table import FORMATS
from transfer.checkpoints.readers.raw import RawFile


def find_format(raw: RawFile, source: str = "auto") -> Found:
    """The format of a file, detected or forced, with its flat tensors.

    Args:
        source: "auto", or a name of `FORMATS`.

    Raises:
        InputError: unknown source, no format fits, or the tensors are none.
    """
    if source == "auto":
        refuse_convnets(_all_names(raw.content))
        wanted = [entry for entry in FORMATS.values() if not entry.forced]
    else:
        wanted = [find(source, FORMATS, "source")]
    for entry in wanted:
        found = match(entry, raw.content) if raw.kind in entry.kinds else None
        if found is not None:
            return found
    wanted_text = (
        "in none of the known formats" if source == "auto" else f"not in {source}'s format"
    )
    raise InputError(f"{wanted_text}: {_describe(raw)}")


def _all_names(content: Mapping[str, Any], depth: int = 2) -> list[str]:
    """Names of a file and of the mappings in it, down to a depth."""
    names = [str(name) for name in content]
    inner = [value for value in content.values() if isinstance(value, Mapping)]
    return names + [n for value in inner if depth for n in _all_names(value, depth - 1)]


_OTHERS = (
    (r"(.*\.)?embeddings\.(cls_token|patch_embeddings\..*)", "a ViT of Hugging Face transformers"),
    (r"(.*\.)?encoder\.layers\.encoder_layer_\d.*", "torchvision's ViT"),
    (r"trainable_variables_list/.*", "a TensorFlow SavedModel, whose names are numbers"),
    (r"conv1_w", "Caffe2's, of another network or damaged"),
    (r"(module\.)?encoder1\..*", "CMC's two half networks"),
    (r"(.*\.)?fc_norm\..*", "a ViT that was fine-tuned on the mean of its patches"),
)


def _describe(raw: RawFile) -> str:
    """What the file looks like instead, for the message."""
    if raw.content.get("type") in ("shard", "shard_list", "slice", "slice_list"):
        return "a part of a VISSL checkpoint in shards; consolidate it with VISSL first"
    names = [str(name) for name in raw.content]
    inner = next((v for v in raw.content.values() if isinstance(v, Mapping) and len(v) > 4), {})
    below = [*names, *(str(name) for name in inner)]
    for pattern, what in _OTHERS:
        if any(re.fullmatch(pattern, name) for name in below):
            return f"its keys look like {what}"
    more = f", below one of them {', '.join(list(map(str, inner))[:3])}" if inner else ""
    return f"its keys begin {', '.join(names[:4]) or '(none)'}{more}"
