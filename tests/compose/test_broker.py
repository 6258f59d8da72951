"""The embedded broker does what a demo needs, also where amqtt as it comes was seen to fail."""

import asyncio
import contextlib
import gc
import warnings
from collections.abc import Iterator

import aiomqtt
import pytest

from compose.broker import embedded_broker


@pytest.fixture(autouse=True)
def _swept() -> Iterator[None]:
    """amqtt leaves some connections of a storm to the garbage collector, which says so."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


async def heard(client: aiomqtt.Client, seconds: float = 0.5) -> list[tuple[str, bytes]]:
    got = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            async for message in client.messages:
                got.append((message.topic.value, message.payload))  # noqa: PERF401  # what came before the time-out counts
    return got


async def test_a_storm_of_clients_connects_and_is_served() -> None:
    async with embedded_broker() as broker:

        async def client(number: int) -> None:
            async with aiomqtt.Client(broker.host, broker.port, identifier=f"c{number}", timeout=30) as own:
                await own.publish(f"t/{number}", b"x", qos=1, retain=True)
                await own.subscribe(f"t/{number}", qos=1)
                async for message in own.messages:
                    assert message.topic.value == f"t/{number}"
                    return

        async with asyncio.timeout(60):
            await asyncio.gather(*(client(number) for number in range(150)))


async def test_a_new_client_gets_no_retained_messages_that_it_did_not_ask_for() -> None:
    async with embedded_broker() as broker, aiomqtt.Client(broker.host, broker.port) as writer:
        await writer.subscribe("state/#")
        await writer.publish("state/a", b"1", qos=1, retain=True)
        async with aiomqtt.Client(broker.host, broker.port) as reader:
            assert await heard(reader) == []
            await reader.subscribe("state/#", qos=1)
            assert await heard(reader) == [("state/a", b"1")]


async def test_a_client_that_falls_silent_has_its_will_said() -> None:
    async with embedded_broker() as broker, aiomqtt.Client(broker.host, broker.port) as watcher:
        await watcher.subscribe("will", qos=1)
        will = aiomqtt.Will("will", b"gone", qos=1)
        async with aiomqtt.Client(broker.host, broker.port, identifier="mute", will=will, keepalive=1) as mute:
            mute._client.loop_misc = lambda: 0  # it pings no more
            assert ("will", b"gone") in await heard(watcher, seconds=5)
            with contextlib.suppress(aiomqtt.MqttError):
                await mute.publish("x", b"", timeout=1)


async def test_a_client_of_the_same_name_ends_the_old_connection() -> None:
    async with embedded_broker() as broker:
        old = aiomqtt.Client(broker.host, broker.port, identifier="twin")
        await old.__aenter__()
        async with aiomqtt.Client(broker.host, broker.port, identifier="twin") as new:
            await new.subscribe("t", qos=1)
            with pytest.raises(aiomqtt.MqttError):
                async with asyncio.timeout(5):
                    await anext(aiter(old.messages))
            await new.publish("t", b"1", qos=1)
            assert await heard(new) == [("t", b"1")]


async def test_a_persistent_session_keeps_what_came_meanwhile() -> None:
    async with embedded_broker() as broker, aiomqtt.Client(broker.host, broker.port) as writer:
        async with aiomqtt.Client(broker.host, broker.port, identifier="reader", clean_session=False) as reader:
            await reader.subscribe("t", qos=1)
        await asyncio.sleep(1.5)
        await writer.publish("t", b"1", qos=1)
        async with aiomqtt.Client(broker.host, broker.port, identifier="reader", clean_session=False) as reader:
            assert await heard(reader) == [("t", b"1")]
