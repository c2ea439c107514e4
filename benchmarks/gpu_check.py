"""All measurements that need a GPU and take minutes, in one command: `make gpu-check`. It writes
one JSON file and prints a Markdown table for benchmarks/README.md.

Each row runs in a separate process with a time limit. If a row fails or hangs, its error is in the
table and the other rows still run. Data are generated; no network is used. Without a GPU,
`--device cpu --rehearse` runs all rows at a tiny size; its numbers say nothing about a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.common.cli import make_parser, tool
from pretrain.common.errors import InputError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from benchmarks.gpu_rows import Size

EXAMPLE = """python -m benchmarks.gpu_check --output gpu_check.json
  python -m benchmarks.gpu_check --device cpu --rehearse"""
MEASURED, REHEARSED, FAILED, NOT_RUN = "measured", "rehearsed", "failed", "not run"
REHEARSAL = "A rehearsal at a tiny size: no number in this table may be quoted for a GPU."


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__ or "", EXAMPLE, overrides=False)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rehearse", action="store_true", help="run all rows at a tiny size")
    parser.add_argument("--minutes", type=float, default=11.5, help="minutes for all rows (11.5)")
    parser.add_argument(
        "--output", type=Path, default=Path("gpu_check.json"), help="JSON file (gpu_check.json)"
    )
    return parser.parse_args(argv)


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Runs all rows; the status is 1 if one of them failed or was not run."""
    args = parse(argv)
    if args.device == "cpu" and not args.rehearse:
        raise InputError("--device cpu does not measure a GPU; add --rehearse for a rehearsal")
    if not args.minutes > 0:
        raise InputError(f"--minutes {args.minutes} must be above 0")
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the processes of a row inherit it
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("torch finds no GPU; --device cpu --rehearse runs the rows at a tiny size")
    from benchmarks.gpu_rows import ROWS, TINY, Size

    rows: list[dict[str, Any]] = []
    begin, left = time.monotonic(), sum(share for _, share in ROWS.values())
    for name, (_, share) in ROWS.items():
        remaining = args.minutes * 60 - (time.monotonic() - begin)
        # Rows that come later get the time that a row did not use.
        limit, left = remaining * share / left, left - share
        rows.append(run_apart(name, TINY if args.rehearse else Size(), args.device, limit))
        print(f"{name}: {rows[-1]['status']} ({rows[-1]['seconds']:.1f} s)", flush=True)
        found = {"device": args.device, "rehearsal": args.rehearse, "rows": rows}
        args.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"\n{table(found)}\n\nwritten: {args.output}")
    return int(any(row["status"] in (FAILED, NOT_RUN) for row in rows))


def run_apart(name: str, size: Size, device: str, limit: float) -> dict[str, Any]:
    """Runs a row in a new process. It is ended with all its processes after `limit` seconds."""
    import multiprocessing

    if limit < 1:
        return _result(name, NOT_RUN, 0.0, why="no time was left; raise --minutes")
    # A server process without CUDA imports torch once for all rows.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.gpu_rows"])
    ours, theirs = context.Pipe(duplex=False)
    start = time.monotonic()
    process = context.Process(target=_in_a_process, args=(theirs, name, size, device))
    process.start()
    theirs.close()
    try:
        if ours.poll(limit):
            return ours.recv()
        why = f"not done after its {limit:.0f} s; raise --minutes"
    except EOFError:
        process.join(5)
        why = f"its process ended with status {process.exitcode}"
    finally:
        _end(process.pid)
        process.join(10)
        ours.close()
    return _result(name, FAILED, time.monotonic() - start, why=why)


def _in_a_process(answer: Connection, name: str, size: Size, device: str) -> None:
    os.setsid()  # so the row's processes end with it
    answer.send(run_row(name, size, device))


def _end(group: int | None) -> None:
    try:
        if group is not None:
            os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # it has already ended
        pass


def run_row(name: str, size: Size, device: str) -> dict[str, Any]:
    """Runs a row in this process; returns its result, or its error in one line."""
    import torch

    from benchmarks.gpu_rows import ROWS

    done = MEASURED if device == "cuda" and not size.tiny else REHEARSED
    start = time.monotonic()
    try:
        entries = ROWS[name][0](size, torch.device(device))
    except Exception as error:  # after any error the other rows still run
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return _result(name, FAILED, time.monotonic() - start, why=text[:300])
    return _result(name, done, time.monotonic() - start, [asdict(entry) for entry in entries])


def _result(
    name: str, status: str, seconds: float, entries: Sequence[dict[str, Any]] = (), why: str = ""
) -> dict[str, Any]:
    return {
        "row": name,
        "status": status,
        "seconds": round(seconds, 2),
        "entries": list(entries),
        "why": why,
    }


def table(found: dict[str, Any]) -> str:
    """Returns the rows as a Markdown table. For a rehearsal, its heading and each line say so."""
    rehearsal = found["rehearsal"] or found["device"] != "cuda"
    lines = [f"**{REHEARSAL}**", ""] if rehearsal else []
    lines += ["| row | what | value | note |", "|---|---|---|---|"]
    for row in found["rows"]:
        if row["why"]:
            lines.append(_line(row["row"], row["status"], "", row["why"]))
        for entry in row["entries"]:
            value = _shown(entry["value"])
            if rehearsal and entry["value"] is not None:
                value += f" ({REHEARSED}, {found['device']})"
            lines.append(_line(row["row"], entry["what"], value, entry["note"]))
    return "\n".join(lines)


def _shown(value: float | str | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
