"""What goes out of a real outbox to a real mosquitto, and when."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from greetings import CAMERA, broker, eventually

from edge_agent import publish
from edge_agent.agent import Agent
from edge_agent.load import load_eyes
from edge_agent.outbox import Outbox
from edge_agent.publish import Publisher, Teller
from edge_agent.scene import Closed, Ending, Opened
from edge_agent.settings import Settings
from edge_agent.snapshot import Shot
from protocol.broker import Broker
from protocol.link import Link
from protocol.messages import Alert, IncidentEnded, Message, Snapshot
from protocol.tasks import end_all

ALERT = Alert(id="b-1", boot="b", seq=1, started=datetime(2026, 1, 1, tzinfo=UTC), p_no_mask=0.9, votes="5/5", faces=1, model="m")


async def test_what_cannot_be_read_for_a_moment_is_sent_after_it(mosquitto, tmp_path: Path, caplog) -> None:
    """And not only when there is another incident, which may be never."""
    outbox = Outbox(tmp_path / "outbox.sqlite")
    outbox.put(ALERT)
    outbox._db.execute("ALTER TABLE outbox RENAME TO gone")
    async with Link(broker(mosquitto), "camera") as link, link.receive(CAMERA, Alert) as alerts:
        publisher = Publisher(link, CAMERA, outbox)
        running = asyncio.create_task(publisher.run())
        await link.wait_online()
        await eventually(lambda: "no such table" in caplog.text)
        outbox._db.execute("ALTER TABLE gone RENAME TO outbox")
        async with asyncio.timeout(5):
            assert (await anext(alerts)).message.id == ALERT.id
        await eventually(lambda: outbox.depth == 0)
        await end_all(running)
    publisher.close()
    assert caplog.text.count("no such table") == 1


class SlowOutbox(Outbox):
    """On a disk that takes its time."""

    def put(self, message: Alert | IncidentEnded, told_s: float | None = None) -> None:
        time.sleep(0.3)
        super().put(message, told_s)


@contextlib.asynccontextmanager
async def publishing(link: Link, outbox: Outbox) -> AsyncIterator[Publisher]:
    publisher = Publisher(link, CAMERA, outbox)
    running = asyncio.create_task(publisher.run())
    try:
        yield publisher
    finally:
        await end_all(running)
        publisher.close()


def numbered(*numbers: int) -> list[Alert | IncidentEnded]:
    return [ALERT.model_copy(update={"id": f"b-{seq}", "seq": seq}) for seq in numbers]


async def test_a_picture_comes_after_its_alert(mosquitto, tmp_path: Path) -> None:
    async with Link(broker(mosquitto), "camera") as link, Link(broker(mosquitto), "reader") as reader:
        await link.wait_online()
        await reader.wait_online()
        heard: list[type[Message]] = []
        async with reader.receive("maskfleet", Alert, Snapshot) as received, publishing(link, SlowOutbox(tmp_path / "o.sqlite")) as publisher:
            publisher.tell(numbered(1, 2), 1)
            publisher.show(Shot("b-1", b"picture"))
            async with asyncio.timeout(10):
                while len(heard) < 3:
                    heard.append(type((await anext(received)).message))
    assert heard == [Alert, Alert, Snapshot]


async def test_a_picture_is_not_kept_for_a_broker_that_is_away(mosquitto, tmp_path: Path) -> None:
    mosquitto.stop()
    async with Link(broker(mosquitto), "camera") as link, publishing(link, Outbox(tmp_path / "o.sqlite")) as publisher:
        publisher.show(Shot("b-1", b"picture"))
        await asyncio.sleep(0.2)
        mosquitto.start()
        async with link.receive("maskfleet", Snapshot) as received:
            await link.wait_online()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await anext(received)


async def test_the_time_on_its_way_to_the_disk_counts_as_delay(mosquitto, tmp_path: Path) -> None:
    async with Link(broker(mosquitto), "camera") as link, publishing(link, SlowOutbox(tmp_path / "o.sqlite")) as publisher:
        await link.wait_online()
        async with link.receive("maskfleet", Alert) as received:
            publisher.tell(numbered(1, 2, 3), 3)
            async with asyncio.timeout(10):
                delays_s = [(await anext(received)).message.delay_s for _ in range(3)]
    assert delays_s[2] >= 0.9


async def test_who_ends_while_it_still_connects_says_all(mosquitto, tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.sqlite")
    async with Link(broker(mosquitto), "reader") as reader:
        await reader.wait_online()
        async with reader.receive("maskfleet", Alert) as received:
            async with Link(broker(mosquitto), "camera") as link, publishing(link, outbox) as publisher:
                publisher.tell(numbered(1), 1)
                await publisher.flush()
                assert outbox.depth == 0
            async with asyncio.timeout(5):
                assert (await anext(received)).message.id == "b-1"


async def test_what_waits_for_a_broker_that_is_away_is_said_at_the_end(tmp_path: Path, caplog) -> None:
    outbox = Outbox(tmp_path / "o.sqlite")
    async with Link(Broker("127.0.0.1", 9), "camera") as link, publishing(link, outbox) as publisher:
        await eventually(lambda: bool(link.problem))
        publisher.tell(numbered(1, 2), 1)
        start_s = time.monotonic()
        await publisher.flush()
        assert time.monotonic() - start_s < 2, "nobody is waited for who is not there"
    assert "2 messages wait for the broker" in caplog.text


async def test_whatever_ends_it_all_that_was_told_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "FLUSH_S", 0.5)
    path = tmp_path / "o.sqlite"
    async with Link(Broker("127.0.0.1", 9), "camera") as link:
        publisher = Publisher(link, CAMERA, SlowOutbox(path))
        running = asyncio.create_task(publisher.run())
        publisher.tell(numbered(1, 2, 3), 3)
        await asyncio.sleep(0.1)  # the first is on its way to the disk
        await end_all(running)
        async with asyncio.timeout(5):
            await publisher.flush()
        publisher.close()
    outbox = Outbox(path)
    assert outbox.depth == 3
    outbox.close()


class StuckOutbox(Outbox):
    """On a disk that hangs until `goes_on`, or for some seconds."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.goes_on = threading.Event()

    def _save(self) -> None:
        self.goes_on.wait(5)
        self.goes_on.set()
        super()._save()


async def test_what_a_stuck_disk_holds_back_is_counted_and_said_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setattr(publish, "FLUSH_S", 0.1)
    outbox = StuckOutbox(tmp_path / "o.sqlite")
    async with Link(Broker("127.0.0.1", 9), "camera") as link, publishing(link, outbox) as publisher:
        publisher.tell(numbered(1, 2, 3), 1)
        assert publisher.depth == 3
        await eventually(lambda: outbox.depth == 1)  # on its way to the disk
        assert publisher.depth == 3
        await publisher.flush()
        assert "3 messages wait" in caplog.text
        outbox.goes_on.set()
        await eventually(lambda: outbox.depth == 3)
        assert publisher.depth == 3


async def test_what_comes_while_the_disk_hangs_in_something_else_is_counted_and_not_lost(tmp_path: Path) -> None:
    goes_on, outbox = threading.Event(), Outbox(tmp_path / "o.sqlite")
    async with Link(Broker("127.0.0.1", 9), "camera") as link, publishing(link, outbox) as publisher:
        publisher._disk.submit(goes_on.wait, 5)
        publisher.tell(numbered(1, 2), 1)
        await eventually(lambda: publisher._waiting.qsize() == 1)
        assert (outbox.depth, publisher.depth) == (0, 2)
        asyncio.get_running_loop().call_later(0.1, goes_on.set)
    again = Outbox(tmp_path / "o.sqlite")
    assert again.depth == 2
    again.close()


async def test_health_and_telemetry_count_what_a_stuck_disk_holds_back(tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO")
    settings = Settings(state_dir=tmp_path).model_copy(update={"telemetry_s": 0.01})
    agent = Agent(settings, load_eyes(settings))
    agent._publisher.tell(numbered(1, 2), 1)
    assert agent._health_now().outbox == 2
    telling = asyncio.create_task(agent._telemetry())
    await eventually(lambda: "outbox" in caplog.text)
    assert "outbox 2" in caplog.text
    await end_all(telling)
    agent._publisher.close()


def test_an_alert_and_its_end_agree_on_when_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the clock is set in between."""
    teller = Teller("b")
    opened = teller.message_of(Opened(seq=1, track=1, started_s=10.0, confirmed_s=11.0, p_no_mask=0.9, bare_votes=5, votes=5, faces=1), "m", 11.0)
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + 3600)
    closed = teller.message_of(Closed(1, 1, 10.0, 15.0, 0.9, 20, Ending.LEFT), "m", 16.0)
    assert closed.started == opened.started
    later = teller.message_of(Opened(seq=2, track=2, started_s=20.0, confirmed_s=21.0, p_no_mask=0.9, bare_votes=5, votes=5, faces=1), "m", 21.0)
    assert later.started - opened.started > timedelta(hours=1)
