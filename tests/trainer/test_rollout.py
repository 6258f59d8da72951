"""The coordinator's machine: what it asks of which camera, and when it stops."""

from typing import Any

import pytest
from fleet_driver import RULES, Driver
from pydantic import ValidationError
from rig import ROOT

from protocol.rollouts import UpdateState as U
from trainer.rollout import TRANSITIONS
from trainer.rollout_state import (
    Fate,
    Heard,
    Pause,
    Phase,
    Resume,
    Rollout,
    Rules,
    Start,
    Tell,
    Tick,
)


def test_waves_reach_one_camera_then_ten_then_fifty_percent_then_all() -> None:
    fleet = Driver(20)
    fleet(Start)
    sizes = []
    while fleet.state.phase is not Phase.DONE:
        sizes.append(len(fleet.of(Fate.UPDATING)))
        assert fleet.state.phase is Phase.RUNNING
        fleet.wave()
    assert sizes == [1, 1, 8, 10]
    assert len(fleet.of(Fate.COMMITTED)) == 20
    assert [note.text for note in fleet.notes if note.event == "running"] == [f"wave {n} of 4" for n in (1, 2, 3, 4)]


def test_those_whose_wave_has_not_come_are_asked_to_fetch_and_no_more() -> None:
    fleet = Driver(20)
    fleet(Start)
    assert {own.asked for own in fleet.state.cameras.values() if own.fate is Fate.WAITING} == {"hold"}
    fleet.wave()
    told = fleet.of(Fate.UPDATING)
    assert {fleet.state.cameras[name].attempt for name in told} == {1}  # the same attempt, so nothing is fetched anew


@pytest.mark.parametrize("bad", [U.REJECTED, U.FAILED, U.ROLLED_BACK])
def test_any_failure_in_the_first_wave_stops(bad: U) -> None:
    fleet = Driver(20)
    fleet(Start)
    [canary] = fleet.of(Fate.UPDATING)
    fleet.answer(canary, bad, reason="too_slow")
    assert fleet.state.phase is Phase.PAUSED
    assert canary in fleet.state.reason
    assert "too_slow" in fleet.state.reason
    fleet.now_s += 1e6
    fleet(Tick)
    assert not fleet.of(Fate.UPDATING)
    assert not fleet.of(Fate.COMMITTED)


def test_a_long_reason_still_fits_into_the_record() -> None:
    fleet = Driver(20)
    fleet(Start)
    fleet.answer(fleet.of(Fate.UPDATING)[0], U.FAILED, reason="x" * 500)
    assert fleet.state.phase is Phase.PAUSED
    assert max(len(note.text) for note in fleet.notes) == 500


def test_later_one_failure_among_many_passes_and_two_stop() -> None:
    fleet = Driver(100)
    fleet(Start)
    fleet.wave()
    first, second, *_ = fleet.of(Fate.UPDATING)
    fleet.answer(first, U.ROLLED_BACK)
    assert fleet.state.phase is Phase.RUNNING
    fleet.answer(second, U.ROLLED_BACK)
    assert fleet.state.phase is Phase.PAUSED
    assert not fleet.of(Fate.UPDATING)  # the others of the wave are recalled
    assert {own.asked for own in fleet.state.cameras.values() if own.attempt == 1 and own.fate is Fate.WAITING} == {"nothing", "hold"}


@pytest.mark.parametrize(
    "bad",
    [
        {"threshold": float("nan")},
        {"threshold": "much"},
        {"threshold": 2},
        {"quorum": -1},
        {"waves": ["1"]},
        {"waves": ["1\U00010d41", "100%"]},
        {"waves": []},
    ],
)
def test_rules_that_cannot_be_read_start_nothing(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Rules.model_validate(bad)


def test_late_joiners_come_in_growing_crowds_after_the_end() -> None:
    fleet = Driver(1)
    fleet(Start)
    for _ in range(4):
        fleet.wave()
    assert fleet.state.phase is Phase.DONE
    for number in range(30):
        fleet(Heard, f"late/c{number}")
    crowds = []
    while crowd := fleet.of(Fate.UPDATING):
        crowds.append(len(crowd))
        for name in crowd:
            fleet.answer(name)
        assert len(crowds) < 50
    assert crowds[0] == 1
    assert len(fleet.of(Fate.COMMITTED)) == 31


def test_a_bad_crowd_that_comes_late_stops_a_rollout_that_was_done() -> None:
    fleet = Driver(4)
    fleet(Start)
    for _ in range(4):
        fleet.wave()
    for number in range(10):
        fleet(Heard, f"late/c{number}")
    for name in fleet.of(Fate.UPDATING)[:2]:
        fleet.answer(name, U.ROLLED_BACK)
    assert fleet.state.phase is Phase.PAUSED


def test_pause_asks_nobody_more_and_resume_goes_on() -> None:
    fleet = Driver(20)
    fleet(Start)
    fleet(Pause)
    fleet.wave()
    assert fleet.state.phase is Phase.PAUSED
    assert len(fleet.of(Fate.COMMITTED)) == 1
    fleet(Resume)
    while fleet.state.phase is not Phase.DONE:
        fleet.wave()


@pytest.mark.parametrize("bad", [U.REJECTED, U.FAILED, U.ROLLED_BACK])
def test_what_fails_in_a_pause_stops_at_the_resume_before_anybody_is_asked(bad: U) -> None:
    fleet = Driver(100, RULES.model_copy(update={"waves": ("1", "50%", "100%")}))
    fleet(Start)
    fleet.wave()
    fleet(Pause, "lunch")
    asked = fleet.of(Fate.UPDATING)
    for name in asked[:3]:
        fleet.answer(name)
    for name in asked[3:]:
        fleet.answer(name, bad, reason="too_slow")
    done = fleet(Resume)
    assert {action.asked for action in done.actions if isinstance(action, Tell)} <= {"nothing"}
    assert (fleet.state.phase, fleet.state.wave) == (Phase.PAUSED, 2)
    assert "46 failures in 50 answers" in fleet.state.reason
    assert not any(own.is_excused for own in fleet.state.cameras.values())
    fleet(Resume)  # now somebody knows
    assert fleet.state.phase is Phase.RUNNING
    assert len(fleet.of(Fate.UPDATING)) == 46


def test_a_failure_that_is_not_enough_to_stop_goes_on_counting_after_a_pause() -> None:
    fleet = Driver(100)
    fleet(Start)
    fleet.wave()
    first, second, *_ = fleet.of(Fate.UPDATING)
    fleet(Pause)
    fleet.answer(first, U.ROLLED_BACK)
    fleet(Resume)
    assert fleet.state.phase is Phase.RUNNING
    fleet.answer(second, U.ROLLED_BACK)
    assert fleet.state.phase is Phase.PAUSED
    assert "2 failures" in fleet.state.reason


def test_a_pause_of_one_that_is_done_tries_failures_again() -> None:
    fleet = Driver(100)
    fleet(Start)
    for _ in range(2):
        fleet.wave()
    fleet.answer(failed := fleet.of(Fate.UPDATING)[0], U.FAILED)
    for _ in range(2):
        fleet.wave()
    assert fleet.state.phase is Phase.DONE
    fleet(Pause)
    fleet(Resume)
    assert fleet.of(Fate.UPDATING) == [failed]


def test_those_that_were_recalled_are_asked_again_after_resume() -> None:
    fleet = Driver(100)
    fleet(Start)
    fleet.wave()
    for name in fleet.of(Fate.UPDATING)[:2]:
        fleet.answer(name, U.ROLLED_BACK)
    assert fleet.state.phase is Phase.PAUSED
    fleet(Resume)
    assert len(fleet.of(Fate.UPDATING)) == 9
    while fleet.state.phase is not Phase.DONE:
        fleet.wave()
    assert len(fleet.of(Fate.COMMITTED)) == 98


def test_resume_tries_failures_again_and_lets_refusals_pass() -> None:
    fleet = Driver(20)
    fleet(Start)
    [canary] = fleet.of(Fate.UPDATING)
    fleet.answer(canary, U.ROLLED_BACK)
    fleet(Resume)
    [other] = fleet.of(Fate.UPDATING)
    assert other != canary
    fleet.answer(other, U.FAILED)
    assert fleet.state.phase is Phase.PAUSED
    fleet(Resume)
    assert fleet.of(Fate.UPDATING) == [other]
    assert fleet.state.cameras[other].attempt == 2


def test_a_rollout_that_nobody_is_left_for_ends() -> None:
    fleet = Driver(1)
    fleet(Start)
    [only] = fleet.of(Fate.UPDATING)
    fleet.answer(only, U.ROLLED_BACK)
    fleet(Resume)
    fleet.now_s += 1e6
    fleet(Tick)
    assert fleet.state.phase is Phase.DONE
    assert not fleet.of(Fate.COMMITTED)


def test_a_rollout_whose_first_camera_is_excused_waits_for_the_others() -> None:
    fleet = Driver(2)
    fleet(Start)
    [first] = fleet.of(Fate.UPDATING)
    [other] = set(fleet.state.cameras) - {first}
    fleet(Heard, camera=other, is_online=False)
    fleet.answer(first, U.ROLLED_BACK)
    fleet(Resume)
    fleet.now_s += 1e6
    fleet(Tick)
    assert (fleet.state.phase, fleet.state.wave) == (Phase.RUNNING, 1)


def test_the_camera_that_is_named_is_one_of_the_wave_that_stopped_it() -> None:
    """One that only fetched the model failed before, over nothing that matters."""
    fleet = Driver(20)
    fleet(Start)
    (first,) = fleet.of(Fate.UPDATING)
    fleet.answer(fleet.names[-1], U.FAILED, reason="disk_failed")
    fleet.answer(first, U.ROLLED_BACK, reason="too_slow")
    assert fleet.state.reason == f"failure in the first wave ({first} rolled back: too_slow)"


def test_the_state_is_its_json() -> None:
    fleet = Driver(5)
    fleet(Start)
    assert Rollout.model_validate_json(fleet.state.model_dump_json()) == fleet.state


def test_the_diagram_is_what_the_table_says() -> None:
    arrows = [f"    {phase} --> {after}" for phase, afters in TRANSITIONS.items() for after in Phase if after in afters]
    drawn = (ROOT / "docs" / "fleet.md").read_text(encoding="utf-8").split("[*] --> draft\n")[1].split("\n```")[0].split("\n")
    assert sorted(drawn) == sorted(arrows)
