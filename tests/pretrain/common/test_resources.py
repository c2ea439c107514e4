"""Loader processes are limited by the cores of the machine."""

from __future__ import annotations

import pytest

from pretrain.common import resources


def test_workers_are_at_most_one_for_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "cores", lambda: 2)
    assert [resources.usable_workers(wanted) for wanted in (0, 1, 2, 8)] == [0, 1, 2, 2]
