"""May this release replace that one? The pure machine: `step(state, event)` says what is next, `install.py` does it.

The state is what the journal holds. Entering a state asks for at most one action, and doing that gives the next event.
Until `trial` the old model decides; from every state there is a way back that ends on a model that worked.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from edge_agent.update_state import (
    MAX_BAD,
    Accepted,
    Action,
    Asked,
    Done,
    Event,
    Failed,
    Lost,
    Refused,
    Release,
    Slot,
    Started,
    State,
    Target,
    Withdrawn,
)
from protocol.errors import Reason
from protocol.rollouts import Kind, Trial, UpdateState

S = UpdateState

MAX_RESTARTS = 2
"""So many restarts while a new model is being tried are its fault."""
BLAMELESS = frozenset(
    {
        *(Reason.WITHDRAWN, Reason.DISK_FAILED, Reason.NOT_CONNECTED, Reason.NO_FRAMES),
        *(Reason.UPDATES_OFF, Reason.BAD_SIGNATURE, Reason.UNKNOWN_KEY, Reason.EXPIRED, Reason.AGENT_TOO_OLD),
    }
)
"""Failures that say nothing about the model: it may be tried again."""

ACTIONS: Mapping[UpdateState, Action] = {
    S.CHECKING: Action.CHECK,
    S.FETCHING: Action.FETCH,
    S.VERIFYING: Action.VERIFY,
    S.TESTING: Action.TEST,
    S.SHADOW: Action.SHADOW,
    S.TRIAL: Action.TRY,
    S.COMMITTED: Action.SETTLE,
    S.ROLLED_BACK: Action.RESTORE,
}

TRANSITIONS: Mapping[UpdateState, Mapping[type[Event], tuple[UpdateState, ...]]] = {
    S.IDLE: {Asked: (S.CHECKING,), Withdrawn: (S.IDLE,)},
    S.CHECKING: {
        Refused: (S.REJECTED,),
        Accepted: (S.REJECTED, S.COMMITTED, S.FETCHING, S.VERIFYING),
        Failed: (S.FAILED,),
        Asked: (S.CHECKING,),
        Withdrawn: (S.IDLE,),
        Started: (S.IDLE,),
    },
    S.FETCHING: {Done: (S.VERIFYING,), Failed: (S.FAILED,), Asked: (S.CHECKING,), Withdrawn: (S.IDLE,), Started: (S.FETCHING,)},
    S.VERIFYING: {Done: (S.TESTING, S.HELD), Failed: (S.FAILED,), Asked: (S.CHECKING,), Withdrawn: (S.IDLE,), Started: (S.VERIFYING, S.FAILED)},
    S.HELD: {Asked: (S.CHECKING,), Withdrawn: (S.IDLE,)},
    S.TESTING: {Done: (S.SHADOW,), Failed: (S.FAILED,), Asked: (S.CHECKING,), Withdrawn: (S.IDLE,), Started: (S.VERIFYING, S.FAILED)},
    S.SHADOW: {Done: (S.TRIAL,), Failed: (S.FAILED,), Asked: (S.CHECKING,), Withdrawn: (S.IDLE,), Started: (S.VERIFYING, S.FAILED)},
    S.TRIAL: {Done: (S.COMMITTED,), Failed: (S.ROLLED_BACK,), Withdrawn: (S.ROLLED_BACK,), Started: (S.TRIAL, S.ROLLED_BACK)},
    S.COMMITTED: {Asked: (S.CHECKING,), Withdrawn: (S.IDLE,), Lost: (S.COMMITTED, S.IDLE, S.FAILED)},
    S.REJECTED: {Asked: (S.CHECKING,), Withdrawn: (S.IDLE,), Started: (S.IDLE,)},
    S.FAILED: {Asked: (S.CHECKING,), Withdrawn: (S.IDLE,)},
    S.ROLLED_BACK: {Asked: (S.CHECKING,), Withdrawn: (S.IDLE,)},
}
"""Every transition there is. An event that a state does not list changes nothing; `Lost`, where it is not listed, moves nothing."""


@dataclass(frozen=True)
class Step:
    """What is now, to be written down first, and what is to be done then."""

    state: State
    actions: tuple[Action, ...] = ()


def step(state: State, event: Event) -> Step:
    """The state after an event, and what that asks for."""
    allowed = TRANSITIONS[state.state].get(type(event), (state.state,) if isinstance(event, Lost) else None)
    if allowed is None:
        return Step(state)
    after = _after(state, event)
    assert after.state in allowed, f"{state.state} --{type(event).__name__}--> {after.state}"
    action = None if isinstance(event, Lost) else ACTIONS.get(after.state)
    return Step(after, () if action is None else (action,))


def spare(state: State, kind: Kind) -> Slot:
    """The slot of a kind that holds nothing that is needed."""
    return "b" if state.installed(kind).slot == "a" else "a"


def _after(state: State, event: Event) -> State:
    match event:
        case Asked():
            return _change(_fresh(state), state=S.CHECKING, asked=event.asked, rollout=event.rollout, attempt=event.attempt, hold=event.hold)
        case Withdrawn():
            after = _end(state, S.ROLLED_BACK, Reason.WITHDRAWN, "the release was withdrawn") if state.is_trying else _fresh(state)
            return _change(after, asked=event.asked, rollout=event.rollout, attempt=event.attempt)
        case Refused():
            return _end(_change(state, target=event.target), S.REJECTED, event.reason, event.detail)
        case Accepted():
            return _accept(state, event)
        case Done():
            return _go_on(state, event.trial)
        case Failed():
            return _fail(_change(state, trial=event.trial or state.trial), event.reason, event.detail)
        case Started():
            return _resume(state)
        case Lost():
            return _lose(state, event)


def _accept(state: State, event: Accepted) -> State:
    """A release that may be had is taken when it is newer than what is here, and did not fail here."""
    target, installed = event.target, state.installed(event.target.kind)
    state = _change(state, target=target)
    is_here = _called(target) == _called(installed)
    is_other = installed.slot is not None and not is_here  # one that was lost may come again
    if target.counter < installed.counter or (target.counter == installed.counter and is_other):
        detail = f"counter {target.counter} is not above {installed.counter}, that of {installed.name} {installed.version}"
        return _end(state, S.REJECTED, Reason.OLD_COUNTER, detail)
    if is_here:
        return _install(state, target, installed.slot)
    if target.fingerprint in state.bad:
        return _end(state, S.REJECTED, Reason.KNOWN_BAD, "this release failed here before")
    return _change(state, state=S.VERIFYING if event.is_on_disk else S.FETCHING, slot=spare(state, target.kind))


def _called(release: Target | Release) -> tuple[str, str, str]:
    """What tells releases apart: only signed anew, it is the same."""
    return release.fingerprint, release.name, release.version


NEXT = {S.FETCHING: S.VERIFYING, S.VERIFYING: S.TESTING, S.TESTING: S.SHADOW, S.SHADOW: S.TRIAL}


def _go_on(state: State, trial: Trial | None) -> State:
    state = _change(state, trial=trial or state.trial)
    if state.is_trying and state.target is not None:
        return _install(state, state.target, state.slot)
    after = S.HELD if state.hold and state.state is S.VERIFYING else NEXT[state.state]
    return _change(state, state=after, restarts=0 if after is S.TRIAL else state.restarts)


def _resume(state: State) -> State:
    """After a restart: what a new model was doing to the machine when it went down is not known, so it is proven again."""
    if state.state in (S.CHECKING, S.REJECTED):  # the desired state arrives again, and may be allowed now: settings are read at a start
        return _fresh(state)
    if state.state is S.FETCHING:
        return state
    state = _change(state, restarts=state.restarts + 1)
    if state.restarts >= MAX_RESTARTS:
        return _fail(state, Reason.RESTARTED, f"the agent was restarted {state.restarts} times in {state.state}")
    return state if state.is_trying else _change(state, state=S.VERIFYING)


def _fail(state: State, reason: Reason, detail: str) -> State:
    if reason not in BLAMELESS and state.target is not None and not state.is_way_back:
        state = _change(state, bad=_noted(state.bad, state.target.fingerprint))
    return _end(state, S.ROLLED_BACK if state.is_trying else S.FAILED, reason, detail)


def _install(state: State, target: Target, slot: Slot | None) -> State:
    release = Release.model_validate({**target.model_dump(), "slot": slot})
    good = _noted(_noted(state.good, state.installed(target.kind).fingerprint), release.fingerprint)
    return _change(state, state=S.COMMITTED, slot=None, restarts=0, good=good, **{target.kind: release})


def _noted(fingerprints: tuple[str, ...], fingerprint: str) -> tuple[str, ...]:
    return (*(own for own in fingerprints if own != fingerprint), fingerprint)[-MAX_BAD:]


def _lose(state: State, event: Lost) -> State:
    """The counter stays: an old release is not to come back by way of a broken disk; one that was lost, and did not fail, is asked for anew."""
    kind, lost = event.kind, state.installed(event.kind)
    is_answer = state.state is S.COMMITTED and state.target is not None and state.target.kind == kind
    if event.reason is not None:
        state = _change(state, bad=_noted(state.bad, lost.fingerprint))
        state = _end(state, S.FAILED, event.reason, event.detail) if is_answer else state
    elif is_answer:
        state = _fresh(state)
    return _change(state, **{kind: event.shipped.model_copy(update={"counter": lost.counter})})


def _end(state: State, ended: UpdateState, reason: Reason, detail: str) -> State:
    return _change(state, state=ended, slot=None, restarts=0, reason=reason, detail=detail)


def _fresh(state: State) -> State:
    return State(classifier=state.classifier, detector=state.detector, bad=state.bad, good=state.good)


def _change(was: State, /, **changes: object) -> State:
    return was.model_copy(update=changes)
