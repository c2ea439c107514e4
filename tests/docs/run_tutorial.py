"""Runs the tutorial's cells and stores their outputs in the file: `make notebook`."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "tutorial.ipynb"


def main() -> None:
    """Fails if a cell does; without the times of the cells, which change each time."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=3600, record_timing=False).execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            _keep_smaller(output.get("data", {}))
    nbformat.write(notebook, NOTEBOOK)


def _keep_smaller(data: dict[str, str]) -> None:
    """A picture is stored as PNG and as JPEG: one is enough."""
    kinds = sorted({"image/png", "image/jpeg"} & set(data), key=lambda kind: len(data[kind]))
    for kind in kinds[1:]:
        del data[kind]


if __name__ == "__main__":
    main()
