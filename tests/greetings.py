"""A camera that greets, for links to a real broker."""

import asyncio
from collections.abc import Callable

from protocol.broker import Broker
from protocol.link import Presence
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


async def eventually(holds: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.02)
