"""The coordinator's machine: what it asks of which camera, and when it stops."""

from typing import Any

import pytest
from fleet_driver import ANSWER_S, SOAK_S, Driver
from pydantic import ValidationError
from rig import ROOT

from protocol.rollouts import Installed
from protocol.rollouts import UpdateState as U
from trainer import rollout_cameras
from trainer.rollout import TRANSITIONS, allows, is_over, owed, reached, step
from trainer.rollout_state import (
    Abort,
    Answered,
    ClockSet,
    Connected,
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
    Told,
    Unreadable,
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


@pytest.mark.parametrize("at_work", [U.FETCHING, U.TRIAL])
def test_a_camera_that_did_not_hear_that_it_was_recalled_is_told_again(at_work: U) -> None:
    fleet = Driver(20)
    fleet(Start)
    [canary] = fleet.of(Fate.UPDATING)
    fleet(Abort)
    told = []
    for state in (at_work, U.IDLE):
        fleet.seq += 1
        said = {"rollout": "r1", "attempt": 1, "digest": "d" * 64, "boot": "b", "seq": fleet.seq}
        told.append([action for action in fleet(Answered, canary, state=state, **said).actions if isinstance(action, Tell)])
    assert told == [[Tell(canary, 1, "nothing")], []]


def test_a_report_that_cannot_be_read_is_a_failure_of_who_was_asked() -> None:
    fleet = Driver(20)
    fleet(Start)
    [canary] = fleet.of(Fate.UPDATING)
    fleet(Unreadable, fleet.of(Fate.WAITING)[0], "not JSON")
    assert fleet.state.phase is Phase.RUNNING
    fleet(Unreadable, canary, "not JSON")
    assert fleet.state.phase is Phase.PAUSED


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
    fleet(Abort)
    assert set(reached(fleet.state)) == set(fleet.names) - {refused}
    assert refused not in reached(fleet.state)


def test_a_rollout_that_is_superseded_asks_nobody_any_more() -> None:
    fleet = Driver(3)
    fleet(Start)
    for _ in range(4):
        fleet.wave()
    fleet(Supersede)
    fleet(Heard, "hall/late")
    assert not fleet.of(Fate.UPDATING)
    assert is_over(fleet.state)
    assert not allows(fleet.state, RollBack)


def test_two_cameras_of_one_name_are_noticed() -> None:
    fleet = Driver(20)
    fleet(Start)
    [canary] = fleet.of(Fate.UPDATING)
    for boot in ("a", "b", "a"):
        fleet.answer(canary, U.FETCHING, boot=boot)
    assert fleet.state.cameras[canary].reason == "duplicate"
    assert fleet.state.phase is Phase.PAUSED


def test_old_reports_change_nothing() -> None:
    fleet = Driver(20)
    fleet(Start)
    [canary] = fleet.of(Fate.UPDATING)
    fleet.answer(canary, U.FETCHING, seq=50)
    fleet.answer(canary, U.FAILED, seq=49)
    fleet.answer(canary, U.FAILED, seq=51, attempt=0)
    fleet.answer(canary, U.FAILED, seq=52, rollout="another")
    assert fleet.state.cameras[canary].fate is Fate.UPDATING


def test_a_camera_that_committed_to_something_else_has_failed() -> None:
    fleet = Driver(20)
    fleet(Start)
    [canary] = fleet.of(Fate.UPDATING)
    fleet.answer(canary, digest="e" * 64)
    assert fleet.state.cameras[canary].reason == "wrong_digest"


def test_invented_names_do_not_grow_a_rollout_without_end(monkeypatch) -> None:
    monkeypatch.setattr(rollout_cameras, "MAX_CAMERAS", 30)
    fleet = Driver(20)
    for number in range(100):
        fleet(Heard, f"invented-{number}/door")
    assert len(fleet.state.cameras) == 30
    fleet(Heard, fleet.names[3], is_online=False)
    assert not fleet.state.cameras[fleet.names[3]].is_online


@pytest.mark.parametrize(
    ("runs", "is_asked"),
    [(("d", 2), False), (("e", 1), True), (("e", 2), True), (("e", 3), False)],
    ids=["what it committed to", "what ships", "what ships, after a loss", "something newer"],
)
def test_a_camera_whose_disk_was_replaced_is_asked_again(runs: tuple[str, int], is_asked: bool) -> None:
    """The desired state that it is left with may be of a rollout of the other kind."""
    fleet = Driver(20)
    fleet(Start)
    for _ in range(4):
        fleet.wave()
    name = fleet.names[0]
    installed = {"classifier": Installed(name="door", version="", digest=runs[0] * 64, counter=runs[1])}
    fleet.answer(name, U.COMMITTED, rollout="detector-9", digest="f" * 64, boot="new", installed=installed)
    assert fleet.of(Fate.UPDATING) == ([name] if is_asked else [])
    assert fleet.state.cameras[name].attempt == (2 if is_asked else 1)
    fleet.answer(name, boot="new", installed={"classifier": Installed(name="door", version="2", digest="d" * 64, counter=2)})
    assert len(fleet.of(Fate.COMMITTED)) == 20
    assert fleet.state.phase is Phase.DONE


def test_only_selected_cameras_belong() -> None:
    fleet = Driver(0, select=("hall/*", "*/door-1"))
    for name in ("hall/a", "yard/door-1", "yard/door-10", "hallway/a"):
        fleet(Heard, name)
    assert set(fleet.state.cameras) == {"hall/a", "yard/door-1"}


def test_the_state_is_its_json() -> None:
    fleet = Driver(5)
    fleet(Start)
    assert Rollout.model_validate_json(fleet.state.model_dump_json()) == fleet.state


def test_the_diagram_is_what_the_table_says() -> None:
    arrows = [f"    {phase} --> {after}" for phase, afters in TRANSITIONS.items() for after in Phase if after in afters]
    drawn = (ROOT / "docs" / "fleet.md").read_text(encoding="utf-8").split("[*] --> draft\n")[1].split("\n```")[0].split("\n")
    assert sorted(drawn) == sorted(arrows)
