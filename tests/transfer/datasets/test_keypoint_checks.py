"""Keypoints that cannot be where they are annotated: outside their image, or relative."""

from __future__ import annotations

import logging

import pytest

from pretrain.common.errors import InputError
from pretrain.common.findings import Findings
from transfer.datasets.keypoint_checks import PlaceCheck


def judge(*objects: tuple[float, ...]) -> None:
    """Judges objects of an image of 40 x 30 px."""
    findings = Findings("x.json")
    check = PlaceCheck(findings)
    for place, keypoints in enumerate(objects):
        check.add(f"annotation {place}", keypoints, 40, 30)
    check.finish()
    findings.report()


def test_what_is_outside_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        judge((), (0, 0, 1, 40.5, 30, 2), (99, 99, 0))
    assert not caplog.text, "within a pixel, or not labelled"
    with caplog.at_level(logging.WARNING):
        judge((1, 1, 2), (1, 1, 2, 3, 33, 1), (-2, 3, 2))
    assert "outside their image" in caplog.text
    assert "(2: annotation 1 (3, 33) in 40 x 30, annotation 2 (-2, 3) in 40 x 30)" in caplog.text


def test_relative_coordinates_are_refused() -> None:
    relative = (0.5, 0.25, 2, 0, 0, 0)
    with pytest.raises(
        InputError, match="relative coordinates. .2, first: annotation 1 .0.5, 0.25."
    ):
        judge((0, 0, 0), relative, relative)
    judge(relative, (5, 5, 2))
    judge((0, 0, 2, 1, 1, 2))  # pixels of a corner
