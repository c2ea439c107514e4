"""Has a protocol been run here? Derived from the kept records, the configs' headers and the tests.

A state is never written by hand. A run counts if its record is kept in docs/results, if a page
there belongs to the config, or if the config's header has a number that we measured. A config that
was not run itself has been run "small" if the record of a run on other data is kept, or if a config
was run whose header calls itself "the small twin of NAME.yaml": one with the protocol's kind of
network, file format and scores, on few small images. Otherwise the tests read the data set's
official layout, and generated files in it are all that was read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from docs.generate.config_headers import Header, read_header
from pretrain.common.config import base_chain
from pretrain.defaults import get_defaults

ROOT = Path(__file__).resolve().parents[2]
CONFIGS, RESULTS = ROOT / "configs", ROOT / "docs" / "results"
RUN, SMALL = "run here", "run here small"
FORMAT, NO_RECORD = "read in format only", "no run is recorded"
TWIN = re.compile(r"\bsmall twin of (\w+)\.yaml")
# By the beginning of a data set's name: the test that reads generated files in its layout.
FORMAT_TESTS: Mapping[str, str] = {
    "voc_2007": "tests/transfer/datasets/test_voc.py",
    "coco_2017": "tests/transfer/datasets/test_registry.py",
    "keypoints_coco_2017": "tests/transfer/datasets/test_keypoints.py",
    "lvis_v1": "tests/transfer/datasets/test_lvis.py",
    "cityscapes_fine_instance_seg": "tests/transfer/detection/test_cityscapes.py",
    "cityscapes_fine_sem_seg": "tests/transfer/segmentation/test_cityscapes.py",
    "ade20k_sem_seg": "tests/transfer/segmentation/test_ade20k.py",
    "voc_2012_sem_seg": "tests/transfer/segmentation/test_data.py",
    "imagenet:": "tests/pretrain/data/test_datasets.py",
    "cifar10:": "tests/pretrain/data/test_datasets.py",
    "cifar100:": "tests/pretrain/data/test_datasets.py",
    "folder:birdsnap:": "tests/transfer/classification/test_natural_sets.py",
    "inat2018:": "tests/pretrain/data/test_official_lists.py",
    "places205:": "tests/pretrain/data/test_official_lists.py",
    **dict.fromkeys(
        ("aircraft", "caltech101", "cars", "dtd", "flowers102", "food101", "pets", "sun397"),
        "tests/pretrain/data/test_natural_images.py",
    ),
    **dict.fromkeys(
        ("imagenet_a", "imagenet_c", "imagenet_r", "imagenet_sketch", "imagenet_v2"),
        "tests/pretrain/data/test_robustness_sets.py",
    ),
}


class State(NamedTuple):
    """Whether a protocol was run here, and what shows it: links and names, as Markdown."""

    kind: str
    evidence: tuple[str, ...] = ()

    @property
    def was_run(self) -> bool:
        """Whether a run is recorded, of any size."""
        return self.kind in (RUN, SMALL)

    def __str__(self) -> str:
        return f"**{self.kind}**" + (": " + ", ".join(self.evidence) if self.evidence else "")


class Kept(NamedTuple):
    """A protocol's records that are kept: the pages that link to them, and their test sets."""

    pages: frozenset[str]
    data: frozenset[str]


def state_of(path: Path, header: Header) -> State:
    """Returns the state of the protocol in a config."""
    own = _own_state(path, header)
    twins = [name for name, twin in _twins().items() if path.stem in twin]
    if own.kind == NO_RECORD and twins:
        return State(SMALL, tuple(f"as `{name}`" for name in sorted(twins)))
    test = format_test(scored_data(path)) if own.kind == NO_RECORD else ""
    return State(FORMAT, (f"`{test}`",)) if test else own


def _own_state(path: Path, header: Header) -> State:
    """Of the config itself, without its twins and the tests."""
    kept, data = kept_records().get(path.stem), scored_data(path)
    pages = set(header.pages) | (set(kept.pages) if kept else set())
    links = tuple(f"[{name}](results/{name}.md)" for name in sorted(pages))
    if kept and data and data not in kept.data:
        return State(SMALL, (*links, *(f"on `{name}`" for name in sorted(kept.data))))
    if links and (kept or not header.not_run):
        return State(RUN, links)
    if header.own:
        return State(RUN)
    # A suite does not name any data: its header says if it was run on generated data.
    return State(FORMAT if "generated images" in header.not_run else NO_RECORD)


def scored_data(path: Path) -> str:
    """Returns the first test set of a config, of a pretraining config its training set; "" if its
    user has to name it.
    """
    pretrains = "pretrain" in path.parts
    names = _data_of(path, "TRAIN" if pretrains else "TEST")
    if names is None:
        return get_defaults().DATASETS.TRAIN if pretrains else ""
    return names if isinstance(names, str) else next(iter(names), "")


def _data_of(path: Path, key: str) -> str | list[str] | None:
    """Returns DATASETS.`key` of a config or of the nearest config that it is based on."""
    found = (content.get("DATASETS", {}).get(key) for _, content in base_chain(path))
    return next((names for names in found if names is not None), None)


def format_test(data: str) -> str:
    """Returns the test that reads the layout of a data set's files; "" if it has no layout of its
    own.
    """
    found = [prefix for prefix in FORMAT_TESTS if data.startswith(prefix)]
    return FORMAT_TESTS[max(found, key=len)] if found else ""


@cache
def kept_records() -> Mapping[str, Kept]:
    """Returns each protocol's records in a folder of docs/results that a page there links to."""
    pages = {page.stem: page.read_text(encoding="utf-8") for page in RESULTS.glob("*.md")}
    found: dict[str, Kept] = {}
    for file in RESULTS.rglob("record.json"):
        folder = file.relative_to(RESULTS).parts[0]
        linked = {name for name, text in pages.items() if re.search(rf"\b{folder}/", text)}
        if not linked:
            continue
        record = json.loads(file.read_text(encoding="utf-8"))
        name = record["protocol"]["name"]
        earlier = found.get(name, Kept(frozenset(), frozenset()))
        found[name] = Kept(earlier.pages | linked, earlier.data | {record["dataset"]})
    return found


@cache
def _twins() -> Mapping[str, frozenset[str]]:
    """Returns, for each config that was run here, the protocols whose small twin it is."""
    found = {}
    for path in CONFIGS.rglob("*.yaml"):
        header = read_header(path)
        named = frozenset(TWIN.findall(header.title))
        if named and _own_state(path, header).kind == RUN:
            found[path.stem] = named
    return found
