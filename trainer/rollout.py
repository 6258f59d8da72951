"""Which camera gets which release when? The pure machine: `step(state, event)` says what is next, `watch.py` does it.

Until its wave comes, a camera is asked at most to fetch the model. A rollout stops by itself on bad answers, and on none;
what cannot be read counts as bad. Times are arguments.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from protocol.messages import MAX_TEXT
from trainer.rollout_cameras import UNHEARD, ask, each, expire, look_again, note, put, recall, recall_running, remind, try_again
from trainer.rollout_state import (
    BAD,
    CLOSED,
    Abort,
    Action,
    Camera,
    ClockSet,
    Event,
    Fate,
    Note,
    Pause,
    Phase,
    Resume,
    RollBack,
    Rollout,
    Start,
    Supersede,
    Tell,
)

P = Phase

TRANSITIONS: Mapping[Phase, frozenset[Phase]] = {
    P.DRAFT: frozenset({P.RUNNING, P.ABORTED}),
    P.RUNNING: frozenset({P.RUNNING, P.SOAKING, P.DONE, P.PAUSED, P.ABORTED, P.ROLLED_BACK}),
    P.SOAKING: frozenset({P.RUNNING, P.DONE, P.PAUSED, P.ABORTED, P.ROLLED_BACK}),
    P.PAUSED: frozenset({P.RUNNING, P.ABORTED, P.ROLLED_BACK}),
    P.DONE: frozenset({P.PAUSED, P.ROLLED_BACK}),
    P.ABORTED: frozenset({P.ROLLED_BACK}),
    P.ROLLED_BACK: frozenset(),
}
"""Every change of phase there is; `running` follows itself when a wave has no camera."""

ASKING = frozenset({P.RUNNING, P.SOAKING, P.DONE})
"""Phases in which cameras are asked: in `done` those that were away, or are new."""

FROM: Mapping[type[Event], frozenset[Phase]] = {
    Start: frozenset({P.DRAFT}),
    Pause: ASKING,
    Resume: frozenset({P.PAUSED}),
    Abort: frozenset({P.DRAFT, P.RUNNING, P.SOAKING, P.PAUSED}),
    RollBack: frozenset({P.RUNNING, P.SOAKING, P.PAUSED, P.DONE, P.ABORTED}),
    Supersede: frozenset(P) - {P.DRAFT},
}
"""The phases in which a command means something; elsewhere it changes nothing."""


@dataclass(frozen=True)
class Step:
    """What is now, to be written down first, and what is to be done then."""

    state: Rollout
    actions: tuple[Action, ...] = ()


def step(state: Rollout, *events: Event) -> Step:
    """The rollout after an event, or several that came together, and what that asks for."""
    now, phases = state, list[Note]()
    for event in events:
        before, now = now, _command(now, event) if type(event) in FROM else note(now, event)
        phases += _phase_notes(before, now)
    decides = any(type(event) is not ClockSet for event in events)  # of itself, a clock that is set ends no time
    while decides and (after := _go_on(now, events[-1].at_s)) is not now:
        phases += _phase_notes(now, after)
        now = after
    if now is state:
        return Step(state)
    known = set(owed(state))
    tells = [tell for tell in owed(now) if tell not in known]
    return Step(now, (*_camera_notes(state, now), *phases, *tells))


def allows(state: Rollout, command: type[Event]) -> bool:
    """Whether a command (`Start`, `Pause`, `Resume`, `Abort`, `RollBack`) means something now."""
    return state.phase in FROM[command] and not state.is_superseded


def is_over(state: Rollout) -> bool:
    """Whether nothing can come of this rollout any more. From one that was aborted there is a way back, until a newer one has taken its place."""
    has_way_back = state.phase is P.ABORTED and not state.is_superseded and bool(reached(state))
    return asks_no_more(state) and not has_way_back and not any(owed(state))


def asks_no_more(state: Rollout) -> bool:
    """Whether this rollout asks no camera for its release any more."""
    return state.is_superseded or state.phase in CLOSED


def owed(state: Rollout) -> Iterator[Tell]:
    """What the broker has not acknowledged yet: after a restart it is to be said again."""
    for name, own in state.cameras.items():
        if not own.is_told:
            yield Tell(name, own.attempt, own.asked)


def reached(state: Rollout) -> tuple[str, ...]:
    """The cameras that have run the release, are at it, or may be for all that is known: a way back is for them."""
    return tuple(name for name, own in state.cameras.items() if _is_reached(own))


def _is_reached(own: Camera) -> bool:
    return own.has_committed or own.fate in (Fate.COMMITTED, Fate.UPDATING) or own.reason in UNHEARD or _is_recalled(own)


def _is_recalled(own: Camera) -> bool:
    """It was asked to run the release, and is no more: it may have committed before it heard."""
    return own.fate is Fate.WAITING and own.attempt > 0 and not own.is_only_held


def _command(state: Rollout, event: Event) -> Rollout:
    if not allows(state, type(event)):
        return state
    match event:
        case Start():
            return _enter(state.model_copy(update={"wave": 1}), P.RUNNING, event.at_s)
        case Resume():
            return _resume(state, event.at_s)
        case Pause(reason=reason):
            return _enter(state, P.PAUSED, event.at_s, reason)
        case Abort(reason=reason):
            return _enter(each(state, recall), P.ABORTED, event.at_s, reason)
        case RollBack(reason=reason):
            return _enter(each(state, recall), P.ROLLED_BACK, event.at_s, reason)
        case Supersede(by=by):
            left = each(state, recall).model_copy(update={"is_superseded": True})
            return left if state.phase in (P.DONE, *CLOSED) else _enter(left, P.ABORTED, event.at_s, f"{by} has taken its place")
    raise TypeError(f"{event} is no command")


def _resume(state: Rollout, at_s: float) -> Rollout:
    """Only what stopped the rollout has been seen, and is let pass. What failed in somebody's pause stops it now, if it is enough."""
    if state.is_stopped:
        state = each(state, look_again)
    elif not _alarm(state):
        state = each(state, try_again)
    return _enter(state, P.RUNNING, at_s)


def _go_on(state: Rollout, at_s: float) -> Rollout:
    """One thing that happens by itself now; the same object when there is none."""
    if state.phase is P.DRAFT or asks_no_more(state):
        return state
    late = remind(expire(state, at_s), at_s)
    if late is not state or state.phase not in ASKING:
        return late
    if why := _alarm(state):
        return _stop(state, at_s, why)
    asked = _ask(state)
    if asked is not state:
        return asked
    match state.phase:
        case P.RUNNING:
            return _end_wave(state, at_s)
        case P.SOAKING:
            return _end_soak(state, at_s)
    return state


def _alarm(state: Rollout) -> str:
    """Why the rollout must stop, by the failures that nobody has excused; empty when it need not."""
    rules = state.plan.rules
    failed = [(name, own) for name, own in state.cameras.items() if own.fate in BAD and not own.is_excused]
    if not failed:
        return ""
    first = [(name, own) for name, own in failed if own.wave == 1]
    name, own = (first or failed)[0]
    one = f"{name} {own.fate.replace('_', ' ')}: {own.reason}"
    if len(rules.waves) > 1 and first:
        return f"failure in the first wave ({one})"
    answers = len(failed) + _fates(state)[Fate.COMMITTED]
    if len(failed) >= rules.max_failures and _is_share(len(failed), rules.max_failure_share, answers):
        return f"{len(failed)} failures in {answers} answers (such as {one})"
    return ""


def _ask(state: Rollout) -> Rollout:
    """Cameras that are there are asked: as many as the wave has room for to run the release, the others to fetch it."""
    ready = [name for name, own in state.cameras.items() if own.fate is Fate.WAITING and own.is_online]
    room = _room(state)
    wave = {name: ask(state.cameras[name], "run", state.wave) for name in ready[:room]}
    rest = {name: ask(own, "hold") for name in ready[room:] if (own := state.cameras[name]).asked == "nothing"}
    return put(state, {**wave, **rest})


def _room(state: Rollout) -> int:
    """How many more cameras may be asked to run the release now."""
    match state.phase:
        case P.RUNNING:
            asked = sum(own.wave > 0 and not own.is_excused for own in state.cameras.values())
            return max(0, state.plan.target(state.wave, len(state.cameras)) - asked)
        case P.DONE:  # a crowd that comes late has no waves: never more at a time than have proven it
            fates = _fates(state)
            return max(0, max(1, fates[Fate.COMMITTED]) - fates[Fate.UPDATING])
    return 0


def _end_wave(state: Rollout, at_s: float) -> Rollout:
    """To the soak when enough of the wave have answered well; to a stop when they answered badly."""
    rules, is_last = state.plan.rules, state.wave == len(state.plan.rules.waves)
    wave = _wave(state)
    answered = [own for own in wave if own.fate is not Fate.UPDATING]
    if not wave and state.wave == 1 and not _is_spent(state):
        return state  # nobody is there yet
    if not _is_share(len(answered), rules.quorum, len(wave)) or (wave and not answered) or (is_last and _fates(state)[Fate.UPDATING]):
        return state
    good = sum(own.fate is Fate.COMMITTED for own in answered)
    if not _is_share(good, rules.threshold, len(answered)):
        return _stop(state, at_s, f"wave {state.wave}: {good} of {len(answered)} answers are good, the threshold is {rules.threshold:g}")
    if _room(state) and _has_just_left(state, [own for own in state.cameras.values() if own.fate is Fate.WAITING], at_s):
        return state
    return _enter(state, P.SOAKING, at_s) if wave else _next_wave(state, at_s)


def _end_soak(state: Rollout, at_s: float) -> Rollout:
    """To the next wave when the time is over and the wave's cameras are still there."""
    rules = state.plan.rules
    if at_s - state.since_s < rules.soak_s:
        return state
    committed = [own for own in _wave(state) if own.fate is Fate.COMMITTED]
    there = sum(own.is_online for own in committed)
    if _is_share(there, rules.quorum, len(committed)):
        return _next_wave(state, at_s)
    if _has_just_left(state, committed, at_s):
        return state
    return _stop(state, at_s, f"wave {state.wave}: only {there} of {len(committed)} cameras are still online")


def _next_wave(state: Rollout, at_s: float) -> Rollout:
    if state.wave == len(state.plan.rules.waves):
        return _enter(state, P.DONE, at_s)
    return _enter(state.model_copy(update={"wave": state.wave + 1}), P.RUNNING, at_s)


def _stop(state: Rollout, at_s: float, reason: str) -> Rollout:
    return _enter(each(state, recall_running), P.PAUSED, at_s, reason).model_copy(update={"is_stopped": True})


def _enter(state: Rollout, phase: Phase, at_s: float, reason: str = "") -> Rollout:
    assert phase in TRANSITIONS[state.phase], f"{state.phase} -> {phase}"
    return state.model_copy(update={"phase": phase, "reason": reason, "since_s": at_s, "is_stopped": False})


def _wave(state: Rollout) -> list[Camera]:
    return [own for own in state.cameras.values() if own.wave == state.wave and not own.is_excused]


def _is_spent(state: Rollout) -> bool:
    """Whether all cameras have failed and are excused: there is nobody left to wait for."""
    return bool(state.cameras) and all(own.is_excused for own in state.cameras.values())


def _has_just_left(state: Rollout, some: list[Camera], at_s: float) -> bool:
    """Whether one of some cameras may be back soon: a broker, or a coordinator, that restarts takes all away for a moment."""
    return any(not own.is_online and at_s - own.left_s < state.plan.rules.answer_s for own in some)


def _is_share(part: int, share: float, whole: int) -> bool:
    """Whether a part is so large a share of a whole, or larger, by the figure as somebody wrote it: 14 of 25 are 0.56, which no float is."""
    return part >= Fraction(str(share)) * whole


def _fates(state: Rollout) -> Counter[Fate]:
    return Counter(own.fate for own in state.cameras.values())


def _phase_notes(before: Rollout, after: Rollout) -> Iterator[Note]:
    if (before.phase, before.wave) != (after.phase, after.wave):
        where = f"wave {after.wave} of {len(after.plan.rules.waves)}"
        yield Note(after.phase.value, text=": ".join(filter(None, [where, after.reason]))[:MAX_TEXT])


def _camera_notes(before: Rollout, after: Rollout) -> Iterator[Note]:
    for name in sorted(before.cameras.keys() - after.cameras.keys()):
        yield Note("forgotten", name)
    for name, own in after.cameras.items():
        was = before.cameras.get(name, Camera())
        if own.fate is not was.fate:
            event = "recalled" if own.fate is Fate.WAITING else "asked" if own.fate is Fate.UPDATING else own.fate.value
            yield Note(event, name, ": ".join(filter(None, [own.reason, own.detail]))[:MAX_TEXT])
