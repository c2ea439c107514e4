"""How much of Detectron2's configs the torchvision engine takes: its keys, and its shipped files.

    python -m benchmarks.detectron2_coverage PATH_TO_DETECTRON2/configs

PATH is the folder `configs` of Detectron2's checkout; nothing of it is run. Counted are the files
of COCO-*, Cityscapes, LVIS*, Misc, PascalVOC-Detection and quick_schedules (the three of
Detectron1-Comparisons apart), and the 192 keys of its defaults; without PATH the keys alone. The
numbers are those of docs/detectron2.md.
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
KEY = re.compile(r"(?:unknown )?([A-Z][A-Z0-9_.]+)")  # what a refusal begins with


def shipped_files(configs: Path, folders: tuple[str, ...] = FOLDERS) -> list[Path]:
    """The YAML files of these folders, sorted."""
    return sorted(path for name in folders for path in configs.glob(f"{name}/*.yaml"))


def refusal(path: Path) -> str:
    """Why a file does not load; "" if it does."""
    try:
        load_detection_config(str(path))
    except InputError as error:
        return str(error).removeprefix(f"{path}: ")
    return ""


def refused_keys(reason: str) -> list[str]:
    """The keys that a refusal names as those that stop the file."""
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
    logging.disable(logging.WARNING)  # of files that load
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
