"""What the disk's threads promise."""

import asyncio
import threading
import time

from edge_agent.disk import in_thread


async def test_a_thread_is_waited_for_however_often_its_caller_is_cancelled() -> None:
    is_over = threading.Event()

    def slow() -> None:
        time.sleep(0.3)
        is_over.set()

    waiting = asyncio.create_task(in_thread(slow))
    for _ in range(3):
        await asyncio.sleep(0.05)
        waiting.cancel()
        assert not waiting.done()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    assert is_over.is_set()
