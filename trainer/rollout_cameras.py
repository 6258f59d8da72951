"""What a rollout knows of each camera: how an event changes it, and how it is asked and recalled. Pure, like `rollout.py`."""

from collections.abc import Callable
from typing import Any

from protocol.rollouts import ENDED, Installed, UpdateState
from trainer.rollout_state import (
    BAD,
    CLOSED,
    MAX_CAMERAS,
    Answered,
    Asked,
    Camera,
    ClockSet,
    Connected,
    Event,
    Fate,
    Forgotten,
    Heard,
    Known,
    Plan,
    Rollout,
    Told,
    Unreadable,
)

KEPT_BOOTS = 4
SAYINGS = 4
"""So often a camera is asked in the time that it has for an answer: a broker may lose what it has acknowledged."""
NO_ANSWER, UNREADABLE, DUPLICATE = UNHEARD = ("no_answer", "unreadable", "duplicate")
"""Reasons of failures of which the camera did not say what it runs."""
RESTING = ENDED | {UpdateState.IDLE}


def note(state: Rollout, event: Event) -> Rollout:
    """The state, with what an event says about its cameras; the same object when it says nothing new."""
    match event:
        case Connected():
            # Of a clock that was set back while no coordinator ran, nobody has told.
            earlier = state.model_copy(update={"since_s": event.at_s}) if state.since_s > event.at_s else state
            return each(earlier, lambda own: _anew(own, event.at_s))
        case ClockSet(by_s=by_s):
            moved = each(state, lambda own: _at_other_times(own, by_s))
            return moved.model_copy(update={"since_s": _moved(state.since_s, by_s)})
        case Forgotten(camera=camera):
            return _forget(state, camera)
        case Heard() | Known() | Told() | Answered() | Unreadable():
            own = state.cameras.get(event.camera)
            if own is None and isinstance(event, Told):  # it was forgotten meanwhile
                return state
            if own is None and (not state.plan.selects(event.camera) or len(state.cameras) >= MAX_CAMERAS):
                return state
            before = own or Camera()
            after = _after(before, state, event)
            return state if after is own else put(state, {event.camera: after})
    return state


def expire(state: Rollout, at_s: float) -> Rollout:
    """Who was asked and did not answer in time has failed; who was away and never began waits again."""
    answer_s = state.plan.rules.answer_s

    def late(own: Camera) -> Camera:
        if own.fate is not Fate.UPDATING or not own.is_told or at_s - own.told_s < answer_s:
            return own
        if own.has_begun or own.is_online:
            return _fail(own, NO_ANSWER, f"no answer in {answer_s:g} s")
        return recall(own)

    return each(state, late)


def remind(state: Rollout, at_s: float) -> Rollout:
    """Who is there and has not answered for a while is asked again, with the same words: to a camera that heard them, they change nothing."""
    pause_s = state.plan.rules.answer_s / SAYINGS

    def again(own: Camera) -> Camera:
        is_due = own.fate is Fate.UPDATING and own.is_online and at_s - own.said_s >= pause_s
        return change(own, is_told=False) if is_due else own

    return each(state, again)


def ask(own: Camera, what: Asked, wave: int = 0) -> Camera:
    """A camera that is asked to fetch the model (`hold`), or to run it in a wave."""
    attempt = own.attempt + 1 if own.asked == "nothing" else own.attempt
    fate = Fate.UPDATING if what == "run" else own.fate
    is_only_held = what == "hold" and (own.attempt == 0 or own.is_only_held)
    return change(own, fate=fate, wave=wave, attempt=attempt, asked=what, is_only_held=is_only_held, is_told=False, said_s=0, has_begun=False)


def recall(own: Camera) -> Camera:
    """A camera that is asked for nothing any more, unless it has committed."""
    if own.asked == "nothing" or own.fate is Fate.COMMITTED:
        return own
    own = change(own, fate=Fate.WAITING, wave=0) if own.fate is Fate.UPDATING else own
    return change(own, asked="nothing", is_told=False, said_s=0, has_begun=False)


def recall_running(own: Camera) -> Camera:
    """The same, but what is only being fetched goes on."""
    return recall(own) if own.asked == "run" else own


def try_again(own: Camera) -> Camera:
    """One that has failed waits to be asked again; a refusal or a way back stays."""
    return change(recall(own), fate=Fate.WAITING, wave=0, reason="", detail="") if own.fate is Fate.FAILED else own


def look_again(own: Camera) -> Camera:
    """A failure after somebody has looked at it: `failed` is tried again, a refusal or a way back is let pass."""
    own = try_again(own)
    return change(own, is_excused=True) if own.fate in BAD else own


def each(state: Rollout, make: Callable[[Camera], Camera]) -> Rollout:
    """The state with each camera made anew; the same object when none changes."""
    return put(state, {name: after for name, own in state.cameras.items() if (after := make(own)) is not own})


def put(state: Rollout, cameras: dict[str, Camera]) -> Rollout:
    """The state with some cameras changed."""
    return state.model_copy(update={"cameras": {**state.cameras, **cameras}}) if cameras else state


def change(own: Camera, **changes: Any) -> Camera:
    """A camera with fields changed; the same object when they are as they were."""
    return own if all(getattr(own, key) == value for key, value in changes.items()) else own.model_copy(update=changes)


def _forget(state: Rollout, camera: str) -> Rollout:
    """Without a camera that was removed. One that was asked to run the release stays, for it counts; so does one whose attempts must go on."""
    own = state.cameras.get(camera)
    if own is None or own.fate is not Fate.WAITING or not (own.attempt == 0 or own.is_only_held):
        return state
    may_be_asked = not state.is_superseded and state.phase not in CLOSED
    if own.attempt > 0 and own.asked == "nothing" and may_be_asked:
        return state
    return state.model_copy(update={"cameras": {name: other for name, other in state.cameras.items() if name != camera}})


def _at_other_times(own: Camera, by_s: float) -> Camera:
    return change(own, left_s=_moved(own.left_s, by_s), told_s=_moved(own.told_s, by_s), said_s=_moved(own.said_s, by_s))


def _moved(at_s: float, by_s: float) -> float:
    return max(1.0, at_s + by_s) if at_s else at_s  # 0 is never


def _anew(own: Camera, at_s: float) -> Camera:
    """After a connection: the broker may have lost what it had acknowledged, and answers may have been missed."""
    is_told = own.is_told and not _needs_words(own)
    is_known = own.is_online or own.left_s > 0
    return change(own, is_online=False, left_s=at_s if is_known else 0, is_told=is_told, told_s=at_s)


def _needs_words(own: Camera) -> bool:
    """Whether a broker must still have what a camera was asked: until it has answered, and where it refused, for it looks again after a restart."""
    return own.attempt > 0 and (own.fate in (Fate.WAITING, Fate.UPDATING, Fate.REJECTED) or own.reason in UNHEARD)


def _after(own: Camera, state: Rollout, event: Heard | Known | Told | Answered | Unreadable) -> Camera:
    match event:
        case Heard():
            return change(own, is_online=event.is_online, left_s=event.at_s if own.is_online and not event.is_online else own.left_s)
        case Known():
            return own
        case Told():
            if own.is_told or (event.attempt, event.asked) != (own.attempt, own.asked):
                return own
            return change(own, is_told=True, told_s=own.told_s if own.said_s else event.at_s, said_s=event.at_s)
        case Unreadable():
            return _fail(own, UNREADABLE, event.detail) if own.fate is Fate.UPDATING else own
        case Answered():
            return _answer(own, state, event)


def _answer(own: Camera, state: Rollout, event: Answered) -> Camera:
    """What a report makes of a camera. Order is by (boot, seq): an older one changes nothing."""
    latest = own.boots[-1] if own.boots else ""
    is_of_earlier_boot = event.boot != latest and event.boot in own.boots
    if (event.boot == latest and event.seq <= own.seq) or (is_of_earlier_boot and event.is_retained):
        return own
    if is_of_earlier_boot:
        twin = change(own, seq=event.seq, boots=(*(boot for boot in own.boots if boot != event.boot), event.boot))
        return _fail(twin, DUPLICATE, "two cameras use this name") if own.fate is Fate.UPDATING else twin
    boots = own.boots if event.boot == latest else (*own.boots, event.boot)[-KEPT_BOOTS:]
    own = change(own, boots=boots, seq=event.seq)
    own = _answer_ours(own, state.plan, state.wave, event) if event.rollout == state.plan.rollout else own
    return _without(own, state.plan, event)


def _answer_ours(own: Camera, plan: Plan, wave: int, event: Answered) -> Camera:
    if event.state is UpdateState.COMMITTED:  # whatever was thought of the camera: this is what it runs
        if event.digest != plan.digest:
            return _fail(own, "wrong_digest", f"it committed to {event.digest[:12]}") if own.fate is Fate.UPDATING else own
        wave = own.wave or wave
        return change(own, fate=Fate.COMMITTED, wave=wave, has_committed=True, is_told=True, reason="", detail="", is_excused=False)
    if event.attempt != own.attempt:
        return own
    if own.asked == "nothing":  # at work, it has not heard that it was recalled
        return own if event.state in RESTING else change(own, is_told=False)
    if own.fate in BAD:
        return own
    if event.state in ENDED:
        has_committed = own.has_committed or own.fate is Fate.COMMITTED
        return change(own, fate=Fate(event.state.value), has_committed=has_committed, reason=event.reason, detail=event.detail)
    return change(own, has_begun=True) if own.fate is Fate.UPDATING else own


def _without(own: Camera, plan: Plan, event: Answered) -> Camera:
    """One that had committed and runs another model, not a newer one, waits again: its disk was replaced, or has lost the model."""
    runs = event.installed.get(plan.kind)
    if runs is None or own.fate is not Fate.COMMITTED or event.state not in RESTING or _is_as_new(runs, plan):
        return own
    return change(own, fate=Fate.WAITING, wave=0, asked="nothing")


def _is_as_new(runs: Installed, plan: Plan) -> bool:
    return runs.counter > plan.counter or (runs.counter == plan.counter and runs.digest == plan.digest)


def _fail(own: Camera, reason: str, detail: str) -> Camera:
    return change(own, fate=Fate.FAILED, reason=reason, detail=detail)
