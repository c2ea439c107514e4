"""The version is written once, in setup.cfg; the other files agree with it."""

from __future__ import annotations

import re
from configparser import ConfigParser

import yaml

from tests.docs.markdown_files import ROOT


def test_citation_and_changes_are_of_this_version() -> None:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    version = config["metadata"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version and citation["license"] == config["metadata"]["license"]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+) \((\S+)\)", changes, re.M)
    assert newest and newest.group(1) == version
    assert newest.group(2) == str(citation["date-released"])


def test_extras_are_packages_that_something_uses() -> None:
    """Each extra is named in a guide, or is one of the developers' own."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = set(config["options.extras_require"]) - {"test", "dev", "peers"}
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    assert all(re.search(rf"\[{extra}\]|extra `{extra}`", text) for extra in extras)
