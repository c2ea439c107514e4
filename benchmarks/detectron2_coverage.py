"""Counts which of Detectron2's config keys and shipped config files the torchvision engine accepts.

    python -m benchmarks.detectron2_coverage PATH_TO_DETECTRON2/configs

PATH is the folder `configs` of Detectron2's checkout; no code of it is run. The files of COCO-*,
Cityscapes, LVIS*, Misc, PascalVOC-Detection and quick_schedules are counted (separately the three
of Detectron1-Comparisons), and the 192 keys of its defaults; without PATH only the keys. The
numbers are in docs/detectron2.md.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections import Counter
from pathlib import Path

from pretrain.common.errors import InputError
from transfer.detection.config import load_detection_config
from transfer.detection.upstream_keys import ABSENT, HONOURED, NO_EFFECT, ONLY

FOLDERS = ("COCO-*", "Cityscapes", "LVIS*", "Misc", "PascalVOC-Detection", "quick_schedules")
EARLIER = ("Detectron1-Comparisons",)
KEY = re.compile(r"(?:unknown )?([A-Z][A-Z0-9_.]+)")  # the key with which a refusal begins


def shipped_files(configs: Path, folders: tuple[str, ...] = FOLDERS) -> list[Path]:
    """Returns the YAML files of these folders, sorted."""
    return sorted(path for name in folders for path in configs.glob(f"{name}/*.yaml"))


def refusal(path: Path) -> str:
    """Returns why a file does not load; "" if it does."""
    try:
        load_detection_config(str(path))
    except InputError as error:
        return str(error).removeprefix(f"{path}: ")
    return ""


def refused_keys(reason: str) -> list[str]:
    """Returns the keys for which a file is refused, as the message names them."""
    starts = [part.strip() for part in reason.split("Also:")]
    return [found[1] for part in starts if (found := KEY.match(part))]


def main(arguments: list[str] | None = None) -> None:
    """Prints both counts, and what stops the files that do not load."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("configs", nargs="?", type=Path)
    configs = parser.parse_args(arguments).configs
    total = len(HONOURED) + len(ONLY) + len(ABSENT) + len(NO_EFFECT)
    print(
        f"keys: {len(HONOURED)} of {total} honoured; {len(ONLY) + len(ABSENT)} with one value, "
        f"others refused by name; {len(NO_EFFECT)} without effect on numbers"
    )
    if configs is None:
        return
    for folders in (FOLDERS, EARLIER):
        show(configs, folders)


def show(configs: Path, folders: tuple[str, ...]) -> None:
    """Prints how many of the folders' files load, and what stops the others."""
    logging.disable(logging.WARNING)  # warnings of files that load
    try:
        reasons = {path: refusal(path) for path in shipped_files(configs, folders)}
    finally:
        logging.disable(logging.NOTSET)
    loaded = [path for path, reason in reasons.items() if not reason]
    print(f"files of {', '.join(folders)}: {len(loaded)} of {len(reasons)} load")
    stops = Counter(key for reason in reasons.values() for key in set(refused_keys(reason)))
    for key, count in stops.most_common():
        print(f"  {key} stops {count}")
    for path, reason in reasons.items():
        if reason:
            keys = ", ".join(refused_keys(reason))
            print(f"  {path.parent.name}/{path.name}: {keys or reason}")


if __name__ == "__main__":
    main()
