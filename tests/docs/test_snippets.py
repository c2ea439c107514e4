"""The commands of the documents parse: their options, configs and keys exist."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from unittest import mock

import pytest
from fvcore.common.config import CfgNode

from pretrain.common.config import find_config, flat, load_config
from pretrain.common.errors import InputError
from pretrain.defaults import get_defaults as pretrain_defaults
from tests.docs.markdown_files import FILES, ROOT, Words, commands, expanded, name_of, spans
from transfer.classification.defaults import get_defaults as classification_defaults
from transfer.detection.defaults import make_defaults as detection_defaults
from transfer.detection.upstream_keys import ABSENT, ONLY
from transfer.suite.defaults import suite_defaults

SCRIPT = re.compile(r"(?:.*/)?tools/(\w+)\.py")
INSTALLED = dict(
    re.findall(r"(mscn-[\w-]+) = mscn\.tools\.(\w+):main", (ROOT / "setup.cfg").read_text())
)
KEY = re.compile(r"[A-Z][A-Z0-9]*(\.[A-Z0-9_]+)+")
NODE = re.compile(r"([A-Z][A-Z0-9_]*(?:\.[A-Z0-9_]+)*)\.\*")
YAML = re.compile(r"[\w/{},.]+\.yaml")
# Files that are not shipped: of a run, and of a reader's own
OWN_YAML = {"config.yaml", "shelves.yaml"}
# Keys of other programs that a page names: Detectron2's, which it says are refused or ignored
FOREIGN_PAGES = ("detectron2.md",)
Loader = Callable[[str, Sequence[str]], CfgNode]
LOADERS: dict[str, tuple[str, Loader]] = {
    "train_ssl": ("pretrain", lambda n, o: load_config(n, pretrain_defaults(), o, "pretrain")),
    "train_det": (
        "detection",
        lambda n, o: load_config(n, detection_defaults(), o, "detection"),
    ),
    "train_cls": (
        "classification",
        lambda n, o: load_config(n, classification_defaults(), o, "classification"),
    ),
    "run_suite": ("suites", lambda n, o: load_config(n, suite_defaults(), o, "suites")),
}


def words_of(text: str) -> list[Words]:
    """The commands that run one of the tools."""
    return [found for found in commands(text) if tool_of(found.words)]


def tool_of(words: Sequence[str]) -> tuple[str, list[str]] | None:
    """The tool that a command runs, and its arguments with braces expanded."""
    for place, word in enumerate(words):
        match = SCRIPT.fullmatch(word)
        name = match.group(1) if match else INSTALLED.get(word)
        if name:
            return name, [part for word in words[place + 1 :] for part in expanded_config(word)]
    return None


def expanded_config(word: str) -> list[str]:
    """Braces are the shell's unless they are in quotes, as YAML's are: those have a colon."""
    return [word] if ":" in word else expanded(word)


class Parsed(BaseException):
    """Carries what a tool's parser made of the arguments out of its `main`."""


def parsed(name: str, argv: Sequence[str]) -> argparse.Namespace:
    """What the tool's own parser makes of the arguments; nothing else of the tool runs."""

    def stop(parse: Callable[..., argparse.Namespace]) -> Callable[..., None]:
        def stopping(*given: object, **named: object) -> None:
            raise Parsed(parse(*given, **named))

        return stopping

    parser = argparse.ArgumentParser
    main = importlib.import_module(f"tools.{name}").main.__wrapped__
    with (
        mock.patch.object(parser, "parse_args", stop(parser.parse_args)),
        mock.patch.object(parser, "parse_intermixed_args", stop(parser.parse_intermixed_args)),
    ):
        try:
            main(argv)
        except Parsed as found:
            return found.args[0]
    raise AssertionError(f"tools/{name}.py does not parse its arguments")


def problem(name: str, argv: list[str]) -> str:
    """What is wrong with a command line of a tool; empty if nothing is."""
    said = io.StringIO()
    argv = [word for word in argv if word != "..."]
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            args = parsed(name, argv)
        config, opts = getattr(args, "config", None), list(getattr(args, "opts", []))
        for one in config if isinstance(config, list) else [config]:
            if one and "$" not in one and not placeholder(one):
                load(name, one, [] if any("$" in word for word in opts) else opts)
    except SystemExit as stop:
        return "" if stop.code in (0, None) else said.getvalue().strip().splitlines()[-1]
    except InputError as error:
        return str(error)
    return ""


def placeholder(config: str) -> bool:
    """Whether a config's name is a placeholder for any name."""
    return Path(config).stem.isupper()


def load(tool: str, config: str, opts: Sequence[str]) -> None:
    """Loads a config as the tool does; the doctor and the bench take it by its folder."""
    if config in OWN_YAML:
        return
    by_folder = {folder: loader for folder, loader in LOADERS.values()}
    folder = LOADERS[tool][0] if tool in LOADERS else ""
    parts = find_config(config, folder or "configs").resolve().parts
    kind = folder or next(part for part in parts if part in by_folder)
    by_folder[kind](config, opts)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_commands(path: Path) -> None:
    wrong = []
    for found in words_of(path.read_text(encoding="utf-8")):
        name, argv = tool_of(found.words) or ("", [])
        said = problem(name, argv)
        wrong += [f"{found.line.strip()}\n    {said}"] if said else []
    assert not wrong, "\n".join(wrong)


def test_a_wrong_command_is_found() -> None:
    def said(line: str) -> str:
        (found,) = words_of(f"```\n{line}\n```\n")
        return problem(*(tool_of(found.words) or ("", [])))

    assert not said("python tools/train_det.py --config voc_mscn.yaml SOLVER.MAX_ITER 20 # why")
    assert "voc_mscm" in said("python tools/train_det.py --config voc_mscm.yaml")
    assert "--weight" in said("python tools/train_cls.py --config knn.yaml --weight a --weights b")
    assert "SOLVER.MAXITER" in said("tools/train_det.py --config voc_mscn.yaml SOLVER.MAXITER 2")
    assert "MASK.RATOI" in said("mscn-pretrain --config mscn_r50.yaml MASK.RATOI 0.1")
    assert "nowhere" in said("cd x && A=1 torchrun --n 2 tools/train_ssl.py --config nowhere.yaml")


def test_there_are_commands_to_check() -> None:
    counts = {name_of(p): len(words_of(p.read_text(encoding="utf-8"))) for p in FILES}
    assert counts["README.md"] >= 10 and sum(counts.values()) > 80


@cache
def help_of(name: str, words: tuple[str, ...]) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        parsed(name, [*words, "--help"])
    return said.getvalue()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_options_in_code_spans(path: Path) -> None:
    wrong = []
    for span in spans(path.read_text(encoding="utf-8")):
        found = tool_of(span.split())
        if not found:
            continue
        name, argv = found
        commands_of_it = tuple(word for word in argv[:1] if name == "visualize" and word.isalpha())
        options = [word.strip("[]") for word in argv if word.strip("[]").startswith("--")]
        missing = [word for word in options if word not in help_of(name, commands_of_it)]
        wrong += [f"`{span}`: {name}.py has no option {word}" for word in missing]
    assert not wrong, "\n".join(wrong)


@cache
def known_keys() -> frozenset[str]:
    """All keys and nodes of the three configs, and Detectron2's that we know of."""
    keys: set[str] = set(ONLY) | set(ABSENT)
    for cfg in (pretrain_defaults(), detection_defaults(), classification_defaults()):
        keys |= set(flat(cfg))
    nodes = {".".join(key.split(".")[:n]) for key in keys for n in range(1, key.count(".") + 1)}
    return frozenset(keys | nodes)


@pytest.mark.parametrize("path", [p for p in FILES if p.name not in FOREIGN_PAGES], ids=name_of)
def test_config_keys_in_code_spans(path: Path) -> None:
    wrong = []
    for span in spans(path.read_text(encoding="utf-8")):
        key = span.split()[0]
        node = NODE.fullmatch(key)
        wanted = node.group(1) if node else key if KEY.fullmatch(key) else None
        if wanted and wanted not in known_keys():
            wrong.append(f"`{span}`: no config has the key {wanted}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_configs_in_code_spans(path: Path) -> None:
    wrong = []
    for span in spans(path.read_text(encoding="utf-8")):
        if not YAML.fullmatch(span) or Path(span).name in OWN_YAML or placeholder(span):
            continue
        for name in expanded(span):
            if not list((ROOT / "configs").rglob(Path(name).name)):
                wrong.append(f"`{span}`: there is no config {name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_make_targets_and_modules(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    lines = [" ".join(found.words) for found in commands(text)] + spans(text)
    made = {name for line in lines for name in re.findall(r"^make ([a-z][\w-]*)", line)}
    assert made <= targets, f"the Makefile has no target {sorted(made - targets)}"
    modules = {
        name
        for line in lines
        for name in re.findall(r"python -m ((?:benchmarks|tests|docs)\.[\w.]+)", line)
    }
    missing = [m for m in modules if not list(ROOT.glob(m.replace(".", "/") + "*"))]
    assert not missing, f"there is no module {missing}"
