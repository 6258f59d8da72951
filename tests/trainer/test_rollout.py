"""The coordinator's machine: what it asks of which camera, and when it stops."""

from typing import Any

import pytest
from fleet_driver import ANSWER_S, RULES, Driver
from pydantic import ValidationError
from rig import ROOT

from protocol.rollouts import UpdateState as U
from trainer.rollout import TRANSITIONS, allows, is_over, reached
from trainer.rollout_state import (
    Abort,
    Fate,
    Heard,
    Pause,
    Phase,
    Resume,
    RollBack,
    Rollout,
    Rules,
    Start,
    Supersede,
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


def test_abort_recalls_all_who_have_not_committed() -> None:
    fleet = Driver(20)
    fleet(Start)
    fleet.wave()
    done = fleet(Abort, "wrong model")
    assert fleet.state.phase is Phase.ABORTED
    assert fleet.state.reason == "wrong model"
    told = {action.camera: action.asked for action in done.actions if isinstance(action, Tell)}
    assert told == dict.fromkeys(set(fleet.names) - set(fleet.of(Fate.COMMITTED)), "nothing")


def test_a_way_back_is_for_those_that_were_reached() -> None:
    fleet = Driver(20)
    fleet(Start)
    fleet.wave()
    assert set(reached(fleet.state)) == {*fleet.of(Fate.COMMITTED), *fleet.of(Fate.UPDATING)}
    assert len(reached(fleet.state)) == 2
    fleet(RollBack)
    assert fleet.state.phase is Phase.ROLLED_BACK
    assert not fleet.of(Fate.UPDATING)
    assert not any(allows(fleet.state, command) for command in (Start, Pause, Resume, Abort, RollBack))


def test_a_way_back_is_also_for_those_of_whom_it_is_not_known_what_they_run() -> None:
    """They may have committed, and lost power before they said so."""
    fleet = Driver(40)
    fleet(Start)
    for _ in range(2):
        fleet.wave()
    silent, refused, *others = fleet.of(Fate.UPDATING)
    for name in others:
        fleet.answer(name)
    fleet.answer(refused, U.REJECTED, reason="expired")
    fleet.now_s += ANSWER_S
    fleet(Tick)
    assert fleet.state.cameras[silent].fate is Fate.FAILED
    assert silent in reached(fleet.state)
    ran = {*fleet.of(Fate.COMMITTED), *fleet.of(Fate.UPDATING), silent}
    assert len(ran) < len(fleet.names) - 1
    fleet(Abort)
    assert set(reached(fleet.state)) == ran  # not those that were only asked to fetch it: they cannot run it


def test_a_way_back_is_for_those_that_were_recalled_from_running_it_and_held_again() -> None:
    fleet = Driver(100)
    fleet(Start)
    fleet.wave()
    for name in (asked := fleet.of(Fate.UPDATING))[:2]:
        fleet.answer(name, U.ROLLED_BACK)
    for name in asked[2:]:
        fleet(Heard, name, is_online=False)
    fleet(Resume)
    for name in asked[2:]:
        fleet(Heard, name)
    assert {fleet.state.cameras[name].asked for name in asked[2:]} == {"hold"}
    before = reached(fleet.state)
    assert set(asked[2:]) <= set(before)
    fleet(Abort)
    assert reached(fleet.state) == before


@pytest.mark.parametrize("is_of_an_older_coordinator", [False, True])
def test_a_way_back_is_also_for_those_on_which_the_release_failed_after_they_had_committed(is_of_an_older_coordinator: bool) -> None:
    """They fell back to the model that ships, and want the one of before."""
    fleet = Driver(3)
    fleet(Start)
    for _ in range(4):
        fleet.wave()
    failed, *others = fleet.names
    if is_of_an_older_coordinator:
        unknown = {name: {"has_committed"} for name in fleet.names}
        fleet.state = Rollout.model_validate(fleet.state.model_dump(mode="json", exclude={"cameras": unknown}))
    fleet.answer(failed, U.FAILED, reason="not_a_number")
    assert (fleet.state.phase, fleet.of(Fate.FAILED)) == (Phase.PAUSED, [failed])
    fleet.answer(failed, U.IDLE)
    assert set(reached(fleet.state)) == {failed, *others}
    fleet(Resume)
    fleet.answer(failed, U.REJECTED, reason="known_bad")
    assert set(reached(fleet.state)) == {failed, *others}
    assert set(reached(Rollout.model_validate_json(fleet.state.model_dump_json()))) == {failed, *others}


def test_what_an_older_coordinator_wrote_says_of_nobody_that_it_was_only_held() -> None:
    fleet = Driver(20)
    fleet(Start)
    fleet(Abort)
    assert len(reached(fleet.state)) == 1
    written = fleet.state.model_dump(mode="json", exclude={"is_stopped": True, "cameras": {name: {"is_only_held"} for name in fleet.names}})
    assert set(reached(Rollout.model_validate(written))) == set(fleet.names)


def test_a_rollout_that_is_superseded_asks_nobody_any_more() -> None:
    fleet = Driver(3)
    fleet(Start)
    for _ in range(4):
        fleet.wave()
    fleet(Supersede, "r2")
    fleet(Heard, "hall/late")
    assert not fleet.of(Fate.UPDATING)
    assert (fleet.state.phase, fleet.state.reason) == ("done", "")
    assert is_over(fleet.state)
    assert not allows(fleet.state, RollBack)


def test_one_that_had_not_ended_ends_by_being_superseded_and_says_so() -> None:
    """It waited for cameras, beside a way back from an older one."""
    fleet = Driver(0)
    fleet(Start)
    fleet(Supersede, "r2")
    assert (fleet.state.phase, fleet.state.reason) == ("aborted", "r2 has taken its place")
    assert fleet.notes[-1].event == "aborted"
    assert is_over(fleet.state)


def test_from_one_that_was_aborted_there_is_a_way_back_until_it_is_superseded() -> None:
    fleet = Driver(10)
    fleet(Abort)
    assert is_over(fleet.state), "it has reached nobody"
    fleet = Driver(10)
    fleet(Start)
    fleet.answer(fleet.of(Fate.UPDATING)[0])
    fleet(Abort)
    assert allows(fleet.state, RollBack)
    assert not is_over(fleet.state)
    fleet(Supersede, "r2")
    assert is_over(fleet.state)


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
