"""DistributedDataParallel as one of 8 processes of a pretended GPU: what it exchanges in a step.

Two things replace the other processes: nothing compares their parameters with ours, and a hook
answers each all-reduce of gradients with its input. Only a real group can test NCCL with its
`device_id`, the overlap of exchange and backward pass, and the sums themselves.
"""

# No `from __future__ import annotations`: torch compares the annotations of a hook with types.
import pytest
import torch
import torch.distributed as dist
import torch.fx.experimental._config as shapes
import torch.nn.parallel.distributed as torchs_own
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from pretrain.common.distributed import distribute
from pretrain.engine import loop
from pretrain.engine.checks import load_checked
from tests.gpu.counting import process_group
from tests.gpu.pretend_cuda import PretendCuda
from tests.gpu.pretraining_cases import crops, pretended_training

STEPS = 4
CAP = 25 * 2**20  # bytes of a bucket, torch's default; a parameter of more has one alone


@pytest.mark.parametrize("parts", [1, 2])
def test_gradients_are_exchanged_once_a_step_in_the_buckets_that_hold_them(
    parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torchs_own, "_verify_param_shape_across_processes", lambda *args, **options: None
    )
    exchanged: list[list[int]] = []

    def answer(_: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        exchanged[-1].append(bucket.buffer().numel())
        future: torch.futures.Future[Tensor] = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    all_nonzero = shapes.patch(meta_nonzero_assume_all_nonzero=True)
    with process_group(8, 0), all_nonzero, PretendCuda(False) as cuda:
        cfg = load_checked("simclr_r50_tiny100.yaml", ["SOLVER.BATCH_SIZE", "32"], 8)
        training = pretended_training(cfg)
        training.parts = parts
        model = distribute(training.method, static=parts == 1)
        assert isinstance(model, DistributedDataParallel)
        model.register_comm_hook(None, answer)
        training.model = model
        for step in range(STEPS):
            given = loop.prepare(training, crops(cfg, 4), step)
            exchanged.append([])
            cuda.reset()
            loop.forward_backward(training, given)
        waits = dict(cuda.synchronisations)
        params = [p for p in training.method.parameters() if p.requires_grad]
        buffers = {
            param.grad.untyped_storage()._cdata for param in params if param.grad is not None
        }
        views = [param.grad is not None and param.grad._base is not None for param in params]
    total, largest = sum(p.numel() for p in params), max(p.numel() for p in params)
    # Also of two parts: the first one's gradients stay here (`no_sync`).
    assert [sum(buckets) for buckets in exchanged] == [total] * STEPS
    assert len(exchanged[-1]) > 3 and 4 * max(exchanged[-1]) <= CAP + 4 * largest
    assert all(views), "gradients have no memory of their own"
    assert len(buffers) <= len(exchanged[-1])
    assert not waits, "of the exchange; the guard's is in `finish_step`"
