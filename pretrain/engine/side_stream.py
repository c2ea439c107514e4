"""The views of the next step are made during the backward pass of this one, on a CUDA stream.

Work on one stream runs in the order in which it was launched; work on two streams can run in any
order. Code that uses the result of another stream must therefore make its own stream wait for that
one. It must also tell the allocator that two streams use the memory: otherwise the allocator may
reuse it while one of them still reads it. The host waits for neither stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class SideStream:
    """Launches work in parallel to the current stream of a GPU, and hands over what it makes.

    The work must not read what the current stream writes, such as weights: it waits for nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    @contextmanager
    def launched(self) -> Iterator[None]:
        """Kernels and copies from here on are launched on this stream."""
        with torch.cuda.stream(self._stream):
            yield

    def hand_over(self, tensors: Iterable[Tensor]) -> None:
        """Lets the current stream use the tensors: it waits for all that was launched on this one
        before, and their memory is not given away until it has used them."""
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for tensor in tensors:
            tensor.record_stream(current)
