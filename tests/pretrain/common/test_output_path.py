"""Which paths --output may name, and which runs a folder may have."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.common.checkpoint import previous_of
from pretrain.common.cli import PRETRAINING, TRIALS, output_folder
from pretrain.common.errors import InputError
from pretrain.common.locks import one_writer
from pretrain.common.output_path import check_output
from pretrain.common.run_files import CHECKPOINT, CONFIG, RECORD, WEIGHTS_FILE


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "--output is empty; give a folder"),
        (" ", "--output is empty; give a folder"),
        ("a\0b", "has a NUL character"),
        ("~/runs", "~ was not replaced by the shell; give HOME/runs"),
        ("file", "--output file is a file; give a folder"),
        ("file/run", "--output file/run: file is a file"),
        ("dangling", "dangling is a link to nowhere, which is not there"),
        ("dangling/run", "--output dangling/run: dangling is a link to nowhere"),
        ("loop", "loop is a link to loop, which is not there"),
    ],
)
def test_a_path_where_no_folder_can_be_is_named(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "HOME")
    Path("file").touch()
    Path("dangling").symlink_to("nowhere")
    Path("loop").symlink_to("loop")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=f"^.*{message}"), one_writer(name):
        pass
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "name",
    [".", "a  b", "\u00fc-\u6587", "link", "link/new", "new/../other", "~nobody-has-this-name"],
)
def test_any_other_path_is_a_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("real").mkdir()
    Path("link").symlink_to("real")
    assert check_output(name) == Path(name)
    with one_writer(name):
        assert Path(name, ".lock").is_file()


@pytest.mark.parametrize(
    ("own", "files", "refused"),
    [
        (PRETRAINING, [CHECKPOINT, CONFIG], ""),
        (PRETRAINING, [CONFIG], ""),  # killed before its first checkpoint
        (PRETRAINING, [CONFIG, RECORD, WEIGHTS_FILE], RECORD),  # the folder of one trial
        (PRETRAINING, [CONFIG, WEIGHTS_FILE], WEIGHTS_FILE),
        (PRETRAINING, [f"trial_1/{CONFIG}"], f"trial_1/{CONFIG}"),
        (PRETRAINING, [CHECKPOINT, f"trial_0/{RECORD}"], ""),  # both, made by earlier versions
        (TRIALS, [f"trial_0/{CONFIG}"], ""),
        (TRIALS, [CHECKPOINT, CONFIG], CHECKPOINT),
        (TRIALS, [previous_of(Path(CHECKPOINT)).name, CONFIG], "checkpoint.prev.pth"),
        (TRIALS, [RECORD, CONFIG], RECORD),
    ],
)
def test_a_run_is_resumed_only_by_its_own_command(
    own: tuple[str, ...], files: list[str], refused: str, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="already exists; add --resume"):
        output_folder(tmp_path, False, own)
    if refused:
        with pytest.raises(InputError, match=f"{refused} is of a run of a different command"):
            output_folder(tmp_path, True, own)
    else:
        assert output_folder(tmp_path, True, own) == tmp_path
