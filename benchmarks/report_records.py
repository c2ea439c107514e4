"""Seconds and memory that `tools/report.py` takes for a report of many records.

    python benchmarks/report_records.py --output benchmarks/results/report_records_2cores.json

The inputs are made-up records: one of the shipped records, with different names and numbers, for
checkpoints times protocols times trials, each with its curves, kernels and 200 bootstrap
replicates. The outputs are seconds of processor time, the page's size and the process's peak
memory. If chromium is installed, also the time in which it loads the page.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.coco_start import measured, peak_mib
from benchmarks.result_file import write_result
from transfer.results.replicates import Replicates

RECORD = Path("docs/results/detection_small/boxes/mscn/trial_0")
PROTOCOLS, TRIALS = 5, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--output", type=Path, help="JSON file of the result")
    args = parser.parse_args()
    rows = []
    for number in args.records:
        with tempfile.TemporaryDirectory() as temporary:
            make_records(Path(temporary) / "runs", number)
            rows.append({"records": number} | measured(report, Path(temporary)))
            rows[-1]["browser_s"] = opened(Path(temporary) / "report" / "report.html")
            print(json.dumps(rows[-1]))
    if args.output:
        write_result(args.output, {"rows": rows})


def make_records(folder: Path, number: int) -> None:
    """Writes trial folders with records, curves and kernels."""
    content, rng = json.loads((RECORD / "record.json").read_text()), random.Random(0)
    quality = [rng.gauss(0, 1) for _ in range(number)]
    for index in range(number):
        trial, rest = index % TRIALS, index // TRIALS
        protocol, checkpoint = rest % PROTOCOLS, rest // PROTOCOLS
        record: dict[str, Any] = copy.deepcopy(content)
        record["trial"] = record["seed"] = trial
        record["checkpoint"]["name"] = f"checkpoint{checkpoint}"
        for key in record["checkpoint"]:
            if key.endswith("sha256"):
                record["checkpoint"][key] = _sha(f"{key} {checkpoint}")
        record["protocol"]["name"] = f"protocol{protocol}"
        record["protocol"]["config_sha256"] = _sha(f"protocol {protocol}")
        for metric in record["metrics"]:
            record["metrics"][metric] += rng.gauss(0, 2) + quality[checkpoint]
        place = folder / f"protocol{protocol}" / f"checkpoint{checkpoint}" / f"trial_{trial}"
        place.mkdir(parents=True)
        for file in RECORD.iterdir():
            if file.is_file():
                shutil.copy(file, place)
        record["artifacts"]["replicates"] = make_replicates(place, record["metrics"]).name
        (place / "record.json").write_text(json.dumps(record))


def make_replicates(folder: Path, metrics: dict[str, float | None]) -> Path:
    """Writes bootstrap draws of 100 test images, whose scores vary around each metric."""
    drawn = Replicates.draw(range(100))
    rng = np.random.default_rng(len(str(folder)))
    for metric, value in metrics.items():
        if value is not None:
            scores = rng.normal(0, 5, 100)
            drawn.add({metric: value + (scores - scores.mean()) @ drawn.weights / 100})
    return drawn.write(folder)


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def report(folder: Path) -> dict[str, Any]:
    """Writes the complete report."""
    from transfer.report.run import write_report

    imported, begin = peak_mib(), time.process_time()
    written = write_report([str(folder / "runs")], str(folder / "report"))
    page = written.page.stat().st_size / 2**20
    return {
        "cpu_s": round(time.process_time() - begin, 2),
        "page_mib": round(page, 2),
        "peak_mib": peak_mib(),
        "peak_mib_after_imports": imported,
    }


def opened(page: Path) -> float | None:
    """Seconds until chromium has loaded the page, run its script and written its tree; or None."""
    browser = shutil.which("chromium")
    if browser is None:
        return None
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()]
    with tempfile.TemporaryDirectory() as profile:
        begin = time.perf_counter()
        found = subprocess.run(
            [*command, f"--user-data-dir={profile}"], capture_output=True, check=True, text=True
        )
    assert "</html>" in found.stdout, "the page was not loaded"
    return round(time.perf_counter() - begin, 2)


if __name__ == "__main__":
    main()
