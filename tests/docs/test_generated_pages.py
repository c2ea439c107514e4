"""The generated pages are up to date, and the comments that they are made from are parsed right."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from docs.generate.config_headers import parse_header, read_header
from docs.generate.config_pages import classification_page, detection_page, pretraining_page
from docs.generate.pages import DOCS, PAGES, outdated
from pretrain.common.config import CHECKOUT, flat
from pretrain.defaults import get_defaults as pretrain_defaults
from transfer.checkpoints.formats.all_formats import FORMATS
from transfer.checkpoints.formats.key_format import CLASS, RELEASED, TEXT
from transfer.classification.defaults import get_defaults as classification_defaults
from transfer.detection.defaults import make_defaults as detection_defaults

CONFIGS = sorted((CHECKOUT / "configs").rglob("*.yaml"))


def test_pages_are_up_to_date() -> None:
    assert not outdated(), "run: python -m docs.generate"


def test_counts_of_formats_in_hand_written_text() -> None:
    kinds = [entry.evidence for entry in FORMATS.values()]
    proven, read = kinds.count(CLASS), kinds.count(TEXT)
    readme = " ".join((CHECKOUT / "README.md").read_text(encoding="utf-8").split())
    assert f"Of {len(kinds)} [checkpoint formats]" in readme, f"there are {len(kinds)} formats"
    assert f"{proven} are tested against names" in readme and f"and {read} against" in readme
    guide = " ".join((DOCS / "checkpoints.md").read_text(encoding="utf-8").split())
    assert f"{proven} formats are tested with names" in guide
    assert f"{read} with our reading" in guide
    released = kinds.count(RELEASED)
    assert released == 1 and "one (EfficientNet-Lite) against released files" in readme
    assert f"{released} with released files: EfficientNet-Lite" in guide


def test_every_format_has_its_row() -> None:
    text = PAGES["checkpoint_formats.md"]()
    kinds = {CLASS: "class", TEXT: "text", RELEASED: "released"}
    for name, entry in FORMATS.items():
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{name}`")]
        assert row.endswith(f"| {kinds[entry.evidence]} |"), name
        assert ("only by `--source`" in row) == entry.forced, name


@pytest.mark.parametrize(
    "page, defaults",
    [
        (pretraining_page, pretrain_defaults),
        (detection_page, detection_defaults),
        (classification_page, classification_defaults),
    ],
)
def test_every_key_has_one_row(page: Callable[[], str], defaults: Callable[[], CfgNode]) -> None:
    keys = re.findall(r"^\| `([A-Z_0-9.]+)` \|", page(), re.M)
    assert sorted(keys) == sorted(flat(defaults()))


def row_of(text: str, key: str) -> list[str]:
    (row,) = [line for line in text.splitlines() if line.startswith(f"| `{key}` |")]
    return [cell.strip() for cell in row.strip("|").split(" | ")]


def test_rows_of_keys() -> None:
    """A comment beside, above, in a function, copied by clone(), and on a statement of 3 lines."""
    pretraining, detection = pretraining_page(), detection_page()
    size = row_of(pretraining, "VIEWS.SIZE")
    assert size[1:] == ["`224`", "protocol", "px", "px, square"]
    assert row_of(pretraining, "VIEWS.B.BLUR_PROB")[3] == "probability, 0 to 1"
    assert "a warning says if" in row_of(pretraining, "SOLVER.RECIPE_BATCH_SIZE")[4]
    assert row_of(pretraining, "DATALOADER.PREFETCH_GIB")[1:4] == ["`2.0`", "machine", "GiB"]
    assert row_of(detection, "MODEL.WEIGHTS")[2] == "weights"
    assert row_of(detection, "MODEL.DEVICE")[4] == 'OURS: means "the GPU if there is one"'
    assert "memory layout" in row_of(detection, "TRANSFER.CHANNELS_LAST")[4]
    assert row_of(detection, "TRANSFER.ACCUMULATE")[2] == "protocol, if used"
    assert "parts of a batch that a process computes" in row_of(detection, "TRANSFER.ACCUMULATE")[4]
    assert row_of(classification_page(), "SEED")[2] == "trial"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_headers_are_taken_apart(path: Path) -> None:
    header = read_header(path)
    assert header.title and not re.search(r"Source:|Hardware:|Published", header.title)
    text = " ".join(re.findall(r"^# ?(.*)$", path.read_text(encoding="utf-8"), re.M))
    said_not_run = re.search(r"\b[Nn]ot (reproduced|run)\b", text)
    assert bool(header.not_run) == bool(said_not_run)
    for label, field in (("Hardware:", header.hardware), ("Source:", header.source)):
        assert bool(field) or label not in text, label


def test_parts_of_a_header() -> None:
    header = parse_header(
        "COCO, C4. Source: a/b at 7, x.yaml. Hardware: 8 GPUs; hours: not measured. "
        "Published box AP (at v1.0, x.md): 40.1 (README). Not reproduced here yet."
    )
    assert (header.title, header.source) == ("COCO, C4", "a/b at 7, x.yaml")
    assert header.hardware == "8 GPUs; hours: not measured"
    assert header.published == "box AP (at v1.0, x.md): 40.1 (README)"
    assert header.not_run == "Not reproduced here yet" and not header.own
    ours = parse_header("Digits. Cost: 1 s; measured from random weights: AP 36. Published: none.")
    assert (ours.own, ours.published) == ("measured from random weights: AP 36", "none")
