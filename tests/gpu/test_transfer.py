"""The transfers on pretended CUDA: steps and passes run, and cost what `recorded.json` says."""

from __future__ import annotations

import pytest

from tests.gpu import classification_cases, detection_cases, segmentation_cases
from tests.gpu.recorded import Numbers, check, read_record
from tests.gpu.rehearsal import measured
from tests.gpu.runtime.build import missing

# Each task's step and pass, in seconds each; the other cases are slow.
QUICK = [
    *("train/coco_mscn@1", "predict/coco_mscn_fpn_1x@1", "train/voc12aug_fcn@1"),
    *("features/knn_imagenet@8", "score/knn_imagenet@1", "score/linear_imagenet@1"),
    *("score/svm_voc07@1", "score/kshot_imagenet@1", "train/linear_imagenet_moco@8"),
]
CASES = [*detection_cases.CASES, *segmentation_cases.CASES, *classification_cases.CASES]
OTHERS = [case for case in CASES if case not in QUICK]


@pytest.fixture(scope="module")
def now() -> Numbers:
    """The numbers of the quick cases, from one process over the no-op CUDA runtime."""
    if reason := missing():
        pytest.skip(reason)
    return measured(QUICK)


@pytest.mark.parametrize("case", QUICK)
def test_a_transfer_costs_what_is_recorded(case: str, now: Numbers) -> None:
    check(case, now, read_record())


@pytest.mark.slow
@pytest.mark.skipif(missing() is not None, reason="needs the no-op CUDA runtime")
def test_so_do_the_others() -> None:
    numbers, recorded = measured(OTHERS), read_record()
    for case in OTHERS:
        check(case, numbers, recorded)
