"""Every tool on a disk that becomes full at some file, or that cannot be written at all.

Each command writes to a separate tmpfs. Its size, or its number of files, is drawn between nothing
and what the command needs. The command must end with one line, or with everything that it writes on
a large disk. Mounting needs root; without it the tests are skipped.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pretrain.common.config import CHECKOUT

from .counts import add_row
from .tools import COMMANDS, Ended, Tools, can_mount

ROOMS = int(os.environ.get("FAULTS_ROOMS") or 12)  # drawn disks for each tool
WRITES_NOTHING = ("doctor",)
PAGE = 4096
OF_A_RUN = (
    "events.out.tfevents.*",
    ".lock",
    ".gitignore",
)  # names with a moment, and what may stay


@pytest.fixture(name="tools", scope="module")
def tools_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tools]:
    folder = tmp_path_factory.mktemp("tools")
    if not can_mount(folder):
        pytest.skip("mounting a disk needs root")
    made = Tools(folder)
    yield made
    made.close()


@contextmanager
def disk(folder: Path, options: str, full: bool = False) -> Iterator[Path]:
    """A tmpfs with these options; `full`: no byte is left."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        if full:
            subprocess.run(["dd", "if=/dev/zero", f"of={folder}/fill"], capture_output=True)
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def files(folder: Path) -> set[str]:
    """The files below a folder, without those whose names are of a moment."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder))
        for path in found
        if not any(path.match(pattern) for pattern in OF_A_RUN)
    }


def judged(ended: Ended, there: set[str], whole: set[str]) -> str:
    """ "complete" or "one line"; raises AssertionError for anything else."""
    hidden = [name for name in there if Path(name).name.startswith(".")]
    assert not hidden, f"temporary files are left: {hidden}\n{ended.said}"
    if ended.status == 0:
        assert there == whole, f"lacks {sorted(whole - there)}, and said nothing\n{ended.said}"
        return "complete"
    assert ended.is_one_line(), f"status {ended.status}\n{ended.said}"
    reasons = ("No space left", "Read-only", "are free")  # a suite says its jobs' reasons above
    assert any(reason in ended.said for reason in reasons), ended.said
    return "one line"


def test_every_tool_has_a_command() -> None:
    tools = {path.stem for path in (CHECKOUT / "tools").glob("[!_]*.py")}
    assert tools == {name.partition(",")[0] for name in COMMANDS}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - set(WRITES_NOTHING)))
def test_a_full_or_read_only_disk_is_one_line(name: str, tools: Tools, tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "size=400m") as place:
        ended = tools.run(name, place / "out")
        assert ended.status == 0, ended.said
        whole = files(place)
        pages = sum(-(-path.stat().st_size // PAGE) for path in place.rglob("*") if path.is_file())
        inodes = sum(1 for _ in place.rglob("*"))
    draws = random.Random(int(os.environ.get("FAULTS_SEED") or 0))
    number = ROOMS // 3 if name == "run_suite" else ROOMS  # its jobs are processes of their own
    rooms = [f"size={draws.randint(1, pages + 1) * PAGE}" for _ in range(number - number // 3)]
    rooms += [f"size=400m,nr_inodes={draws.randint(2, inodes + 1)}" for _ in range(number // 3)]
    for options in ("full", "size=1m,ro", *rooms):
        began, full = time.monotonic(), options == "full"
        with disk(tmp_path / "disk", "size=1m" if full else options, full) as place:
            ended = tools.run(name, place / "out")
            try:
                result = judged(ended, files(place) - {"fill"}, whole)
            except AssertionError as error:
                raise AssertionError(f"{name} on a disk of {options}: {error}") from None
        kind = "read-only disk" if "ro" in options.split(",") else "full disk"
        row = {"complete": int(result == "complete"), "line": int(result == "one line")}
        seconds = round(time.monotonic() - began, 1)
        add_row({"fault": kind, "tool": name, "runs": 1, **row, "seconds": seconds})
