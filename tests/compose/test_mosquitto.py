"""mosquitto as compose/mosquitto.conf sets it up: what is larger than any message of ours reaches nobody."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import aiomqtt
import pytest
from rig import Mosquitto, running_mosquitto, shipped_lines

from protocol.messages import Snapshot
from protocol.rollouts import Chunk, RolloutCommand
from protocol.topics import SHORT_DIGEST, ChunkAddress, Fleet, SnapshotAddress

LONG = "n" * 64
LARGEST = (
    (RolloutCommand, Fleet(LONG)),
    (Snapshot, SnapshotAddress(LONG, LONG, LONG, LONG)),
    (Chunk, ChunkAddress(LONG, "0" * SHORT_DIGEST, "9999-98-99")),
)


@pytest.fixture
def shipped(tmp_path: Path) -> Iterator[Mosquitto]:
    """With the project's own file; only the port and the folder are the test's."""
    with running_mosquitto(tmp_path, shipped_lines("mosquitto.conf", tmp_path)) as broker:
        yield broker


async def test_the_largest_messages_arrive_and_none_that_is_larger(shipped: Mosquitto) -> None:
    """A client takes all of a message into memory before it can look at its size."""
    ours = [(kind.topic.build(address), kind.max_bytes) for kind, address in LARGEST]
    async with aiomqtt.Client("127.0.0.1", shipped.port) as ear, aiomqtt.Client("127.0.0.1", shipped.port) as mouth:
        await ear.subscribe("#", qos=1)
        for topic, size in (*ours, ("maskfleet/report", 65_536 + 1), ("maskfleet/report", 1)):
            await mouth.publish(topic, b"x" * size, qos=1)
        async with asyncio.timeout(10):
            heard = [await anext(ear.messages) for _ in range(len(ours) + 1)]
    assert [(message.topic.value, len(message.payload)) for message in heard] == [*ours, ("maskfleet/report", 1)]
