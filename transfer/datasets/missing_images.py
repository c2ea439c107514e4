"""Image files that an annotation file names and that are not there: how many, and a likely reason.

The InputError has the number of missing files of all, and a hint if a file exists under a changed
name: with different slashes, without URL encoding, without a leading folder or a labelling tool's
prefix, in different letter case.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from pretrain.common.errors import InputError
from pretrain.common.findings import SHOWN
from pretrain.common.lookup import folded
from pretrain.common.printable import MOST, shown

LOOKED_AT = 100_000  # files of the folder
_PREFIX = re.compile(r"[0-9a-f]{8}-(?=.)")  # Label Studio's: the first digits of a UUID


def check_files(folder: Path, names: Sequence[str]) -> None:
    """Raises InputError unless `folder` holds a file of each name.

    An absolute name and one with `..` are taken if they lead into the folder: an annotation file of
    a stranger does not decide which of a user's files are read, and drawn into reports. Links in
    the folder are followed, wherever they lead: data sets are often put together of links.
    """
    _check_inside(folder, names)
    missing = [name for name in names if not os.path.isfile(os.path.join(folder, name))]
    if not missing:
        return
    first = ", ".join(str(folder / name) for name in missing[1:SHOWN])
    more = f", then {first}" if first else ""
    raise InputError(
        f"image {folder / missing[0]} is missing ({len(missing)} of {len(names)} images are{more})"
        f"{_hint(folder, names, missing)}"
    )


def _check_inside(folder: Path, names: Sequence[str]) -> None:
    homes = (os.path.abspath(folder), os.path.realpath(folder))
    outside = [name for name in names if _leads_out(name, homes)]
    if outside:
        raise InputError(
            f"{shown(outside[0], MOST)} leads out of {folder} ({len(outside)} of {len(names)} "
            "images do); copy or link the images into the folder, or name the folder that has them"
        )


def _leads_out(name: str, homes: tuple[str, str]) -> bool:
    """Returns whether a name is of an existing file out of the folder; a missing one gets a hint.

    Args:
        homes: the folder's absolute path, as it is given and without links.
    """
    given, real = homes
    path = os.path.join(given, name)
    below = next((home for home in homes if path.startswith(home.rstrip("/") + "/")), None)
    if below is not None and ".." not in path[len(below) :].split("/"):
        return False
    try:
        found = os.path.realpath(path)  # `..` behind a link is not what it seems to be
        return not f"{found}/".startswith(real.rstrip("/") + "/") and os.path.isfile(path)
    except ValueError:  # a NUL: no file has such a name, so that it is missing
        return False


def _hint(folder: Path, names: Sequence[str], missing: Sequence[str]) -> str:
    """Returns where the missing files may be: the first way that finds one of them."""
    above = folder.parent
    if all(os.path.isfile(above / name) for name in missing):
        return (
            f"; {above} has them: the names begin with the folder's name, so give "
            f"coco:FILE.json:{above}"
        )
    for name in missing:
        path = folder / name
        if _is_link(path):
            return (
                f"; it is a link to {shown(os.readlink(path), MOST)}, which is not a file: restore "
                "what it leads to, or link again"
            )
    there = _index(folder)
    below = _folder_below(folder, there.values(), names)
    if below is not None:
        return f"; {below} has them: give coco:FILE.json:{below}"
    for name in missing:
        for changed, why in _variants(name):
            if changed in there or folded(changed) in there:
                found = there.get(changed) or there[folded(changed)]
                return (
                    f"; {folder} holds {found}, and the annotation file names it {name!r} ({why}): "
                    "correct 'file_name', or rename the files"
                )
    return "; check the folder and the names in the annotation file"


def _folder_below(folder: Path, files: Iterable[str], names: Sequence[str]) -> Path | None:
    """Returns the folder below `folder` that has a file of each name."""
    end = f"/{names[0]}"
    for file in files:
        below = folder / file.removesuffix(end)
        if file.endswith(end) and all(os.path.isfile(below / name) for name in names):
            return below
    return None


def _is_link(path: Path) -> bool:
    """Returns whether a missing file is a link that leads nowhere."""
    try:
        return os.path.islink(path)
    except ValueError:  # a NUL
        return False


def _index(folder: Path) -> dict[str, str]:
    """Returns the files' paths below the folder, by the names under which one can ask for them."""
    found: dict[str, str] = {}
    for number, path in enumerate(_files(folder)):
        if number == LOOKED_AT:
            break
        base = path.rpartition("/")[2]
        for key in (path, base, _PREFIX.sub("", base, count=1), Path(base).stem):
            found.setdefault(key, path)
            found.setdefault(folded(key), path)
    return found


def _files(folder: Path) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            yield Path(place, file).relative_to(folder).as_posix()


def _variants(name: str) -> Iterator[tuple[str, str]]:
    if name.strip() != name:
        yield name.strip(), "spaces around it"
    plain = name.replace("\\", "/")
    slashes = "backslashes; " if plain != name else ""
    decoded, _, query = unquote(plain).replace("\\", "/").partition("?")
    url = "URL encoding; " if decoded != plain else ""
    if slashes:
        yield plain, "backslashes"
    if url:
        yield decoded, "URL encoding"
    parts = decoded.split("/")
    for start in range(1, len(parts)):
        yield "/".join(parts[start:]), f"{slashes}{url}a prefix"
    for value in re.findall(r"=([^&]+)", query):  # as in Label Studio's /data/local-files/?d=a.jpg
        parts = value.split("/")
        for start in range(len(parts)):
            yield "/".join(parts[start:]), "the query of a URL"
    bare = decoded.rpartition("/")[2]
    yield bare, f"{slashes}{url}a different folder, letter case or form of accents"
    yield _PREFIX.sub("", bare, count=1), "a prefix of the labelling tool"
    yield Path(bare).stem, "another suffix"
