"""Ending tasks."""

import asyncio

import pytest

from protocol.tasks import end


async def _slow_to_end(begun: asyncio.Event) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        begun.set()
        await asyncio.sleep(0.05)


async def test_it_waits_until_a_task_is_over() -> None:
    task = asyncio.create_task(_slow_to_end(asyncio.Event()))
    await asyncio.sleep(0)
    await end(task)
    assert task.cancelled()
    await end(None)


async def test_what_a_task_died_of_comes_out() -> None:
    async def dies() -> None:
        raise ValueError("of itself")

    task = asyncio.create_task(dies())
    await asyncio.sleep(0)
    with pytest.raises(ValueError, match="of itself"):
        await end(task)


async def test_who_is_cancelled_while_ending_another_learns_of_it() -> None:
    """The link and the installer end tasks of theirs; an agent that is stopped in that moment must stop."""
    begun, goes_on = asyncio.Event(), []

    async def ends_and_goes_on(task: asyncio.Task[None]) -> None:
        await asyncio.sleep(0)
        await end(task)
        goes_on.append(True)

    task = asyncio.create_task(_slow_to_end(begun))
    outer = asyncio.create_task(ends_and_goes_on(task))
    await begun.wait()
    outer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await outer
    assert not goes_on
    await end(task)
