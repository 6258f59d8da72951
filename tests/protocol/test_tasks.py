"""Ending tasks."""

import asyncio
import contextlib

import pytest

from protocol import tasks
from protocol.tasks import end, end_all


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


async def test_a_task_that_passes_over_a_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `asyncio.wait_for` of Python 3.11 does when the answer comes in the same moment."""
    monkeypatch.setattr(tasks, "AGAIN_S", 0.05)

    async def passes_over() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    deaf = [asyncio.create_task(passes_over()) for _ in range(2)]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await end(deaf[0])
        await end_all(*deaf)
    assert all(task.cancelled() for task in deaf)


async def test_whatever_tasks_died_of_all_are_ended() -> None:
    async def dies() -> None:
        raise ValueError("of itself")

    ill, well = asyncio.create_task(dies()), asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    await end_all(ill, well)
    assert well.cancelled()


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


async def test_who_is_cancelled_again_and_again_while_ending_another_still_waits_for_it() -> None:
    """As what writes to a disk that hangs: it must not write on when others believe that it is over."""
    finished = asyncio.Event()

    async def writes() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.shield(asyncio.create_task(finish()))

    async def finish() -> None:
        await asyncio.sleep(0.3)
        finished.set()

    async def ends(task: asyncio.Task[None]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await end(task)

    writing = asyncio.create_task(writes())
    ending = asyncio.create_task(ends(writing))
    await asyncio.sleep(0)
    for _ in range(5):
        ending.cancel()
        await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert writing.done()
