"""The coordinator's journal: whole or not at all, read back as it was, and written by one."""

import os
import sqlite3
import time
from pathlib import Path

import pytest

from protocol.errors import DeviceError, Rejected
from trainer.journal import LEASE_S, Journal
from trainer.rollout import step
from trainer.rollout_state import Heard, Note, Plan, Rollout, Start

NOW_S = 1000.0


class Clock:
    now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


def begun() -> Rollout:
    plan = Plan(rollout="r1", kind="classifier", name="door", version="2", digest="d" * 64, counter=2)
    return step(Rollout(plan=plan), Heard(NOW_S, "s/a"), Heard(NOW_S, "s/b"), Start(NOW_S)).state


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    own = Journal(tmp_path / "rollouts.sqlite", Clock())
    assert own.take() == ""
    return own


def test_what_was_written_is_read_after_a_kill(journal: Journal, tmp_path: Path) -> None:
    state = begun()
    journal.save(None, state, "shipment", [Note("started"), Note("asked", "s/a", "why")], NOW_S, is_open=True)
    other = Journal(tmp_path / "rollouts.sqlite", Clock())  # the first is not closed: as after a kill
    assert other.take() == ""
    assert other.epoch == journal.epoch + 1
    assert other.load() == [(state, "shipment")]
    [(_, first), (_, second)] = other.unsent()
    assert (first.event, second.event, second.camera, second.text) == ("started", "asked", "s/a", "why")
    other.mark_sent(first.seq)
    assert [line.seq for _, line in other.unsent()] == [second.seq]


def test_a_line_too_long_for_a_message_is_read_all_the_same(journal: Journal) -> None:
    journal.save(None, begun(), "shipment", [Note("paused", text="x" * 559), Note("running")], NOW_S, is_open=True)
    assert [(line.event, len(line.text)) for _, line in journal.unsent()] == [("paused", 500), ("running", 0)]


def test_only_changed_cameras_are_written_and_closed_rollouts_are_not_read(journal: Journal) -> None:
    state = begun()
    journal.save(None, state, "shipment", [], NOW_S, is_open=True)
    after = step(state, Heard(NOW_S, "s/c")).state
    journal.save(state, after, "shipment", [], NOW_S, is_open=True)
    assert journal.load() == [(after, "shipment")]
    journal.save(after, after, "shipment", [], NOW_S, is_open=False)
    assert journal.load() == []
    assert journal.knows("r1")


def test_one_that_was_thought_dead_writes_no_more(journal: Journal, tmp_path: Path) -> None:
    Journal(tmp_path / "rollouts.sqlite", Clock()).take()
    for write in (journal.renew, lambda: journal.save(None, begun(), "shipment", [], NOW_S, is_open=True)):
        with pytest.raises(DeviceError, match="another coordinator has taken over"):
            write()
    assert journal.load() == []


def test_a_lease_of_another_machine_is_waited_for(journal: Journal, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "rollouts.sqlite") as db:
        db.execute("UPDATE lease SET host = 'elsewhere', pid = ?", (os.getpid(),))
    clock = Clock()
    other = Journal(tmp_path / "rollouts.sqlite", clock)
    assert "elsewhere" in other.take()
    clock.now_s += LEASE_S
    assert other.take() == ""


@pytest.mark.parametrize("is_renewed", [True, False])
def test_a_lease_is_waited_for_as_long_as_it_is_renewed_whatever_the_clock_says(
    journal: Journal, tmp_path: Path, monkeypatch, is_renewed: bool
) -> None:
    """A board wakes in 1970, or its clock was set back."""
    with sqlite3.connect(tmp_path / "rollouts.sqlite") as db:
        db.execute("UPDATE lease SET host = 'elsewhere'")
    early, passed_s = Clock(), 0.0
    early.now_s -= 8 * 3600
    monkeypatch.setattr(time, "monotonic", lambda: passed_s)
    other = Journal(tmp_path / "rollouts.sqlite", early)
    answers = []
    while passed_s <= 2 * LEASE_S:
        answers.append(other.take())
        passed_s += LEASE_S / 3
        if is_renewed:
            journal._clock.now_s += LEASE_S / 3  # type: ignore[attr-defined]
            journal.renew()
    assert all(answers) if is_renewed else (answers.index("") == 3)


def test_a_lease_of_a_living_process_of_this_machine_is_waited_for(journal: Journal, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "rollouts.sqlite") as db:
        db.execute("UPDATE lease SET pid = ?", (os.getppid(),))
    assert str(os.getppid()) in Journal(tmp_path / "rollouts.sqlite", Clock()).take()


def test_a_lease_that_was_let_go_is_free(journal: Journal, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "rollouts.sqlite") as db:
        db.execute("UPDATE lease SET host = 'elsewhere'")
    journal.close()
    assert Journal(tmp_path / "rollouts.sqlite", Clock()).take() == ""


def test_what_cannot_be_read_is_one_line(journal: Journal, tmp_path: Path) -> None:
    journal.save(None, begun(), "shipment", [], NOW_S, is_open=True)
    with sqlite3.connect(tmp_path / "rollouts.sqlite") as db:
        db.execute("""UPDATE rollout SET head = replace(head, '"threshold":0.9', '"threshold":"much"')""")
    with pytest.raises(Rejected, match=r"r1 cannot be read .*threshold"):
        journal.load()
    (tmp_path / "noise.sqlite").write_bytes(b"x" * 4096)
    with pytest.raises(DeviceError, match=r"noise\.sqlite"):
        Journal(tmp_path / "noise.sqlite", Clock())


def test_a_file_that_is_damaged_later_is_one_line_too(journal: Journal, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "rollouts.sqlite") as db:
        for table in ("rollout", "camera", "log"):
            db.execute(f"DROP TABLE {table}")
    for use in (journal.load, journal.unsent, lambda: journal.knows("r1"), lambda: journal.mark_sent(1)):
        with pytest.raises(DeviceError, match=r"journal .*rollouts\.sqlite: no such table"):
            use()
