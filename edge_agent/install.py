"""Does what the update machine asks: writes its state down, then acts, and tells it what came of that. Knows no camera and no broker."""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from edge_agent import check, update
from edge_agent.check import Owner
from edge_agent.disk import in_thread
from edge_agent.gate import Gate, judge
from edge_agent.slots import Part, Slots
from edge_agent.update_state import Accepted, Action, Asked, Done, Event, Failed, Lost, Refused, Started, State, Target, Withdrawn
from protocol.errors import DeviceError, Reason, Rejected
from protocol.release import Manifest
from protocol.rollouts import Desired, Kind, Trial
from protocol.tasks import end

log = logging.getLogger(__name__)

QUARTER = 25
"""Progress is reported in steps of so many per cent."""
CONNECTED_S = 600.0
"""So long after a trial the broker may stay away before that, too, is the new model's failure."""

COMPARED = frozenset({Reason.DISAGREES, Reason.TOO_SLOW})
"""Failures beside the model in use."""

Fetch = Callable[[Manifest, Part, Callable[[int], None]], Awaitable[None]]
"""Gets the missing chunks of a model into a part file, telling how many are missing."""


class Broken(Rejected):
    """A model has failed on a frame."""

    def __init__(self, kind: Kind, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.kind = kind


class Host(Protocol):
    """Where a model is tried: a camera, or a simulated one. A failed model raises Rejected or DeviceError."""

    async def test(self, kind: Kind, folder: Path) -> None:
        """Golden answers, and latency beside the old model's, where a crash does no harm."""

    async def shadow(self, kind: Kind, folder: Path) -> Trial:
        """What the old model's frames took, then what the new one makes of the same faces while the old one decides."""

    def attempt(self, kind: Kind, folder: Path, before: Trial | None) -> AsyncGenerator[Trial]:
        """The new model decides, for the time of a trial: its figures beside those of before, so far, and at last those of all of it."""

    async def fails(self) -> None:
        """Returns never: raises what the model on trial fails of, as soon as it does."""

    async def breaks(self) -> Broken:
        """Returns when a model that was committed has failed, and the one that ships has taken its place."""

    async def settle(self) -> None:
        """The old model is not needed any more; if the new one failed while that was written down, `breaks` tells of it."""

    async def restore(self) -> None:
        """The old model decides again."""


class Installer:
    """The update of one camera, from what is desired to what is committed. All methods belong to the event loop."""

    def __init__(
        self, slots: Slots, state: State, owner: Owner, gate: Gate, host: Host, fetch: Fetch, connected: Callable[[], Awaitable[None]]
    ) -> None:
        """`state` is what `slots` loaded; `connected` returns when the broker is there."""
        self.state = state
        self.percent: int | None = None
        """How much of a model is here, while it is being fetched."""
        self.changed = asyncio.Event()
        """Set when there is something new to report."""
        self._slots = slots
        self._owner = owner
        self._gate = gate
        self._host = host
        self._fetch = fetch
        self._connected = connected
        self._inbox: asyncio.Queue[Desired] = asyncio.Queue(maxsize=1)
        self._desired = Desired()

    def ask(self, desired: Desired) -> None:
        """Takes a desired state over, in place of one that still waits. The same one again is answered again, and changes nothing."""
        if self._inbox.full():
            self._inbox.get_nowait()
        self._inbox.put_nowait(desired)

    async def run(self) -> None:
        """Goes on where the journal stands, and follows what is desired, until cancelled."""
        doing = await self._begin(await self._take(Started()))
        asking, breaking = asyncio.create_task(self._inbox.get()), asyncio.create_task(self._host.breaks())
        try:
            while True:
                await asyncio.wait({asking, breaking} if doing is None else {doing, asking, breaking}, return_when=asyncio.FIRST_COMPLETED)
                if breaking.done():
                    broken, breaking = breaking.result(), asyncio.create_task(self._host.breaks())
                    await self._take(Lost(broken.kind, self._slots.shipped(broken.kind), broken.reason, broken.detail))
                if doing is not None and doing.done():
                    event = doing.result()
                    doing = None if event is None else await self._begin(await self._take(event))
                if asking.done():
                    desired, asking = asking.result(), asyncio.create_task(self._inbox.get())
                    if self.state.asked != _name(desired):
                        await end(doing)
                        doing = await self._begin(await self._ask(desired))
                    else:
                        self.changed.set()
        finally:
            await end(asking)
            await end(breaking)
            await end(doing)

    async def _ask(self, desired: Desired) -> tuple[Action, ...]:
        """Turns to another desired state; a trial is rolled back first."""
        self._desired = desired
        if not desired.manifest:
            return await self._take(Withdrawn(_name(desired), desired.rollout, desired.attempt))
        if self.state.is_trying:
            for action in await self._take(Withdrawn()):
                await self._do(action)
        return await self._take(Asked(_name(desired), desired.rollout, desired.attempt, desired.hold))

    async def _take(self, event: Event) -> tuple[Action, ...]:
        """Steps the machine and writes its state down; what is to be done is returned after that."""
        before = self.state
        step = update.step(before, event)
        if step.state is before:
            return step.actions
        try:
            await in_thread(self._slots.save, step.state)
        except OSError as error:
            log.error("the journal of updates cannot be written: %s", error)  # noqa: TRY400
            failed = Failed(Reason.DISK_FAILED, str(error))
            step = update.step(before if Failed in update.TRANSITIONS[before.state] else step.state, failed)
        self._tell(before, step.state)
        self.state, self.percent = step.state, None
        self.changed.set()
        return step.actions

    def _tell(self, before: State, after: State) -> None:
        target = after.target
        what = f" ({target.kind} {target.name} {target.version})" if target else ""
        level = logging.WARNING if after.reason else logging.INFO
        log.log(level, "update: %s -> %s%s%s", before.state, after.state, what, f": {after.reason}, {after.detail}" if after.reason else "")

    async def _begin(self, actions: tuple[Action, ...]) -> asyncio.Task[Event | None] | None:
        """What is begun can be broken off for another wish; not which model decides: that is done before any is looked at."""
        if not actions:
            return None
        if actions[0] in (Action.SETTLE, Action.RESTORE):
            await self._do(actions[0])
            return None
        return asyncio.create_task(self._do(actions[0]))

    async def _do(self, action: Action) -> Event | None:
        """What came of an action."""
        try:
            return await self._act(action)
        except Rejected as error:
            return Failed(error.reason, error.detail)
        except DeviceError as error:
            return Failed(Reason.CRASHED, str(error))
        except OSError as error:
            return Failed(Reason.DISK_FAILED, str(error))
        except Exception as error:  # a model that breaks in a way of its own must not take the camera along
            log.exception("update: %s failed", action)
            return Failed(Reason.CRASHED, f"{type(error).__name__}: {error}")

    async def _act(self, action: Action) -> Event | None:
        if action is Action.CHECK:
            return await self._check(datetime.now(UTC))
        if action in (Action.SETTLE, Action.RESTORE):
            await (self._host.settle() if action is Action.SETTLE else self._host.restore())
            return None
        target, slot = self.state.target, self.state.slot
        if target is None or slot is None:
            raise Rejected(Reason.BAD_RELEASE, "the journal names no release")
        # A key may have been taken out of the settings since the release was accepted, or its last day has come.
        accepted = Desired(manifest=target.manifest, signature=target.signature)
        manifest = self._allowed(accepted, datetime.now(UTC))
        folder = self._slots.folder(target.kind, slot)
        match action:
            case Action.FETCH:
                part = await in_thread(self._slots.part, manifest, slot)
                await self._fetch(manifest, part, lambda missing: self._progress(missing, len(manifest.chunks)))
                return Done()
            case Action.VERIFY:
                await in_thread(self._slots.prove, manifest, accepted.manifest_bytes, slot)
                return Done()
            case Action.TEST:
                with self._lenient():
                    await self._host.test(target.kind, folder)
                return Done()
            case Action.SHADOW:
                return self._judged(await self._host.shadow(target.kind, folder))
            case Action.TRY:
                return await self._once_connected(await self._tried(target.kind, folder))
        return None

    async def _check(self, now: datetime) -> Event:
        target: Target | None = None
        try:
            manifest = check.read(self._desired, self._owner, now)
            target = check.target_of(manifest, self._desired)
            check.allow(manifest, self._owner, now)
        except Rejected as error:
            return Refused(error.reason, error.detail, target)
        return Accepted(target, await in_thread(self._slots.has, manifest, update.spare(self.state, manifest.kind)))

    def _allowed(self, desired: Desired, now: datetime) -> Manifest:
        manifest = check.read(desired, self._owner, now)
        check.allow(manifest, self._owner, now)
        return manifest

    async def _tried(self, kind: Kind, folder: Path) -> Event:
        """What a trial ends with: the first figures that are not good enough, or its last."""
        async with contextlib.aclosing(self._host.attempt(kind, folder, self.state.trial)) as figures:
            async for trial in figures:
                event = self._judged(trial)
                if isinstance(event, Failed):
                    break
        return event

    @contextlib.contextmanager
    def _lenient(self) -> Iterator[None]:
        """What worked here before need not be like the model in use, nor as fast."""
        try:
            yield
        except Rejected as error:
            if not self.state.is_way_back or error.reason not in COMPARED:
                raise

    def _judged(self, trial: Trial) -> Event:
        try:
            with self._lenient():
                judge(trial, self._gate)
        except Rejected as error:
            return Failed(error.reason, error.detail, trial)
        return Done(trial)

    async def _once_connected(self, event: Event) -> Event:
        """A trial counts once the broker has been reached in it: a model that starves the link must not stay, nor one that fails meanwhile."""
        if not isinstance(event, Done):
            return event
        failing, connecting = asyncio.ensure_future(self._host.fails()), asyncio.ensure_future(self._connected())
        try:
            await asyncio.wait({failing, connecting}, timeout=CONNECTED_S, return_when=asyncio.FIRST_COMPLETED)
            if failing.done():
                await failing
            if connecting.done():
                return event
            return Failed(Reason.NOT_CONNECTED, f"no connection to the broker in {CONNECTED_S:.0f} s", event.trial)
        finally:
            await end(connecting)
            await end(failing)

    def _progress(self, missing: int, chunks: int) -> None:
        percent = round(100 * (chunks - missing) / chunks)
        if self.percent is None or percent // QUARTER != self.percent // QUARTER:
            self.changed.set()
        self.percent = percent


def _name(desired: Desired) -> str:
    return hashlib.sha256(desired.encode()).hexdigest()
