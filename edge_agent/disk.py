"""The few things that are done to files, in the order that survives a power cut: written, synced, renamed, folder synced."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Disk:
    """A real disk. Each method is one step that a power cut can come before or after; all raise OSError."""

    def make_dir(self, path: Path) -> None:
        """Makes a folder and those above it."""
        path.mkdir(parents=True, exist_ok=True)

    def write(self, path: Path, data: bytes) -> None:
        """A new file; not yet safe."""
        path.write_bytes(data)

    def write_at(self, path: Path, offset: int, data: bytes) -> None:
        """Bytes somewhere in a file, which is made where it is missing; not yet safe."""
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
            file.seek(offset)
            file.write(data)

    def sync(self, path: Path) -> None:
        """What was written to a file is safe from here on."""
        with path.open("rb") as file:
            os.fsync(file.fileno())

    def sync_dir(self, path: Path) -> None:
        """Names in a folder are safe from here on."""
        number = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(number)
        finally:
            os.close(number)

    def rename(self, old: Path, new: Path) -> None:
        """One name takes the place of another, at once."""
        os.replace(old, new)

    def remove(self, path: Path) -> None:
        """The file is gone, if it was there."""
        path.unlink(missing_ok=True)

    def save(self, path: Path, data: bytes) -> None:
        """A file has its old content or this one, whenever the power fails; returns when it is this one."""
        part = path.with_name(f"{path.name}.new")
        self.write(part, data)
        self.sync(part)
        self.rename(part, path)
        self.sync_dir(path.parent)


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs a function in a thread. A caller that is cancelled waits for its end: two threads never write one slot."""
    job = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        while not job.done():  # whoever cancels may do so again and again
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({job})
        raise
