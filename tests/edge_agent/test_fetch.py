"""Fetching a release in chunks."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator

from made_releases import Made

from edge_agent import fetch
from protocol.receiver import Received
from protocol.rollouts import Chunk
from protocol.tasks import end
from protocol.topics import SHORT_DIGEST, Address, ChunkAddress, ReleaseAddress


async def test_a_chunk_that_is_being_written_is_waited_for_when_its_fetch_is_broken_off() -> None:
    """Or it could fall into the file of the next model."""
    written: list[int] = []

    class Line:
        async def wait_online(self) -> None:
            pass

        async def send(self, *_: object) -> None:
            pass

        @contextlib.asynccontextmanager
        async def receive(self, *_: object, **__: object) -> AsyncGenerator[AsyncGenerator[Received[Chunk]]]:
            async def chunks() -> AsyncGenerator[Received[Chunk]]:
                yield Received(
                    ChunkAddress("maskfleet", "0" * SHORT_DIGEST, "0"), Chunk(data=made.model[: made.manifest.chunk_bytes]), retained=False
                )
                await asyncio.Event().wait()

            yield chunks()

    class Slow:
        def missing(self) -> tuple[int, ...]:
            return tuple(range(len(made.manifest.chunks)))

        def put(self, number: int, _: bytes) -> None:
            begun.set()
            time.sleep(0.2)
            written.append(number)

    made, begun = Made("detector", "2", 5), threading.Event()
    address = Address("maskfleet", "hall", "door")
    fetching = asyncio.create_task(fetch.fetch(Line(), address, made.manifest, Slow(), lambda _: None))  # type: ignore[arg-type]
    while not begun.is_set():
        await asyncio.sleep(0.01)
    await end(fetching)
    assert written == [0]


async def test_what_is_all_there_is_wished_for_no_more() -> None:
    """The last chunks came while the connection was being made again."""

    class Line:
        async def wait_online(self) -> None:
            missing.clear()

        async def send(self, *_: object) -> None:
            raise AssertionError("nothing is missing")

    missing = {3}
    await fetch._wish(Line(), ReleaseAddress("maskfleet", "0" * SHORT_DIGEST), Address("maskfleet", "hall", "door"), missing)  # type: ignore[arg-type]
