"""How many bytes of memory this process may still use, given the machine and control groups."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")  # Linux shows the limits of containers and batch jobs here
MEMINFO = Path("/proc/meminfo")


def available_memory() -> int | None:
    """Returns the number of bytes that new data can use without swapping; None if that is not
    known.

    This is the memory that Linux calls available, within the limit of this process's control group.
    On systems without /proc it is the total memory of the machine.
    """
    sizes = [_of_machine(), *(_of_group(folder) for folder in _groups())]
    known = [size for size in sizes if size is not None]
    return min(known) if known else None


def _of_machine() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    with suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _groups() -> list[Path]:
    """Returns the folders of the control group, as a container shows it and as the host shows
    it.
    """
    found = [CGROUPS, CGROUPS / "memory"]
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds in ("", "memory"):
                found.append(CGROUPS / kinds / path.lstrip("/"))
    return found


def _of_group(folder: Path) -> int | None:
    """Returns the limit minus the used bytes; page cache that can be dropped does not count as
    used.
    """
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError):  # no such file, or "max"
            free = int((folder / limit).read_text()) - int((folder / used).read_text())
            for line in (folder / "memory.stat").read_text().splitlines():
                if line.startswith(f"{cache} "):
                    free += int(line.split()[1])
            return max(free, 0)
    return None
