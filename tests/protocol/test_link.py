"""The link against a real mosquitto that is stopped, frozen, started again, and refuses."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiomqtt
import pytest
from certificates import Authority
from greetings import CAMERA, HEALTH, broker, eventually, presence
from hypothesis import given
from hypothesis import strategies as st
from rig import MOSQUITTO, Mosquitto, free_port, missing

from protocol import link as link_module
from protocol.broker import Broker
from protocol.errors import LinkError
from protocol.link import UNANSWERED, Link, Presence, backoff_s
from protocol.messages import Alert, Health, Message, NoMask, Status
from protocol.rollouts import Chunk, CoordinatorStatus, Desired, Want
from protocol.topics import ALERT, ChunkAddress, Fleet, ReleaseAddress


async def retained(mosquitto, kind: type[Message]) -> Message | None:
    """What a client that comes now is told."""
    async with aiomqtt.Client("127.0.0.1", mosquitto.port) as client:
        await client.subscribe(kind.topic.build(CAMERA), qos=1)
        try:
            async with asyncio.timeout(1):
                async for raw in client.messages:
                    return kind.decode(raw.payload)
        except TimeoutError:
            return None


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


async def test_a_camera_is_online_while_it_lives_and_offline_after(mosquitto) -> None:
    async with Link(broker(mosquitto), "camera", presence()) as link:
        await link.wait_online()
        assert await retained(mosquitto, Status) == Status(value="online")
        assert await retained(mosquitto, Health) == HEALTH
    assert await retained(mosquitto, Status) == Status(value="offline")


@pytest.mark.parametrize("greetings", [1, 2])
async def test_who_leaves_in_the_middle_of_a_greeting_is_offline(mosquitto, greetings: int) -> None:
    """The broker freezes in the last one, and thaws when `offline` is on its way: all its answers come together."""
    begun: list[int] = []

    def greeting(session: int) -> Iterator[Message]:
        begun.append(session)
        if len(begun) == greetings:
            mosquitto.freeze()
        yield HEALTH

    async with Link(broker(mosquitto), "camera", Presence(CAMERA, greeting)) as link:
        if greetings > 1:
            await link.wait_online()
            asked_for = asyncio.create_task(link.greet())
        await eventually(lambda: len(begun) == greetings)
        asyncio.get_running_loop().call_later(0.3, mosquitto.thaw)
    assert await retained(mosquitto, Status) == Status(value="offline")
    if greetings > 1:
        await asked_for


async def test_the_will_speaks_for_a_killed_process(mosquitto) -> None:
    script = f"""
import asyncio
from protocol.broker import Broker
from protocol.link import Link, Presence
from protocol.topics import Address
async def main():
    async with Link(Broker("127.0.0.1", {mosquitto.port}), "camera", Presence(Address("maskfleet", "lobby", "door-1"), lambda session: ())) as link:
        await link.wait_online()
        print("online", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert await asyncio.to_thread(process.stdout.readline) == b"online\n"
    assert await retained(mosquitto, Status) == Status(value="online")
    process.kill()
    process.wait()
    process.stdout.close()
    await asyncio.sleep(0.2)
    assert await retained(mosquitto, Status) == Status(value="offline")


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


async def test_a_frozen_broker_is_noticed_and_one_connection_is_left_when_it_thaws(mosquitto) -> None:
    sessions: list[int] = []
    async with Link(broker(mosquitto), "camera", presence(sessions)) as link:
        await link.wait_online()
        open_before = len(os.listdir("/proc/self/fd"))
        mosquitto.freeze()
        await eventually(lambda: not link.is_online)
        await asyncio.sleep(12)  # at least one attempt connects and gets no answer
        assert len(os.listdir("/proc/self/fd")) <= open_before + 2
        mosquitto.thaw()
        await eventually(lambda: link.is_online)
        await asyncio.sleep(2)
        assert link.is_online
        assert await retained(mosquitto, Status) == Status(value="online")
        assert sessions[-1] <= 4


async def test_a_late_will_is_answered(mosquitto) -> None:
    async with Link(broker(mosquitto), "camera", presence()) as link:
        await link.wait_online()
        async with aiomqtt.Client("127.0.0.1", mosquitto.port) as other:
            await other.publish(Status.topic.build(CAMERA), b"offline", qos=1, retain=True)
        await asyncio.sleep(0.3)
        assert await retained(mosquitto, Status) == Status(value="online")


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


async def test_a_coordinator_has_a_status_of_its_own(mosquitto) -> None:
    fleet = Fleet("maskfleet")
    async with Link(broker(mosquitto), "watcher") as watcher:
        await watcher.wait_online()
        async with watcher.receive("maskfleet", CoordinatorStatus) as statuses:
            async with Link(broker(mosquitto), "coordinator", Presence(fleet, lambda _: (), CoordinatorStatus)) as link:
                await link.wait_online()
                assert (await anext(statuses)).message == CoordinatorStatus(value="online")
            assert (await anext(statuses)).message == CoordinatorStatus(value="offline")


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


async def test_what_changes_while_a_greeting_is_said_stays(mosquitto) -> None:
    """Retained, an older word would be what later subscribers hear."""
    capture = ["ok"]

    class Slow(Link):
        async def send(self, address: Fleet, message: Message) -> None:
            await asyncio.sleep(0.2)
            await super().send(address, message)

    def greeting(session: int) -> Iterator[Message]:
        yield HEALTH
        yield HEALTH.model_copy(update={"capture": capture[0]})

    async with Slow(broker(mosquitto), "camera", Presence(CAMERA, greeting)) as link:
        await asyncio.sleep(0.1)
        capture[0] = "failed"
        await link.wait_online()
        said = await retained(mosquitto, Health)
        assert isinstance(said, Health)
        assert said.capture == "failed"


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


async def test_a_connection_that_is_given_up_leaves_nobody_online(mosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unanswered(*_: object, **__: object) -> None:
        raise aiomqtt.MqttError("Operation timed out")

    async with Link(broker(mosquitto), "camera", presence()) as link:
        await link.wait_online()
        with monkeypatch.context() as patch:
            patch.setattr(aiomqtt.Client, "publish", unanswered)
            for _ in range(UNANSWERED):
                with pytest.raises(LinkError, match="not sent"):
                    await link.send(CAMERA, HEALTH)
            await eventually(lambda: not link.is_online)
            assert await retained(mosquitto, Status) == Status(value="offline")
        await link.wait_online()
        assert await retained(mosquitto, Status) == Status(value="online")


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
async def test_who_cannot_say_offline_has_the_broker_say_it(tmp_path: Path, caplog, is_tls: bool) -> None:
    class Mute(Link):
        async def send(self, address: Fleet, message: Message) -> None:
            if message == Status(value="offline"):
                raise LinkError("not sent")
            await super().send(address, message)

    if MOSQUITTO is None:
        missing("mosquitto")
    certificate, key = Authority(tmp_path).vouch("broker")
    port = free_port()
    both = Mosquitto(tmp_path, ("allow_anonymous true", f"listener {port} 127.0.0.1", f"certfile {certificate}", f"keyfile {key}"))
    both.start()
    try:
        guarded = Broker.parse(f"mqtts://127.0.0.1:{port}", ca_file=tmp_path / "ca.crt")
        async with Mute(guarded if is_tls else broker(both), "camera", presence()) as link:
            await link.wait_online()
            assert await retained(both, Status) == Status(value="online")
        assert await retained(both, Status) == Status(value="offline")
    finally:
        both.stop()
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


async def test_whoever_stops_listening_does_not_wait_for_a_broker_that_is_frozen(mosquitto) -> None:
    async with Link(broker(mosquitto), "camera") as link:
        await link.wait_online()
        async with link.receive("maskfleet", Health):
            mosquitto.freeze()
            start_s = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - start_s < 3
        mosquitto.thaw()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_who_leaves_while_it_connects_leaves_nothing_behind(mosquitto, moment: str) -> None:
    """Its thread is still about to open the socket, or has just done so."""
    script = f"""
import asyncio, socket, time
from protocol.broker import Broker
from protocol.link import Link
connect = socket.create_connection
def slow(*where, **how):
    time.sleep(0.2 * ({moment!r} == "before"))
    made = connect(*where, **how)
    time.sleep(0.2 * ({moment!r} == "after"))
    return made
socket.create_connection = slow
async def main():
    async with Link(Broker("127.0.0.1", {mosquitto.port}), "camera"):
        await asyncio.sleep(0.05)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


async def test_who_leaves_before_the_broker_answers_leaves_nothing_behind(mosquitto, caplog) -> None:
    mosquitto.freeze()
    async with Link(broker(mosquitto), "camera"):
        await asyncio.sleep(0.2)
    await asyncio.sleep(0.1)
    mosquitto.thaw()
    assert not [record for record in caplog.records if record.name == "asyncio"]
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
