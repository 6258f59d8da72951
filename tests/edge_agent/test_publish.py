"""What goes out of a real outbox to a real mosquitto, and when."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from greetings import CAMERA, broker, eventually

from edge_agent.outbox import Outbox
from edge_agent.publish import Publisher
from protocol.link import Link
from protocol.messages import Alert
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
