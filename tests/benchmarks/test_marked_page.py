"""The part of a page that a command writes."""

from __future__ import annotations

import pytest

from benchmarks.marked_page import END, begin_of, replaced
from pretrain.common.errors import InputError

BEGIN = begin_of("benchmarks.x")


def test_only_the_part_between_the_marks_is_replaced() -> None:
    text = f"a\n{BEGIN}\nold\n{END}\nb\n{END}"
    assert replaced(text, "benchmarks.x", ["", "new"]) == f"a\n{BEGIN}\n\nnew\n{END}\nb\n{END}"


@pytest.mark.parametrize("text", ["a", f"{BEGIN}\na", f"{END}\n{BEGIN}", begin_of("y") + END])
def test_a_page_without_both_marks_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="the page lacks the lines .*benchmarks.x.* and .*end"):
        replaced(text, "benchmarks.x", ["new"])
