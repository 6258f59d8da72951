"""The rollouts of a fleet: each event goes through the machine and into the journal before anything comes of it."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError

from protocol.errors import Reason, Rejected, naming, one_line
from protocol.messages import MAX_TEXT
from protocol.topics import CAMERAS
from trainer.journal import Journal
from trainer.rollout import allows, asks_no_more, is_over, owed, reached, step
from trainer.rollout_state import (
    MAX_CAMERAS,
    Answered,
    Connected,
    Event,
    Forgotten,
    Heard,
    Known,
    Note,
    Phase,
    Plan,
    RollBack,
    Rollout,
    Rules,
    Start,
    Supersede,
    Tell,
)
from trainer.shelf import Shelf, Shipment

log = logging.getLogger(__name__)

BACK = Rules(waves=("100%",), threshold=0, quorum=0, soak_s=0, max_failures=1_000_000)
"""A way back goes to all at once, and is not stopped by one that cannot take it."""

SHOWN = 20
"""So many rollouts are seen in the status at least, the latest ones."""


class StartArgs(Rules):
    """What `start` takes: a release, cameras, and rules."""

    model_config = ConfigDict(extra="forbid")

    release: str
    select: tuple[Annotated[str, Field(pattern=f"^{CAMERAS.pattern}$")], ...] = ("*/*",)

    @classmethod
    def parse(cls, args: dict[str, Any]) -> "StartArgs":
        """The arguments of a command; raises Rejected: what cannot be read starts nothing."""
        try:
            return cls.model_validate(args)
        except ValidationError as error:
            raise Rejected(Reason.BAD_PAYLOAD, f"start: {one_line(error)}") from None

    def rules(self) -> Rules:
        """Those among the arguments."""
        return Rules.model_validate(self.model_dump(exclude={"release", "select"}))


@dataclass
class Entry:
    """One rollout, and what it ships."""

    state: Rollout
    shipment: Shipment


class Book:
    """All rollouts that are not over, the oldest first. `changed` is set whenever there is something to say."""

    def __init__(self, journal: Journal, shelf: Shelf, clock: Callable[[], float]) -> None:
        self._journal = journal
        self._shelf = shelf
        self._clock = clock
        self.entries: dict[str, Entry] = {}
        self.tells: dict[tuple[str, str], Tell] = {}
        """By rollout and camera: what the broker has yet to be told."""
        self.unsaid: set[str] = set()
        """Rollouts whose state is not what was last said."""
        self.online: dict[str, bool] = {}
        self._desired: dict[str, str] = {}
        """By camera: the rollout whose wish the broker has, or may have, as its desired state."""
        self._foreign: set[str] = set()
        """Rollouts of a journal that was lost, of which others still tell."""
        self.changed = asyncio.Event()

    def load(self) -> None:
        """Takes up what the journal holds; raises Rejected when it, or a release, cannot be read.

        A rollout that has begun is taken up even if its release has expired or its key is trusted no more: the cameras judge, and
        a coordinator that did not start could neither stop it nor take it back.
        """
        self._desired = self._journal.load_desired()
        for state, shipment in self._journal.load():
            if asks_no_more(state) and not self._shelf.holds(shipment):
                log.warning("rollout %s has ended, and its release is gone: left out", state.plan.rollout)
                continue
            with naming(f"rollout {state.plan.rollout}"):
                self.entries[state.plan.rollout] = Entry(state, self._shelf.read(shipment))
            self._owe(state.plan.rollout, tuple(owed(state)))

    def hear(self, *events: Event) -> None:
        """Something happened that any rollout may care about."""
        for event in events:
            if isinstance(event, Connected):  # what the broker said last may be old
                self.online = dict.fromkeys(self.online, False)
            elif isinstance(event, Heard | Known) and (event.camera in self.online or len(self.online) < MAX_CAMERAS):
                self.online[event.camera] = event.is_online if isinstance(event, Heard) else self.online.get(event.camera, False)
            elif isinstance(event, Forgotten):
                self.online.pop(event.camera, None)
            elif isinstance(event, Answered):
                self.hear_of(event.rollout)
        for name in self.entries:
            self.do(name, *events)

    def hear_of(self, rollout: str) -> None:
        """Somebody tells of a rollout. The name of one that this journal does not know is not given again: what was answered to it would count."""
        is_new = rollout not in self.entries and rollout not in self._foreign
        if is_new and len(self._foreign) < MAX_CAMERAS and not self._journal.knows(rollout):
            self._foreign.add(rollout)

    def shows(self, rollout: str) -> bool:
        """Whether the broker should keep the state of a rollout: of those that are open, and of the last ones."""
        return rollout in self.entries or rollout in self._journal.latest(SHOWN)

    def do(self, rollout: str, *events: Event) -> None:
        """Something happened to one rollout."""
        entry = self.entries[rollout]
        done = step(entry.state, *events)
        if done.state is not entry.state:
            notes = [action for action in done.actions if isinstance(action, Note)]
            tells = tuple(action for action in done.actions if isinstance(action, Tell))
            with self._journal.together():
                self._save(entry.state, done.state, entry.shipment, notes)
                for camera in entry.state.cameras.keys() - done.state.cameras.keys():
                    self.tells.pop((rollout, camera), None)
                entry.state = done.state
                self._owe(rollout, tells)
                if any(tell.asked != "nothing" for tell in tells):
                    self._supersede(rollout)

    def under_way(self) -> Entry | None:
        """The latest rollout that has not ended. There may be an older one that was done, and is paused for what late cameras said."""
        latest_first = reversed(self.entries.values())
        return next((entry for entry in latest_first if entry.state.phase is not Phase.DONE and not asks_no_more(entry.state)), None)

    def current(self) -> str:
        """The rollout that is meant when none is named: the one under way, or the last that has asked a camera; empty when there is none."""
        if (busy := self.under_way()) is not None:
            return busy.state.plan.rollout
        asking = [name for name, entry in self.entries.items() if any(own.attempt for own in entry.state.cameras.values())]
        return (asking or list(self.entries) or [""])[-1]

    def find(self, short_digest: str) -> Shipment | None:
        """The release of this digest that cameras may be fetching: signed again, the model may come in other chunks."""
        # The oldest one: until a newer one has asked a camera, and taken its place, it is the one that is fetched.
        return next((entry.shipment for entry in self._shipping(short_digest)), None)

    def ships_to(self, short_digest: str, camera: str) -> bool:
        """Whether a camera, `site/camera`, is in a rollout of this model: a model that was signed again may be in two."""
        return any(camera in entry.state.cameras for entry in self._shipping(short_digest))

    def _shipping(self, short_digest: str) -> Iterator[Entry]:
        """The rollouts of a model that may ask for it."""
        for entry in self.entries.values():
            if entry.shipment.short_digest == short_digest and not asks_no_more(entry.state):
                yield entry

    def start(self, args: StartArgs) -> str:
        """Begins a rollout and returns its name; raises Rejected when another is under way, or the release may not be shipped."""
        if (busy := self.under_way()) is not None:
            raise Rejected(Reason.BAD_INPUT, f"rollout {busy.state.plan.rollout} is {busy.state.phase}: abort it or roll it back first")
        shipment = self._shelf.get(args.release)
        return self._begin(shipment, self._plan(shipment, args.select, args.rules()))

    def roll_back(self, rollout: str, release: str, reason: str) -> str:
        """Ends a rollout and sends its cameras another release, the old model with a higher counter; returns the new rollout's name."""
        entry, shipment = self.entries[rollout], self._shelf.get(release)
        old, new = entry.state.plan, shipment.manifest
        if new.kind != old.kind or new.counter <= old.counter or new.fingerprint == entry.shipment.manifest.fingerprint:
            raise Rejected(
                Reason.OLD_COUNTER,
                f"a way back from {rollout} is another {old.kind} with a counter above {old.counter}; {release} is not: sign the old release again",
            )
        if not allows(entry.state, RollBack):
            raise Rejected(Reason.BAD_PAYLOAD, f"rollout {rollout} is {entry.state.phase}: it cannot be rolled back")
        cameras = reached(entry.state)
        if not cameras:
            raise Rejected(Reason.BAD_PAYLOAD, f"rollout {rollout} is {entry.state.phase} and has reached no camera: there is nothing to take back")
        self._shelf.check_back(shipment, entry.shipment)
        plan = self._plan(shipment, cameras, BACK.model_copy(update={"answer_s": old.rules.answer_s}))
        with self._journal.together():
            self.do(rollout, RollBack(self._clock(), reason))
            return self._begin(shipment, plan)

    def say_all(self) -> None:
        """Every state is to be said again."""
        self.unsaid.update(self.entries)
        self.changed.set()

    def let_go(self) -> None:
        """Rollouts that are over, and not the latest, are closed once their last state has been said."""
        for name in list(self.entries)[:-1]:
            entry = self.entries[name]
            if is_over(entry.state) and name not in self.unsaid:
                self._journal.save(entry.state, entry.state, entry.shipment.name, [], self._clock(), is_open=False)
                del self.entries[name]
                self.tells = {key: tell for key, tell in self.tells.items() if key[0] != name}

    def told(self, key: tuple[str, str], tell: Tell) -> None:
        """The broker has it; a newer wish for the same camera stays owed."""
        if self.tells.get(key) == tell:
            del self.tells[key]

    def is_newers(self, rollout: str, camera: str) -> bool:
        """Whether a camera's desired state is a newer rollout's: an older one must not unsay that, and has nothing there to take back."""
        names = list(self.entries)
        newer = names[names.index(rollout) + 1 :]
        if (latest := self._desired.get(camera)) is not None:
            return latest in newer
        # An older journal does not say.
        return any((own := self.entries[name].state.cameras.get(camera)) is not None and own.attempt > 0 for name in newer)

    def will_say(self, keys: Iterable[tuple[str, str]]) -> None:
        """The desired states of these cameras become these rollouts'. Before it is said: who is killed between must not think that it was not."""
        changed = {camera: rollout for rollout, camera in keys if self._desired.get(camera) != rollout}
        if changed:
            self._journal.save_desired(changed)
            self._desired |= changed

    def is_busy(self, rollout: str, camera: str) -> bool:
        """Whether a camera is at work for another rollout than this, or an older one is to ask it first: it should not be disturbed."""
        own = self.entries[rollout].state.cameras[camera]
        if own.fate == "updating" and own.said_s:
            return False
        is_older = True
        for name, entry in self.entries.items():
            if name == rollout:
                is_older = False
            elif (other := entry.state.cameras.get(camera)) is not None and other.fate == "updating" and (other.said_s or is_older):
                return True
        return False

    def _plan(self, shipment: Shipment, select: tuple[str, ...], rules: Rules) -> Plan:
        manifest = shipment.manifest
        fields = {key: getattr(manifest, key) for key in ("kind", "name", "version", "digest", "counter")}
        try:
            return Plan(rollout=self._free_name(f"{manifest.kind}-{manifest.counter}"), select=select, rules=rules, **fields)
        except ValidationError as error:
            raise Rejected(Reason.BAD_PAYLOAD, f"start: {one_line(error)}") from None

    def _begin(self, shipment: Shipment, plan: Plan) -> str:
        at_s = self._clock()
        with self._journal.together():
            draft, select = Rollout(plan=plan, since_s=at_s), plan.select
            text = f"{plan.name} {plan.version}, counter {plan.counter}, to {', '.join(select[:5])}{' ...' if len(select) > 5 else ''}"
            self._save(None, draft, shipment, [Note("started", text=text[:MAX_TEXT])])
            self.entries[plan.rollout] = Entry(draft, shipment)
            self.do(plan.rollout, *(Heard(at_s, camera, is_online) for camera, is_online in self.online.items()), Start(at_s))
        return plan.rollout

    def _supersede(self, rollout: str) -> None:
        """It has asked a camera, and takes the place of the older ones of its kind; one that asks nobody leaves them as they are."""
        names, kind = list(self.entries), self.entries[rollout].state.plan.kind
        for name in names[: names.index(rollout)]:
            if self.entries[name].state.plan.kind == kind:
                self.do(name, Supersede(self._clock(), rollout))

    def _free_name(self, name: str) -> str:
        number, free = 1, name
        while self._journal.knows(free) or free in self._foreign:
            number += 1
            free = f"{name}-{number}"
        return free

    def _save(self, before: Rollout | None, after: Rollout, shipment: Shipment, notes: list[Note], is_open: bool = True) -> None:
        self._journal.save(before, after, shipment.name, notes, self._clock(), is_open)
        self.unsaid.add(after.plan.rollout)
        self.changed.set()

    def _owe(self, rollout: str, tells: tuple[Tell, ...]) -> None:
        self.tells |= {(rollout, tell.camera): tell for tell in tells}
        self.unsaid.add(rollout)
        self.changed.set()
