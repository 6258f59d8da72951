"""Ending a task without losing the news that whoever ends it is to end as well."""

import asyncio
from typing import Any


async def end(task: asyncio.Task[Any] | None) -> None:
    """Cancels a task and returns when it is over; raises what it died of.

    `suppress(CancelledError)` around `await task` would do the same until the caller is cancelled too, in that very moment: it would never know.
    """
    if task is None:
        return
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.result()
