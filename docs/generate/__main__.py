"""Writes the generated pages again, or with --check says which ones the code has left behind."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from docs.generate.pages import DOCS, outdated, write_all


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 if --check finds a page that differs from what the code says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    if not parser.parse_args(argv).check:
        print("\n".join(f"wrote {DOCS / name}" for name in write_all()))
        return 0
    late = outdated()
    for name in late:
        print(f"error: docs/{name} is outdated; run: python -m docs.generate", file=sys.stderr)
    return 1 if late else 0


if __name__ == "__main__":
    raise SystemExit(main())
