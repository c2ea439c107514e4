"""The folder that data sets' names refer to, and the remedy if data is missing there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from pretrain.common.errors import InputError
from pretrain.common.lookup import names_in, near_matches
from pretrain.common.printable import printable

VARIABLE = "DETECTRON2_DATASETS"
MOST_OF_HINT = 400  # characters


def datasets_root() -> Path:
    """Returns `$DETECTRON2_DATASETS`, by default `./datasets`, as in Detectron2."""
    return Path(os.environ.get(VARIABLE) or "datasets").expanduser()


def below_root(name: str) -> Path:
    """Returns the folder or file that a data set's name means: absolute, or below the root."""
    return datasets_root() / Path(name).expanduser()


def check_present(needed: Iterable[Path], expected: Callable[[], str]) -> None:
    """Raises InputError, with the expected tree, for the first of the needed paths that is missing.

    The message names what has a similar name in the same folder.

    Args:
        expected: makes the text, only if something is missing.
    """
    for path in needed:
        if not path.exists():
            raise missing(path, f"expected {expected()}")


def missing(path: Path, remedy: str, what: str = "") -> InputError:
    """Returns the error about a path that is missing, which names what has a similar name next to
    it, or is at a wrong level.

    Args:
        remedy: what to do, or what is expected.
        what: what the path is, before its name.
    """
    near = printable(_near(path), MOST_OF_HINT)
    return InputError(f"{what}{path} is missing{near}; {remedy}{root_hint(path)}")


def _near(path: Path) -> str:
    """Returns a phrase about what may be meant by a missing path; "" if nothing is like it.

    It is compared with the names next to its first part that is missing, and looked for one level
    deeper and one level higher.
    """
    above = next((parent for parent in path.parents if parent.is_dir()), None)
    if above is None:
        return ""
    first = above / path.relative_to(above).parts[0]
    names = names_in(above, (first.suffix,))
    if near := near_matches(first.stem, [Path(name).stem for name in names]):
        return near
    places = [*(above / folder / first.name for folder in names_in(above, ("",)))]
    places += [above / path.name] if path != first else []
    if found := next((place for place in places if place.exists()), None):
        return f" (but there is {found}: is it at the wrong level?)"
    if above.absolute().name == first.name:
        return f" (but {above} itself has this name: is the folder above it meant?)"
    return ""


def root_hint(path: Path) -> str:
    """Returns the end of a message about a missing path: how to name the folder that has the data.

    Returns "" for a path outside the root, since the name then was an absolute path.
    """
    root = datasets_root()
    if root != path and root not in path.parents:
        return ""
    verb = "correct" if os.environ.get(VARIABLE) else "set"
    return (
        f"; data is looked for in {root.absolute()}: put it there, or {verb} the environment "
        f"variable {VARIABLE}"
    )
