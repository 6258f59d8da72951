"""Ending tasks without losing the news that whoever ends them is to end as well."""

import asyncio
from typing import Any

AGAIN_S = 10.0
"""Longer than a task that was cancelled takes to clean up."""


async def end_all(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks and returns when they are over, whatever they died of; no cancellation of its own breaks that off.

    They are cancelled again after a while: up to Python 3.11 `asyncio.wait_for`, which aiomqtt waits with, passes over a cancellation that comes
    together with what it waits for, and its task goes on.
    """
    left, news = set(tasks), None
    while left:
        for task in left:
            task.cancel()
        try:
            await asyncio.wait(left, timeout=AGAIN_S)
        except asyncio.CancelledError as error:
            news = error
        left = {task for task in left if not task.done()}
    for task in tasks:
        if not task.cancelled():
            task.exception()  # or asyncio complains that nobody asked
    if news is not None:
        raise news


async def end(task: asyncio.Task[Any] | None) -> None:
    """Cancels a task and returns when it is over; raises what it died of.

    `suppress(CancelledError)` around `await task` would do the same until the caller is cancelled too, in that very moment: it would never know.
    """
    if task is None:
        return
    await end_all(task)
    if not task.cancelled():
        task.result()
