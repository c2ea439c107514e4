"""A package that is not installed is named with the command that installs it."""

from __future__ import annotations

import sys

import pytest

from pretrain.common.errors import InputError
from pretrain.common.installed import check_installed


def test_only_a_package_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed("numpy", "a table needs numpy, which")
    for name in ("absent_package_x", "numpy"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
        with pytest.raises(InputError) as error:
            check_installed(name, f"a table needs {name}, which")
        wanted = f"a table needs {name}, which is not installed; python -m pip install {name}"
        assert str(error.value) == wanted
    with pytest.raises(InputError, match="pip install --no-deps other$"):
        check_installed("absent_package_x", "it", "--no-deps other")
