"""Each command in a separate process: bad input gives one line on stderr and exit status 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
BAD = {
    "train_ssl.py": ["--config", "mscn_demo.yaml", "SOLVER.EPOHCS", "3"],
    "convert_weights.py": ["gone.pth", "out.pkl"],
    "train_det.py": ["--config", "digits_vco.yaml", "--weights", "random"],
    "train_cls.py": ["--config", "knn_digits.yaml", "--weights", "gone.pth"],
    "run_suite.py": ["--config", "demo.yaml", "--checkpoint", "a=gone.pth"],
    "doctor.py": ["--config", "digits_vco.yaml"],
    "report.py": ["gone", "--output", "report"],
    "make_digits.py": ["--output", "a_file"],
    "bench.py": ["loader", "--config", "mscn_dmo.yaml"],
    "visualize.py": ["kernels", "--weights", "gone.pth"],
}
NAMED = {
    "train_ssl.py": "EPOHCS",
    "train_det.py": "digits_vco",
    "train_cls.py": "digits_cls/train",
    "doctor.py": "digits_vco",
    "bench.py": "mscn_dmo",
}


def test_every_command_is_here() -> None:
    assert {path.name for path in TOOLS.glob("[!_]*.py")} == set(BAD)


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_status_two(name: str, tmp_path: Path) -> None:
    (tmp_path / "a_file").write_text("here first")
    command = [sys.executable, str(TOOLS / name), *BAD[name]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    default = "a_file" if name == "make_digits.py" else "gone"
    assert NAMED.get(name, default) in line
    assert [path.name for path in tmp_path.iterdir()] == ["a_file"], "nothing half-written"
