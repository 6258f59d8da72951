"""The link against a real mosquitto that is stopped, frozen, started again, and refuses."""

import asyncio
import contextlib
import signal
import subprocess
from pathlib import Path

import aiomqtt
import pytest
from greetings import CAMERA, HEALTH, broker, eventually, presence, retained
from hypothesis import given
from hypothesis import strategies as st
from rig import MOSQUITTO, Mosquitto, missing

from protocol import link as link_module
from protocol.broker import Broker
from protocol.errors import LinkError
from protocol.link import UNANSWERED, Link, backoff_s
from protocol.messages import Alert, Health, NoMask, Status
from protocol.rollouts import Chunk, Desired, Want
from protocol.topics import ALERT, ChunkAddress, ReleaseAddress


async def test_a_message_arrives_typed(mosquitto) -> None:
    async with Link(broker(mosquitto), "sender") as sender, Link(broker(mosquitto), "receiver") as receiver:
        await sender.wait_online()
        await receiver.wait_online()
        async with receiver.receive("maskfleet", Health, NoMask) as messages:
            await sender.send(CAMERA, HEALTH)
            await sender.send(CAMERA, NoMask(value="ON"))
            first, second = await anext(messages), await anext(messages)
    assert (first.address, first.message) == (CAMERA, HEALTH)
    assert second.message == NoMask(value="ON")


async def test_it_greets_and_subscribes_again_after_the_broker_was_away(mosquitto) -> None:
    sessions: list[int] = []
    async with Link(broker(mosquitto), "camera", presence(sessions)) as link:
        await link.wait_online()
        async with link.receive("maskfleet", NoMask) as messages:
            mosquitto.stop()
            await eventually(lambda: not link.is_online)
            with pytest.raises(LinkError):
                await link.send(CAMERA, NoMask(value="ON"))
            mosquitto.start()
            await eventually(lambda: link.is_online)
            assert await retained(mosquitto, Status) == Status(value="online")
            await link.send(CAMERA, NoMask(value="OFF"))
            assert (await anext(messages)).message == NoMask(value="OFF")
    assert sessions[0] == 1  # the broker says our will when it stops, which is answered within session 1
    assert sessions[-1] == 2


async def test_sending_fails_at_once_when_the_connection_breaks(mosquitto) -> None:
    async with Link(broker(mosquitto), "camera") as link:
        await link.wait_online()
        mosquitto.freeze()
        sending = asyncio.create_task(link.send(CAMERA, NoMask(value="ON")))
        await asyncio.sleep(0.3)
        assert not sending.done()
        mosquitto.stop(signal.SIGKILL)
        with pytest.raises(LinkError, match="lost"):
            async with asyncio.timeout(2):
                await sending


async def test_a_refused_password_is_no_connection(tmp_path: Path) -> None:
    if MOSQUITTO is None:
        missing("mosquitto")
    passwords = tmp_path / "passwords"
    passwords.touch(mode=0o600)  # mosquitto refuses one that others can read
    subprocess.run(["mosquitto_passwd", "-b", passwords, "door", "right"], check=True, capture_output=True)
    guarded = Mosquitto(tmp_path, ("allow_anonymous false", f"password_file {passwords}"))
    guarded.start()
    try:
        sessions: list[int] = []
        async with Link(broker(guarded, username="door", password="wrong"), "camera", presence(sessions)) as link:
            await asyncio.sleep(1)
            assert not link.is_online
            with pytest.raises(LinkError, match="not connected"):
                await link.send(CAMERA, HEALTH)
        assert sessions == []
        async with Link(broker(guarded, username="door", password="right"), "camera", presence(sessions)) as link:
            async with asyncio.timeout(5):
                await link.wait_online()
        assert sessions == [1]
    finally:
        guarded.stop()


async def test_each_new_reason_for_no_connection_is_warned_of_once(tmp_path: Path, caplog) -> None:
    if MOSQUITTO is None:
        missing("mosquitto")
    guarded = Mosquitto(tmp_path, ("allow_anonymous false",))
    async with Link(broker(guarded), "camera") as link:
        await eventually(lambda: "refused" in link.problem)
        guarded.start()
        try:
            await eventually(lambda: "uthori" in link.problem)
            await asyncio.sleep(1.5)  # time for the same refusal again
        finally:
            guarded.stop()
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert ["uthori" in message for message in warned[:2]] == [False, True]
    assert len(warned) == len(set(warned))


async def test_a_lost_connection_is_told_with_what_it_came_of(mosquitto, caplog) -> None:
    async with Link(broker(mosquitto), "camera") as link:
        await link.wait_online()
        mosquitto.stop()
        await eventually(lambda: not link.is_online)
    first = next(record.message for record in caplog.records if record.levelname == "WARNING")
    assert "connection was lost" in first


async def test_garbage_on_a_topic_stops_nothing(mosquitto, caplog) -> None:
    async with Link(broker(mosquitto), "receiver") as link, aiomqtt.Client("127.0.0.1", mosquitto.port) as other:
        await link.wait_online()
        async with link.receive("maskfleet", Health) as messages:
            for payload in (b"", b"\xff\xfe", b"{}", b"[" * 5000, b"x" * 100_000, b'{"v": 1, "capture": "dancing"}'):
                await other.publish(Health.topic.build(CAMERA), payload, qos=1)
            await other.publish("maskfleet/camera/a.b/c d/health", HEALTH.encode(), qos=1)
            await other.publish(Health.topic.build(CAMERA), HEALTH.encode(), qos=1)
            async with asyncio.timeout(5):
                assert (await anext(messages)).message == HEALTH
    assert sum("message ignored" in record.message for record in caplog.records) == 7


async def test_two_receivers_each_get_what_they_asked_for(mosquitto) -> None:
    async with Link(broker(mosquitto), "camera") as link:
        await link.wait_online()
        async with link.receive("maskfleet", NoMask) as states:
            async with link.receive("maskfleet", NoMask, Health) as both:
                await link.send(CAMERA, HEALTH)
                await link.send(CAMERA, NoMask(value="ON"))
                assert [(await anext(both)).message for _ in range(2)] == [HEALTH, NoMask(value="ON")]
            assert (await anext(states)).message == NoMask(value="ON")
            await link.send(CAMERA, NoMask(value="OFF"))
            assert (await anext(states)).message == NoMask(value="OFF")


async def test_of_a_flood_the_newest_are_kept(mosquitto) -> None:
    async with Link(broker(mosquitto), "camera") as link:
        await link.wait_online()
        async with link.receive("maskfleet", NoMask) as all_of_them, link.receive(CAMERA, NoMask, max_waiting=1) as latest:
            for value in ("ON", "ON", "ON", "OFF"):
                await link.send(CAMERA, NoMask(value=value))
            for _ in range(4):
                await anext(all_of_them)
            assert (await anext(latest)).message == NoMask(value="OFF")


async def test_what_is_retained_can_be_cleared(mosquitto) -> None:
    async with Link(broker(mosquitto), "camera") as link:
        await link.wait_online()
        await link.send(CAMERA, Desired(rollout="r", attempt=1))
        assert await retained(mosquitto, Desired) == Desired(rollout="r", attempt=1)
        await link.clear(CAMERA, Desired)
        assert await retained(mosquitto, Desired) is None


async def test_chunks_are_raw_bytes_below_their_release(mosquitto) -> None:
    release = ReleaseAddress("maskfleet", "ab" * 16)
    async with Link(broker(mosquitto), "coordinator") as link:
        await link.wait_online()
        async with link.receive(release, Chunk) as chunks, link.receive("maskfleet", Want) as wishes:
            await link.send(release, Want(site="s", camera="c", chunks=(0, 7)))
            address, want, _ = await anext(wishes)
            assert (address, want.chunks) == (release, (0, 7))
            data = bytes(range(256)) * 128
            for piece in ("7", "7-0-2"):
                await link.send(ChunkAddress("maskfleet", "ab" * 16, piece), Chunk(data=data))
                address, chunk, _ = await anext(chunks)
                assert (address.piece, chunk.data) == (piece, data)


async def test_a_host_that_does_not_exist_is_tried_again_quietly(caplog) -> None:
    async with Link(Broker(host="127.0.0.1", port=9), "camera") as link:
        await asyncio.sleep(1.5)
        assert not link.is_online
        with pytest.raises(LinkError):
            await link.send(CAMERA, HEALTH)
    assert sum(record.levelname == "WARNING" for record in caplog.records) == 1


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_backoff_is_between_nothing_and_its_cap(attempt: int, chance: float) -> None:
    assert 0 <= backoff_s(attempt, chance) <= 30
    assert backoff_s(attempt, chance) <= backoff_s(attempt + 1, chance)


def test_alerts_are_never_sent_without_acknowledgement() -> None:
    assert ALERT.qos == 1
    assert Alert.topic is ALERT


async def test_a_broker_that_acknowledges_nothing_is_left_and_another_connection_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client sends nothing more once twenty messages lack their acknowledgement, though its pings are still answered."""
    monkeypatch.setattr(link_module, "SEND_TIMEOUT_S", 0.05)
    connections: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(len(connections))
        acknowledges = len(connections) > 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                kind, length = await reader.readexactly(2)  # all packets here are short
                packet = await reader.readexactly(length)
                if kind >> 4 == 1:
                    writer.write(b"\x20\x02\x00\x00")
                elif kind >> 4 == 3 and acknowledges:
                    after = 2 + int.from_bytes(packet[:2], "big")
                    writer.write(b"\x40\x02" + packet[after : after + 2])
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, Link(Broker("127.0.0.1", server.sockets[0].getsockname()[1]), "camera") as link:
        await link.wait_online()
        for _ in range(UNANSWERED):
            with pytest.raises(LinkError, match="not sent"):
                await link.send(CAMERA, NoMask(value="ON"))
        await eventually(lambda: len(connections) == 2 and link.is_online)
        await link.send(CAMERA, NoMask(value="ON"))


async def test_whoever_stops_listening_does_not_wait_for_a_broker_that_is_frozen(mosquitto) -> None:
    async with Link(broker(mosquitto), "camera") as link:
        await link.wait_online()
        async with link.receive("maskfleet", Health):
            mosquitto.freeze()
            start_s = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - start_s < 3
        mosquitto.thaw()
