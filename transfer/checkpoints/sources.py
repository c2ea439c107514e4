"""Where weights come from: turns a source that a user names into a local file that can be opened.

A source is a file, a folder that `save_pretrained` wrote, `https://...`,
`hf-hub:org/name[@revision][:file]`, `torchvision:resnet50/IMAGENET1K_V2`,
`timm:resnet50.a1_in1k`, of Detectron2's model zoo
`detectron2://ImageNetPretrained/MSRA/R-50.pkl`, or `package:NAME` of an installed Python package;
the last six are names, which `remote` turns into a file.
"""

from __future__ import annotations

from pathlib import Path

from transfer.checkpoints.files import Source, is_remote, local_file


def check_source(source: str | Path) -> None:
    """Raises InputError for a path that cannot be read; remote sources are taken as they are."""
    if not is_remote(source):
        local_file(source)


def resolve(source: str | Path) -> Source:
    """Returns the local file of a source, downloaded once if it is remote.

    Raises:
        InputError: missing, a folder without weights, 0 bytes, or not available.
    """
    if not is_remote(source):
        return _with_beside(local_file(source))
    from transfer.checkpoints.remote import fetch

    found = fetch(str(source))
    local_file(found.file)
    return found


def _with_beside(file: Path) -> Source:
    from transfer.checkpoints.folder import read_beside  # loads torch

    beside = read_beside(file)
    return Source(
        file, beside.preprocess, architecture=beside.architecture, backbone=beside.backbone
    )
