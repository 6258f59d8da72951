"""What the coordinator says: desired states that are owed, how each rollout stands, and the record. What is not acknowledged is said again."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from protocol.errors import LinkError
from protocol.link import Link
from protocol.messages import MAX_TEXT, utc
from protocol.rollouts import Desired, Failure, RolloutState
from protocol.topics import Address, RolloutAddress
from trainer.book import Book
from trainer.journal import Journal
from trainer.rollout_state import BAD, Fate, Rollout, Tell, Told

log = logging.getLogger(__name__)

TOGETHER = 8
"""So many desired states are on their way to the broker at a time."""
SHOWN, REASON_CHARS = 16, 40
"""Of so many cameras a rollout's state says why the release failed there, and so much of the reason: a camera may say anything."""
PAUSE_S = 0.05
"""Between two rounds: a state that changes often is said twenty times a second at most."""


class Mouth:
    """Says what the book owes, in rounds."""

    def __init__(self, link: Link, base: str, book: Book, journal: Journal, clock: Callable[[], float]) -> None:
        self._link = link
        self._base = base
        self._book = book
        self._journal = journal
        self._clock = clock
        self._seq = 0

    async def run(self) -> None:
        """Speaks until cancelled."""
        while True:
            await self._book.changed.wait()
            self._book.changed.clear()
            await self._link.wait_online()
            try:
                await self._tell()
                await self._say_states()
                self._book.let_go()
                await self._say_record()
            except LinkError as error:
                log.info("not said, will be said again: %s", error)
                self._book.changed.set()
            await asyncio.sleep(PAUSE_S)

    async def _tell(self) -> None:
        batch = self._next()
        sent = {key: tell for key, tell in batch.items() if self._is_to_be_said(key)}
        self._book.will_say(sent)
        results = await asyncio.gather(*(self._send(key, tell) for key, tell in sent.items()), return_exceptions=True)
        errors = {key: result for key, result in zip(sent, results, strict=True) if result is not None}
        told: dict[str, list[Told]] = {}
        for key, tell in batch.items():
            if key not in errors:
                self._book.told(key, tell)
                told.setdefault(key[0], []).append(Told(self._clock(), tell.camera, tell.attempt, tell.asked))
        for rollout, events in told.items():
            self._book.do(rollout, *events)
        for error in errors.values():
            if not isinstance(error, LinkError):
                raise error
        if errors:
            raise LinkError("the broker did not take it")

    def _next(self) -> dict[tuple[str, str], Tell]:
        """What is said together: to each camera one thing, or nobody knew which came last."""
        cameras: set[str] = set()
        batch: dict[tuple[str, str], Tell] = {}
        for key, tell in self._book.tells.items():
            if len(batch) == TOGETHER:
                break
            if tell.camera not in cameras and not self._book.is_busy(*key):
                cameras.add(tell.camera)
                batch[key] = tell
        return batch

    def _is_to_be_said(self, key: tuple[str, str]) -> bool:
        """Not to a camera that has committed meanwhile, nor in place of what a newer rollout asked of it, unless it is to run the release."""
        rollout, camera = key
        own = self._book.entries[rollout].state.cameras[camera]
        return not own.is_told and (own.fate is Fate.UPDATING or not self._book.is_newers(rollout, camera))

    async def _send(self, key: tuple[str, str], tell: Tell) -> None:
        rollout, camera = key
        if tell.asked == "nothing":
            desired = Desired(rollout=rollout, attempt=tell.attempt)
        else:
            desired = self._book.entries[rollout].shipment.desired(rollout, tell.attempt, hold=tell.asked == "hold")
        site, _, name = camera.partition("/")
        await self._link.send(Address(self._base, site, name), desired)

    async def _say_states(self) -> None:
        for rollout in list(self._book.unsaid):
            self._book.unsaid.discard(rollout)
            entry = self._book.entries.get(rollout)
            if entry is not None:
                try:
                    await self._link.send(RolloutAddress(self._base, rollout), self.state(entry.state))
                except LinkError:
                    self._book.unsaid.add(rollout)
                    raise

    async def _say_record(self) -> None:
        lines = self._journal.unsent()
        for rollout, line in lines:
            await self._link.send(RolloutAddress(self._base, rollout), line)
            log.info("%s: %s %s %s", rollout, line.event, line.camera, line.text)
        if lines:
            self._journal.mark_sent(lines[-1][1].seq)
            self._book.changed.set()

    def state(self, state: Rollout) -> RolloutState:
        """How a rollout stands, with the next number."""
        self._seq += 1
        plan = state.plan
        figures: dict[str, Any] = counts(state)
        return RolloutState(
            epoch=self._journal.epoch,
            seq=self._seq,
            phase=state.phase.value,
            reason=state.reason[:MAX_TEXT],
            kind=plan.kind,
            name=plan.name,
            version=plan.version,
            digest=plan.digest,
            counter=plan.counter,
            wave=state.wave,
            waves=len(plan.rules.waves),
            failures=failures(state),
            updated=utc(self._clock()),
            **figures,
        )


def failures(state: Rollout) -> tuple[Failure, ...]:
    """Some cameras on which the release failed, those first that nobody has let pass: as many as fit into a retained message."""
    failed = sorted(((name, own) for name, own in state.cameras.items() if own.fate in BAD), key=lambda one: one[1].is_excused)
    return tuple(
        Failure.model_validate({"camera": name, "fate": own.fate.value, "reason": own.reason[:REASON_CHARS]}) for name, own in failed[:SHOWN]
    )


def counts(state: Rollout) -> dict[str, int]:
    """How many cameras of a rollout there are, in all and by what became of them; who waits and is not there counts as offline."""
    fates = Counter(own.fate for own in state.cameras.values())
    offline = sum(own.fate is Fate.WAITING and not own.is_online for own in state.cameras.values())
    by_fate = {fate.value: fates[fate] for fate in (Fate.UPDATING, Fate.COMMITTED, *sorted(BAD))}
    return {"cameras": len(state.cameras), "waiting": fates[Fate.WAITING] - offline, "offline": offline, **by_fate}
