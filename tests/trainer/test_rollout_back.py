"""The ends of a rollout: aborted, taken back, or followed by a newer one."""

import pytest
from fleet_driver import ANSWER_S, Driver

from protocol.rollouts import UpdateState as U
from trainer.rollout import allows, is_over, reached
from trainer.rollout_state import (
    Abort,
    Fate,
    Heard,
    Pause,
    Phase,
    Resume,
    RollBack,
    Rollout,
    Start,
    Supersede,
    Tell,
    Tick,
)


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
