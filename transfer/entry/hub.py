"""Publishes a backbone on a Hugging Face hub: a folder with weights, facts and a model card.

The folder holds `model.safetensors`, `config.json` and `README.md`. Nothing is uploaded unless it
is asked for; the upload uses the user's own token (`hf auth login`, or $HF_TOKEN).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretrain.common.checkpoint import atomic_write_text
from pretrain.common.errors import InputError
from pretrain.common.locks import one_writer
from transfer.checkpoints.convert import Report, write_proven
from transfer.checkpoints.weights import facts_of
from transfer.entry.model_card import write_card
from transfer.results.read_records import read_records

SCHEME = "hf-hub:"
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


def repository(target: str) -> str:
    """Returns `user/name` of an output such as "hf-hub:user/name".

    Raises:
        InputError: it has another form.
    """
    name = target.removeprefix(SCHEME)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        raise InputError(f"{target}: an output on the hub is hf-hub:USER/NAME")
    return name


def write_hub_folder(
    report: Report, repo: str, folder: str | Path, records: Sequence[str | Path] = ()
) -> Report:
    """Writes the three files of a repository, the weights as `write_proven` does.

    Args:
        report: what `prove_conversion` returns for .safetensors.
        repo: user/name, for the card.
        records: folders of result records; those of these weights are in the card.

    Raises:
        InputError: no record below `records` is of these weights, or the folder holds other files.
    """
    folder = Path(folder)
    other = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    other = sorted(set(other) - {WEIGHTS, CONFIG, CARD, ".lock"})
    if other:
        raise InputError(
            f"{folder} holds other files ({other[0]}), which would be uploaded too; move them"
        )
    found: list[dict[str, Any]] = []
    if records:
        found = [file.record for file in read_records(records).files]
        found = [one for one in found if one["checkpoint"]["sha256"] == report.weights.sha256]
        if not found:
            raise InputError(
                f"no record below {', '.join(map(str, records))} belongs to these weights; give "
                "the folder of their runs"
            )
    with one_writer(folder):
        written = write_proven(report, folder / WEIGHTS)
        atomic_write_text(folder / CONFIG, json.dumps({"mscn": facts_of(report.weights)}, indent=1))
        atomic_write_text(folder / CARD, write_card(repo, written, found))
    return written


def push(folder: str | Path, repo: str) -> str:
    """Uploads the three files, after making the repository if it is missing; returns its address.

    Raises:
        InputError: the hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        api.create_repo(repo, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=str(folder),
            allow_patterns=[WEIGHTS, CONFIG, CARD],
            commit_message="Weights converted and proven equal by mscn",
        )
    except Exception as error:  # its client raises kinds of its own for one cause: the answer
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{repo} was not uploaded: {reason}; the files are in {folder} (log in with "
            "`hf auth login`, or set $HF_TOKEN to a token that may write)"
        ) from error
    return f"{api.endpoint}/{repo}"
