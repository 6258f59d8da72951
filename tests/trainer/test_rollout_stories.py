"""Whatever happens to a fleet, in whatever order: no wave is passed, nobody is left out, and there is a way to an end."""

from fleet_driver import ANSWER_S, Driver
from hypothesis import given
from hypothesis import strategies as st

from protocol.rollouts import UpdateState as U
from trainer.rollout import TRANSITIONS, owed, step
from trainer.rollout_state import (
    Abort,
    Connected,
    Fate,
    Forgotten,
    Heard,
    Pause,
    Phase,
    Resume,
    RollBack,
    Start,
    Tell,
    Tick,
    Unreadable,
)

CAMERAS = [f"s/c{number}" for number in range(12)]
names = st.sampled_from(CAMERAS)
events = st.one_of(
    st.builds(lambda name, is_online: ("heard", name, is_online), names, st.booleans()),
    st.builds(lambda name, state: ("answer", name, state), names, st.sampled_from(list(U))),
    st.sampled_from([("do", kind) for kind in (Start, Pause, Resume, Abort, RollBack, Connected, Tick)]),
    st.builds(lambda seconds: ("wait", seconds), st.floats(0, 2 * ANSWER_S)),
    st.builds(lambda name: ("unreadable", name), names),
    st.builds(lambda name: ("forgotten", name), names),
)


def play(fleet: Driver, event: tuple) -> None:
    match event:
        case ("heard", name, is_online):
            fleet(Heard, name, is_online=is_online)
        case ("answer", name, state) if name in fleet.state.cameras:
            fleet.answer(name, state)
        case ("unreadable", name):
            fleet(Unreadable, name, "?")
        case ("forgotten", name):
            fleet(Forgotten, name)
        case ("wait", seconds):
            fleet.now_s += seconds
            fleet(Tick)
        case ("do", kind):
            fleet(kind)


@given(st.lists(events, max_size=60))
def test_whatever_happens_no_wave_is_passed_and_there_is_a_way_to_an_end(story: list[tuple]) -> None:
    fleet = Driver(0)
    for event in story:
        before = fleet.state
        play(fleet, event)
        after = fleet.state
        assert after.phase is before.phase or after.phase in TRANSITIONS[before.phase] or after.phase in (Phase.PAUSED, Phase.DONE, Phase.SOAKING)
        asked = [own for own in after.cameras.values() if own.asked == "run" and own.fate is not Fate.COMMITTED and not own.is_excused]
        if after.phase in (Phase.RUNNING, Phase.SOAKING):
            updating = sum(own.fate is Fate.UPDATING for own in before.cameras.values())  # who was asked goes on when others are removed
            assert len(fleet.of(Fate.UPDATING)) <= max(updating, after.plan.target(after.wave, len(after.cameras)))
        if after.phase in (Phase.DRAFT, Phase.ABORTED, Phase.ROLLED_BACK):
            assert not asked
    for _ in range(40):  # everybody is well from now on
        for kind in (Start, Resume):
            fleet(kind)
        for name in CAMERAS:
            fleet(Heard, name)
        fleet.wave()
    assert fleet.state.phase in (Phase.DONE, Phase.ABORTED, Phase.ROLLED_BACK)
    if fleet.state.phase is Phase.DONE:
        assert all(own.fate is Fate.COMMITTED or own.is_excused for own in fleet.state.cameras.values())


@given(st.lists(events, max_size=40))
def test_events_that_come_together_leave_nobody_out(story: list[tuple]) -> None:
    """What is owed after any story is asked of exactly the cameras that were not told."""
    fleet = Driver(3)
    for event in story:
        play(fleet, event)
    assert not list(owed(fleet.state))
    lost = step(fleet.state, Connected(fleet.now_s), *(Heard(fleet.now_s, name) for name in CAMERAS))
    assert {tell.camera for tell in owed(lost.state)} == {action.camera for action in lost.actions if isinstance(action, Tell)}
