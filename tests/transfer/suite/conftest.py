"""Jobs that are small Python programs, and a record of events."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from transfer.suite.plan import Job


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., Job]:
    """Returns make(name, code, needs), which makes a Job; MAKE in its code writes the result."""

    def make(name: str, code: str, needs: tuple[str, ...] = (), **more: object) -> Job:
        result = tmp_path / name
        code = code.replace("MAKE", f"open({str(result)!r}, 'w').write('x')")
        return Job(name, (sys.executable, "-c", code), tmp_path, (result,), needs, **more)

    return make


@pytest.fixture
def events() -> list[tuple[str, str, str]]:
    """(event, job, detail), filled by `tell`."""
    return []


@pytest.fixture
def tell(events: list[tuple[str, str, str]]) -> Callable[[str, Job, str], None]:
    """Remembers an event."""
    return lambda event, job, detail: events.append((event, job.name, detail))
