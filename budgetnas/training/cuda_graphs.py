"""Calls that are made many times: plainly, or captured once as a CUDA graph and replayed.

A step of a small network is hundreds of kernels that each take less time than their launch from Python. A CUDA graph
launches all of them at once (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). What a call reads and
writes must lie in memory that stays, and it must ask the device for no number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch

WARM_UP_CALLS: Final = 3
"""Plain calls of a size before it is captured: libraries choose their kernels and make their workspaces in them."""


class CaptureError(RuntimeError):
    """A call could not be captured on this device."""


Call = Callable[[int], None]
"""Something done to the next images, as many as it is given."""


class Calls(Protocol):
    """A way to make one call many times; whoever makes it hands it over each time, so that neither holds the other."""

    def __call__(self, call: Call, size: int) -> None:
        """Do `call` to the next `size` images."""


def plainly(call: Call, size: int) -> None:
    """Make a call as any other."""
    call(size)


@dataclass(frozen=True, slots=True)
class Place:
    """Where calls are captured: one stream, and one pool of memory that graphs replayed in turn can share.

    Attributes:
        stream: The stream of a GPU.
        pool: Handle of the memory pool.
    """

    stream: torch.cuda.Stream
    pool: Any

    @classmethod
    def on(cls, device: torch.device) -> Place:
        """Return a new place on a GPU."""
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        return cls(stream, torch.cuda.graph_pool_handle())


class CapturedCalls:
    """One call on a GPU, captured for every size after a few plain calls.

    The plain calls count: they are the first steps of a training, not tries. The call leaves nothing in memory of its
    own that a later one reads.

    Args:
        place: Where to capture.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._plain_calls: Counter[int] = Counter()
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def __call__(self, call: Call, size: int) -> None:
        """Do `call`, always the same one, to the next `size` images.

        Raises:
            CaptureError: If it cannot be captured.
        """
        if size not in self._graphs:
            if self._plain_calls[size] < WARM_UP_CALLS:
                self._plain_calls[size] += 1
                return self._aside(call, size)
            self._graphs[size] = self._capture(call, size)
        self._graphs[size].replay()

    def _aside(self, call: Call, size: int) -> None:
        """Make a call on the stream of captures, in turn with all before and after it."""
        stream = self._place.stream
        current = torch.cuda.current_stream(stream.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            call(size)
        current.wait_stream(stream)

    def _capture(self, call: Call, size: int) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(
                graph, pool=self._place.pool, stream=self._place.stream, capture_error_mode="thread_local"
            ):
                call(size)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise CaptureError(str(error)) from error
        return graph


def can_capture(device: torch.device) -> bool:
    """Return whether a call can be captured on this GPU: tried with a small one."""
    number = torch.zeros((), device=device)

    def add_one(size: int) -> None:
        number.add_(size)

    calls = CapturedCalls(Place.on(device))
    try:
        for _ in range(WARM_UP_CALLS + 2):
            calls(add_one, 1)
    except RuntimeError:
        return False
    return int(number) == WARM_UP_CALLS + 2
