"""Names of files and overrides on a command line."""

from __future__ import annotations

import argparse

import pytest

from pretrain.common.cli import add_command, make_parser, short_names, split_overrides
from pretrain.common.errors import InputError


@pytest.mark.parametrize(
    "paths, names",
    [
        (["runs/mscn/", "runs/simclr"], ["mscn", "simclr"]),
        (["a/checkpoint.pth", "b/checkpoint.pth"], ["a-checkpoint", "b-checkpoint"]),
        (["x/a/run", "x/b/run", "c"], ["a-run", "b-run", "x-c"]),
        (["configs/step_0.yaml"], ["step_0"]),
        (["moco.v2.pth.tar"], ["moco.v2"]),
    ],
)
def test_short_names(
    paths: list[str], names: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path / "x")
    assert short_names(paths) == names


@pytest.mark.parametrize("paths", [["a", "b", "./a"], ["a.pth", "a.pkl"]])
def test_paths_that_cannot_be_told_apart(paths: list[str]) -> None:
    with pytest.raises(InputError, match="given twice|by their suffixes only"):
        short_names(paths)


def test_overrides_after_several_names() -> None:
    assert split_overrides(["a.yaml", "README.yaml"]) == (["a.yaml", "README.yaml"], [])
    words = ["a", "VIEWS.A.COUNT", "2", "SEED", "1"]
    assert split_overrides(words) == (["a"], words[1:])


def test_a_command_has_its_own_example(capsys: pytest.CaptureFixture[str]) -> None:
    parser = make_parser("All of it.", "x views a", overrides=False)
    commands = parser.add_subparsers(dest="command", required=True)
    views = add_command(commands, "views", "some of it", "x views --rows 3 SEED 1", overrides=True)
    views.add_argument("--rows", type=int)
    args = parser.parse_args(["views", "--rows", "3", "SEED", "1"])
    assert vars(args) == vars(argparse.Namespace(command="views", rows=3, opts=["SEED", "1"]))
    with pytest.raises(SystemExit):
        parser.parse_args(["views", "--help"])
    text = capsys.readouterr().out
    assert "some of it" in text and "example:\n  x views --rows 3 SEED 1" in text
