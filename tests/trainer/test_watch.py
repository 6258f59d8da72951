"""The coordinator, the clock of its machine, and its disk."""

import asyncio
import itertools
import time
from pathlib import Path

import aiomqtt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from made_releases import Made

from protocol.broker import Broker
from protocol.rollouts import RolloutAck, RolloutCommand, UpdateState
from trainer import keys
from trainer.book import SHOWN
from trainer.rollout_state import Answered, ClockSet, Event, Heard, Plan, Rollout, Tick
from trainer.shelf import Shelf
from trainer.watch import OFTEN, SHELF_FOLDER, Coordinator, WatchSettings


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
    ack = coordinator._orders.carry_out(RolloutCommand(id="1", op="start", args={"release": release.name}))
    assert (ack.ok, ack.reason) == (False, f"{release}/manifest.json: File name too long")


async def test_a_resume_that_does_not_go_on_is_a_refusal_with_the_reason(tmp_path: Path) -> None:
    coordinator = Coordinator(WatchSettings(Broker(), "maskfleet", tmp_path))
    assert coordinator._journal.take() == ""
    folder = Made("classifier", "new", 7).write(tmp_path / "new")
    keys.sign(folder, Ed25519PrivateKey.generate(), 7, None, "0", 32 * 1024)
    release = Shelf(tmp_path / SHELF_FOLDER, {}).put(folder).name

    ids = itertools.count()

    def says(op: str, **args: str) -> RolloutAck:
        return coordinator._orders.carry_out(RolloutCommand(id=str(next(ids)), op=op, args=args))

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
    ack = coordinator._orders.carry_out(RolloutCommand(id="1", op=op, rollout=rollout))
    assert (ack.ok, ack.reason) == (False, words)


async def test_states_of_rollouts_that_it_does_not_know_or_of_long_ago_are_deleted_at_its_start(tmp_path: Path, mosquitto) -> None:
    broker, stop = Broker(port=mosquitto.port), asyncio.Event()
    before = Coordinator(WatchSettings(broker, "maskfleet", tmp_path))
    assert before._journal.take() == ""
    past = [f"detector-{number}" for number in range(SHOWN + 2)]
    for name in past:
        plan = Plan(rollout=name, kind="detector", name="face", version="1", digest="d" * 64, counter=1)
        before._journal.save(None, Rollout(plan=plan), "gone", [], 1000.0, is_open=False)
    before._journal.close()
    async with aiomqtt.Client("127.0.0.1", mosquitto.port) as client:
        for name in ("classifier-7", *past):  # the first is of a journal that was lost
            await client.publish(f"maskfleet/rollout/{name}/state", b"{}", qos=1, retain=True)
        await client.subscribe("maskfleet/rollout/+/state", qos=1)
        running = asyncio.create_task(Coordinator(WatchSettings(broker, "maskfleet", tmp_path)).run(stop))
        deleted = []
        async with asyncio.timeout(60):
            async for message in client.messages:
                deleted += [message.topic.value.split("/")[2]] if not message.payload else []
                if len(deleted) == 3:
                    break
        stop.set()
        await running
        assert set(deleted) == {"classifier-7", *past[:2]}
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await anext(aiter(client.messages))


async def test_a_stale_offline_of_its_own_is_unsaid_and_is_no_new_connection(tmp_path: Path, mosquitto, caplog: pytest.LogCaptureFixture) -> None:
    """A bridge may bring one back. No camera is thought away for it, and no answer gets more time."""
    stop, status = asyncio.Event(), "maskfleet/coordinator/status"
    coordinator = Coordinator(WatchSettings(Broker(port=mosquitto.port), "maskfleet", tmp_path))
    running = asyncio.create_task(coordinator.run(stop))
    async with asyncio.timeout(60), aiomqtt.Client("127.0.0.1", mosquitto.port) as client:
        await client.subscribe(status, qos=1)
        assert (await anext(client.messages)).payload == b"online"
        await client.publish("maskfleet/camera/hall/door/status", b"online", qos=1)
        while not coordinator.online:
            await asyncio.sleep(0.05)
        for _ in range(OFTEN):
            await client.publish(status, b"offline", qos=1)
            assert [(await anext(client.messages)).payload for _ in range(2)] == [b"offline", b"online"]
        await client.publish("maskfleet/camera/hall/gate/status", b"online", qos=1)
        while coordinator.online < 2:  # what is heard later adds to who was there before
            await asyncio.sleep(0.05)
    assert "another coordinator" not in caplog.text
    stop.set()
    await running


async def test_who_is_thrown_off_again_and_again_says_why_that_may_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    coordinator = Coordinator(WatchSettings(Broker(), "maskfleet", tmp_path))
    for session in range(1, OFTEN):
        coordinator._on_connection(session)
    assert not caplog.messages
    coordinator._on_connection(OFTEN)
    assert "is another coordinator at work for base maskfleet" in caplog.text
