"""The update machine, walked at random: only its table's transitions, always a model that worked, always a way back."""

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent import update
from edge_agent.update import ACTIONS, BLAMELESS, MAX_RESTARTS, TRANSITIONS
from edge_agent.update_state import (
    EVENTS,
    Accepted,
    Action,
    Asked,
    Done,
    Event,
    Failed,
    Lost,
    Refused,
    Release,
    Started,
    State,
    Target,
    Withdrawn,
)
from protocol.errors import Reason
from protocol.rollouts import ENDED, Trial, UpdateState

SHIPPED = {
    kind: Release(digest=f"shipped {kind}", fingerprint=f"shipped {kind} read so", name=kind, version="0") for kind in ("classifier", "detector")
}
FRESH = State(**SHIPPED)
TARGETS = [
    Target(kind=kind, digest=digest, fingerprint=f"{digest} read so", name="x", version=str(counter), counter=counter, manifest="")
    for kind in ("classifier", "detector")
    for digest in ("one", "two", f"shipped {kind}")
    for counter in (0, 1, 2)
]
RESTING = {state for state in UpdateState if state not in ACTIONS} | {UpdateState.COMMITTED, UpdateState.ROLLED_BACK}

reasons = st.sampled_from(Reason)
trials = st.none() | st.builds(Trial, frames=st.integers(0, 9), faces=st.integers(0, 9), disagreed=st.integers(0, 9))
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(Asked, st.sampled_from(("a", "b")), st.just("r"), st.integers(0, 3), st.booleans()),
    st.just(Withdrawn()),
    st.builds(Accepted, st.sampled_from(TARGETS), st.booleans()),
    st.builds(Refused, reasons, st.just("no"), st.none() | st.sampled_from(TARGETS)),
    st.builds(Done, trials),
    st.builds(Failed, reasons, st.just("broken"), trials),
    st.just(Started()),
    st.sampled_from([Lost(kind, release) for kind, release in SHIPPED.items()]),
)
likely = st.one_of(events, st.builds(Accepted, st.sampled_from(TARGETS), st.just(False)), st.just(Done()), st.just(Done()))
"""Random events rarely get far."""


def walk(path: list[Event]) -> State:
    state = FRESH
    for event in path:
        state = update.step(state, event).state
    return state


def asked(target: Target, is_on_disk: bool = False, hold: bool = False) -> State:
    return walk([Asked("a", "r", 1, hold), Accepted(target, is_on_disk)])


TARGET = TARGETS[1]


@given(st.lists(likely, max_size=40))
def test_each_step_is_in_the_table_and_asks_for_what_its_state_does(path: list[Event]) -> None:
    state = FRESH
    for event in path:
        step = update.step(state, event)
        allowed = TRANSITIONS[state.state].get(type(event), (state.state,))
        assert step.state.state in allowed
        assert step.actions in ((), (ACTIONS.get(step.state.state),))
        if not isinstance(event, Lost) and type(event) not in TRANSITIONS[state.state]:
            assert (step.state, step.actions) == (state, ())
        state = step.state


@given(st.lists(likely, max_size=40))
def test_the_journal_brings_back_any_state(path: list[Event]) -> None:
    state = walk(path)
    assert State.model_validate_json(state.model_dump_json()) == state


@given(st.lists(likely, max_size=40))
def test_a_target_never_lies_in_the_slot_that_is_in_use(path: list[Event]) -> None:
    state = FRESH
    for event in path:
        state = update.step(state, event).state
        if state.slot is not None:
            assert state.target is not None
            assert state.slot != state.installed(state.target.kind).slot


@given(st.lists(likely, max_size=40))
def test_what_is_installed_changes_only_by_a_commit_or_a_loss(path: list[Event]) -> None:
    state = FRESH
    for event in path:
        after = update.step(state, event).state
        if (after.classifier, after.detector) != (state.classifier, state.detector):
            assert isinstance(event, Lost) or (after.state is UpdateState.COMMITTED and isinstance(event, Done | Accepted))
        state = after


@given(st.lists(likely, max_size=40))
def test_the_counter_of_a_kind_never_falls(path: list[Event]) -> None:
    state = FRESH
    for event in path:
        after = update.step(state, event).state
        for kind in SHIPPED:
            assert after.installed(kind).counter >= state.installed(kind).counter
        state = after


@given(st.lists(likely, max_size=40), st.booleans())
def test_from_any_state_there_is_a_way_to_idle(path: list[Event], succeeds: bool) -> None:
    """Every action ends, well or badly; however it does, the machine comes to rest, and a withdrawal makes it idle."""
    state = walk(path)
    for _ in range(10):
        if state.state in RESTING:
            break
        answer: Event = Done() if succeeds else Failed(Reason.CRASHED, "")
        if state.state is UpdateState.CHECKING:
            answer = Accepted(TARGET, False) if succeeds else Refused(Reason.EXPIRED, "")
        state = update.step(state, answer).state
    assert state.state in RESTING
    assert update.step(state, Withdrawn()).state.state is UpdateState.IDLE


@given(st.lists(likely, max_size=40))
def test_restarts_alone_come_to_an_end(path: list[Event]) -> None:
    """A model that takes the agent down each time is tried no more than a few times."""
    state = walk(path)
    for _ in range(MAX_RESTARTS):
        state = update.step(state, Started()).state
    assert state.state in (RESTING | {UpdateState.FETCHING})


def test_every_state_is_reached_and_has_a_way_to_idle() -> None:
    """By the table alone, as a graph."""
    graph = {state: {after for afters in TRANSITIONS[state].values() for after in afters} for state in UpdateState}
    for start in UpdateState:
        seen, queue = {start}, deque([start])
        while queue:
            for after in graph[queue.popleft()] - seen:
                seen.add(after)
                queue.append(after)
        assert UpdateState.IDLE in seen
        assert start in {after for afters in graph.values() for after in afters}
    assert set(TRANSITIONS) == set(UpdateState)
    assert {kind for own in TRANSITIONS.values() for kind in own} == set(EVENTS)


def test_the_whole_way() -> None:
    state, seen = asked(TARGET), []
    for _ in range(5):
        seen.append(state.state)
        state = update.step(state, Done()).state
    assert [str(own) for own in seen] == ["fetching", "verifying", "testing", "shadow", "trial"]
    assert state.state is UpdateState.COMMITTED
    assert (state.classifier.digest, state.classifier.slot) == (TARGET.digest, "a")
    assert update.spare(state, "classifier") == "b"
    assert update.spare(state, "detector") == "a"


def test_what_is_held_is_fetched_and_waits() -> None:
    state = asked(TARGET, hold=True)
    for _ in range(2):
        state = update.step(state, Done()).state
    assert state.state is UpdateState.HELD
    assert update.step(state, Started()).state is state
    step = update.step(state, Asked("b", "r", 1, hold=False))
    assert step.actions == (Action.CHECK,)
    assert update.step(step.state, Accepted(TARGET, is_on_disk=True)).state.state is UpdateState.VERIFYING


@pytest.mark.parametrize("reason", Reason)
def test_a_model_that_failed_is_not_tried_again_unless_it_was_not_its_fault(reason: Reason) -> None:
    state = update.step(update.step(asked(TARGET, is_on_disk=True), Done()).state, Failed(reason, "")).state
    assert state.state is UpdateState.FAILED
    again = update.step(update.step(state, Asked("b", "r", 2)).state, Accepted(TARGET, is_on_disk=True)).state
    if reason in BLAMELESS:
        assert again.state is UpdateState.VERIFYING
    else:
        assert (again.state, again.reason) == (UpdateState.REJECTED, Reason.KNOWN_BAD)


def trying(target: Target = TARGET) -> State:
    state = asked(target, is_on_disk=True)
    for _ in range(3):
        state = update.step(state, Done()).state
    assert state.state is UpdateState.TRIAL
    return state


def test_a_trial_survives_one_restart_and_not_two() -> None:
    once = update.step(trying(), Started())
    assert (once.state.state, once.actions) == (UpdateState.TRIAL, (Action.TRY,))
    twice = update.step(once.state, Started())
    assert (twice.state.state, twice.actions, twice.state.reason) == (UpdateState.ROLLED_BACK, (Action.RESTORE,), Reason.RESTARTED)
    assert TARGET.fingerprint in twice.state.bad


def test_a_withdrawn_trial_is_rolled_back_and_may_come_again() -> None:
    state = update.step(trying(), Withdrawn()).state
    assert (state.state, state.reason, state.bad) == (UpdateState.ROLLED_BACK, Reason.WITHDRAWN, ())


def test_an_old_counter_is_refused_and_a_higher_one_of_the_same_release_is_kept() -> None:
    state = update.step(trying(TARGETS[2]), Done()).state
    assert state.classifier.counter == 2
    for target in (TARGETS[0], TARGETS[1], TARGETS[5]):
        again = update.step(update.step(state, Asked("b", "r", 2)).state, Accepted(target, is_on_disk=True)).state
        assert (again.state, again.reason) == (UpdateState.REJECTED, Reason.OLD_COUNTER)
    higher = TARGETS[2].model_copy(update={"counter": 7})
    kept = update.step(update.step(state, Asked("b", "r", 2)).state, Accepted(higher, is_on_disk=True)).state
    assert (kept.state, kept.classifier.counter, kept.classifier.slot) == (UpdateState.COMMITTED, 7, "a")


@pytest.mark.parametrize("changed", [{"fingerprint": "one read otherwise"}, {"version": "2 renamed"}])
def test_the_same_model_in_another_release_is_tried_like_any_other(changed: dict[str, str]) -> None:
    """Its threshold may be another; and what is installed should be called what it is called."""
    state = update.step(trying(TARGETS[2]), Done()).state
    other = TARGETS[2].model_copy(update={"counter": 7, **changed})
    after = update.step(update.step(state, Asked("b", "r", 2)).state, Accepted(other, is_on_disk=True)).state
    assert (after.state, after.slot, after.classifier) == (UpdateState.VERIFYING, "b", state.classifier)


def test_what_failed_may_come_again_when_it_is_read_otherwise() -> None:
    """What was wrong may have been the threshold."""
    state = update.step(update.step(asked(TARGET, is_on_disk=True), Done()).state, Failed(Reason.DISAGREES, "")).state
    mended = TARGET.model_copy(update={"fingerprint": "one read otherwise"})
    assert update.step(update.step(state, Asked("b", "r", 2)).state, Accepted(mended, is_on_disk=True)).state.state is UpdateState.VERIFYING


def test_what_worked_here_is_never_held_to_have_failed() -> None:
    """A way back may fail for what is in use now; the next one must not be refused."""
    state = update.step(trying(TARGETS[2]), Done()).state
    other = TARGETS[5].model_copy(update={"counter": 3})
    for event in (Asked("b", "r", 1), Accepted(other, True), Done(), Done(), Done(), Done()):
        state = update.step(state, event).state
    assert state.classifier.fingerprint == other.fingerprint
    back = TARGETS[2].model_copy(update={"counter": 4})
    for event in (Asked("c", "r", 1), Accepted(back, True), Done(), Failed(Reason.CRASHED, "")):
        state = update.step(state, event).state
    assert (state.state, state.bad) == (UpdateState.FAILED, ())


def test_a_lost_model_keeps_its_counter() -> None:
    state = update.step(trying(TARGETS[2]), Done()).state
    lost = update.step(state, Lost("classifier", SHIPPED["classifier"])).state
    assert lost.classifier == SHIPPED["classifier"].model_copy(update={"counter": 2})
    assert lost.state is UpdateState.IDLE
    for target, ended in ((TARGETS[2], UpdateState.FETCHING), (TARGETS[1], UpdateState.REJECTED)):
        assert update.step(update.step(lost, Asked("a", "r", 1)).state, Accepted(target, False)).state.state is ended


@settings(max_examples=20)
@given(st.integers(0, 200))
def test_no_more_than_some_failures_are_remembered(failures: int) -> None:
    state = FRESH
    for number in range(failures):
        target = TARGET.model_copy(update={"fingerprint": str(number)})
        for event in (Asked(str(number), "r", 1), Accepted(target, True), Failed(Reason.CRASHED, "")):
            state = update.step(state, event).state
        assert state.bad[-1] == str(number)
    assert len(state.bad) <= 64
    assert state.state in ENDED | {UpdateState.IDLE}
