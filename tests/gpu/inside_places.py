"""The GPU's way to choose boxes gives the same rows as the CPU's way, with fewer waits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from tests.gpu.pretend_cuda import CUDA, PretendCuda
from transfer.detection.torchvision_engine import places as under_test
from transfer.detection.torchvision_engine.places import nms_in_groups, places


def on_cuda(*tensors: Tensor) -> list[Tensor]:
    return [tensor.to(CUDA, non_blocking=True) for tensor in tensors]


def test_places_of_several_masks_take_one_wait() -> None:
    draws = torch.Generator().manual_seed(0)
    shapes = [(40,), (5, 7), (3, 4, 2), (6,), (0,), (9,)]
    masks = [torch.rand(shape, generator=draws) < 0.4 for shape in shapes]
    masks[3][:], masks[5][:] = False, True
    with PretendCuda(values=True) as cuda:
        moved = on_cuda(*masks)
        cuda.reset()
        found = places(moved)
        assert sum(cuda.synchronisations.values()) == 1
        found = [tuple(part.cpu() for part in parts) for parts in found]
    for mask, ours, cpu in zip(masks, found, places(masks), strict=True):
        wanted = mask.nonzero(as_tuple=True)
        assert len(ours) == len(cpu) == len(wanted) == mask.dim()
        for one, other, twin in zip(ours, cpu, wanted):
            assert one.dtype == twin.dtype and torch.equal(one, twin) and torch.equal(other, twin)


@pytest.mark.parametrize("count", [0, 1, 60, 1500])
@pytest.mark.parametrize("groups", [1, 5])
def test_nms_keeps_what_torchvisions_keeps(count: int, groups: int) -> None:
    """1,500 boxes are more than torchvision moves on a CPU: there it takes each group alone."""
    draws = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=draws) * 400
    boxes = torch.cat([corners, corners + 4 + torch.rand(count, 2, generator=draws) * 60], dim=1)
    scores = torch.randperm(count, generator=draws) / 2000  # equal ones have no order
    group = torch.randint(groups, (count,), generator=draws)
    wanted = batched_nms(boxes, scores, group, 0.5)
    assert torch.equal(nms_in_groups(boxes, scores, group, 0.5), wanted)
    with PretendCuda(values=True) as cuda:
        moved = on_cuda(boxes, scores, group)
        cuda.reset()
        found = nms_in_groups(*moved, 0.5)
        assert sum(cuda.synchronisations.values()) == int(count > 0)
        assert torch.equal(found.cpu(), wanted)


def test_very_many_boxes_are_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them at once would take the square of their number in memory."""
    monkeypatch.setattr(under_test, "MANY", 10)
    monkeypatch.setattr(under_test, "batched_nms", lambda *given: given)
    with PretendCuda(values=True):
        given = on_cuda(torch.rand(11, 4), torch.rand(11), torch.zeros(11, dtype=torch.long))
        assert nms_in_groups(*given, 0.5)[0] is given[0]
