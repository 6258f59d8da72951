"""A camera that greets, for links to a real broker."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import aiomqtt
import pytest

from protocol.broker import Broker
from protocol.link import Link, Presence
from protocol.messages import Health, Message
from protocol.topics import Address

CAMERA = Address("maskfleet", "lobby", "door-1")
HEALTH = Health(boot="b", capture="ok", last_frame_age_s=0, restarts=0, outbox=0, lost=0)


def broker(mosquitto, **changes) -> Broker:
    return Broker(host="127.0.0.1", port=mosquitto.port, keepalive_s=5, **changes)


def presence(sessions: list[int] | None = None) -> Presence:
    def greeting(session: int) -> tuple[Message, ...]:
        if sessions is not None:
            sessions.append(session)
        return (HEALTH,)

    return Presence(CAMERA, greeting)


@contextlib.asynccontextmanager
async def unanswered(mosquitto, monkeypatch: pytest.MonkeyPatch, kind: type[Message]) -> AsyncIterator[Link]:
    """A link that subscribed to a message, and left again, while its broker was frozen."""
    monkeypatch.setattr("protocol.link.SUBSCRIBE_TIMEOUT_S", 0.05)
    monkeypatch.setattr("protocol.link.UNSUBSCRIBE_TIMEOUT_S", 0.05)
    async with Link(broker(mosquitto), "camera") as link:
        await link.wait_online()
        mosquitto.freeze()
        async with link.receive("maskfleet", kind):
            pass
        mosquitto.thaw()
        yield link


async def eventually(holds: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)


async def retained(mosquitto, kind: type[Message]) -> Message | None:
    """What a client that comes now is told."""
    async with aiomqtt.Client("127.0.0.1", mosquitto.port) as client:
        await client.subscribe(kind.topic.build(CAMERA), qos=1)
        try:
            async with asyncio.timeout(1):
                async for raw in client.messages:
                    return kind.decode(raw.payload)
        except TimeoutError:
            return None
