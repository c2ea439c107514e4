"""Packages that only some runs need: a clear line if one of them is not installed."""

from __future__ import annotations

import importlib.util

from pretrain.common.errors import InputError


def check_installed(package: str, begin: str, install: str = "") -> None:
    """Raises InputError, with the command that installs the package, if it is not there.

    Args:
        begin: the beginning of the message, up to "is not installed".
        install: what follows `pip install`; "": the package's name.
    """
    try:
        found = importlib.util.find_spec(package) is not None
    except ValueError:  # a module without a file, which somebody put into sys.modules
        found = True
    if not found:
        raise not_installed(begin, install or package)


def not_installed(begin: str, install: str) -> InputError:
    """Returns the error of `check_installed`."""
    return InputError(f"{begin} is not installed; python -m pip install {install}")
