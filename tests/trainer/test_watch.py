"""The coordinator, the clock of its machine, and its disk."""

import itertools
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from made_releases import Made

from protocol.broker import Broker
from protocol.rollouts import RolloutAck, RolloutCommand, UpdateState
from trainer import keys
from trainer.rollout_state import Answered, ClockSet, Event, Heard, Tick
from trainer.shelf import Shelf
from trainer.watch import SHELF_FOLDER, Coordinator, WatchSettings


@pytest.mark.parametrize("by_s", [3600, -3600])
async def test_a_clock_that_is_set_is_noticed_once(tmp_path: Path, monkeypatch, by_s: float) -> None:
    coordinator, heard, wall = Coordinator(WatchSettings(Broker(), "maskfleet", tmp_path)), list[Event](), time.time
    monkeypatch.setattr(coordinator._book, "hear", lambda *events: heard.extend(events))
    coordinator._decide_now()
    coordinator._heard.append(Tick(time.time()))
    monkeypatch.setattr(time, "time", lambda: wall() + by_s)
    assert coordinator._now() == pytest.approx(wall() + by_s, abs=1)
    coordinator._decide_now()
    first, second = heard
    assert isinstance(first, ClockSet)
    assert first.by_s == pytest.approx(by_s, abs=1)
    assert (type(second), second.at_s) == (Tick, pytest.approx(wall() + by_s, abs=1)), "heard before, it is decided in the new time"


async def test_a_release_that_the_system_does_not_let_us_read_is_a_refusal(tmp_path: Path) -> None:
    coordinator = Coordinator(WatchSettings(Broker(), "maskfleet", tmp_path))
    release = tmp_path / SHELF_FOLDER / "classifier-1"
    release.mkdir(parents=True)
    (release / "manifest.json").symlink_to("x" * 300)  # as root, who may read all, a name that is too long
    ack = coordinator._carry_out(RolloutCommand(id="1", op="start", args={"release": release.name}))
    assert (ack.ok, ack.reason) == (False, f"{release}/manifest.json: File name too long")


async def test_a_resume_that_does_not_go_on_is_a_refusal_with_the_reason(tmp_path: Path) -> None:
    coordinator = Coordinator(WatchSettings(Broker(), "maskfleet", tmp_path))
    assert coordinator._journal.take() == ""
    folder = Made("classifier", "new", 7).write(tmp_path / "new")
    keys.sign(folder, Ed25519PrivateKey.generate(), 7, None, "0", 32 * 1024)
    release = Shelf(tmp_path / SHELF_FOLDER, {}).put(folder).name

    ids = itertools.count()

    def says(op: str, **args: str) -> RolloutAck:
        return coordinator._carry_out(RolloutCommand(id=str(next(ids)), op=op, args=args))

    coordinator._book.hear(Heard(time.time(), "hall/door"))
    rollout = says("start", release=release).rollout
    assert says("pause", reason="lunch").ok
    coordinator._book.hear(Answered(time.time(), "hall/door", rollout, 1, "", UpdateState.FAILED, "b", 1, reason="crashed"))
    assert coordinator._book.entries[rollout].state.reason == "lunch"
    ack = says("resume")
    assert not ack.ok
    assert "stays paused: failure in the first wave (hall/door failed: crashed)" in ack.reason
    assert says("resume").ok


@pytest.mark.parametrize("op", ["pause", "resume", "abort", "rollback"])
@pytest.mark.parametrize(("rollout", "words"), [("", "no rollout is open"), ("r9", "no rollout 'r9' is open")])
async def test_an_order_where_nothing_is_open_is_refused_in_plain_words(tmp_path: Path, op: str, rollout: str, words: str) -> None:
    coordinator = Coordinator(WatchSettings(Broker(), "maskfleet", tmp_path))
    ack = coordinator._carry_out(RolloutCommand(id="1", op=op, rollout=rollout))
    assert (ack.ok, ack.reason) == (False, words)
