"""The provenance of the numbers: machines, versions of packages, and one line per run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from transfer.report.rows_columns_cells import Results

# The fields of a record's environment that are shown
VERSIONS = ("mscn", "git_commit", "python", "torch", "torchvision", "detectron2", "cuda")


def newest(results: Results) -> str:
    """Returns the start of the newest run, as "2026-11-25 12:56 UTC" or as in the record."""
    latest = max((record["started"] for record in _records(results)), default="")
    moment, zone = latest[:16].replace("T", " "), latest[19:]
    return f"{moment} UTC" if zone in ("+00:00", "Z") else latest


def machines(results: Results) -> list[tuple[str, int]]:
    """Returns (description, runs) of each distinct hardware."""
    return _counted(_machine(record["hardware"]) for record in _records(results))


def versions(results: Results) -> list[tuple[str, str]]:
    """Returns (package, version); several versions as "2.14.1 (20 runs), 2.13.0 (4 runs)"."""
    rows = []
    for name in VERSIONS:
        found = _counted(str(record["environment"].get(name, "")) for record in _records(results))
        known = [(version, count) for version, count in found if version]
        if known:
            several = len(found) > 1
            words = [f"{v} ({n} run{'s' * (n > 1)})" if several else v for v, n in known]
            rows.append((name, ", ".join(words)))
    return rows


def runs(results: Results) -> list[dict[str, Any]]:
    """Returns one line per record, for readers who check the numbers."""
    lines = []
    for checkpoint in results.checkpoints:
        for protocol in results.protocols:
            cell = results.cell(checkpoint, protocol)
            for file in cell.files if cell else ():
                record = file.record
                lines.append(
                    {
                        "checkpoint": checkpoint.label,
                        "sha": record["checkpoint"]["sha256"][:10],
                        "protocol": protocol.label,
                        "record": record,
                        "path": str(file.path),
                        "device": record["hardware"].get("device", "unknown"),
                        "torch": record["environment"].get("torch", "unknown"),
                        "commit": record["environment"].get("git_commit", "unknown"),
                    }
                )
    return lines


def _records(results: Results) -> list[dict[str, Any]]:
    return [file.record for cell in results.cells.values() for file in cell.files]


def _machine(hardware: Mapping[str, Any]) -> str:
    """Returns "8 x NVIDIA A100" or "CPU AMD EPYC, 2 cores"."""
    device, count = str(hardware.get("device", "unknown")), hardware.get("count", 1)
    if device != "cpu":
        return device if count == 1 else f"{count} x {device}"
    cores = f", {hardware['cores']} cores" if "cores" in hardware else ""
    return f"CPU {hardware.get('cpu', '')}".strip() + cores


def _counted(values: Any) -> list[tuple[str, int]]:
    return Counter(values).most_common()
