"""Pretrains and probes the entries of a suite with several seeds, as many as the time allows, and
appends one JSON line for each. The next call continues with the missing runs. Several calls at the
same time share the work: each takes the next run that no other call has. --report draws the
results."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

# The checkout, because `benchmarks` is not installed
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ladder_rows import append_row, read_rows  # noqa: E402
from pretrain.common.cli import make_parser, tool  # noqa: E402
from pretrain.common.errors import InputError  # noqa: E402

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

EXAMPLE = """python benchmarks/ladder.py --suite ladder_tiny100.yaml --minutes 25
  python benchmarks/ladder.py --suite ladder_tiny100.yaml --report docs/results/ladder"""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLE)
    parser.add_argument("--suite", default="ladder_tiny100.yaml", help="suite whose PRETRAIN runs")
    parser.add_argument(
        "--minutes", type=float, default=25.0, help="start no run that would end after this (25)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="pretraining seeds of each entry (3)")
    held_out = "judge on this share of the training images and do not train on it (0)"
    parser.add_argument("--held-out", type=float, default=0.0, metavar="SHARE", help=held_out)
    limit = "images of the probe's bank and queries (all)"
    parser.add_argument(
        "--probe-limit", type=int, nargs=2, default=(0, 0), metavar=("BANK", "N"), help=limit
    )
    shard = "I/N: take every N-th run, starting with run I, if calls do not share a disk (0/1)"
    parser.add_argument("--shard", default="0/1", metavar="I/N", help=shard)
    wanted = "probe re-estimated statistics and the filter that the weights want alone"
    parser.add_argument("--wanted-only", action="store_true", help=wanted)
    only = "train: leave the probes to a later call; probe: only the runs that are trained (both)"
    parser.add_argument("--only", choices=("train", "probe"), help=only)
    parser.add_argument("--results", type=Path, help="JSON lines (benchmarks/results/SUITE.jsonl)")
    parser.add_argument("--output", type=Path, help="run directories (runs/ladder/SUITE)")
    parser.add_argument("--report", type=Path, help="only write REPORT.md and REPORT.svg")
    args = parser.parse_args(argv)
    stem = Path(args.suite).stem
    args.results = args.results or Path("benchmarks/results") / f"{stem}.jsonl"
    args.output = args.output or Path("runs/ladder") / stem
    if not 0 <= args.held_out < 1:
        raise InputError(
            f"--held-out {args.held_out} must be a share of the training images, from 0 to 1"
        )
    if args.seeds < 1:
        raise InputError(f"--seeds {args.seeds} must be at least 1")
    part, _, parts = args.shard.partition("/")
    if not (part.isdigit() and parts.isdigit() and int(part) < int(parts)):
        raise InputError(f"--shard {args.shard} must be I/N with I from 0 to N - 1")
    args.shard = (int(part), int(parts))
    return args


@tool
def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    if args.report:
        from benchmarks.ladder_report import write_report

        order = list(dict.fromkeys(run["name"] for run in plan_runs(args)))
        for path in write_report(args.results, args.report, order):
            print(path)
        return
    first, every = args.shard
    runs = plan_runs(args)[first::every]
    present = sum(is_done(run, args) for run in runs)
    print(f"{present} of {len(runs)} runs are in {args.results}", flush=True)
    start, longest = time.monotonic(), 0.0
    for run in runs:
        spent = time.monotonic() - start
        if is_done(run, args) or (args.only == "probe" and not is_trained(run, args)):
            continue
        claim = claim_run(run, args)
        if claim is None:
            continue
        with claim:
            if is_done(run, args):  # another call did it since
                continue
            if longest and spent + longest > 60 * args.minutes:
                print(f"{spent / 60:.1f} minutes spent; call again for the rest")
                return
            outcome = take_run(run, args)
        longest = max(longest, time.monotonic() - start - spent)
        print(f"{run['name']} seed {run['seed']}: {outcome}", flush=True)


def run_folder(run: dict[str, Any], args: argparse.Namespace) -> Path:
    """Returns the folder in which a run trains."""
    name = f"{run['name']}_seed{run['seed']}_{run['sha256'][:8]}"
    return Path(args.output) / name


def is_done(run: dict[str, Any], args: argparse.Namespace) -> bool:
    """Returns whether this call has nothing to do for a run: it is trained, or has its row."""
    if args.only == "train":
        return is_trained(run, args)
    key = (run["name"], run["seed"], run["sha256"])
    rows = read_rows(args.results)
    return any((row["name"], row["seed"], row["recipe_sha256"]) == key for row in rows)


def is_trained(run: dict[str, Any], args: argparse.Namespace) -> bool:
    """Returns whether a run's folder holds the last checkpoint, with re-estimated statistics if
    wanted.
    """
    from pretrain.common.checkpoint import load_checkpoint
    from pretrain.engine.precise_bn import FILE_NAME

    folder, wanted = run_folder(run, args), run["cfg"].PRECISE_BN.IMAGES > 0
    last = folder / (FILE_NAME if wanted else "checkpoint.pth")
    if not last.is_file():
        return False
    saved = load_checkpoint(last)
    return bool(saved["step"] == saved["schedule"]["total_steps"])


def claim_run(run: dict[str, Any], args: argparse.Namespace) -> ExitStack | None:
    """Locks a run's folder until the stack is closed; returns None if another call has it."""
    from pretrain.common.locks import one_writer_of

    with ExitStack() as stack:
        try:
            stack.enter_context(one_writer_of(run_folder(run, args) / "taken"))
        except InputError:
            return None
        return stack.pop_all()


def plan_runs(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns each entry with each seed. Seeds are the outer loop, so finished runs compare."""
    from pretrain.common.config import load_config
    from pretrain.defaults import get_defaults
    from pretrain.engine.checks import check_config
    from transfer.suite.defaults import suite_defaults

    suite = load_config(args.suite, suite_defaults(), (), "suites")
    runs: list[dict[str, Any]] = []
    for seed in range(args.seeds):
        for entry in suite.PRETRAIN:
            # The entry's overrides come last: they win over those that change the scale.
            words = [*args.opts, *map(str, entry.get("overrides", ()))]
            if args.held_out:
                words += ["DATASETS.LIMIT_PER_CLASS", str(kept_per_class(args.held_out, words))]
            seeded = [*words, "SEED", str(seed)]
            cfg = load_config(entry["config"], get_defaults(), seeded, "pretrain")
            check_config(cfg, 1)
            facts = {"name": entry["name"], "config": entry["config"], "overrides": words}
            runs.append({**facts, "seed": seed, "cfg": cfg, "sha256": recipe_sha256(cfg)})
    return runs


def recipe_sha256(cfg: CfgNode) -> str:
    """Returns the identity of the recipe: the sha256 of the keys that differ from the defaults,
    without keys that change no number. A key that a later version adds does not change it."""
    from pretrain.defaults import get_defaults

    def differing(node: CfgNode, default: CfgNode) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in node.items():
            if isinstance(value, dict):
                found.update({f"{key}.{k}": v for k, v in differing(value, default[key]).items()})
            elif value != default[key]:
                found[key] = value
        return found

    free = ("SEED", "OUTPUT_DIR", "DATALOADER.", "CHECKPOINT.", "LOG.", "KNN.")
    kept = {k: v for k, v in differing(cfg, get_defaults()).items() if not k.startswith(free)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def kept_per_class(held_out: float, overrides: list[str]) -> int:
    """Returns the training images of each class that remain, if all classes have equal sizes."""
    from pretrain.common.config import load_config
    from pretrain.data.datasets import open_images
    from pretrain.defaults import get_defaults

    cfg = load_config("base_tiny100.yaml", get_defaults(), overrides, "pretrain")
    labels = open_images(cfg.DATASETS.TRAIN).labels
    return int((labels == labels[0]).sum() * (1 - held_out))


def take_run(run: dict[str, Any], args: argparse.Namespace) -> str:
    """Pretrains (or continues an interrupted run) and, if wanted, probes and appends the row.
    Returns the text to show."""
    from pretrain.common.config import dump_yaml
    from pretrain.engine.run import pretrain

    begin = time.monotonic()
    if not is_trained(run, args):
        pretrain(dump_yaml(run["cfg"]), str(run_folder(run, args)), True)
    if args.only == "train":
        return f"trained in {time.monotonic() - begin:.0f} s"
    row = probed_row(run, args, begin)
    append_row(args.results, row)
    return f"{shown(row)} in {row['seconds']:.0f} s"


def probed_row(run: dict[str, Any], args: argparse.Namespace, begin: float) -> dict[str, Any]:
    """Returns the row of a trained run; `begin`: time.monotonic() when this call took the run."""
    from benchmarks.probe import of_held_out, of_validation, probe_run
    from pretrain.common.checkpoint import load_checkpoint
    from pretrain.common.distributed import process_device
    from pretrain.common.environment import describe_environment, describe_hardware

    cfg: CfgNode = run["cfg"]
    folder = run_folder(run, args)
    started = datetime.now(timezone.utc) - timedelta(seconds=time.monotonic() - begin)
    sets = (of_held_out if args.held_out else of_validation)(cfg, tuple(args.probe_limit))
    device, only = process_device(), args.wanted_only
    metrics = probe_run(folder, sets, device, run["seed"], wanted_only=only)
    saved = load_checkpoint(folder / "checkpoint.pth")
    schedule = saved["schedule"]
    costs = ("epochs", "total_steps", "images_seen", "views_seen", "views_per_image")
    return {
        **{key: run[key] for key in ("name", "seed", "config", "overrides")},
        "recipe_sha256": run["sha256"],
        "method": saved["method"],
        "backbone": saved["backbone"],
        "filter_wanted": saved["preprocess"]["highpass"] is not None,
        "held_out": args.held_out,
        "probe_limit": list(args.probe_limit),
        "metrics": {key: round(value, 4) for key, value in metrics.items()},
        **{key: schedule[key] for key in costs},
        "pretrain_seconds": round(schedule["seconds"], 1),
        "gpu_seconds": round(schedule["gpu_seconds"], 1),
        "seconds": round(time.monotonic() - begin, 1),
        "started": started.isoformat(timespec="seconds"),
        "pretrain_commit": saved["environment"]["git_commit"],
        "environment": describe_environment(),
        "hardware": describe_hardware(),
    }


def shown(row: dict[str, Any]) -> str:
    """kNN and linear accuracy, in colour and grey, on input as the weights want it."""
    choice = "on" if row["filter_wanted"] else "off"
    found = [
        f"{what} {statistics} {row['metrics'][key]:.1f}"
        for what in ("knn20", "linear", "knn20_gray", "linear_gray")
        for statistics in ("raw", "precise")
        if (key := f"{what}/{statistics}/{choice}") in row["metrics"]
    ]
    return ", ".join(found)


if __name__ == "__main__":
    sys.exit(main())
