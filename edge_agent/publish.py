"""Scene -> messages; alerts and incidents by way of the outbox, so that none is lost while the broker is away."""

import asyncio
import contextlib
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from edge_agent.outbox import Outbox
from edge_agent.scene import Closed, Ending, Incident, Opened
from edge_agent.snapshot import Shot
from protocol.errors import LinkError
from protocol.link import Link
from protocol.messages import Alert, IncidentEnded, NoMask, Snapshot, utc
from protocol.topics import Address, SnapshotAddress

log = logging.getLogger(__name__)

REPLAYED_S = 2.0
"""A message that waited this long could not be delivered at its time."""
RETRY_S = 0.5
SHOTS_WAITING = 4
"""Pictures are large and of the moment: a slow link drops them."""
SHOT_LOOK_S = 0.05
FLUSH_S = 5.0


class Teller:
    """Incidents -> messages. The two of one incident agree on when it began, whatever the clock is set to in between."""

    def __init__(self, boot: str) -> None:
        self._boot = boot
        self._began: dict[int, datetime] = {}

    def message_of(self, incident: Incident, model: str, time_s: float) -> Alert | IncidentEnded:
        """The message that tells of an incident; `time_s` is now, on the camera's clock."""
        started = self._began.pop(incident.seq, None) or utc(time.time() - (time_s - incident.started_s))
        id_ = f"{self._boot}-{incident.seq}"
        match incident:
            case Opened():
                self._began[incident.seq] = started
                return Alert(
                    id=id_,
                    boot=self._boot,
                    seq=incident.seq,
                    started=started,
                    p_no_mask=round(incident.p_no_mask, 4),
                    votes=f"{incident.bare_votes}/{incident.votes}",
                    faces=incident.faces,
                    model=model,
                )
            case Closed():
                return IncidentEnded(
                    id=id_,
                    boot=self._boot,
                    seq=incident.seq,
                    started=started,
                    duration_s=round(max(0.0, incident.ended_s - incident.started_s), 3),
                    worst_p_no_mask=round(incident.worst_p_no_mask, 4),
                    frames=incident.frames,
                    ended=Ending(incident.ending).value,
                )


class Publisher:
    """Sends what a camera has to say about faces. All methods belong to the event loop; the disk has a thread of its own."""

    def __init__(self, link: Link, address: Address, outbox: Outbox) -> None:
        self._link = link
        self._address = address
        self._outbox = outbox
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="outbox")
        self._waiting: asyncio.Queue[tuple[Alert | IncidentEnded, float]] = asyncio.Queue()
        """Messages, and when each was told."""
        self._in_hand = 0
        """1 while a message is none of those that wait any more, and not yet the outbox's."""
        self._has_stored = asyncio.Event()
        self._shots: asyncio.Queue[Shot] = asyncio.Queue(SHOTS_WAITING)
        self._no_mask = NoMask(value="OFF")
        self._no_mask_changed = asyncio.Event()

    @property
    def no_mask(self) -> NoMask:
        """Whether an incident is open, as others should see it."""
        return self._no_mask

    @property
    def depth(self) -> int:
        """How many messages the broker has not acknowledged yet, also those that a slow disk keeps from the outbox."""
        return self._waiting.qsize() + self._in_hand + self._outbox.depth

    def tell(self, messages: list[Alert | IncidentEnded], open_incidents: int) -> None:
        """Takes messages over, without waiting for anything."""
        for message in messages:
            self._waiting.put_nowait((message, time.monotonic()))
        value = NoMask(value="ON" if open_incidents else "OFF")
        if value != self._no_mask:
            self._no_mask = value
            self._no_mask_changed.set()

    def show(self, shot: Shot) -> None:
        """Takes a picture over; it is sent once if the link is there, after the messages that wait, and never kept for later."""
        with contextlib.suppress(asyncio.QueueFull):
            self._shots.put_nowait(shot)

    async def run(self) -> None:
        """Stores and sends until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._store())
            tasks.create_task(self._drain())
            tasks.create_task(self._send_no_mask())
            tasks.create_task(self._send_shots())

    async def flush(self) -> None:
        """Returns when everything told is on disk and sent, at the latest after a few seconds; a broker that is not there is not waited for."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                await self._waiting.join()
                while (self.depth or self._no_mask_changed.is_set()) and (self._link.is_online or not self._link.problem):
                    await asyncio.sleep(0.02)
        if self.depth:
            log.warning("%d messages wait for the broker until the next start", self.depth)

    def close(self) -> None:
        """Lets the outbox go, after all that was told is written."""
        while not self._waiting.empty():  # whoever writes them was stopped before
            self._disk.submit(self._outbox.put, *self._waiting.get_nowait())
        self._disk.shutdown(wait=True)
        self._outbox.close()

    async def _store(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            told = await self._waiting.get()
            self._in_hand = 1
            try:
                await asyncio.shield(loop.run_in_executor(self._disk, self._put, *told))  # it is stored, also when this ends
            finally:
                self._waiting.task_done()
            self._has_stored.set()

    def _put(self, message: Alert | IncidentEnded, told_s: float) -> None:
        """On the disk's thread."""
        self._in_hand = 0  # the outbox counts it at once, and may take long to write it
        self._outbox.put(message, told_s)

    async def _drain(self) -> None:
        """Sends what is stored, oldest first; a row goes only after the broker's acknowledgement."""
        loop = asyncio.get_running_loop()
        while True:
            await self._link.wait_online()
            self._has_stored.clear()
            row = await loop.run_in_executor(self._disk, self._outbox.oldest)
            if row is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_S if self._outbox.depth else None):  # what is there could not be read
                        await self._has_stored.wait()
                continue
            delay_s = None if row.told_s is None else round(max(0.0, time.monotonic() - row.told_s), 3)
            is_late = delay_s is None or delay_s >= REPLAYED_S
            try:
                await self._link.send(self._address, row.message.model_copy(update={"replayed": is_late, "delay_s": delay_s}))
            except LinkError as error:
                log.debug("%s stays in the outbox: %s", row.message.id, error)
                await asyncio.sleep(RETRY_S)
            else:
                await loop.run_in_executor(self._disk, self._outbox.remove, row)

    async def _send_no_mask(self) -> None:
        """Keeps the retained state true; at each connection the greeting says it anyway."""
        while True:
            await self._no_mask_changed.wait()
            await self._link.wait_online()
            try:
                value = self._no_mask
                await self._link.send(self._address, value)
            except LinkError:
                await asyncio.sleep(RETRY_S)
            else:
                if value == self._no_mask:
                    self._no_mask_changed.clear()

    async def _send_shots(self) -> None:
        while True:
            shot = await self._shots.get()
            await self._waiting.join()
            while self._link.is_online and self._outbox.depth:  # large as it is, a picture would keep an alert waiting
                await asyncio.sleep(SHOT_LOOK_S)
            if not self._link.is_online:
                continue
            address = SnapshotAddress.of(self._address, shot.id)
            with contextlib.suppress(LinkError):
                await self._link.send(address, Snapshot(jpeg=shot.jpeg))
