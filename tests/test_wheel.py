"""A wheel that is installed outside the checkout works like the checkout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
DIGITS = ("--classification", "200", "0", "40", "--scenes", "1", "0", "1")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed wheel, inside a git repository of somebody else."""
    root = tmp_path_factory.mktemp("wheel")
    source = root / "source"
    source.mkdir()
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source)
    for name in ("pretrain", "transfer", "tools", "configs"):
        shutil.copytree(CHECKOUT / name, source / name)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    plain = ["--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *plain, "-w", str(root), str(source)], check=True)
    (wheel,) = root.glob("mscn-*.whl")
    subprocess.run(["git", "init", "-q", str(root / "theirs")], check=True)
    target = root / "theirs" / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    return target


def run(site: Path, *words: str, folder: Path) -> str:
    """Runs Python on a script of the wheel, in a folder that is not the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(site), "DETECTRON2_DATASETS": str(folder / "d")}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_wheel_scores_the_digits_and_reports_what_is_not_as_shipped(
    site: Path, tmp_path: Path
) -> None:
    command = lambda name, *words: run(site, str(site / "bin" / name), *words, folder=tmp_path)
    command("mscn-digits", "--output", "d", *DIGITS)
    edited = tmp_path / "knn_digits.yaml"
    shipped = (site / "mscn/configs/classification/knn_digits.yaml").read_text()
    edited.write_text(shipped.replace("RESIZE: 32", "RESIZE: 40"))
    scored = ("--weights", "random", "--output", "runs", "BACKBONE.NAME", "tiny_resnet")
    command("mscn-train-cls", "--config", str(edited), *scored)
    record = json.loads((tmp_path / "runs/trial_0/record.json").read_text())
    assert record["environment"]["git_commit"] == "absent"
    assert record["environment"]["mscn"] != "absent"
    command("mscn-report", "runs", "--output", "report")
    page = (tmp_path / "report/report.md").read_text()
    assert "PROTOCOL.RESIZE 40 (shipped: 32)" in page


def test_a_suite_of_a_wheel_starts_the_commands_of_the_wheel(site: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from transfer.suite.plan import command_of; "
        "print(command_of('det', 'voc_mscn.yaml', Path('out'))[1])"
    )
    script = run(site, "-c", code, folder=tmp_path).strip()
    assert script == str(site / "mscn/tools/train_det.py")
    assert Path(script).is_file()


def test_no_package_of_a_wheel_has_a_name_that_hides_others(site: Path) -> None:
    packages = {path.name for path in site.iterdir() if path.is_dir()} - {"bin"}
    assert {name for name in packages if not name.endswith(".dist-info")} == {
        "mscn",
        "pretrain",
        "transfer",
    }
