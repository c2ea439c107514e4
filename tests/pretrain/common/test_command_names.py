"""The commands of an installed package are named in help and errors as the user started them."""

from __future__ import annotations

import configparser
import logging
from pathlib import Path

import pytest

from pretrain.common.cli import make_parser
from pretrain.common.command_names import COMMANDS, as_started
from pretrain.common.errors import InputError
from pretrain.common.exit_status import exit_status
from pretrain.common.logs import LogFormatter

ROOT = Path(__file__).resolve().parents[3]


def test_all_commands_of_the_package_are_listed() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options.entry_points"]["console_scripts"].split("\n")
    pairs = [line.split(" = ") for line in lines if line]
    assert {place.split(".")[-1].removesuffix(":main"): name for name, place in pairs} == COMMANDS


def fail() -> None:
    raise InputError(
        "run tools/train_cls.py or python tools/train_det.py first, not tools/bench.py"
    )


@pytest.mark.parametrize(
    "program, one, other",
    [
        ("/usr/bin/mscn-report", "mscn-train-cls", "mscn-train-det"),
        ("tools/report.py", "tools/train_cls.py", "python tools/train_det.py"),
    ],
)
def test_help_and_errors_name_what_the_user_can_start(
    program: str,
    one: str,
    other: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", [program])
    assert exit_status(fail) == 2
    said = f"error: run {one} or {other} first, not tools/bench.py\n"
    assert capsys.readouterr().err == said
    parser = make_parser("Says what tools/train_cls.py says.", "python tools/train_det.py --x 1")
    shown = parser.format_help()
    assert f"Says what {one} says." in shown and f"example:\n  {other} --x 1" in shown
    assert as_started("retools/report.pyx") == "retools/report.pyx"
    line = logging.makeLogRecord({"msg": "tools/%s.py says more", "args": ("train_cls",)})
    assert LogFormatter("%(message)s").format(line) == f"{one} says more"


def test_a_worker_of_an_installed_suite_names_commands_that_exist(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A suite starts the package's modules, which are not called mscn-...
    monkeypatch.setattr("sys.argv", [str(tmp_path / "mscn" / "tools" / "train_det.py")])
    assert as_started("tools/train_cls.py") == "tools/train_cls.py"
    monkeypatch.setattr("pretrain.common.config.CHECKOUT", tmp_path)
    assert as_started("python tools/train_cls.py FILE") == "mscn-train-cls FILE"
