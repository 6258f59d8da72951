"""The coordinator: reports come in, the machine decides, the journal writes it down, and then what is owed goes out."""

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path

from protocol import topics
from protocol.answers import REMEMBERED
from protocol.broker import Broker
from protocol.errors import DeviceError, LinkError, Rejected
from protocol.link import Link, Presence
from protocol.messages import Message, RawMessage
from protocol.rollouts import CoordinatorStatus, Report, Reported
from protocol.signature import TrustedKeys
from protocol.tasks import end_all
from protocol.topics import Fleet, RolloutAddress
from trainer.book import Book
from trainer.journal import LEASE_S, Journal
from trainer.obey import AnyOrder, Orders
from trainer.publish import RATE_BYTES_S, Publisher
from trainer.rollout_state import Answered, ClockSet, Connected, Event, Forgotten, Heard, Known, Tick, Unreadable
from trainer.say import Mouth
from trainer.shelf import Shelf

log = logging.getLogger(__name__)

CLOCK_SET_S = 2.0
"""The clock was set when it is so far from where it should be: a board wakes in 1970, until it hears the time."""
TOGETHER_S = 0.05
"""What comes in so short a time is decided and written down together."""
REPORT_AFTER_S = (0.0, 6.0, 20.0)
KEPT_S, FOUND_S = 0.5, 5.5
"""After a connection: what the broker kept has come; whoever is there has been asked to say so, and has."""
OFTEN, OFTEN_S = 5, 60.0
"""Two coordinators of one name take the connection from each other; a lease knows only those of its own state folder."""
JOURNAL_FILE, SHELF_FOLDER = "rollouts.sqlite", "releases"


class AnyStatus(RawMessage):
    """A camera's status as bytes: an empty one says that the camera was removed."""

    topic = topics.STATUS


class AnyReport(RawMessage):
    """A camera's report as bytes: what cannot be read must count, not vanish."""

    topic = topics.REPORTED
    max_bytes = 1_000_000


class AnyState(RawMessage):
    """How a rollout stood, as bytes: one that cannot be read is cleared up, too."""

    topic = topics.ROLLOUT_STATE


@dataclass(frozen=True)
class WatchSettings:
    """How a coordinator is set up."""

    broker: Broker
    base: str
    state_dir: Path
    trusted: TrustedKeys = field(default_factory=dict)
    """A release must be signed by one of these keys; when empty, by any: the cameras judge."""
    rate_bytes_s: float = RATE_BYTES_S
    tick_s: float = 1.0


class Coordinator:
    """The one that runs rollouts for the cameras of a base."""

    def __init__(self, settings: WatchSettings) -> None:
        self._settings = settings
        self._fleet = Fleet(settings.base)
        self._journal = Journal(settings.state_dir / JOURNAL_FILE, time.time)
        self._shelf = Shelf(settings.state_dir / SHELF_FOLDER, settings.trusted)
        self._book = Book(self._journal, self._shelf, time.time)
        presence = Presence(self._fleet, self._on_connection, CoordinatorStatus)
        self._link = Link(settings.broker, f"{settings.base}-coordinator", presence)
        self._mouth = Mouth(self._link, settings.base, self._book, self._journal, self._now)
        self._publisher = Publisher(
            self._link, settings.base, self._book.find, self._book.ships_to, settings.rate_bytes_s, lambda: bool(self._book.tells)
        )
        self._heard: list[Event] = []
        self._woke_s = _woke_s()
        self._connected = asyncio.Event()
        self._orders = Orders(self._book, self._find_cameras, self._decide_now)
        self._session = 0
        self._connected_s = deque([-math.inf], maxlen=OFTEN)
        """When it connected, the latest last."""

    @property
    def bytes_sent(self) -> int:
        """Bytes of chunks that the broker took."""
        return self._publisher.bytes_sent

    @property
    def online(self) -> int:
        """How many cameras are known to be there."""
        return sum(self._book.online.values())

    async def run(self, stop: asyncio.Event) -> None:
        """Coordinates until stopped. Raises DeviceError when the journal fails or another coordinator takes over, Rejected when it cannot be read."""
        await self._take_lease(stop)
        if stop.is_set():
            return
        try:
            self._woke_s = _woke_s()  # until here another one may have written, and watched the clock
            self._book.load()
            await self._work(stop)
        finally:
            with contextlib.suppress(DeviceError):
                self._journal.close()

    async def _work(self, stop: asyncio.Event) -> None:
        jobs = (self._renew, self._listen, self._obey, self._greet_back, self._clear_up, self._decide, self._mouth.run, self._publisher.run)
        async with self._link:
            tasks = [asyncio.create_task(job()) for job in jobs]
            stopping = asyncio.create_task(stop.wait())
            try:
                done, _ = await asyncio.wait({*tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {stopping}:
                    task.result()
            finally:
                await end_all(*tasks, stopping)

    async def _take_lease(self, stop: asyncio.Event) -> None:
        has_complained = False
        while not stop.is_set() and (holder := self._journal.take()):
            if not has_complained:
                log.warning("another coordinator is at work (%s); waiting for it to end", holder)
                has_complained = True
            await asyncio.sleep(1)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            self._journal.renew()

    def _on_connection(self, session: int) -> tuple[Message, ...]:
        """A greeting that is said once more in the same session, as after a stale `offline`, is no new connection."""
        if session == self._session:
            return ()
        self._session = session
        self._heard.append(Connected(time.time()))
        self._connected_s.append(time.monotonic())
        if self._connected_s[-1] - self._connected_s[0] < OFTEN_S:
            log.warning(
                "connected %d times in a minute: is another coordinator at work for base %s, with another state folder?", OFTEN, self._fleet.base
            )
        self._connected.set()
        return ()

    async def _find_cameras(self) -> None:
        """Waits until the cameras that the broker knows of have said that they are there, or had the time to: before, waves would leave some out."""
        await asyncio.sleep(self._connected_s[-1] + KEPT_S - time.monotonic())
        while time.monotonic() < self._connected_s[-1] + FOUND_S and not all(self._book.online.values()):
            await asyncio.sleep(TOGETHER_S)

    async def _greet_back(self) -> None:
        """After each connection the cameras are asked how they are: what a broker kept of them may be old, and not every broker keeps it for us.

        Asked again a little later: a camera that was just connecting may have spoken before we heard, and not have heard us.
        """
        while True:
            await self._connected.wait()
            self._connected.clear()
            for pause_s in REPORT_AFTER_S:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._connected.wait()
                    break
                await self._link.wait_online()
                with contextlib.suppress(LinkError):  # the next connection asks again
                    await self._link.send(self._fleet, Report())
                self._book.say_all()

    async def _clear_up(self) -> None:
        """At its start: states that the broker still has of rollouts of long ago, or of a journal that was lost, are deleted there.

        Only for a moment is it subscribed to them: a broker that does not allow it must not keep the coordinator away.
        """
        await self._link.wait_online()
        async with self._link.receive(self._settings.base, AnyState) as states:
            with contextlib.suppress(TimeoutError, LinkError):  # the next start goes on
                async with asyncio.timeout(FOUND_S):
                    async for address, state, is_retained in states:
                        if is_retained and state.payload:
                            await self._clear_state(address)
        await asyncio.Event().wait()  # a job that ended would end the others

    async def _clear_state(self, address: RolloutAddress) -> None:
        self._book.hear_of(address.rollout)
        if not self._book.shows(address.rollout):
            log.info("rollout %s is of long ago, or not of this journal: its state is deleted from the broker", address.rollout)
            await self._link.clear(address, AnyState)

    async def _listen(self) -> None:
        async with self._link.receive(self._settings.base, AnyStatus, AnyReport) as messages:
            async for address, message, is_retained in messages:
                match message:
                    case AnyStatus(payload=b""):
                        self._heard.append(Forgotten(time.time(), _name(address)))
                    case AnyStatus(payload=b"online") if is_retained:  # from before we listened: it may be long gone
                        self._heard.append(Known(time.time(), _name(address)))
                    case AnyStatus(payload=(b"online" | b"offline") as word):
                        self._heard.append(Heard(time.time(), _name(address), word == b"online"))
                    case AnyStatus():
                        log.warning("%s: its status is neither `online` nor `offline`, and is ignored", _name(address))
                    case AnyReport(payload=payload) if payload:
                        if not is_retained:
                            self._heard.append(Heard(time.time(), _name(address)))
                        self._heard.append(_answer(_name(address), payload, is_retained))

    async def _decide(self) -> None:
        ticked_s = 0.0
        while True:
            await asyncio.sleep(TOGETHER_S)
            if self._link.is_online and time.monotonic() - ticked_s >= self._settings.tick_s:  # whoever cannot be heard is not late
                ticked_s = time.monotonic()
                self._heard.append(Tick(time.time()))
            self._decide_now()

    def _now(self) -> float:
        """The time; if the clock was set, all that happened before is moved along first."""
        ahead_s = _woke_s() - self._woke_s
        if abs(ahead_s) >= CLOCK_SET_S:
            self._woke_s += ahead_s
            self._heard = [replace(event, at_s=time.time()) for event in self._heard]  # of the last moments
            self._book.hear(ClockSet(time.time(), ahead_s))
        return time.time()

    def _decide_now(self) -> None:
        self._now()
        events, self._heard = self._heard, []
        if events:
            self._book.hear(*events)

    async def _obey(self) -> None:
        async with self._link.receive(self._settings.base, AnyOrder, max_waiting=REMEMBERED) as orders:
            async for _, order, is_retained in orders:
                if is_retained:
                    log.warning("a rollout command is retained, and ignored")
                elif (ack := await self._orders.answer(order.payload)) is not None:
                    with contextlib.suppress(LinkError):  # the sender asks again
                        await self._link.send(self._fleet, ack)


def _woke_s() -> float:
    """When the machine woke, by its clock as it is set now."""
    return time.time() - time.monotonic()


def _name(address: topics.Address) -> str:
    return f"{address.site}/{address.camera}"


def _answer(camera: str, payload: bytes, is_retained: bool) -> Event:
    try:
        said = Reported.decode(payload)
    except Rejected as error:
        return Unreadable(time.time(), camera, str(error)[:200])
    return Answered(
        time.time(),
        camera,
        said.rollout,
        said.attempt,
        said.digest,
        said.state,
        boot=said.boot,
        seq=said.seq,
        reason=said.reason,
        detail=said.detail,
        installed={"classifier": said.classifier, "detector": said.detector},
        is_retained=is_retained,
    )
