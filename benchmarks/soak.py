"""Long runs that must not grow: `make soak` watches pretraining with its kNN monitor, and detection
with its evaluations, and fails if one of them uses more and more.

    python -m benchmarks.soak --minutes 30 --output soak.json

Both commands run one after the other on small generated digits, each for half of the minutes. The
soak reads from /proc (Linux only), for the command and all processes that it started: their memory,
open files, bytes of /dev/shm and their number. The first half of the samples is warm-up. A line is
fitted through the second half (Theil and Sen's, which a few evaluations do not change), and its
growth must be within `BOUNDS`. The exit status is 1, with one line, if it is not, if a command
ends by itself, or if there were too few evaluations. The JSON file has all samples.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.result_file import write_result
from pretrain.common.cli import make_parser, tool
from pretrain.common.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
ROLLUP = Path("/proc/self/smaps_rollup")
OWN = ("Pss_Anon:", "Pss_Shmem:")  # its lines, in kB
EXAMPLE = "python -m benchmarks.soak --minutes 30 --output soak.json"
SAMPLES = 120  # samples of each command
START_SECONDS = 600  # a command must reach its first evaluation within this time
END_SECONDS = 60  # its processes must end within this time
EVALUATIONS = 2  # the second half needs this many, otherwise it shows nothing

# The allowed growth of the line over the second half: a share of the median, or this amount if it
# is larger. For memory, this allows for free pages of the allocator, which vary.
BOUNDS = {
    "memory_mib": (0.03, 24.0),
    "open_files": (0.0, 1.0),
    "shared_mib": (0.05, 1.0),
    "processes": (0.0, 0.5),
}

# No run ends by itself; the evaluations come every few seconds of an idle core.
ENDLESS = "1000000"
DATA = ["--classification", "320", "96", "96", "--scenes", "64", "16", "16"]
PRETRAINING = [
    *("tools/train_ssl.py", "--config", "mscn_demo.yaml", "DATALOADER.NUM_WORKERS", "1"),
    *("DATALOADER.CACHE_DECODED", "False", "SOLVER.MAX_STEPS", ENDLESS, "SOLVER.BATCH_SIZE", "32"),
    *("KNN.EVERY_EPOCHS", "1", "CHECKPOINT.EVERY_EPOCHS", "2"),
]
DETECTION = [
    *("tools/train_det.py", "--config", "digits_coco.yaml", "--weights", "random"),
    *("SOLVER.MAX_ITER", ENDLESS, "SOLVER.STEPS", "()", "SOLVER.IMS_PER_BATCH", "2"),
    *("TEST.EVAL_PERIOD", "5", "SOLVER.CHECKPOINT_PERIOD", "10"),
]


@dataclass(frozen=True)
class Command:
    """arguments: those of Python. metrics: its file of rows, below its output. evaluation: the
    prefix of a key that only the rows of evaluations have."""

    arguments: list[str]
    metrics: str
    evaluation: str

    def evaluations(self, output: Path) -> int:
        """Returns the number of evaluations written so far."""
        try:
            lines = (output / self.metrics).read_text(encoding="utf-8").splitlines()
        except OSError:
            return 0
        return sum(f'"{self.evaluation}' in line for line in lines)


COMMANDS = {
    "pretraining": Command(PRETRAINING, "metrics.jsonl", "knn"),
    "detection": Command(DETECTION, "trial_0/metrics.json", "bbox/AP"),
}


@dataclass(frozen=True)
class Sample:
    """The resources of a command and the processes that it started, at `seconds`.

    memory_mib counts a page that several of them share once. It does not count pages of files,
    because other programs that use a library affect how many of its pages are in memory. shared_mib
    counts files of /dev/shm that they have open or mapped, including deleted ones.
    """

    seconds: float
    memory_mib: float
    open_files: int
    shared_mib: float
    processes: int
    evaluations: int


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__ or "", EXAMPLE, overrides=False)
    parser.add_argument("--minutes", type=float, default=30.0, help="minutes for both (30)")
    parser.add_argument("--only", choices=tuple(COMMANDS), help="run only this command")
    parser.add_argument(
        "--output", type=Path, default=Path("soak.json"), help="JSON file (soak.json)"
    )
    return parser.parse_args(argv)


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Watches the commands; the status is 1 if one of them grew."""
    args = parse(argv)
    if not args.minutes > 0:
        raise InputError(f"--minutes {args.minutes} must be above 0")
    if not ROLLUP.is_file() or OWN[0] not in ROLLUP.read_text(encoding="ascii"):
        raise InputError(f"the soak reads {OWN[0]} of {ROLLUP}, which this system does not have")
    names = [args.only] if args.only else list(COMMANDS)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="soak_") as scratch:
        data = Path(scratch) / "data"
        make = ["tools/make_digits.py", "--output", str(data), *DATA]
        subprocess.run([sys.executable, *make], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        for name in names:
            seconds = args.minutes * 60 / len(names)
            found[name] = watch(COMMANDS[name], seconds, data, Path(scratch) / name)
            print(describe(name, found[name]), flush=True)
    result = {"minutes": args.minutes, "bounds": BOUNDS, "commands": found}
    write_result(args.output, result)
    faults = [f"{name}: {fault}" for name in names for fault in found[name]["faults"]]
    if faults:
        print(f"the soak failed: {'; '.join(faults)} (all samples: {args.output})", file=sys.stderr)
    return 1 if faults else 0


def watch(command: Command, seconds: float, data: Path, output: Path) -> dict[str, Any]:
    """Runs a command, samples it for `seconds` after its first evaluation, and ends it."""
    environment = {**os.environ, "DETECTRON2_DATASETS": str(data)}
    environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    script, *arguments = command.arguments
    log = output.with_suffix(".log")
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, script, "--output", str(output), *arguments],
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            samples = sample(process, command, seconds, output)
            status = process.poll()  # None if it still runs, as it must
        finally:
            left = end(process)
    faults = judge(samples)
    if status is not None:
        faults = [f"it ended by itself with {status}: {last_line(log)}"]
    if left:
        faults.append(f"{left} of its processes did not end within {END_SECONDS} s")
    return {
        "faults": faults,
        "growth": growth(samples) if len(samples) > 3 else {},
        "samples": [asdict(value) for value in samples],
    }


def sample(
    process: subprocess.Popen[bytes], command: Command, seconds: float, output: Path
) -> list[Sample]:
    """Takes samples after the first evaluation; fewer if the command ends."""
    deadline = time.monotonic() + START_SECONDS
    while command.evaluations(output) == 0:
        if process.poll() is not None or time.monotonic() > deadline:
            return []
        time.sleep(0.5)
    begin, found = time.monotonic(), []
    while process.poll() is None and (now := time.monotonic() - begin) < seconds:
        found.append(look(process.pid, now, command.evaluations(output)))
        time.sleep(max(0.0, begin + len(found) * seconds / SAMPLES - time.monotonic()))
    return found


def look(pid: int, seconds: float, evaluations: int) -> Sample:
    """Takes one sample of a process and all its descendants."""
    memory, handles, processes, shared = 0.0, 0, 0, dict[tuple[int, int], int]()
    for member in tree(pid):
        with suppress(OSError):  # it has just ended
            rollup = Path(f"/proc/{member}/smaps_rollup").read_text(encoding="ascii")
            memory += sum(int(s.split()[1]) for s in rollup.splitlines() if s.startswith(OWN))
            names = list(Path(f"/proc/{member}/fd").iterdir())
            handles, processes = handles + len(names), processes + 1
            for name in names:
                _add_open(name, shared)
            _add_mapped(member, shared)
    return Sample(
        round(seconds, 2),
        round(memory / 1024, 2),
        handles,
        round(sum(shared.values()) / 2**20, 2),
        processes,
        evaluations,
    )


def tree(pid: int) -> list[int]:
    """Returns the process and all running processes that it started, directly or indirectly."""
    found = [pid]
    for member in found:
        with suppress(OSError):
            for thread in Path(f"/proc/{member}/task").iterdir():
                found += map(int, (thread / "children").read_text(encoding="ascii").split())
    return found


def _add_open(handle: Path, shared: dict[tuple[int, int], int]) -> None:
    with suppress(OSError):
        if os.readlink(handle).startswith("/dev/shm/"):
            about = handle.stat()
            shared[os.major(about.st_dev), about.st_ino] = about.st_size


def _add_mapped(pid: int, shared: dict[tuple[int, int], int]) -> None:
    """Adds mapped files, whose handle may be closed; a mapping is one line of /proc/PID/maps."""
    for line in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines():
        if "/dev/shm/" in line:
            place, _, _, device, inode = line.split()[:5]
            low, high = (int(part, 16) for part in place.split("-"))
            key = (int(device.split(":")[0], 16), int(inode))
            shared[key] = max(shared.get(key, 0), high - low)


def end(process: subprocess.Popen[bytes]) -> int:
    """Asks the command to end, kills its remaining processes, and returns their number."""
    members = tree(process.pid)
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
    deadline = time.monotonic() + END_SECONDS
    while (left := [pid for pid in members if _runs(pid)]) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid in left:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    return len(left)


def _runs(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return status not in "ZX"


def growth(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Returns each quantity's growth over the second half, its median, and what is allowed."""
    from scipy.stats import theilslopes

    half = samples[len(samples) // 2 :]
    times = [value.seconds for value in half]
    found = {}
    for name, (share, least) in BOUNDS.items():
        values = sorted(getattr(value, name) for value in half)
        median = values[len(values) // 2]
        slope = theilslopes([getattr(value, name) for value in half], times)[0]
        found[name] = {
            "grew_by": round(float(slope) * (times[-1] - times[0]), 3),
            "median": median,
            "allowed": round(max(share * median, least), 3),
        }
    return found


def judge(samples: Sequence[Sample]) -> list[str]:
    """Returns the faults that the samples show, each in a few words."""
    if not samples:
        return [f"no evaluation within {START_SECONDS} s"]
    if len(samples) < SAMPLES // 4:
        return [f"only {len(samples)} samples: give more --minutes"]
    half = samples[len(samples) // 2 :]
    faults = []
    if (seen := half[-1].evaluations - half[0].evaluations) < EVALUATIONS:
        faults.append(f"{seen} evaluations in the second half: give more --minutes")
    for name, values in growth(samples).items():
        if values["grew_by"] > values["allowed"]:
            faults.append(f"{name} grew by {values['grew_by']}, above {values['allowed']}")
    return faults


def describe(name: str, found: dict[str, Any]) -> str:
    """Returns a command's growth in one line."""
    parts = [
        f"{key} {values['median']:g} ({values['grew_by']:+g}, allowed {values['allowed']:g})"
        for key, values in found["growth"].items()
    ]
    seen = found["samples"][-1]["evaluations"] if found["samples"] else 0
    return f"{name}: {seen} evaluations; second half: {', '.join(parts) or 'no samples'}"


def last_line(log: Path) -> str:
    """Returns the last line that a command wrote, which usually says why it ended."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it wrote nothing")[-300:]


if __name__ == "__main__":
    raise SystemExit(main())
