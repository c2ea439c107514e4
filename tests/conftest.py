"""Fixtures for all tests: few threads, and the optional folder of real images."""

from __future__ import annotations

import logging
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

CHECKOUT = Path(__file__).resolve().parents[1]

# Tiny tensors gain nothing from threads, and pytest-xdist runs one process per core.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Each test has the same global random numbers, independent of earlier tests."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """Takes away what a command run in the test logs to: its captured stderr is closed after it."""
    root = logging.getLogger()
    level = root.level
    yield
    for handler in list(root.handlers):
        if type(handler) in (logging.StreamHandler, logging.FileHandler):
            root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture(scope="session")
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that unpacks one real image set, by name, and returns the folder that holds it.

    Reads $TRANSFER_TEST_DATA (default ../shared/data); skips the test where that is absent.
    """
    source = Path(os.environ.get("TRANSFER_TEST_DATA", CHECKOUT.parent / "shared" / "data"))
    root = tmp_path_factory.mktemp("real_data")

    def unpack(name: str) -> Path:
        if not (source / "unpack").is_file():
            pytest.skip(f"no real image sets at {source} (set TRANSFER_TEST_DATA)")
        if not (root / name).is_dir():
            subprocess.run([source / "unpack", root, name], check=True, capture_output=True)
        return root

    return unpack
