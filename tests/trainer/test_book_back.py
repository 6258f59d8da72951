"""Ways back, and which rollout takes another one's place."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from books import KEY, TRUSTED, book, commit, old_release, release
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from made_releases import Made

from protocol.errors import DeviceError, Rejected
from protocol.signature import Statement, TrustedKeys, public_text, trusted_keys
from trainer import keys
from trainer.book import StartArgs
from trainer.rollout_state import Abort, Heard, Pause, Told
from trainer.shelf import Shelf

NEXT = Ed25519PrivateKey.generate()
BOTH = {**TRUSTED, **trusted_keys([public_text(NEXT.public_key())])}
VOUCHED = (Statement.make(public_text(NEXT.public_key()), None, KEY),)
ENDED = (Statement.make(public_text(NEXT.public_key()), datetime(2020, 1, 1, tzinfo=UTC), KEY),)


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
