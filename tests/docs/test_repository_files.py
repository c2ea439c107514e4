"""The Dockerfile and the issue templates name what exists."""

from __future__ import annotations

import re
from configparser import ConfigParser

import yaml

from tests.docs.markdown_files import ROOT
from tests.docs.test_snippets import INSTALLED, problem


def test_the_dockerfile_copies_and_installs_what_exists() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for source in re.findall(r"^COPY (\S+) ", text, re.M):
        assert (ROOT / source).exists(), source
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', text)
    assert set(extras.split(",")) <= set(config["options.extras_require"])
    (command,) = re.findall(r'^CMD \["([\w-]+)"\]', text, re.M)
    assert command in INSTALLED
    example = re.sub(r"\\\n# +", "", text.split("docker run")[1].split("\n#\n")[0])
    words = example[example.index("mscn-train-det") :].split()
    assert not problem(INSTALLED[words[0]], words[1:])


def test_issue_templates() -> None:
    """GitHub's required keys, and commands that parse."""
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.name == "config.yml":
            continue
        assert content["name"] and content["description"], path
        ids = [part["id"] for part in content["body"]]
        assert len(ids) == len(set(ids)), path
        for tool, rest in re.findall(r"python tools/(\w+)\.py ?([^`]*)`", path.read_text()):
            assert not problem(tool, rest.split()), path
