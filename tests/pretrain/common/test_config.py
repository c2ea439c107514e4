"""Config loading: bases, overrides, and errors that name the guilty file and key."""

from __future__ import annotations

from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from pretrain.common.config import config_sha256, dump_yaml, find_config, load_config
from pretrain.common.errors import InputError
from pretrain.defaults import get_defaults
from transfer.detection.config import all_defaults


def defaults() -> CfgNode:
    solver = {"LR": 0.1, "EPOCHS": 10, "STEPS": (1, 2)}
    return CfgNode({"SOLVER": solver, "NAME": "a", "SEED": 0, "FLAG": False})


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_bases_merge_from_far_to_near_and_overrides_win(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "SOLVER: {LR: 1, EPOCHS: 5}\nNAME: base")
    top = write(tmp_path / "top.yaml", "_BASE_: base.yaml\nSOLVER: {EPOCHS: 7}")
    cfg = load_config(str(top), defaults(), ["SOLVER.STEPS", "(3,)", "FLAG", "True"])
    assert (cfg.SOLVER.LR, cfg.SOLVER.EPOCHS, cfg.SOLVER.STEPS) == (1.0, 7, (3,))
    assert isinstance(cfg.SOLVER.LR, float) and cfg.NAME == "base" and cfg.FLAG is True
    assert cfg.is_frozen()


def test_lists_of_bases_and_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values of fvcore, which Detectron2 loads configs with; a later base decides."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    write(tmp_path / "home" / "far.yaml", "SOLVER: {LR: 1, EPOCHS: 1}\nNAME: far")
    write(tmp_path / "a.yaml", "_BASE_: ~/far.yaml\nSOLVER: {EPOCHS: 2, STEPS: [2]}")
    write(tmp_path / "b.yaml", "_BASE_: ~/far.yaml\nFLAG: true\nSOLVER: {EPOCHS: 3}")
    top = write(tmp_path / "top.yaml", "_BASE_: [a.yaml, b.yaml]\nNAME: top")
    cfg = load_config(str(top), defaults(), [])
    theirs = CfgNode.load_yaml_with_base(str(top))
    assert dict(cfg.SOLVER) == {**theirs["SOLVER"], "STEPS": (2,)} and cfg.SOLVER.EPOCHS == 3
    assert (cfg.NAME, cfg.FLAG) == (theirs["NAME"], theirs["FLAG"]) == ("top", True)


def test_bases_without_end_are_refused(tmp_path: Path) -> None:
    for number in range(40):
        write(tmp_path / f"{number}.yaml", f"_BASE_: [{number + 1}.yaml, {number + 1}.yaml]")
    write(tmp_path / "40.yaml", "")
    with pytest.raises(InputError, match="_BASE_ leads to more than 100 files"):
        load_config(str(tmp_path / "0.yaml"), defaults(), [])


def test_a_config_in_python_is_named_as_that(tmp_path: Path) -> None:
    path = write(tmp_path / "lazy.py", "model = dict(type='FasterRCNN')")
    with pytest.raises(InputError, match="lazy.py is Python code, as Detectron2's lazy configs"):
        load_config(str(path), defaults(), [])


def test_scalars_become_tuples_and_yaml_exponents_floats(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "SOLVER: {STEPS: 4, LR: 1e-4}")
    cfg = load_config(str(path), defaults(), [])
    assert cfg.SOLVER.STEPS == (4,) and cfg.SOLVER.LR == 1e-4
    path = write(tmp_path / "b.yaml", "SOLVER: {LR: '2'}")
    assert load_config(str(path), defaults(), []).SOLVER.LR == 2.0


@pytest.mark.parametrize(
    "text, overrides, expected",
    [
        ("SOLVER: {EPOHCS: 1}", [], "top.yaml: unknown key SOLVER.EPOHCS (did you mean"),
        ("SOLVER: 3", [], "SOLVER is a section"),
        ("SOLVER: {EPOCHS: many}", [], "SOLVER.EPOCHS must be a whole number, got 'many'"),
        ("SOLVER: {EPOCHS: }", [], "top.yaml: SOLVER.EPOCHS has no value; give it one"),
        ("- a", [], "a config must map keys to values"),
        ("a: [", [], "not readable as YAML"),
        ("_BASE_: top.yaml", [], "loops back"),
        ("_BASE_: gone.yaml", [], "names a missing file"),
        ("_BASE_: [top.yaml]", [], "loops back"),
        ("_BASE_: [3]", [], "_BASE_ must be a file name or a list of them, got [3]"),
        (
            "_BASE_: https://host/base.yaml",
            [],
            "top.yaml: _BASE_ 'https://host/base.yaml' is an address, which is not fetched; down",
        ),
        (
            "SOLVER: {LR: 2}\nNAME: b\nSOLVER: {EPOCHS: 1}",
            [],
            "the key 'SOLVER' is there twice: write it once",
        ),
        ("SOLVER: {LR: 2, EPOCHS: 1, LR: 3}", [], "the key 'LR' is there twice"),
        ("", ["NAME"], "'NAME' has no value"),
        ("", ["NAME", "x", "--resume", "y"], "put options first"),
        ("", ["NMAE", "x"], "override NMAE: unknown key NMAE (did you mean 'NAME'?)"),
        ("", ["NAME", "x", "SOLVER.EPOHCS", "3"], "override SOLVER.EPOHCS: unknown key SOLVER."),
        (
            "",
            ["NMAE", "x", "SOLVER.EPOCHS", "many", "SOLVER.EPOHCS", "3"],
            "overrides: unknown keys NMAE (did you mean 'NAME'?), SOLVER.EPOHCS (did you mean "
            "'SOLVER.EPOCHS' or 'SOLVER.STEPS'?); SOLVER.EPOCHS must be a whole number, got 'many'",
        ),
        (
            "NAME: b",
            ["EPOCHS", "3"],
            "override EPOCHS: unknown key EPOCHS (did you mean 'SOLVER.EPOCHS'?)",
        ),
    ],
)
def test_errors_name_file_and_key(
    tmp_path: Path, text: str, overrides: list[str], expected: str
) -> None:
    path = write(tmp_path / "top.yaml", text)
    with pytest.raises(InputError) as error:
        load_config(str(path), defaults(), overrides)
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_the_guilty_base_is_named(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "NOPE: 1")
    top = write(tmp_path / "top.yaml", "_BASE_: base.yaml\nNAME: b")
    with pytest.raises(InputError, match="base.yaml: unknown key NOPE"):
        load_config(str(top), defaults(), [])


def test_find_by_name_and_ambiguity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("one", "two"):
        (tmp_path / "configs" / folder).mkdir(parents=True)
        write(tmp_path / "configs" / folder / "twice_here.yaml", "")
    only = write(tmp_path / "configs" / "one" / "once_here.yaml", "")
    assert find_config("once_here.yaml", "one") == only
    assert find_config("once_here", "one") == only
    with pytest.raises(InputError, match="ambiguous"):
        find_config("twice_here.yaml", "one")
    with pytest.raises(InputError, match="did you mean 'once_here.yaml'"):
        find_config("once_her.yaml", "one")


@pytest.mark.parametrize(
    "name,folder,theirs",
    [
        ("knn_imagenet.yaml", "detection", "tools/train_cls.py"),
        ("voc12aug_fcn.yaml", "pretrain", "tools/train_det.py"),
        ("step_3", "classification", "tools/train_ssl.py"),
        ("detection.yaml", "detection", "tools/run_suite.py"),
    ],
)
def test_a_config_of_another_command_names_it(name: str, folder: str, theirs: str) -> None:
    with pytest.raises(InputError, match=f"^{name} is a config for {theirs}, not for tools/"):
        load_config(name, defaults(), folder=folder)


def test_a_base_of_another_command_names_it(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.yaml", "_BASE_: own_fpn.yaml")
    words = r"mine.yaml \(its base is .*own_fpn.yaml\) is a config for tools/train_det.py"
    with pytest.raises(InputError, match=words):
        load_config(str(mine), get_defaults(), folder="pretrain")
    load_config(str(mine), all_defaults(), folder="detection")


def test_identity_ignores_output_and_seed(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.yaml", ""))
    one, other = load_config(path, defaults(), []), load_config(path, defaults(), ["SEED", "3"])
    changed = load_config(path, defaults(), ["NAME", "b"])
    assert config_sha256(one) == config_sha256(other) != config_sha256(changed)
    again = write(tmp_path / "again.yaml", dump_yaml(one))
    assert load_config(str(again), defaults(), []) == one


def test_a_base_may_be_the_name_of_a_shipped_config(tmp_path: Path) -> None:
    """A config of one's own extends a shipped one without its path."""
    path = write(tmp_path / "mine.yaml", "_BASE_: simclr_r50.yaml\nSEED: 7\n")
    cfg = load_config(str(path), get_defaults())
    assert cfg.SEED == 7
    assert cfg.BACKBONE.NAME == "resnet50"
    assert cfg.DATASETS.TRAIN == "imagenet:train"
