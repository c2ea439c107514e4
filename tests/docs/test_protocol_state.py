"""What the lists of protocols say of our runs is what the kept records, headers and tests show."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import pytest

from benchmarks.marked_page import END, begin_of
from docs.generate.config_headers import read_header
from docs.generate.pages import DOCS, PAGES
from docs.generate.protocol_state import (
    CONFIGS,
    FORMAT,
    FORMAT_TESTS,
    NO_RECORD,
    RESULTS,
    ROOT,
    RUN,
    SMALL,
    TWIN,
    State,
    format_test,
    scored_data,
    state_of,
)
from docs.generate.readme_table import GROUPS, MODULE, readme

ALL = sorted(CONFIGS.rglob("*.yaml"))
TRANSFER = [path for path in ALL if path.is_relative_to(CONFIGS / "detection")]
TRANSFER += [path for path in ALL if path.is_relative_to(CONFIGS / "classification")]


def state(name: str) -> State:
    (path,) = CONFIGS.rglob(f"{name}.yaml")
    return state_of(path, read_header(path))


@pytest.mark.parametrize(
    "name, expected, evidence",
    [
        ("groceries_fpn", RUN, "[detection](results/detection.md)"),
        ("digits_vitdet", RUN, ""),  # its header has the number
        ("linear_imagenet_simclr", SMALL, "on `folder:flowers5:val`"),
        ("coco_mscn_fpn_1x", SMALL, "as `coco_mini_fpn`"),
        ("robustness_imagenet_c", SMALL, "as `robustness_tiny100`"),
        ("ade20k_upernet_mae", SMALL, "as `digits_upernet`"),
        ("voc_mscn", FORMAT, "`tests/transfer/datasets/test_voc.py`"),
        ("robustness_imagenet_r", FORMAT, "`tests/pretrain/data/test_robustness_sets.py`"),
        ("natural12", FORMAT, ""),
        ("own_fpn", NO_RECORD, ""),
        ("groceries_c4", NO_RECORD, ""),
    ],
)
def test_states(name: str, expected: str, evidence: str) -> None:
    found = state(name)
    assert found.kind == expected
    assert evidence in found.evidence if evidence else not found.evidence


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_a_run_is_shown(path: Path) -> None:
    """By a record of this protocol, a table with its row, its suite's page, or a number of ours."""
    header = read_header(path)
    found = state_of(path, header)
    if not found.was_run:
        return
    twins = [part.removeprefix("as ").strip("`") for part in found.evidence if "as `" in part]
    if twins:
        assert all(state(name).kind == RUN for name in twins)
        return
    if path.stem in recorded():
        return
    pages = [RESULTS / f"{name}.md" for name in header.pages]
    text = "".join(file.read_text("utf-8") for page in pages for file in _with_folder(page))
    suites = [file for file in (CONFIGS / "suites").glob("*.yaml") if file.name in text]
    if any(path.name in suite.read_text("utf-8") for suite in suites):
        return
    row = re.sub(r"_(r18_tiny100|cpu)$", "", path.stem)
    numbered = re.match(r"masking_(\d)_", row)  # the page has the rows as (1) ...
    shown = f"| ({numbered.group(1)}) " in text if numbered else row in text
    assert header.own or shown or row == "base_masking", f"{path.stem}: {found}"


@cache
def recorded() -> frozenset[str]:
    """The protocols of all records that are kept."""
    records = (json.loads(file.read_text("utf-8")) for file in RESULTS.rglob("record.json"))
    return frozenset(record["protocol"]["name"] for record in records)


def _with_folder(page: Path) -> list[Path]:
    return [page, *page.with_suffix("").glob("*.md")]


@pytest.mark.parametrize("prefix", FORMAT_TESTS)
def test_the_named_test_reads_the_format(prefix: str) -> None:
    text = (ROOT / FORMAT_TESTS[prefix]).read_text(encoding="utf-8")
    assert prefix.removesuffix("_coco_2017") in text, f"{FORMAT_TESTS[prefix]} has no {prefix}"


def test_every_official_set_has_a_test() -> None:
    """A name without a colon is a built-in one, and its layout is official."""
    for path in TRANSFER:
        data = scored_data(path)
        if data and ":" not in data:
            assert format_test(data), f"{path.stem}: {data}"


def test_twins_are_configs() -> None:
    names = {path.stem for path in ALL}
    for path in ALL:
        assert set(TWIN.findall(read_header(path).title)) <= names, path.stem


def test_every_row_has_a_state() -> None:
    page = PAGES["protocols.md"]()
    for path in ALL:
        if path.parent.name == "vits":
            continue
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{path.stem}` |")]
        assert f"| **{state(path.stem).kind}**" in row


def test_table_of_the_readme() -> None:
    text = readme()
    rows = text[text.index(begin_of(MODULE)) : text.index(END)].splitlines()[3:]
    assert len(rows) == len(GROUPS) and all(group.configs() for group in GROUPS)
    published = {path.stem for path in TRANSFER if read_header(path).not_run}
    grouped = {path.stem for group in GROUPS for path in group.configs()}
    own = {name for name in published if name.startswith(("own_", "finetune_", "voc_fpn"))}
    assert published - own <= grouped, "a protocol with published numbers is in no row"
    for target in re.findall(r"\]\((docs/[^)]+)\)", "".join(rows)):
        assert (DOCS.parent / target).is_file(), target
