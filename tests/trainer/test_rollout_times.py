"""The coordinator's machine and time: who is late, who is away, and clocks that are set."""

import pytest
from fleet_driver import ANSWER_S, SOAK_S, Driver

from protocol.rollouts import UpdateState as U
from trainer.rollout import owed, step
from trainer.rollout_state import (
    ClockSet,
    Connected,
    Fate,
    Heard,
    Phase,
    Start,
    Tell,
    Tick,
    Told,
)


def test_no_answer_is_a_failure() -> None:
    fleet = Driver(20)
    fleet(Start)
    fleet.now_s += ANSWER_S
    fleet(Tick)
    assert fleet.state.phase is Phase.PAUSED
    assert "no_answer" in fleet.state.reason


def test_what_was_never_told_has_no_deadline() -> None:
    fleet = Driver(3)
    state = step(fleet.state, Start(fleet.now_s)).state  # nobody is told: the broker is away
    assert step(state, Tick(fleet.now_s + 10 * ANSWER_S)).state.phase is Phase.RUNNING
    assert len(list(owed(state))) == 3


def test_a_connection_gives_the_asked_their_time_again() -> None:
    fleet = Driver(20)
    fleet(Start)
    fleet.now_s += ANSWER_S - 1
    fleet(Connected)
    fleet.now_s += ANSWER_S - 1
    fleet(Tick)
    assert fleet.state.phase is Phase.RUNNING


def test_who_does_not_answer_is_asked_again_and_has_no_more_time_for_it() -> None:
    """A broker that has lost a node may lose what it had acknowledged."""
    fleet = Driver(20)
    fleet(Start)
    [canary] = fleet.of(Fate.UPDATING)
    said = []
    while fleet.state.phase is Phase.RUNNING:
        fleet.now_s += 1
        said += [(fleet.now_s - 1000, action) for action in fleet(Tick).actions if isinstance(action, Tell)]
    assert said[:3] == [(ANSWER_S * part / 4, Tell(canary, 1, "run")) for part in (1, 2, 3)]
    assert fleet.now_s == 1000 + ANSWER_S
    assert "no_answer" in fleet.state.reason


def test_who_is_told_long_after_it_was_asked_has_its_whole_time() -> None:
    """The broker was away, or the camera at work for another rollout."""
    fleet = Driver(1)
    state = step(fleet.state, Start(1000)).state
    state = step(state, Connected(1010), Heard(1010, fleet.names[0])).state
    state = step(state, Told(1500, fleet.names[0], 1, "run")).state
    assert state.cameras[fleet.names[0]].fate is Fate.UPDATING
    assert step(state, Tick(1500 + ANSWER_S - 1)).state.phase is Phase.RUNNING
    assert step(state, Tick(1500 + ANSWER_S)).state.phase is Phase.PAUSED


def test_who_has_committed_is_not_asked_again() -> None:
    fleet = Driver(1)
    fleet(Start)
    late = step(fleet.state, Tick(1000 + ANSWER_S / 2)).state
    assert len(list(owed(late))) == 1
    fleet.state = late
    fleet.answer(fleet.names[0])
    assert not list(owed(fleet.state))


@pytest.mark.parametrize("by_s", [8 * 3600, -8 * 3600, -1e9, 1.7e9])
def test_a_clock_that_is_set_moves_no_deadline(by_s: float) -> None:
    fleet = Driver(20)
    fleet.now_s = 1e9 + 10
    fleet(Start)
    [canary] = fleet.of(Fate.UPDATING)
    fleet.now_s += by_s
    fleet(ClockSet, by_s)
    fleet.now_s += ANSWER_S - 1
    fleet(Tick)
    assert fleet.state.cameras[canary].fate is Fate.UPDATING
    fleet.answer(canary)
    fleet.now_s -= by_s
    fleet(ClockSet, -by_s)
    fleet.now_s += SOAK_S - 1
    fleet(Tick)
    assert fleet.state.phase is Phase.SOAKING
    fleet.now_s += 1
    fleet(Tick)
    assert (fleet.state.phase, fleet.state.wave) == (Phase.RUNNING, 2)
    fleet.now_s += ANSWER_S
    fleet(Tick)
    assert len(fleet.of(Fate.FAILED)) == 1


def test_a_clock_that_is_set_decides_nothing() -> None:
    """The coordinator may be away from the broker: what is late then has its time again when it is back."""
    for answers in (False, True):
        fleet = Driver(20)
        fleet(Start)
        if answers:
            fleet.answer(*fleet.of(Fate.UPDATING))
        before = (fleet.state.phase, fleet.state.wave)
        fleet.now_s += 2 * ANSWER_S
        fleet(ClockSet, 3.0)
        assert (fleet.state.phase, fleet.state.wave) == before


def test_a_clock_that_was_set_back_while_no_coordinator_ran_lengthens_no_soak() -> None:
    fleet = Driver(20)
    fleet(Start)
    fleet.answer(*fleet.of(Fate.UPDATING))
    fleet.now_s -= 900
    fleet(Connected)
    for name in fleet.names:
        fleet(Heard, name)
    fleet.now_s += SOAK_S
    fleet(Tick)
    assert (fleet.state.phase, fleet.state.wave) == (Phase.RUNNING, 2)


def test_who_is_away_is_not_asked_again() -> None:
    fleet = Driver(20)
    fleet(Start)
    fleet(Heard, *fleet.of(Fate.UPDATING), is_online=False)
    fleet.now_s += ANSWER_S / 2
    assert not fleet(Tick).actions


def test_who_is_offline_is_not_asked_and_catches_up() -> None:
    fleet = Driver(20)
    away = fleet.names[7]
    fleet(Heard, away, is_online=False)
    fleet.now_s += ANSWER_S
    fleet(Start)
    for _ in range(4):
        fleet.wave()
    assert fleet.state.phase is Phase.DONE
    assert fleet.of(Fate.WAITING) == [away]
    fleet(Heard, away)
    assert fleet.of(Fate.UPDATING) == [away]
    fleet.answer(away)
    assert len(fleet.of(Fate.COMMITTED)) == 20
    assert fleet.state.phase is Phase.DONE


def test_who_left_before_it_began_waits_again_and_who_left_in_the_middle_has_failed() -> None:
    for begins, phase in ((False, Phase.RUNNING), (True, Phase.PAUSED)):
        fleet = Driver(5)
        fleet(Start)
        [canary] = fleet.of(Fate.UPDATING)
        if begins:
            fleet.answer(canary, U.TESTING)
        fleet(Heard, canary, is_online=False)
        fleet.now_s += ANSWER_S
        fleet(Tick)
        assert fleet.state.phase is phase
        assert canary in (fleet.of(Fate.FAILED) if begins else fleet.of(Fate.WAITING))


def test_waves_do_not_go_by_while_all_are_away_for_a_moment() -> None:
    """The coordinator's connection breaks in the first soak; the camera of that wave is heard first, and the others not yet."""
    fleet = Driver(20)
    fleet(Start)
    [canary] = fleet.of(Fate.UPDATING)
    fleet.answer(canary)
    fleet(Connected)
    fleet(Heard, canary)
    fleet.now_s += SOAK_S
    fleet(Tick)
    assert (fleet.state.phase, fleet.state.wave) == (Phase.RUNNING, 2)
    for name in fleet.names:
        fleet(Heard, name)
    assert len(fleet.of(Fate.UPDATING)) == 1
    for _ in range(3):
        assert fleet.state.phase is Phase.RUNNING
        fleet.wave()
    assert (fleet.state.phase, len(fleet.of(Fate.COMMITTED))) == (Phase.DONE, 20)


def test_nor_while_they_are_away_for_long_and_a_second_time() -> None:
    fleet = Driver(20)
    fleet(Start)
    fleet.wave()
    fleet(Connected)
    fleet.now_s += 10 * ANSWER_S  # nothing is decided meanwhile: the coordinator is not there either
    fleet(Connected)
    fleet(Tick)
    assert (fleet.state.phase, fleet.state.wave) == (Phase.RUNNING, 2)


def test_a_camera_that_leaves_holds_the_last_wave_as_long_as_an_answer_may_take() -> None:
    fleet = Driver(20)
    fleet(Start)
    fleet(Heard, fleet.names[7], is_online=False)
    for _ in range(4):
        fleet.wave()
    assert (fleet.state.phase, fleet.state.wave) == (Phase.RUNNING, 4)
    fleet.now_s = 1000 + ANSWER_S
    fleet(Tick)
    fleet.wave()
    assert fleet.state.phase is Phase.DONE
    assert fleet.of(Fate.WAITING) == [fleet.names[7]]


def test_a_camera_that_is_gone_after_the_soak_holds_the_next_wave() -> None:
    fleet = Driver(20)
    fleet(Start)
    [canary] = fleet.of(Fate.UPDATING)
    fleet.answer(canary)
    fleet(Heard, canary, is_online=False)
    fleet.now_s += SOAK_S
    fleet(Tick)
    assert fleet.state.phase is Phase.SOAKING
    fleet.now_s += ANSWER_S
    fleet(Tick)
    assert fleet.state.phase is Phase.PAUSED
    assert "still online" in fleet.state.reason
