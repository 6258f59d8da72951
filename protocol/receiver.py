"""What of all that a connection brings is meant for one receiver: told by its topics, read, and kept until it is asked for."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import aiomqtt

from protocol.errors import Rejected
from protocol.messages import Message
from protocol.topics import Fleet

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)
Filter = tuple[str, int]
"""What to subscribe to: a topic, which may have wildcards, and a QoS."""


class Received(NamedTuple, Generic[M]):
    """A message and the address that it belongs to, of the kind that its topic has: a camera's, a rollout's, a chunk's."""

    address: Any
    message: M
    retained: bool


@dataclass(eq=False)
class Receiver:
    """Takes what is meant for one who receives, and keeps it until it is asked for."""

    scope: Fleet | str
    types: tuple[type[Message], ...]
    queue: asyncio.Queue[Received[Message]]

    def filters(self) -> list[Filter]:
        """What must be subscribed to for it."""
        return [(kind.topic.filter(self.scope), kind.topic.qos) for kind in self.types]

    def accept(self, raw: aiomqtt.Message) -> None:
        """Queues the message if it is of these types; a bad payload is logged, and never stops the others."""
        for kind in self.types:
            if raw.topic.matches(kind.topic.filter(self.scope)):
                try:
                    address = kind.topic.parse(raw.topic.value)
                    message = kind.decode(raw.payload if isinstance(raw.payload, bytes) else b"")
                except Rejected as error:
                    log.warning("%r: message ignored (%s): %s", raw.topic.value, error.reason, error)
                else:
                    self._offer(Received(address, message, raw.retain))

    def _offer(self, received: Received[Message]) -> None:
        if self.queue.full():
            log.debug("%s: a message is dropped, %d are waiting", received.address, self.queue.qsize())
            self.queue.get_nowait()
        self.queue.put_nowait(received)

    async def messages(self) -> AsyncIterator[Received[Message]]:
        """Those that came, in their order, and those that will come."""
        while True:
            yield await self.queue.get()
