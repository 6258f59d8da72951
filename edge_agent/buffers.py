"""Memory for frames that is used again: the system clears each page of fresh memory, which takes longer than a copy of the frame."""

import sys

import numpy as np

from edge_agent.scene import Image


def _references(buffers: list[Image]) -> list[int]:
    """How many hold each buffer, this list and the count itself among them; how many these are differs between versions of Python."""
    return [sys.getrefcount(buffer) for buffer in buffers]


UNHELD = _references([np.empty(0, np.uint8)])[0]
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
        counted = list(zip(self._buffers, _references(self._buffers), strict=True))
        held = [buffer for buffer, count in counted if count > UNHELD]
        unheld = [buffer for buffer, count in counted if count <= UNHELD and buffer.shape == shape]
        taken = unheld.pop() if unheld else np.empty(shape, np.uint8)
        self._idle = len(unheld) if self._idle is None else min(self._idle, len(unheld))
        self._takes += 1
        if self._takes % REVIEWED_TAKES == 0:
            unheld, self._idle = unheld[self._idle :], None
        self._buffers = [*held, *unheld, taken]
        return taken
