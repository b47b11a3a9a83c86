"""What a CPU and a GPU do differently when a turn is computed: copies, captured calls, waiting."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

log = logging.getLogger("carousel.device")

Outputs = tuple[Tensor, ...]
Run = Callable[[], Outputs]

WARM_UPS = 3  # runs before a capture, as in torch's notes: libraries are loaded, kernels compiled


class Device(Protocol):
    """Runs what it is given in order; `Host` at once, `Cuda` beside the processor.

    A captured run reads the same memory and writes the same memory every time it is called: what
    it gave is good until it is called again, and then it is overwritten.
    """

    device: torch.device

    def pinned(self, length: int, dtype: torch.dtype) -> Tensor:
        """Zeros in memory of the processor that copies can go from and to."""
        ...

    def upload(self, here: Tensor, there: Tensor) -> None:
        """Copy to the device; whatever runs next waits for it, what runs already does not."""
        ...

    def download(self, there: Tensor, here: Tensor) -> Callable[[], object]:
        """Copy from the device what has been given it to run; the result waits for the copy."""
        ...

    def capture(self, run: Run) -> Run:
        """The same run, captured."""
        ...

    def aside(self) -> AbstractContextManager[object]:
        """What is run in the block waits for no turn, and no turn waits for it."""
        ...


class Host:
    """The processor: everything is done when the call returns."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def pinned(self, length: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(length, dtype=dtype)

    def upload(self, here: Tensor, there: Tensor) -> None:
        there.copy_(here)

    def download(self, there: Tensor, here: Tensor) -> Callable[[], object]:
        here.copy_(there)
        return lambda: None

    def capture(self, run: Run) -> Run:
        outputs = run()

        def replay() -> Outputs:
            for output, value in zip(outputs, run(), strict=True):
                output.copy_(value)
            return outputs

        return replay

    def aside(self) -> AbstractContextManager[object]:
        return nullcontext()


class Cuda:
    """A GPU: turns run on its default stream, copies each way on a stream of their own."""

    # Device-wide waits, as at the beginning of a capture, would spoil another one's.
    # (CUDA Programming Guide, "Prohibited and Unhandled Operations" of stream capture)
    _one_at_a_time = threading.Lock()

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._up, self._down, self._side, self._aside = (
            torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            for _ in range(4)
        )

    def pinned(self, length: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(length, dtype=dtype, pin_memory=True)

    def upload(self, here: Tensor, there: Tensor) -> None:
        with torch.cuda.stream(self._up):
            there.copy_(here, non_blocking=True)  # from pinned memory: the call only launches it
        torch.cuda.current_stream(self.device).wait_stream(self._up)

    def download(self, there: Tensor, here: Tensor) -> Callable[[], object]:
        self._down.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._down):
            here.copy_(there, non_blocking=True)
        # A copy that does not block is done only when an event after it is.
        wait: Callable[[], object] = self._down.record_event().synchronize
        return wait

    def capture(self, run: Run) -> Run:
        """A CUDA graph, or where it can't be captured the run itself."""
        with self._one_at_a_time:
            # On the default stream, in order with the turns of other versions. cuBLAS has scratch
            # memory for each stream: that of the capturing one goes into graphs, so nothing else
            # may run there. (torch's notes on CUDA semantics, "cuBLAS workspaces")
            for _ in range(WARM_UPS):
                run()
            try:
                return self._captured(run)
            except RuntimeError:
                log.warning("steps run without a CUDA graph, which is slower", exc_info=True)
                return run

    def _captured(self, run: Run) -> Run:
        graph = torch.cuda.CUDAGraph()
        # Capture is not allowed on the default stream, nor anything in it that waits for the GPU.
        # (docs.nvidia.com/dl-cuda-graph, "Constraints")
        # thread_local: other threads serve meanwhile, and may allocate. No pool is shared between
        # graphs: one's scratch memory would be another's outputs, which may still be needed.
        # (torch.cuda.graph; torch's notes on CUDA semantics, "Graph memory management")
        captured = torch.cuda.graph(graph, stream=self._side, capture_error_mode="thread_local")
        with torch.cuda.stream(self._side), captured:  # a failed capture leaves its stream current
            outputs = run()

        def replay() -> Outputs:
            graph.replay()
            return outputs

        return replay

    def aside(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._aside)


@functools.cache
def device_of(device: torch.device) -> Device:
    """One for all versions: torch hands out the same 32 streams again and again.

    A stream that captures must be nobody else's. (torch.cuda.Stream; c10/cuda/CUDAStream.h)
    """
    return Cuda(device) if device.type == "cuda" else Host(device)
