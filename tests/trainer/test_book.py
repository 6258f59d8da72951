"""The coordinator's book: a rollout that has begun is taken up again, and what begins anew is checked anew."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from books import OTHERS, TRUSTED, NextWeek, book, commit, release

from protocol.errors import Reason, Rejected
from protocol.release import MANIFEST_FILE, MODEL_FILE, SIGNATURE_FILE
from protocol.rollouts import UpdateState
from trainer.book import Entry, StartArgs
from trainer.rollout_state import Abort, Answered, Connected, Forgotten, Heard, Known, Rollout, Start, Tick, Told


@pytest.mark.parametrize("is_late", [True, False])
def test_a_coordinator_starts_again_after_its_release_has_expired_or_its_key_is_trusted_no_more(
    tmp_path: Path, classifier_release: Path, is_late: bool, monkeypatch
) -> None:
    name = release(tmp_path, classifier_release)
    rollout = book(tmp_path).start(StartArgs(release=name))
    if is_late:
        monkeypatch.setattr("trainer.shelf.datetime", NextWeek)
    again = book(tmp_path, TRUSTED if is_late else OTHERS)
    assert list(again.entries) == [rollout]
    again.do(rollout, Abort(1000.0))
    with pytest.raises(Rejected) as caught:
        again.start(StartArgs(release=name))
    assert caught.value.reason is (Reason.EXPIRED if is_late else Reason.UNKNOWN_KEY)


def forget(release: Path) -> None:
    shutil.rmtree(release)


def cut_short(name: str, release: Path) -> None:
    (release / name).write_bytes((release / name).read_bytes()[:-9])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (forget, "not on the shelf"),
        (partial(cut_short, MODEL_FILE), "SHA-256 is not the manifest's"),
        (partial(cut_short, MANIFEST_FILE), "manifest: Invalid JSON"),
        (partial(cut_short, SIGNATURE_FILE), "signature: Invalid JSON"),
    ],
)
def test_a_coordinator_whose_shelf_is_damaged_names_rollout_and_folder(
    tmp_path: Path, classifier_release: Path, damage: Callable[[Path], None], says: str
) -> None:
    name = release(tmp_path, classifier_release)
    rollout = book(tmp_path).start(StartArgs(release=name))
    damage(tmp_path / "releases" / name)
    with pytest.raises(Rejected, match=says) as caught:
        book(tmp_path)
    assert str(caught.value).startswith(f"rollout {rollout}: ")
    assert str(tmp_path / "releases") in str(caught.value)
    assert name in str(caught.value)


def test_a_release_that_was_read_before_is_checked_at_each_start_and_way_back(tmp_path: Path, classifier_release: Path, monkeypatch) -> None:
    own, name, old = book(tmp_path), release(tmp_path, classifier_release), release(tmp_path, classifier_release, 8)
    rollout = own.start(StartArgs(release=name))
    with pytest.raises(Rejected, match="way back"):
        own.roll_back(rollout, old, "")  # it is the same model: refused, but read
    monkeypatch.setattr("trainer.shelf.datetime", NextWeek)
    with pytest.raises(Rejected, match="expired"):
        own.roll_back(rollout, old, "")
    own.do(rollout, Abort(1000.0))
    with pytest.raises(Rejected, match="expired"):
        own.start(StartArgs(release=name))


def test_what_a_camera_answered_to_a_coordinator_whose_state_was_lost_is_not_taken_for_an_answer(tmp_path: Path, classifier_release: Path) -> None:
    """Both shipped the same release. A camera would not even hear that it is asked again: the words would be the same."""
    own = book(tmp_path)
    former = Answered(1000.0, "lobby/door", "classifier-7", 1, "", UpdateState.FAILED, "b", 1, reason="no_frames")
    own.hear(Heard(1000.0, "lobby/door"), former)
    rollout = own.start(StartArgs(release=release(tmp_path, classifier_release)))
    own.hear(replace(former, seq=2))
    assert (rollout, own.entries[rollout].state.phase) == ("classifier-7-2", "running")
    assert own.entries[rollout].state.cameras["lobby/door"].asked == "run"


def test_a_rollout_that_is_over_needs_its_release_no_more(tmp_path: Path, classifier_release: Path) -> None:
    own, name = book(tmp_path), release(tmp_path, classifier_release)
    own.do(own.start(StartArgs(release=name)), Abort(1000.0))
    shutil.rmtree(tmp_path / "releases" / name)
    assert book(tmp_path).entries == {}


def test_a_model_is_shipped_to_the_cameras_of_its_rollout_until_that_ends(tmp_path: Path, classifier_release: Path) -> None:
    own = book(tmp_path)
    rollout = own.start(StartArgs(release=release(tmp_path, classifier_release), select=("hall/*",)))
    own.hear(Heard(1000.0, "hall/door"), Heard(1000.0, "yard/door"))
    model = own.entries[rollout].shipment.short_digest
    cameras = ("hall/door", "yard/door", "hall/invented")
    assert [own.ships_to(model, camera) for camera in cameras] == [True, False, False]
    assert not own.ships_to("0" * 32, "hall/door")
    own.do(rollout, Abort(1000.0))
    assert not own.ships_to(model, "hall/door")


def test_a_model_that_was_signed_again_is_served_in_the_chunks_that_cameras_were_last_asked_to_fetch(
    tmp_path: Path, classifier_release: Path
) -> None:
    own = book(tmp_path)
    first = own.start(StartArgs(release=release(tmp_path, classifier_release, 7, 16 * 1024)))
    own.hear(Heard(1000.0, "hall/a"), Heard(1000.0, "hall/b", is_online=False))
    commit(own, first, "hall/a")
    model = own.entries[first].shipment.short_digest

    def served() -> tuple[int, dict[str, bool]]:
        return own.find(model).manifest.chunk_bytes // 1024, {name: own.ships_to(model, name) for name in ("hall/a", "hall/b")}

    second = own.start(StartArgs(release=release(tmp_path, classifier_release, 8, 48 * 1024), select=("*/b",)))
    assert served() == (16, {"hall/a": True, "hall/b": True}), "the newer one has asked nobody"
    own.hear(Heard(5000.0, "hall/b"))
    assert own.entries[second].state.cameras["hall/b"].asked == "run"
    assert served() == (48, {"hall/a": False, "hall/b": True})


@pytest.mark.parametrize("is_together", [True, False])
def test_two_rollouts_that_want_one_camera_do_not_wait_for_each_other(tmp_path: Path, classifier_release: Path, is_together: bool) -> None:
    """It does not answer; the first asks it again, and gives it up in time for the second, whether that came later or both found it at once."""
    own = book(tmp_path)
    first = own.start(StartArgs(release=release(tmp_path, classifier_release)))
    other = own.entries[first].state.plan.model_copy(update={"rollout": "other", "kind": "detector"})
    own.entries["other"] = Entry(Rollout(plan=other), own.entries[first].shipment)
    said: list[str] = []
    for second in range(1000, 5000, 10):
        if second == (1000 if is_together else 1010):
            own.do("other", Start(second))
        own.hear(Heard(second, "hall/door") if second == 1000 else Tick(second))
        for key, tell in list(own.tells.items()):
            if not own.is_busy(*key):
                said.append(key[0])
                own.told(key, tell)
                own.do(key[0], Told(second, tell.camera, tell.attempt, tell.asked))
    assert said[:8] == [first] * 4 + ["other"] * 4
    assert sorted(said[8:]) == [first, "other"], "both take it back"
    assert [entry.state.phase for entry in own.entries.values()] == ["paused", "paused"]


def test_who_has_not_been_heard_since_the_connection_is_not_asked_first(tmp_path: Path, classifier_release: Path) -> None:
    own = book(tmp_path)
    own.hear(Heard(1000.0, "hall/dead"), Connected(1001.0), Heard(1002.0, "hall/alive"))
    rollout = own.start(StartArgs(release=release(tmp_path, classifier_release)))
    own.hear(Tick(1003.0))
    assert {name: camera.asked for name, camera in own.entries[rollout].state.cameras.items()} == {"hall/dead": "nothing", "hall/alive": "run"}


def test_who_is_only_kept_by_the_broker_is_known_and_not_asked(tmp_path: Path, classifier_release: Path) -> None:
    own = book(tmp_path)
    own.hear(Known(1000.0, "hall/ghost"), Heard(1000.0, "hall/alive"), Known(1000.0, "hall/alive"))
    rollout = own.start(StartArgs(release=release(tmp_path, classifier_release)))
    own.hear(Known(1001.0, "hall/alive"), Known(1001.0, "hall/other"))
    cameras = own.entries[rollout].state.cameras
    assert own.online == {"hall/ghost": False, "hall/alive": True, "hall/other": False}
    assert {name: (camera.is_online, camera.asked) for name, camera in cameras.items()} == {
        "hall/ghost": (False, "nothing"),
        "hall/alive": (True, "run"),
        "hall/other": (False, "nothing"),
    }
    own.hear(Heard(1002.0, "hall/other"))
    assert own.entries[rollout].state.cameras["hall/other"].asked == "hold"


def test_a_camera_that_was_removed_is_forgotten_and_stays_so_after_a_restart(tmp_path: Path, classifier_release: Path) -> None:
    own = book(tmp_path)
    own.hear(Heard(1000.0, "hall/first"), Heard(1000.0, "hall/gone"))
    rollout = own.start(StartArgs(release=release(tmp_path, classifier_release)))
    assert (rollout, "hall/gone") in own.tells, "it is asked to fetch the model"
    own.hear(Heard(1001.0, "hall/gone", is_online=False), Forgotten(1002.0, "hall/gone"))
    assert own.online == {"hall/first": True}
    again = book(tmp_path)
    again.hear(Connected(1003.0))
    for one in (own, again):
        assert [camera for _, camera in one.tells] == ["hall/first"]
        assert list(one.entries[rollout].state.cameras) == ["hall/first"]


def test_invented_cameras_are_heard_up_to_a_number_and_known_ones_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.book.MAX_CAMERAS", 3)
    own = book(tmp_path)
    own.hear(*(Heard(1000.0, f"hall/{number}") for number in range(5)), Heard(1000.0, "hall/0", False))
    assert own.online == {"hall/0": False, "hall/1": True, "hall/2": True}
