"""SLURM jobs: submitit's local executor, torchrun by hand, and a real SLURM if there is one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pretrain.common.config import CHECKOUT
from pretrain.common.errors import InputError
from transfer.suite.launch import run_jobs
from transfer.suite.plan import Job
from transfer.suite.slurm import (
    Command,
    Queue,
    SlurmLauncher,
    SlurmProcess,
    parse_options,
    torchrun,
)

CLUSTER = Path(__file__).with_name("slurm_cluster.sh")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue")
Make = Callable[..., Job]
Quiet = lambda *words: None

# The first start waits to be preempted, the second one finishes.
TWICE = """
import os, pathlib, time
starts = pathlib.Path({starts!r})
with starts.open("a") as file:
    file.write(str(os.getppid()) + "\\n")  # submitit's process
if starts.read_text().count("\\n") == 1:
    time.sleep(120)
print("continued")
MAKE
"""
# Each process adds one and names its rank; the sum is right only where all have met.
MEETS = """
import os, sys, torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
print("rank", os.environ["RANK"], "of", int(total), flush=True)
if dist.get_rank() == 0:
    open(sys.argv[1], "w").write(str(int(total)))
dist.destroy_process_group()
"""


def run(jobs: list[Job], launcher: SlurmLauncher, tmp_path: Path, tell: Callable) -> dict[str, str]:
    return run_jobs(jobs, launcher, logs=tmp_path / "logs", tell=tell, show=Quiet)


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    for _ in range(int(seconds / 0.1)):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds} s without success")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs import this checkout wherever they start."""
    places = [str(CHECKOUT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, places)))


@pytest.fixture
def submitit() -> None:
    pytest.importorskip("submitit", reason="submitit is not installed (extra slurm)")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A SLURM of two nodes on this machine; the folder holds its slurm.conf and logs."""
    missing = [
        name for name in PROGRAMS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    ]
    if missing:
        pytest.skip(f"no SLURM here: {', '.join(missing)} missing (Debian: slurmctld slurmd munge)")
    pytest.importorskip("submitit", reason="submitit is not installed (extra slurm)")
    folder = tmp_path_factory.mktemp("slurm")
    try:
        done = subprocess.run([CLUSTER, "start", folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"SLURM does not start here: {done.stderr.strip()[-300:]}")
        yield folder
    finally:
        subprocess.run([CLUSTER, "stop", folder], capture_output=True)


def test_options(tmp_path: Path, submitit: None) -> None:
    assert parse_options(["partition=gpu", "time=60"]) == {"partition": "gpu", "time": "60"}
    with pytest.raises(InputError, match="KEY=VALUE"):
        parse_options(["partition"])
    with pytest.raises(InputError, match="--jobs 0"):
        SlurmLauncher(tmp_path, options={}, slots=0, cluster="local")
    with pytest.raises(InputError, match="--slurm: .*prtition"):
        SlurmLauncher(tmp_path, options={"prtition": "gpu"}, cluster="local")


def test_without_slurm_the_command_says_so(
    tmp_path: Path, submitit: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="--launcher slurm: "):
        SlurmLauncher(tmp_path, options={})


def test_jobs_end_as_their_commands_do(
    make_job: Make, tmp_path: Path, submitit: None, tell: Callable, events: list
) -> None:
    jobs = [make_job("good", "MAKE"), make_job("bad", "print('told why'); raise SystemExit(3)")]
    launcher = SlurmLauncher(tmp_path / "slurm", options={"time": "5"}, cluster="local")
    assert run(jobs, launcher, tmp_path, tell) == {"good": "done", "bad": "failed"}
    assert any("told why" in detail for _, name, detail in events if name == "bad")


def test_a_preempted_job_is_requeued_and_continues(
    make_job: Make, tmp_path: Path, submitit: None
) -> None:
    starts, log = tmp_path / "starts", tmp_path / "log"
    job = make_job("twice", TWICE.format(starts=str(starts)))
    launcher = SlurmLauncher(tmp_path / "slurm", options={}, cluster="local")
    process = launcher.start(job, log, 0)
    wait_for(lambda: starts.exists() and starts.read_text().endswith("\n"))
    os.kill(int(starts.read_text()), signal.SIGUSR2)  # as SLURM does
    wait_for(lambda: process.poll() is not None)
    assert process.poll() == 0 and job.is_done()
    assert starts.read_text().count("\n") == 2 and log.read_text().endswith("continued\n")


def test_a_refused_job_is_shown_like_any_other(tmp_path: Path) -> None:
    process = SlurmProcess(tmp_path / "log", Queue(), "slurm")
    process.fail("sbatch: error:\n no such partition")
    process.interrupt()  # nothing to cancel
    assert (process.state(), process.poll()) == ("ended", 1)
    assert (tmp_path / "log").read_text() == "sbatch: error: no such partition\n"


def test_jobs_of_a_killed_suite_are_taken_up(
    make_job: Make, tmp_path: Path, submitit: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in the queue still: the same command must not run twice in one folder."""
    from submitit.core.utils import DelayedSubmission

    states = {17: "RUNNING", 18: "PENDING", 19: "COMPLETING", 20: "PENDING", 4: "RUNNING"}
    programs = {"squeue": "\n".join(f"echo {number} {state}" for number, state in states.items())}
    for name in ("srun", "sbatch", "squeue"):
        (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{programs.get(name, 'exit 1')}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    folder, job = tmp_path / "slurm", make_job("same", "MAKE")
    logs = {17: "same", 18: "other", 19: "ended", 20: "all"}
    for number, name in logs.items():
        (folder / str(number)).mkdir(parents=True)
        command = Command(job.command, str(tmp_path / f"{name}.log"), nodes=2)
        DelayedSubmission(command).dump(folder / str(number) / f"{number}_submitted.pkl")
    launcher = SlurmLauncher(folder, options={})
    same = launcher.start(job, tmp_path / "same.log", 0)
    assert (same.job.job_id, same.job.num_tasks, same.poll()) == ("17", 2, None)
    assert same.state() == "running"
    other = launcher.start(make_job("other", "pass"), tmp_path / "other.log", 1)
    assert other.poll() == 1 and "scancel 18" in (tmp_path / "other.log").read_text()
    part = launcher.start(
        make_job("part", "pass"), tmp_path / "all__trial_0.log", 1
    )  # job 20 runs all trials
    assert part.poll() == 1 and "scancel 20" in (tmp_path / "all__trial_0.log").read_text()
    ended = launcher.start(job, tmp_path / "ended.log", 2)
    assert ended.poll() == 1, "submitted again, which this sbatch refuses"
    (tmp_path / "bin" / "squeue").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(InputError, match="squeue does not answer"):
        SlurmLauncher(folder, options={})


@pytest.mark.slow
def test_nodes_meet_by_torchrun(tmp_path: Path) -> None:
    """Two torchruns, as two nodes would start them, with a process each."""
    result = tmp_path / "total"
    (tmp_path / "meets.py").write_text(MEETS)
    command = (sys.executable, str(tmp_path / "meets.py"), str(result))
    nodes = [
        subprocess.Popen(
            torchrun(command, 2, 1, node, "localhost", str(os.getpid())),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for node in (1, 0)
    ]
    first, zeroth = (process.communicate(timeout=120)[0] for process in nodes)
    assert result.read_text() == "2"
    assert (zeroth, first) == ("rank 0 of 2\n", "rank 1 of 2\n"), "rank 0 is on node 0"


@pytest.fixture
def real(
    cluster: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., SlurmLauncher]:
    monkeypatch.setenv("SLURM_CONF", str(cluster / "slurm.conf"))
    options = {"partition": "main", "time": "5", "gpus_per_node": "0"}
    return lambda **more: SlurmLauncher(tmp_path / "slurm", options={**options, **more})


def test_real_slurm_runs_jobs(
    make_job: Make, tmp_path: Path, real: Callable, tell: Callable
) -> None:
    jobs = [
        make_job("good", "import os; assert os.environ['SLURM_JOB_ID']; MAKE"),
        make_job("bad", "raise SystemExit(3)"),
        make_job("after_good", "MAKE", ("good",)),
    ]
    expected = {"good": "done", "bad": "failed", "after_good": "done"}
    assert run(jobs, real(), tmp_path, tell) == expected


def test_real_slurm_refuses_a_job(
    make_job: Make, tmp_path: Path, real: Callable, tell: Callable, events: list
) -> None:
    launcher = real(partition="nowhere")
    assert run([make_job("job", "MAKE")], launcher, tmp_path, tell) == {"job": "failed"}
    assert any("nvalid partition" in detail for event, _, detail in events if event == "failed")


def test_real_slurm_requeues_a_preempted_job(
    make_job: Make, tmp_path: Path, real: Callable
) -> None:
    starts, log = tmp_path / "starts", tmp_path / "log"
    log.touch()
    job = make_job("twice", TWICE.format(starts=str(starts)))
    process = real().start(job, log, 0)
    wait_for(starts.exists)
    number = process.job.job_id
    subprocess.run(["scancel", "--signal=USR2", number], check=True)
    pending = lambda: subprocess.run(
        ["squeue", "-h", "-j", number, "-o", "%T"], capture_output=True
    )
    wait_for(lambda: pending().stdout.strip() == b"PENDING")
    # SLURM lets a requeued job wait for two minutes, unless told otherwise.
    subprocess.run(["scontrol", "update", f"JobId={number}", "StartTime=now"], check=True)
    wait_for(lambda: process.poll() is not None)
    assert process.poll() == 0 and job.is_done() and starts.read_text().count("\n") == 2


def test_real_slurm_on_two_nodes(tmp_path: Path, real: Callable) -> None:
    result, log = tmp_path / "total", tmp_path / "log"
    log.touch()
    (tmp_path / "meets.py").write_text(MEETS)
    command = (sys.executable, str(tmp_path / "meets.py"), str(result))
    job = Job("meets", command, tmp_path, (result,), kind="cls", nodes=2)
    process = real().start(job, log, 0)
    wait_for(lambda: process.poll() is not None, 120)
    assert process.poll() == 0 and result.read_text() == "2"
    assert "rank 0 of 2\n" in log.read_text()
    assert log.with_suffix(".node1.log").read_text().startswith("rank 1 of 2\n")


def test_real_slurm_cancels_what_an_interrupted_suite_leaves(
    make_job: Make, tmp_path: Path, real: Callable
) -> None:
    starts, log = tmp_path / "starts", tmp_path / "log"
    log.touch()
    job = make_job("job", TWICE.format(starts=str(starts)))
    process = real().start(job, log, 0)
    wait_for(starts.exists)
    later = real().start(job, log, 0)  # by another suite, had this one been killed
    assert later.job.job_id == process.job.job_id
    later.interrupt()
    queue = ["squeue", "-h", "-j", process.job.job_id]
    wait_for(lambda: not subprocess.run(queue, capture_output=True).stdout.strip())
