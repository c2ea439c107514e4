"""A suite config in, the list of jobs out: pretraining, conversion, checkpoints x tasks.

Folders below the suite's output: `pretrain/NAME/`, `TASK/NAME/trial_T/`, `logs/`, `report/`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.common.config import CHECKOUT, find_config
from pretrain.common.errors import InputError
from pretrain.common.lookup import find

TOOLS = {"det": ("train_det.py", "detection"), "cls": ("train_cls.py", "classification")}
NEEDED = {"PRETRAIN": ("name", "config"), "CHECKPOINTS": ("name", "weights")}
NEEDED["TASKS"] = ("name", "command", "config")
OPTIONAL = {"PRETRAIN": ("overrides",), "CHECKPOINTS": ()}
OPTIONAL["TASKS"] = ("overrides", "trials", "checkpoints")


@dataclass(frozen=True)
class Job:
    """One command of the suite."""

    name: str
    command: tuple[str, ...]
    output: Path  # the folder that the command writes to
    results: tuple[Path, ...]  # all present: the job is done
    needs: tuple[str, ...] = ()  # names of jobs that come first
    leaves_mark: bool = False  # its results appear before it ends, so a mark says that it ended

    @property
    def mark(self) -> Path:
        """The file that says that the command ended well."""
        return self.output / "finished.txt"

    def is_done(self) -> bool:
        """Whether the job's results are all there."""
        wanted = (*self.results, self.mark) if self.leaves_mark else self.results
        return all(path.exists() for path in wanted)


def plan(cfg: CfgNode, output: Path, given: Mapping[str, str]) -> list[Job]:
    """Lists the jobs in an order that respects their needs.

    Args:
        output: the suite's folder.
        given: more checkpoints, name -> file (or source), from the command line.

    Raises:
        InputError: an entry without a key, an unknown config or checkpoint name, or no checkpoint.
    """
    pretrain, tasks = _entries(cfg, "PRETRAIN"), _entries(cfg, "TASKS")
    jobs: list[Job] = []
    weights: dict[str, tuple[str, tuple[str, ...]]] = {}  # name -> (file, jobs that make it)
    for entry in _entries(cfg, "CHECKPOINTS"):
        weights[entry["name"]] = (entry["weights"], ())
    weights.update({name: (path, ()) for name, path in given.items()})
    for entry in pretrain:
        made, converted = _pretrain_jobs(entry, output)
        jobs += [made, converted]
        weights[entry["name"]] = (str(converted.results[0]), (converted.name,))
    if not weights:
        raise InputError("no checkpoint: add --checkpoint NAME=FILE, or PRETRAIN to the suite")
    for task in tasks:
        for name in task.get("checkpoints") or weights:
            path, needs = find(name, weights, "checkpoint", f"TASKS {task['name']}")
            jobs.append(_task_job(task, name, path, needs, output))
    return jobs


def _entries(cfg: CfgNode, key: str) -> list[dict[str, Any]]:
    entries = []
    for number, entry in enumerate(cfg[key]):
        if isinstance(entry, str) and key == "PRETRAIN":
            entry = {"name": Path(entry).stem, "config": entry}
        if not isinstance(entry, dict):
            raise InputError(f"{key}[{number}] must be a mapping, got {entry!r}")
        for field in NEEDED[key]:
            if field not in entry:
                raise InputError(f"{key}[{number}] lacks '{field}'; it has {sorted(entry)}")
        for field in entry:
            find(field, dict.fromkeys(NEEDED[key] + OPTIONAL[key]), "field", f"{key}[{number}]")
        entries.append(entry)
    return entries


def _command(
    script: str, config: str, folder: str, overrides: Sequence[Any], *options: str
) -> tuple:
    tool = str(CHECKOUT / "tools" / script)
    path = str(find_config(config, folder))
    return (sys.executable, tool, "--config", path, *options, *map(str, overrides))


def _pretrain_jobs(entry: Mapping[str, Any], output: Path) -> tuple[Job, Job]:
    name, folder = entry["name"], output / "pretrain" / entry["name"]
    options = ("--output", str(folder), "--resume")
    overrides = entry.get("overrides", ())
    train = Job(
        name=f"pretrain/{name}",
        command=_command("train_ssl.py", entry["config"], "pretrain", overrides, *options),
        output=folder,
        results=(folder / "checkpoint.pth",),
        leaves_mark=True,
    )
    # Beside the checkpoint, so that the tasks find the run's pictures and curves.
    converted = folder / "backbone.pkl"
    tool = str(CHECKOUT / "tools" / "convert_weights.py")
    convert = Job(
        name=f"convert/{name}",
        command=(sys.executable, tool, str(folder / "checkpoint.pth"), str(converted)),
        output=folder,
        results=(converted,),
        needs=(train.name,),
    )
    return train, convert


def _task_job(
    task: Mapping[str, Any], name: str, path: str, needs: tuple[str, ...], output: Path
) -> Job:
    script, folder = find(task["command"], TOOLS, "command", f"TASKS {task['name']}")
    target = output / task["name"] / name
    trials = int(task.get("trials", 1))
    options = ("--weights", path, "--name", name, "--trials", str(trials))
    options += ("--output", str(target), "--resume")
    overrides = task.get("overrides", ())
    return Job(
        name=f"{task['name']}/{name}",
        command=_command(script, task["config"], folder, overrides, *options),
        output=target,
        results=tuple(target / f"trial_{trial}" / "record.json" for trial in range(trials)),
        needs=needs,
    )
