"""The only door to MQTT: connects, greets, comes back by itself, sends and receives typed messages.

A Link does not buffer. Sending while it is offline raises, so that whoever must not lose a message keeps it
until the broker has acknowledged it.
"""

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar, cast

import aiomqtt

from protocol.broker import Broker
from protocol.certificates import Certificates
from protocol.client import Client, cause_of, is_refused
from protocol.errors import LinkError
from protocol.messages import Message, PlainMessage, Status
from protocol.receiver import Filter, M, Received, Receiver
from protocol.tasks import end
from protocol.topics import Fleet, Topic

log = logging.getLogger(__name__)

T = TypeVar("T")

SEND_TIMEOUT_S = 10
UNANSWERED = 5
"""After so many messages in a row without an acknowledgement the connection is given up: its client sends nothing after twenty such."""
UNSUBSCRIBE_TIMEOUT_S = 1
"""Whoever leaves waits no longer; what still comes is for nobody."""
SUBSCRIBE_TIMEOUT_S = 60
"""Subscribing may bring a flood of retained messages before its acknowledgement."""
STEADY_S = 5
"""A connection that was online so long resets the back-off; a shorter one (two cameras with one name) does not."""
ASK_AGAIN_AFTER_S = (0, 0.5, 1, 2)
"""Pauses before each try of a subscription. A cluster that has just lost a node refuses some of several; asking for those alone, on the same
connection, is over in seconds, where a new connection would have to be granted all of them at once."""
INSIST_S = 5
"""Between further tries of a subscription that was refused while the connection is otherwise well."""


@dataclass(frozen=True)
class Presence:
    """How a camera or a coordinator is seen by others: `greeting(session)` then `online` at each connection, `offline` at its end.

    At a connection it subscribes between the two: `online` is only who can be reached.
    """

    address: Fleet
    greeting: Callable[[int], Iterable[Message]]
    status: type[PlainMessage] = Status


def backoff_s(attempt: int, chance: float, first_s: float = 0.5, cap_s: float = 30) -> float:
    """Capped exponential back-off with full jitter: `chance` (0 to 1) of the ceiling of this attempt (from 0)."""
    return chance * min(cap_s, first_s * 2.0 ** min(attempt, 16))


class _Missing(NamedTuple):
    """What is not subscribed to, and why."""

    filters: list[Filter]
    why: str


class Link:
    """A connection that is always being kept: `async with Link(...) as link`, `await link.send(...)`, `link.receive(...)`."""

    def __init__(self, broker: Broker, identifier: str, presence: Presence | None = None) -> None:
        """Raises Rejected when a certificate file cannot be used."""
        self._broker = broker
        self._certificates = Certificates(broker)
        self._identifier = identifier
        self._presence = presence
        self._receivers: list[Receiver] = []
        self._client: Client | None = None
        self._online = asyncio.Event()
        self._online_s = math.inf
        self._lost: asyncio.Future[None] = asyncio.Future()
        self._session = 0
        self._unanswered = 0
        self._is_leaving = False
        self._has_left = False
        """Whether the broker has acknowledged `offline`."""
        self.problem = ""
        """Why the last connection failed or ended, in the words of the library; empty before that."""
        self._keeper: asyncio.Task[None] | None = None
        self._greeter: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._presence and self._broker.is_in_clear:  # said by what runs for long, not by each order
            log.warning("%s: the password goes over the network in clear; with mqtts:// it does not", self._broker.host)
        self._keeper = asyncio.create_task(self._keep(), name="link")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Says `offline`, or has the broker say it, and disconnects."""
        self._is_leaving = True
        if self._presence and self._client:
            with contextlib.suppress(LinkError, TimeoutError):
                async with asyncio.timeout(2):
                    await self.send(self._presence.address, self._presence.status(value="offline"))
                    self._has_left = True
        for task in (self._greeter, self._keeper):
            await end(task)

    @property
    def is_online(self) -> bool:
        """Whether the broker has let us in and knows who we are."""
        return self._online.is_set()

    async def wait_online(self) -> None:
        """Returns when the link is online; waits as long as that takes."""
        await self._online.wait()

    async def send(self, address: Fleet, message: Message) -> None:
        """Publishes a message at one address; with QoS 1 it returns when the broker has acknowledged it.

        Raises LinkError when the link is offline, is lost meanwhile, or no acknowledgement comes: the
        message may then have arrived or not.
        """
        await self._publish(address, message.topic, message.encode())

    async def clear(self, address: Fleet, kind: type[Message]) -> None:
        """Deletes what the broker retains of this kind at one address; raises LinkError as `send` does."""
        await self._publish(address, kind.topic, b"")

    async def _publish(self, address: Fleet, topic: Topic, payload: bytes) -> None:
        if (client := self._client) is None:
            raise LinkError("not connected to the broker")
        try:
            await self._answer(client.publish(topic.build(address), payload, qos=topic.qos, retain=topic.retained, timeout=SEND_TIMEOUT_S))
            if topic.qos:  # without, nothing was acknowledged
                self._unanswered = 0
        except aiomqtt.MqttError as error:
            self._unanswered += 1
            if self._unanswered >= UNANSWERED and client is self._client:
                client.hang_up()
            raise LinkError(f"{topic.leaf} not sent: {error}") from None

    async def _answer(self, asking: Coroutine[Any, Any, T]) -> T:
        """What the broker answers, as long as the connection lasts; raises LinkError when it is lost first."""
        asked = asyncio.ensure_future(asking)
        either: set[asyncio.Future[Any]] = {asked, self._lost}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                raise LinkError("the connection to the broker was lost")
            return asked.result()
        finally:
            asked.cancel()

    @contextlib.asynccontextmanager
    async def receive(self, scope: Fleet | str, *types: type[M], max_waiting: int = 0) -> AsyncIterator[AsyncIterator[Received[M]]]:
        """`async with link.receive(base, Alert) as alerts`, then `async for camera, alert, retained in alerts`.

        The scope is one address, or what the addresses lie in: the base, or a release for its chunks. With
        `max_waiting`, the oldest go when more than that wait to be taken: against a sender who floods.

        Subscribed when entered (at the next connection, when offline), and again at each connection. Payloads
        that cannot be read are logged and left out.
        """
        receiver = Receiver(scope, types, asyncio.Queue(max_waiting))
        self._receivers.append(receiver)
        insisting: asyncio.Task[None] | None = None
        try:
            if (client := self._client) is not None and (missing := await self._subscribe(client, receiver.filters())):
                log.warning("%s; trying again", missing.why)
                insisting = asyncio.create_task(self._insist(client, missing))
            yield cast("AsyncIterator[Received[M]]", receiver.messages())
        finally:
            self._receivers.remove(receiver)
            await end(insisting)
            await self._unsubscribe(receiver)

    async def _insist(self, client: aiomqtt.Client, missing: _Missing | None) -> None:
        """Subscribes in the end, without giving up a connection that serves the others; the next one subscribes anyway."""
        while missing and self._client is client:
            await asyncio.sleep(INSIST_S)
            missing = await self._subscribe(client, missing.filters)

    async def _keep(self) -> None:
        """Connects, stays, and connects again, until cancelled."""
        attempt = 0
        while True:
            # A new client for each attempt: one that is entered again repeats publishes that already raised.
            client = self._new_client()
            self._online_s = math.inf
            try:
                async with client:
                    self._session += 1
                    await self._serve(client)
            except (aiomqtt.MqttError, LinkError, OSError, ValueError) as error:  # the last: a host name that cannot be one
                problem = client.refusal or cause_of(error)
                level = logging.WARNING if attempt == 0 or problem != self.problem else logging.DEBUG
                self.problem = problem
                log.log(level, "%s:%d: %s; trying again", self._broker.host, self._broker.port, problem)
            except Exception:  # an error of ours or of a library must not make a camera mute for ever
                log.exception("%s:%d: connection failed", self._broker.host, self._broker.port)
            finally:
                await client.let_go()
            if asyncio.get_running_loop().time() - self._online_s >= STEADY_S:
                attempt = 0
            await asyncio.sleep(backoff_s(attempt, random.random()))
            attempt += 1
            await self._certificates.read()

    async def _serve(self, client: Client) -> None:
        """One connection's life: read, introduce itself, stay; raises MqttError or LinkError at its end."""
        self._client, self._lost, self._unanswered = client, asyncio.Future(), 0
        # Reading starts before subscribing, or a flood of retained messages could delay the acknowledgement.
        reader = asyncio.create_task(self._read(client))
        try:
            introducing = asyncio.create_task(self._introduce(client))
            try:
                await asyncio.wait({introducing, reader}, return_when=asyncio.FIRST_COMPLETED)
                if reader.done():  # the connection is gone
                    await reader
                await introducing
            finally:
                introducing.cancel()
            self._online.set()
            self._online_s = asyncio.get_running_loop().time()
            log.info("connected to %s:%d (session %d)", self._broker.host, self._broker.port, self._session)
            await reader
        finally:
            self._online.clear()
            self._client = None
            self._lost.set_result(None)
            if self._presence and not self._has_left:
                client.hang_up()
            with contextlib.suppress(aiomqtt.MqttError):
                await end(reader)

    async def _introduce(self, client: aiomqtt.Client) -> None:
        await self._say_greeting()
        if missing := await self._subscribe(client, self._wanted()):
            raise LinkError(missing.why)
        await self._say_online()

    def _wanted(self) -> list[Filter]:
        filters = [pair for receiver in self._receivers for pair in receiver.filters()]
        if self._presence:
            status = self._presence.status.topic
            filters.append((status.build(self._presence.address), status.qos))
        return filters

    async def _read(self, client: aiomqtt.Client) -> None:
        own_status = self._presence.status.topic.build(self._presence.address) if self._presence else None
        async for raw in client.messages:
            if raw.topic.value == own_status and raw.payload == b"offline" and not raw.retain and not self._is_leaving:
                # The late will of our own older connection: say again that we are here. (A retained one is from before we said so.)
                self._greeter = asyncio.create_task(self._greet_again())
            for receiver in self._receivers:
                receiver.accept(raw)

    async def greet(self) -> None:
        """Says the greeting again; raises LinkError when the link is offline."""
        await self._say_greeting()
        await self._say_online()

    async def _say_greeting(self) -> None:
        if self._presence:
            # Each message is made just before it is said: what changes meanwhile is said after it, and stays.
            for message in self._presence.greeting(self._session):
                await self.send(self._presence.address, message)

    async def _say_online(self) -> None:
        if self._presence and not self._is_leaving:  # `offline` is the last word
            await self.send(self._presence.address, self._presence.status(value="online"))

    async def _greet_again(self) -> None:
        with contextlib.suppress(LinkError):  # the next connection greets
            await self.greet()

    async def _subscribe(self, client: aiomqtt.Client, filters: list[Filter]) -> _Missing | None:
        """Returns those that nothing came of, though what is refused is asked for more than once; None when there are none."""
        for pause_s in ASK_AGAIN_AFTER_S:
            await asyncio.sleep(pause_s)
            if filters := [pair for pair in filters if pair in self._wanted()]:
                try:
                    codes = await self._answer(client.subscribe(filters, timeout=SUBSCRIBE_TIMEOUT_S))
                except (aiomqtt.MqttError, LinkError) as error:
                    return _Missing(filters, f"not subscribed to {filters[0][0]}: {cause_of(error)}")
                filters = [pair for pair, code in zip(filters, codes, strict=True) if is_refused(code)]
            if not filters:
                return None
        return _Missing(filters, f"the broker did not grant the subscription to {filters[0][0]}")

    async def _unsubscribe(self, receiver: Receiver) -> None:
        kept = self._wanted()
        gone = [topic for topic, qos in receiver.filters() if (topic, qos) not in kept]
        if self._client is not None and gone and not self._is_leaving:
            with contextlib.suppress(aiomqtt.MqttError, LinkError):
                await self._answer(self._client.unsubscribe(gone, timeout=UNSUBSCRIBE_TIMEOUT_S))

    def _new_client(self) -> Client:
        will = None
        if self._presence:
            offline = self._presence.status(value="offline")
            topic = offline.topic
            will = aiomqtt.Will(topic.build(self._presence.address), offline.encode(), qos=topic.qos, retain=topic.retained)
        return Client(
            self._broker.host,
            self._broker.port,
            username=self._broker.username,
            password=self._broker.password,
            identifier=self._identifier,
            will=will,
            keepalive=self._broker.keepalive_s,
            timeout=SEND_TIMEOUT_S,
            tls_context=self._certificates.context,
        )
