"""Completes `mkdocs.yml` for MkDocs: pages that are files outside docs/, and their links.

README, CONTRIBUTING, CHANGELOG and benchmarks/README.md are pages of the site, so that no text is
written twice. A link that is right in the repository is turned into the one of the site; a link to
a file that the site does not have (code, configs, folders) becomes its name as code.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Pages of the site, by their files of the repository.
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "speed.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"(^```.*?^```$)", re.M | re.S)


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are outside docs/."""
    from mkdocs.structure.files import File

    for source, page in OUTSIDE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **others: Any) -> str:
    """Turns the links of a page into those of the site."""
    here = next((s for s, p in OUTSIDE.items() if p == page.file.src_uri), None)
    return site_links(markdown, here or f"docs/{page.file.src_uri}")


def site_links(markdown: str, source: str) -> str:
    """Returns the text with the site's links; code blocks stay as they are.

    Args:
        source: the file that the text is from, relative to the repository.
    """
    parts = FENCE.split(markdown)
    replace = lambda match: _site_link(match, source)
    return "".join(part if part.startswith("```") else LINK.sub(replace, part) for part in parts)


def _site_link(match: re.Match[str], source: str) -> str:
    picture, text, link = match.groups()
    path, _, anchor = link.partition("#")
    if ":" in path or not path:  # another site, or this page
        return match.group(0)
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    site = OUTSIDE.get(target) or (target.removeprefix("docs/") if _on_site(target) else None)
    if site is None:
        return f"`{text.strip('`')}`"
    here = OUTSIDE.get(source) or source.removeprefix("docs/")
    relative = posixpath.relpath(site, posixpath.dirname(here) or ".")
    return f"{picture}[{text}]({relative}{'#' + anchor if anchor else ''})"


def _on_site(target: str) -> bool:
    return target.startswith("docs/") and (ROOT / target).suffix in (".md", ".png", ".svg")
