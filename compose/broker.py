"""An MQTT broker inside this process, for the demo: amqtt, with those of its defects mended that a demo would meet.

amqtt 0.12.1 walks dictionaries that change meanwhile (connect storms hang), sends each new client other clients'
retained messages, gives no will for a peer that falls silent, forgets sessions of clients without a password, and
leaves the old connection open when a new one takes its name. What it keeps is in memory: a fleet needs a real broker.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

from amqtt.broker import Broker as AmqttBroker
from amqtt.contexts import ListenerType
from amqtt.plugins.base import BaseAuthPlugin

from protocol.broker import Broker

NOISY_LOGGERS = ("amqtt", "transitions", "websockets")
GRACE = 1.5
"""A client is silent when nothing came for this many of its keep-alive times (MQTT 3.1.1, section 3.1.2.10)."""


class AllowAll(BaseAuthPlugin):  # type: ignore[misc]  # amqtt ships no types
    """Lets everybody in. The plugin of amqtt that does so also marks sessions as not worth keeping."""

    async def authenticate(self, *, session: Any) -> bool:  # noqa: ARG002
        return True


class Snapshots(dict[str, Any]):
    """A dictionary that is walked as it was when the walk began; its lists likewise."""

    def __iter__(self) -> Iterator[str]:
        return iter(list(super().keys()))

    def items(self) -> Any:
        return [(key, list(value)) for key, value in super().items()]


class MendedBroker(AmqttBroker):  # type: ignore[misc]  # amqtt ships no types
    """amqtt's broker, mended."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._subscriptions = Snapshots()

    async def _initialize_client_session(self, *args: Any) -> Any:
        handler, session = await super()._initialize_client_session(*args)
        session.keep_alive = int(session.keep_alive * GRACE)
        handler.handle_read_timeout = lambda: asyncio.ensure_future(handler.handle_connection_closed())
        return handler, session

    async def _delete_session(self, client_id: str) -> None:
        """A new client of that name comes: the old connection ends, and its will is said."""
        session, handler = self._sessions.get(client_id, (None, None))
        if session is not None and session.transitions.is_connected():
            await handler.handle_connection_closed()
        await super()._delete_session(client_id)

    async def _publish_retained_messages_for_subscription(self, subscription: tuple[str, int], session: Any) -> None:
        if any(own is session for own, _ in self._subscriptions.get(subscription[0], [])):
            await super()._publish_retained_messages_for_subscription(subscription, session)


@contextlib.asynccontextmanager
async def embedded_broker(port: int = 0) -> AsyncIterator[Broker]:
    """A broker on this machine's loopback, on a free port unless one is given; gone when left."""
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    broker = MendedBroker(
        {
            "listeners": {"default": {"type": ListenerType.TCP, "bind": f"127.0.0.1:{port}"}},
            "plugins": {f"{AllowAll.__module__}.{AllowAll.__qualname__}": {}},
        }
    )
    await broker.start()
    try:
        bound = broker._servers["default"].instance.sockets[0].getsockname()[1]
        yield Broker(host="127.0.0.1", port=bound)
    finally:
        await broker.shutdown()
