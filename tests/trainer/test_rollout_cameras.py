"""What a rollout makes of what cameras say, and of who says it."""

from fnmatch import fnmatchcase

import pytest
from fleet_driver import Driver
from hypothesis import given
from hypothesis import strategies as st

from protocol.rollouts import Installed
from protocol.rollouts import UpdateState as U
from trainer import rollout_cameras
from trainer.rollout_state import (
    Abort,
    Answered,
    Connected,
    Fate,
    Forgotten,
    Heard,
    Note,
    Pause,
    Phase,
    Plan,
    Resume,
    Start,
    Tell,
    Told,
    Unreadable,
)


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


def test_two_cameras_of_one_name_are_noticed() -> None:
    fleet = Driver(20)
    fleet(Start)
    [canary] = fleet.of(Fate.UPDATING)
    for boot in ("a", "b", "a"):
        fleet.answer(canary, U.FETCHING, boot=boot)
    assert fleet.state.cameras[canary].reason == "duplicate"
    assert fleet.state.phase is Phase.PAUSED


def test_what_a_broker_kept_from_before_a_camera_started_again_is_no_second_camera() -> None:
    fleet = Driver(20)
    fleet(Start)
    [canary] = fleet.of(Fate.UPDATING)
    for boot in ("a", "b"):
        fleet.answer(canary, U.FETCHING, boot=boot)
    fleet.answer(canary, U.FAILED, boot="a", is_retained=True)
    assert fleet.of(Fate.UPDATING) == [canary]
    fleet.answer(canary, U.COMMITTED, boot="b")
    assert fleet.of(Fate.COMMITTED) == [canary]


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


PATTERNS = st.text("ab/*?[]", min_size=3, max_size=5)
NAMES = st.from_regex("[ab]{1,2}/[ab]{1,2}", fullmatch=True)


@given(st.lists(PATTERNS | NAMES | NAMES.map(lambda name: f"*/{name[-1]}"), min_size=1, max_size=5), NAMES)
def test_a_plan_selects_what_any_of_its_patterns_matches(patterns: list[str], camera: str) -> None:
    plan = Plan(rollout="r", kind="classifier", name="door", version="1", digest="d" * 64, counter=1, select=tuple(patterns))
    assert plan.selects(camera) == any(fnmatchcase(camera, pattern) for pattern in patterns)


@pytest.mark.parametrize("is_held", [True, False])
def test_a_camera_that_is_removed_before_it_was_asked_to_run_leaves_the_rollout(is_held: bool) -> None:
    fleet = Driver(2)
    fleet(Start)
    if not is_held:
        fleet(Heard, "hall/new", is_online=False)
    gone = fleet.of(Fate.WAITING)[-1]
    assert fleet.state.cameras[gone].asked == ("hold" if is_held else "nothing")
    fleet(Heard, gone, is_online=False)
    fleet(Forgotten, gone)
    fleet(Told, gone, 1, "hold")  # said while it was removed
    assert gone not in fleet.state.cameras
    assert fleet.notes[-1] == Note("forgotten", gone)
    assert gone not in [action.camera for action in fleet(Connected).actions]
    fleet(Heard, gone)
    assert fleet.state.cameras[gone].asked == "hold", "it was not gone after all"


def test_a_camera_that_is_removed_after_the_rollout_was_aborted_is_told_nothing_any_more() -> None:
    fleet = Driver(2)
    fleet(Start)
    [held] = fleet.of(Fate.WAITING)
    fleet(Abort)
    fleet(Forgotten, held)
    assert held not in [action.camera for action in fleet(Connected).actions]


def test_a_camera_that_was_asked_to_run_the_release_counts_though_it_is_removed() -> None:
    fleet = Driver(2)
    fleet(Start)
    [canary] = fleet.of(Fate.UPDATING)
    fleet(Forgotten, canary)
    assert fleet.of(Fate.UPDATING) == [canary]
    fleet(Abort)  # recalled, it may have committed all the same: there is a way back to it
    fleet(Forgotten, canary)
    assert canary in fleet.state.cameras


def test_a_camera_that_failed_before_its_wave_and_is_removed_keeps_its_attempts() -> None:
    """Asked for the first time once more, it would fail by the report that it made then."""
    fleet = Driver(2)
    fleet(Start)
    [held] = fleet.of(Fate.WAITING)
    fleet.answer(held, U.FAILED)
    fleet(Pause)
    fleet(Heard, held, is_online=False)
    fleet(Resume)
    fleet(Resume)
    fleet(Forgotten, held)
    assert fleet.state.cameras[held].attempt == 1
