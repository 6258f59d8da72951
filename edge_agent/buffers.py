"""Memory for frames that is used again: the system clears each page of fresh memory, which takes longer than a copy of the frame."""

import sys

import numpy as np

from edge_agent.scene import Image

UNHELD = 3
"""References to a buffer that nobody uses: the pool's, the loop's and that of `getrefcount` itself."""
REVIEWED_TAKES = 100
"""After so many frames, buffers that none of them needed are given back to the system."""


class Buffers:
    """Frame buffers of one thread that fills them. Who holds a frame, or a part of it, keeps it: it is not filled again until let go."""

    def __init__(self) -> None:
        self._buffers: list[Image] = []
        self._takes = 0
        self._idle: int | None = None
        """So many buffers were never needed since the last review."""

    def take(self, shape: tuple[int, ...]) -> Image:
        """A buffer [H, W, 3] that nobody holds, with whatever was in it."""
        held: list[Image] = []
        unheld: list[Image] = []
        for buffer in self._buffers:
            if sys.getrefcount(buffer) > UNHELD:
                held.append(buffer)
            elif buffer.shape == shape:
                unheld.append(buffer)
        taken = unheld.pop() if unheld else np.empty(shape, np.uint8)
        self._idle = len(unheld) if self._idle is None else min(self._idle, len(unheld))
        self._takes += 1
        if self._takes % REVIEWED_TAKES == 0:
            unheld, self._idle = unheld[self._idle :], None
        self._buffers = [*held, *unheld, taken]
        return taken
