"""Fixtures of the checkpoint tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def builders() -> ModuleType:
    """The module `builders.py` next to this file."""
    spec = importlib.util.spec_from_file_location(
        "builders", Path(__file__).with_name("builders.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
