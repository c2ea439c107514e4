import logging

import pytest

from pretrain.common.errors import InputError
from pretrain.common.findings import Findings


def test_each_kind_is_refused_once_with_its_count_and_first_places():
    findings = Findings("a.json")
    for number in range(1, 6):
        findings.refuse("objects have no box", f"annotation {number}", "remove them")
    findings.refuse("images have no size", "image 7", "add 'width' and 'height'")
    findings.note("boxes were clipped", "annotation 9")
    assert findings.refused
    with pytest.raises(InputError) as error:
        findings.report()
    assert str(error.value) == (
        "a.json: objects have no box (5, first: annotation 1, annotation 2, annotation 3); remove "
        "them. Also: images have no size (1: image 7); add 'width' and 'height'"
    )


def test_what_was_noted_is_one_warning_logged_once(caplog):
    for _ in range(2):
        findings = Findings("b.json")
        findings.note("boxes were clipped", "annotation 9", count=4)
        findings.note("masks were dropped", "annotation 1")
        findings.note("masks were dropped", "annotation 2", count=0)
        assert not findings.refused
        with caplog.at_level(logging.WARNING):
            findings.report()
    assert [r.getMessage() for r in caplog.records] == [
        "b.json: boxes were clipped (4, first: annotation 9); masks were dropped (1: annotation 1)"
    ]


def test_nothing_found_says_nothing(caplog):
    Findings("c.json").report()
    assert not caplog.records
