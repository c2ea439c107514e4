"""Makes the list of jobs of a suite config: pretraining, conversion, checkpoints x tasks.

Folders below the suite's output: `pretrain/NAME/`, `TASK/NAME/trial_T/`, `logs/`, `report/`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fvcore.common.config import CfgNode

from pretrain.common.config import COMMANDS, find_config, shipped_folder
from pretrain.common.lookup import find
from pretrain.common.progress import progress_folder
from pretrain.common.run_files import CHECKPOINT, RECORD
from transfer.suite.config import TASK_FOLDERS, Entry, read_entries


@dataclass(frozen=True)
class Job:
    """Describes one command of the suite."""

    name: str
    command: tuple[str, ...]
    output: Path  # the folder into which the command writes
    results: tuple[Path, ...]  # if all exist, the job is done
    needs: tuple[str, ...] = ()  # names of jobs that come first
    leaves_mark: bool = False  # results appear before the command ends: a mark says that it ended
    # The kind of the command, for checks and estimates: pretrain, convert, det or cls.
    kind: str = ""
    config: str = ""  # path
    overrides: tuple[str, ...] = ()
    weights: str = ""  # for det and cls: an existing file, a file that `needs` makes, or a source
    trials: int = 1
    gpus: int = 1  # processes on each node, one per GPU
    nodes: int = 1
    head: Job | None = None  # the job that trains the heads which this one scores

    @property
    def waits_for_head(self) -> bool:
        """Returns whether the heads that this job scores are still to be trained."""
        return self.head is not None and not self.head.is_done()

    @property
    def processes(self) -> int:
        """Returns the number of the command's processes on all nodes."""
        return self.gpus * self.nodes

    @property
    def mark(self) -> Path:
        """Returns the file that says that the command ended without an error."""
        return self.output / "finished.txt"

    @property
    def progress_folder(self) -> Path:
        """Returns the folder of the command's progress.json; see `pretrain.common.progress`."""
        trial = re.fullmatch(r"trial_(\d+)", self.results[0].parent.name) if self.results else None
        return progress_folder(self.output, int(trial[1])) if trial else self.output

    def is_done(self) -> bool:
        """Returns whether all results of the job exist."""
        wanted = (*self.results, self.mark) if self.leaves_mark else self.results
        return all(path.exists() for path in wanted)


def plan(
    cfg: CfgNode,
    output: Path,
    given: Mapping[str, str],
    gpus_per_job: int = 1,
    nodes: int = 1,
    only: Sequence[str] = (),
) -> list[Job]:
    """Lists the jobs in an order that respects their needs.

    Args:
        output: the suite's folder.
        given: more checkpoints from the command line: their file (or source) by name.
        gpus_per_job: `--num-gpus` of the commands that train.
        nodes: number of nodes for each of these commands.
        only: names of the tasks to run; empty: all.

    Raises:
        InputError: see `entries.read_entries`.
    """
    pretrain, found, tasks = read_entries(cfg, given)
    jobs: list[Job] = []
    # by name: the file, and the jobs that make it
    weights: dict[str, tuple[str, tuple[str, ...]]]
    weights = {name: (path, ()) for name, path in found.items()}
    for entry in pretrain:
        made, converted = _pretrain_jobs(entry, output, gpus_per_job, nodes)
        jobs += [made, converted]
        weights[entry["name"]] = (str(converted.results[0]), (converted.name,))
    known = {task["name"]: task for task in tasks}
    wanted = [find(name, known, "task", "--task") for name in only] or tasks
    made_jobs: dict[str, Job] = {}
    for task in _heads_first(wanted, known):
        for name in task.get("checkpoints") or weights:
            job = _task_job(task, name, weights[name], output, gpus_per_job, nodes)
            if "head" in task:
                job = _with_head(job, made_jobs[f"{task['head']}/{name}"])
            made_jobs[job.name] = job
    return [*jobs, *made_jobs.values()]


def _heads_first(tasks: Sequence[Entry], known: Mapping[str, Entry]) -> list[Entry]:
    """Returns the tasks, each after the task that trains the heads which it scores."""
    ordered: dict[str, Entry] = {}
    for task in tasks:
        for name in filter(None, (task.get("head"), task["name"])):
            ordered.setdefault(name, known[name])
    return list(ordered.values())


def _with_head(job: Job, head: Job) -> Job:
    """Returns the job as one that scores the heads which `head` trains."""
    words = ("HEAD.RUN", str(head.output))
    return replace(
        job,
        command=(*job.command, *words),
        overrides=(*job.overrides, *words),
        needs=(*job.needs, head.name),
        head=head,
    )


def split_trials(jobs: Sequence[Job], slots: int) -> list[Job]:
    """Splits detection jobs into one job per trial if slots would otherwise stay empty.

    Trials of classification stay together: they share the features, which take most of the time.
    """
    tasks = [job for job in jobs if job.kind in TASK_FOLDERS and not job.is_done()]
    if len(tasks) >= slots:
        return list(jobs)
    return [part for job in jobs for part in (_by_trial(job) if job.kind == "det" else [job])]


def _by_trial(job: Job) -> list[Job]:
    if job.trials == 1:
        return [job]
    parts = []
    for trial, result in enumerate(job.results):
        words = list(job.command)
        words[words.index("--trials") + 1] = str(trial + 1)
        words[words.index("--trials") : words.index("--trials")] = ["--first-trial", str(trial)]
        name = f"{job.name}/trial_{trial}"
        parts.append(replace(job, name=name, command=tuple(words), results=(result,), trials=1))
    return parts


def command_of(
    kind: str,
    config: str,
    output: Path,
    overrides: tuple[str, ...] = (),
    options: tuple[str, ...] = (),
    gpus: int = 1,
) -> tuple[str, ...]:
    """Returns the command line of one run; kind: pretrain, det or cls."""
    script = Path(COMMANDS[TASK_FOLDERS.get(kind, kind)]).name
    if gpus > 1:
        options = (*options, "--num-gpus", str(gpus))
    options = (*options, "--output", str(output), "--resume")
    return (*_python(script), "--config", config, *options, *overrides)


def _python(script: str) -> tuple[str, str]:
    return sys.executable, str(shipped_folder("tools") / script)


def _overrides(entry: Entry) -> tuple[str, ...]:
    return tuple(map(str, entry.get("overrides", ())))


def _pretrain_jobs(entry: Entry, output: Path, gpus: int, nodes: int) -> tuple[Job, Job]:
    name, folder = entry["name"], output / "pretrain" / entry["name"]
    config = str(find_config(entry["config"], "pretrain"))
    train = Job(
        name=f"pretrain/{name}",
        command=command_of("pretrain", config, folder, _overrides(entry), gpus=gpus),
        output=folder,
        results=(folder / CHECKPOINT,),
        leaves_mark=True,
        kind="pretrain",
        config=config,
        overrides=_overrides(entry),
        gpus=gpus,
        nodes=nodes,
    )
    # In the checkpoint's folder, where the tasks find the run's pictures and curves.
    converted = folder / "backbone.pkl"
    command = (*_python("convert_weights.py"), str(folder / CHECKPOINT), str(converted))
    convert = Job(
        name=f"convert/{name}",
        command=command,
        output=folder,
        results=(converted,),
        needs=(train.name,),
        kind="convert",
    )
    return train, convert


def _task_job(
    task: Entry,
    name: str,
    weights: tuple[str, tuple[str, ...]],
    output: Path,
    gpus: int,
    nodes: int,
) -> Job:
    kind, (path, needs) = task["command"], weights
    target, trials = output / task["name"] / name, task.get("trials", 1)
    config = str(find_config(task["config"], TASK_FOLDERS[kind]))
    options = ("--weights", path, "--name", name, "--trials", str(trials))
    return Job(
        name=f"{task['name']}/{name}",
        command=command_of(kind, config, target, _overrides(task), options, gpus),
        output=target,
        results=tuple(target / f"trial_{trial}" / RECORD for trial in range(trials)),
        needs=needs,
        kind=kind,
        config=config,
        overrides=_overrides(task),
        weights=path,
        trials=trials,
        gpus=gpus,
        nodes=nodes,
    )
