"""Runs a suite: pretraining, conversion, checkpoints x tasks x trials, then the report."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pretrain.common.cli import make_parser, tool
from pretrain.common.errors import InputError


def parse(argv: Sequence[str] | None) -> tuple:
    """The parsed options, and the checkpoints given as NAME=FILE."""
    parser = make_parser(__doc__, "tools/run_suite.py --config demo.yaml --output runs/demo")
    parser.add_argument("--config", required=True, help="suite: a path, or a name below configs/")
    parser.add_argument("--checkpoint", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--output", help="folder for everything (default: runs/NAME of the suite)")
    parser.add_argument("--jobs", type=int, help="commands at once (default: one per GPU, or 1)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and stop")
    args = parser.parse_args(argv)
    given = dict(item.split("=", 1) for item in args.checkpoint if "=" in item)
    if len(given) != len(args.checkpoint):
        raise InputError(f"--checkpoint takes distinct NAME=FILE, got {args.checkpoint}")
    for name, path in given.items():
        if path != "random" and not Path(path).is_file():
            raise InputError(f"--checkpoint {name}: no file {path}")
    return args, given


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 when every job is done."""
    args, given = parse(argv)
    from pretrain.common.config import find_config, load_config
    from transfer.suite.defaults import suite_defaults
    from transfer.suite.launch import run_jobs
    from transfer.suite.plan import plan

    cfg = load_config(args.config, suite_defaults(), args.opts, "suites")
    stem = find_config(args.config, "suites").stem
    output = Path(args.output or f"runs/{stem}")
    jobs = plan(cfg, output, given)
    if args.dry_run:
        for job in jobs:
            print(f"{'done' if job.is_done() else 'to do':5} {job.name}: {' '.join(job.command)}")
        return 0
    import torch

    for number in (signal.SIGINT, signal.SIGTERM):  # also when started in the background
        signal.signal(number, signal.default_int_handler)
    gpus = torch.cuda.device_count()
    states = run_jobs(
        jobs, logs=output / "logs", parallel=args.jobs or max(1, gpus), gpus=gpus, say=say
    )
    failed = [name for name, state in states.items() if state != "done"]
    report = [sys.executable, str(Path(__file__).with_name("report.py")), str(output)]
    status = subprocess.run([*report, "--output", str(output / "report")]).returncode
    for name in failed:
        print(f"{states[name]}: {name}", file=sys.stderr)
    return 1 if failed or status else 0


def say(line: str) -> None:
    """One line on stderr, over whatever a running command's progress line shows."""
    clear = "\r\033[K" if sys.stderr.isatty() else ""
    print(f"{clear}{line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
