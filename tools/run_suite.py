#!/usr/bin/env python
"""Runs a suite: pretrains, converts, scores each checkpoint on each task, and makes the report."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.common.cli import make_parser, tool
from pretrain.common.errors import InputError
from pretrain.common.stop_signals import Stopped, heard
from transfer.checkpoints.readers.trust import add_trust

if TYPE_CHECKING:
    from transfer.suite.plan import Job

EXAMPLE = """tools/run_suite.py --config demo.yaml --output runs/demo
  tools/run_suite.py --config detection.yaml --checkpoint mscn=a.pth --checkpoint b=b.pth --dry-run
  tools/run_suite.py --config detection.yaml --checkpoint mscn=a.pth --launcher slurm \\
      --gpus-per-job 8 --slurm partition=gpu --slurm time=2880"""


def parse(argv: Sequence[str] | None) -> Namespace:
    """Returns the parsed options."""
    parser = make_parser(__doc__, EXAMPLE)
    add = parser.add_argument
    add("--config", required=True, help="the suite: a path, or a name below configs/")
    add(
        "--checkpoint",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="add a checkpoint to the suite (may be repeated)",
    )
    add(
        "--task",
        action="append",
        default=[],
        metavar="NAME",
        help="run only this task (may be repeated)",
    )
    add("--output", help="folder for everything (default: runs/NAME of the suite)")
    add(
        "--jobs",
        type=int,
        help="number of commands at one time (default: as many as the GPUs allow)",
    )
    add("--gpus-per-job", type=int, default=1, metavar="N", help="--num-gpus of each command (1)")
    add(
        "--launcher",
        choices=("local", "slurm"),
        default="local",
        help="where the jobs run: on this machine, or as jobs of SLURM (default: local)",
    )
    add(
        "--nodes",
        type=int,
        default=1,
        metavar="N",
        help="with --launcher slurm: nodes of each job (1)",
    )
    add(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the SLURM jobs, such as partition=gpu or time=60 (may be repeated)",
    )
    add(
        "--gpu",
        metavar="NAME",
        help="with --dry-run: check whether the jobs fit on this GPU, such as a100-80",
    )
    add("--dry-run", action="store_true", help="print each job with its time and memory, and exit")
    add(
        "--probe-seconds",
        type=float,
        metavar="S",
        help="seconds of each probe; 0: no probes (default: 5 to 30 each, 120 for all)",
    )
    add_trust(parser)
    add("--json", action="store_true", help="print the plan, or one event per line, as JSON")
    return parser.parse_args(argv)


def given_checkpoints(items: Sequence[str]) -> dict[str, str]:
    """Returns the files by name, from texts NAME=FILE."""
    given = dict(item.split("=", 1) for item in items if "=" in item)
    if len(given) != len(items) or not all(given.values()):
        raise InputError(f"--checkpoint takes distinct NAME=FILE, got {' '.join(items)}")
    return given


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the suite; returns exit status 0 if every job is done."""
    args = parse(argv)
    given = given_checkpoints(args.checkpoint)
    from pretrain.common.config import find_config, load_config
    from pretrain.common.output_path import check_output
    from transfer.suite.defaults import suite_defaults
    from transfer.suite.plan import plan, split_trials

    cfg = load_config(args.config, suite_defaults(), args.opts, "suites")
    default = f"runs/{find_config(args.config, 'suites').stem}"
    output = check_output(default if args.output is None else args.output)
    jobs = plan(cfg, output, given, args.gpus_per_job, args.nodes, args.task)
    launcher = None if args.dry_run else make_launcher(args, output)

    from pretrain.common.loggers import GROUP_VARIABLE
    from pretrain.engine import before_a_run as pretraining
    from transfer.suite.check import check_configs, check_jobs

    print(f"checking the input of {len(jobs)} jobs", file=sys.stderr)  # it may take a minute
    check_configs(jobs, pretraining)
    checks = check_jobs(jobs, pretraining)
    if launcher is None:
        return dry_run(jobs, checks, pretraining, args)
    checks.raise_problems()
    os.environ.setdefault(GROUP_VARIABLE, output.absolute().name)  # its jobs are one group
    return run(split_trials(jobs, launcher.slots), launcher, output, args)


def make_launcher(args: Namespace, output: Path) -> Any:
    """Raises InputError for what this machine cannot do."""
    if args.launcher == "slurm":
        from transfer.suite.slurm import SlurmLauncher, parse_options

        options = parse_options(args.slurm)
        return SlurmLauncher(output / "logs" / "slurm", options=options, slots=args.jobs)
    if args.slurm or args.nodes > 1:
        raise InputError("--slurm and --nodes need --launcher slurm")
    from transfer.suite.local import LocalLauncher, visible_gpus

    return LocalLauncher(gpus=visible_gpus(), gpus_per_job=args.gpus_per_job, slots=args.jobs)


def dry_run(jobs: Sequence[Job], checks: Any, pretraining: Any, args: Namespace) -> int:
    """Prints the plan with what each job takes, and what it needs of the GPU.

    Raises InputError, after the plan, for a job that does not fit the GPU.
    """
    from pretrain.common.gpus import find_gpu, present_gpu
    from transfer.suite.estimate import estimate_jobs, timed_probe
    from transfer.suite.gpu_needs import check_needs, needs_of_jobs
    from transfer.suite.plan_table import plan_json, plan_text

    gpu = find_gpu(args.gpu) if args.gpu else present_gpu()
    needs = needs_of_jobs(jobs, checks, pretraining, gpu, not args.gpu) if gpu else {}
    probe = timed_probe(args.probe_seconds)
    found = estimate_jobs(jobs, checks, probe, lambda line: print(line, file=sys.stderr))
    print(plan_json(jobs, found, needs) if args.json else plan_text(jobs, found, needs))
    check_needs(needs)
    if bad := len(checks.problems):
        print(f"{bad} of {len(jobs)} jobs cannot start here; the plan says why", file=sys.stderr)
    return 0


def run(jobs: Sequence[Job], launcher: Any, output: Path, args: Namespace) -> int:
    """Runs what is not done, then the report."""
    from pretrain.common.locks import one_writer
    from pretrain.common.run_files import RECORD
    from transfer.suite.launch import DONE, run_jobs
    from transfer.suite.view import JsonView, TextView

    view = JsonView() if args.json else TextView()
    text = b"stopping what runs; again: kills it at once\n"
    # A shell ignores SIGINT for what it starts in the background, but a suite can be stopped so.
    try:
        with heard(text, always=[signal.SIGINT]), one_writer(output, inherited=True):
            states = run_jobs(jobs, launcher, logs=output / "logs", tell=view.tell, show=view.show)
    except Stopped as error:
        view.interrupted()
        return error.status
    view.end(states)
    reported = write_report(output, args.json) if any(output.rglob(RECORD)) else 0
    failed = [name for name, state in states.items() if state != DONE]
    for name in failed:
        print(f"{states[name]}: {name}", file=sys.stderr)
    if failed:
        print(
            f"error: {len(failed)} of {len(states)} jobs are not done; the reasons are above and "
            f"in {output / 'logs'}; the same command continues when they are removed",
            file=sys.stderr,
        )
    return 1 if failed or reported else 0


def write_report(output: Path, as_json: bool) -> int:
    """Runs the report over the records below a folder; returns its exit status.

    Without a record it would say only that, which is never the reason: so it is not run then.
    """
    report = [sys.executable, str(Path(__file__).with_name("report.py")), str(output)]
    channel = 2 if as_json else None  # standard error: only JSON goes to standard output
    done = subprocess.run([*report, "--output", str(output / "report")], stdout=channel)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
