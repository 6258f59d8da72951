"""The coordinator's book: a rollout that has begun is taken up again, and what begins anew is checked anew."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from made_releases import Made

from protocol.errors import DeviceError, Reason, Rejected
from protocol.release import MANIFEST_FILE, MODEL_FILE, SIGNATURE_FILE
from protocol.rollouts import UpdateState
from protocol.signature import Statement, TrustedKeys, public_text, trusted_keys
from trainer import keys
from trainer.book import Book, Entry, StartArgs
from trainer.journal import Journal
from trainer.rollout_state import Abort, Answered, Connected, Heard, Known, Pause, Rollout, Start, Tick, Told
from trainer.shelf import Shelf

KEY = Ed25519PrivateKey.generate()
TRUSTED = trusted_keys([public_text(KEY.public_key())])
OTHERS = trusted_keys([public_text(Ed25519PrivateKey.generate().public_key())])


class NextWeek(datetime):
    """A clock after the release has expired."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return super().now(tz) + timedelta(days=7)


def book(folder: Path, trusted: TrustedKeys = TRUSTED) -> Book:
    """A coordinator's, as after a start; one that was there before was killed."""
    journal = Journal(folder / "rollouts.sqlite", lambda: 1000.0)
    assert journal.take() == ""
    own = Book(journal, Shelf(folder / "releases", trusted), lambda: 1000.0)
    own.load()
    return own


def release(folder: Path, classifier_release: Path, counter: int = 7, chunk_bytes: int = 32 * 1024) -> str:
    """The name of a release on the shelf that is good for a day."""
    copy = shutil.copytree(classifier_release, folder / f"signed-{counter}")
    keys.sign(copy, KEY, counter, datetime.now(UTC) + timedelta(days=1), "0", chunk_bytes)
    return Shelf(folder / "releases", TRUSTED).put(copy).name


def old_release(folder: Path, counter: int) -> str:
    """The name of another model's release on the shelf."""
    written = Made("classifier", "old", counter).write(folder / f"old-{counter}")
    keys.sign(written, KEY, counter, datetime.now(UTC) + timedelta(days=1), "0", 32 * 1024)
    return Shelf(folder / "releases", TRUSTED).put(written).name


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


@pytest.mark.parametrize("failing", range(1, 5))
def test_a_way_back_is_written_down_whole_or_not_at_all(tmp_path: Path, classifier_release: Path, failing: int, monkeypatch) -> None:
    """The disk is full, or the power fails: the bad release must not be left without a way back."""
    own, name = book(tmp_path), release(tmp_path, classifier_release)
    old = old_release(tmp_path, 8)
    bad = own.start(StartArgs(release=name))
    own.hear(Heard(1000.0, "hall/door"))
    saved, save = 0, own._journal.save

    def fails(*arguments: Any) -> None:
        nonlocal saved
        saved += 1
        if saved == failing:
            raise DeviceError("the disk is full")
        save(*arguments)

    monkeypatch.setattr(own._journal, "save", fails)
    with pytest.raises(DeviceError):
        own.roll_back(bad, old, "bad")
    again = book(tmp_path)
    assert [(name, entry.state.phase) for name, entry in again.entries.items()] == [(bad, "running")]
    back = again.roll_back(bad, old, "bad")
    assert [(name, entry.state.phase) for name, entry in again.entries.items()] == [(bad, "rolled_back"), (back, "running")]


NEXT = Ed25519PrivateKey.generate()
BOTH = {**TRUSTED, **trusted_keys([public_text(NEXT.public_key())])}
VOUCHED = (Statement.make(public_text(NEXT.public_key()), None, KEY),)
ENDED = (Statement.make(public_text(NEXT.public_key()), datetime(2020, 1, 1, tzinfo=UTC), KEY),)


@pytest.mark.parametrize("trusted", [{}, BOTH], ids=["any", "both"])
@pytest.mark.parametrize(("bad_by", "bad_statements"), [(KEY, ()), (NEXT, VOUCHED)], ids=["old", "vouched"])
def test_a_way_back_that_cameras_may_not_believe_is_refused_and_ends_nothing(
    tmp_path: Path, bad_by: Ed25519PrivateKey, bad_statements: tuple[Statement, ...], trusted: TrustedKeys
) -> None:
    def put(version: str, counter: int, signer: Ed25519PrivateKey, statements: tuple[Statement, ...]) -> str:
        folder = Made("classifier", version, counter).write(tmp_path / version)
        keys.sign(folder, signer, counter, None, "0", 32 * 1024, statements)
        return Shelf(tmp_path / "releases", {}).put(folder).name

    own = book(tmp_path, trusted)
    bad = own.start(StartArgs(release=put("bad", 7, bad_by, bad_statements)))
    own.hear(Heard(1000.0, "hall/door"))
    for statements in ((), ENDED):
        with pytest.raises(Rejected, match="--sign-trust") as caught:
            own.roll_back(bad, put("old", 8, NEXT, statements), "bad")
        assert len(str(caught.value)) < 500
        assert own.entries[bad].state.phase == "running"
    told_otherwise = book(tmp_path, trusted_keys([public_text(NEXT.public_key())]))
    told_otherwise._shelf.check_back(told_otherwise._shelf.get(put("old", 8, NEXT, ())), told_otherwise.entries[bad].shipment)
    own = book(tmp_path, trusted)
    own.roll_back(bad, put("old", 8, NEXT, VOUCHED), "bad")
    assert own.entries[bad].state.phase == "rolled_back"


def commit(own: Book, rollout: str, camera: str) -> None:
    """A camera takes what is asked of it, and the rollout ends."""
    digest = own.entries[rollout].state.plan.digest
    own.hear(Answered(1000.0, camera, rollout, 1, digest, UpdateState.COMMITTED, "b", 1))
    for second in range(1001, 5000, 400):
        own.hear(Tick(second))


def test_a_rollout_that_asks_nobody_leaves_the_way_back_of_the_one_before(tmp_path: Path, classifier_release: Path) -> None:
    """As `start --site lobbby`, which is aborted when that is seen."""
    own = book(tmp_path)
    good = own.start(StartArgs(release=release(tmp_path, classifier_release)))
    own.hear(Heard(1000.0, "lobby/door"))
    commit(own, good, "lobby/door")
    assert own.entries[good].state.phase == "done"
    typo = own.start(StartArgs(release=old_release(tmp_path, 8), select=("lobbby/*",)))
    assert own.current() == typo
    own.do(typo, Abort(5000.0))
    own = book(tmp_path)
    own.unsaid.clear()
    own.let_go()
    assert (list(own.entries), own.current()) == ([good, typo], good)
    with pytest.raises(Rejected, match="has reached no camera: there is nothing to take back"):
        own.roll_back(typo, release(tmp_path, classifier_release, 9), "")
    assert own.entries[typo].state.phase == "aborted"
    own.hear(Heard(5000.0, "lobby/door"))
    back = own.roll_back(good, old_release(tmp_path, 10), "")
    assert own.entries[back].state.cameras["lobby/door"].asked == "run"


def test_what_a_camera_answered_to_a_coordinator_whose_state_was_lost_is_not_taken_for_an_answer(tmp_path: Path, classifier_release: Path) -> None:
    """Both shipped the same release. A camera would not even hear that it is asked again: the words would be the same."""
    own = book(tmp_path)
    former = Answered(1000.0, "lobby/door", "classifier-7", 1, "", UpdateState.FAILED, "b", 1, reason="no_frames")
    own.hear(Heard(1000.0, "lobby/door"), former)
    rollout = own.start(StartArgs(release=release(tmp_path, classifier_release)))
    own.hear(replace(former, seq=2))
    assert (rollout, own.entries[rollout].state.phase) == ("classifier-7-2", "running")
    assert own.entries[rollout].state.cameras["lobby/door"].asked == "run"


@pytest.mark.parametrize("is_paused", [False, True])
def test_a_rollout_that_asks_its_first_camera_takes_the_place_of_the_one_before(tmp_path: Path, classifier_release: Path, is_paused: bool) -> None:
    own = book(tmp_path)
    good = own.start(StartArgs(release=release(tmp_path, classifier_release)))
    own.hear(Heard(1000.0, "lobby/door"))
    commit(own, good, "lobby/door")
    newer = own.start(StartArgs(release=old_release(tmp_path, 8), select=("hall/*",)))
    if is_paused:
        own.do(good, Pause(5000.0))
    own.hear(Heard(5000.0, "hall/door"))
    for _ in range(2):
        assert own.entries[good].state.is_superseded
        assert own.entries[newer].state.cameras["hall/door"].asked == "run"
        own = book(tmp_path)  # it is written down, too
    for key, tell in list(own.tells.items()):
        own.told(key, tell)
        own.do(key[0], Told(5000.0, tell.camera, tell.attempt, tell.asked))
    own.unsaid.clear()
    own.let_go()
    assert list(own.entries) == [newer]


def test_a_way_back_from_where_nobody_was_reached_is_refused_and_ends_nothing(tmp_path: Path, classifier_release: Path) -> None:
    own = book(tmp_path)
    rollout = own.start(StartArgs(release=release(tmp_path, classifier_release)))
    with pytest.raises(Rejected, match=f"rollout {rollout} is running and has reached no camera"):
        own.roll_back(rollout, old_release(tmp_path, 8), "")
    assert own.entries[rollout].state.phase == "running"


def test_from_a_rollout_that_was_aborted_there_is_a_way_back_though_one_of_the_other_kind_came(tmp_path: Path, classifier_release: Path) -> None:
    own = book(tmp_path)
    bad = own.start(StartArgs(release=release(tmp_path, classifier_release)))
    own.hear(Heard(1000.0, "lobby/door"))
    commit(own, bad, "lobby/door")
    own.entries[bad].state = own.entries[bad].state.model_copy(update={"phase": "running"})  # not done yet
    own.do(bad, Abort(1000.0))
    detector = Made("detector", "next", 50).write(tmp_path / "detector")
    keys.sign(detector, KEY, 50, datetime.now(UTC) + timedelta(days=1), "0", 32 * 1024)
    other = own.start(StartArgs(release=Shelf(tmp_path / "releases", TRUSTED).put(detector).name, select=("hall/*",)))
    own.unsaid.clear()
    own.let_go()
    assert list(own.entries) == [bad, other]
    back = own.roll_back(bad, old_release(tmp_path, 8), "")
    assert own.entries[back].state.cameras["lobby/door"].asked == "run"


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


def test_invented_cameras_are_heard_up_to_a_number_and_known_ones_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.book.MAX_CAMERAS", 3)
    own = book(tmp_path)
    own.hear(*(Heard(1000.0, f"hall/{number}") for number in range(5)), Heard(1000.0, "hall/0", False))
    assert own.online == {"hall/0": False, "hall/1": True, "hall/2": True}
