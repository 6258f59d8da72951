"""Who is online, and who is not any more, whatever ends the connection: against a real mosquitto."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiomqtt
import pytest
from certificates import Authority
from greetings import CAMERA, HEALTH, broker, eventually, presence, retained
from rig import MOSQUITTO, Mosquitto, free_port, missing

from protocol.broker import Broker
from protocol.errors import LinkError
from protocol.link import UNANSWERED, Link, Presence
from protocol.messages import Health, Message, Status
from protocol.rollouts import CoordinatorStatus
from protocol.topics import Fleet


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


async def test_a_late_will_is_answered(mosquitto) -> None:
    async with Link(broker(mosquitto), "camera", presence()) as link:
        await link.wait_online()
        async with aiomqtt.Client("127.0.0.1", mosquitto.port) as other:
            await other.publish(Status.topic.build(CAMERA), b"offline", qos=1, retain=True)
        await asyncio.sleep(0.3)
        assert await retained(mosquitto, Status) == Status(value="online")


async def test_a_coordinator_has_a_status_of_its_own(mosquitto) -> None:
    fleet = Fleet("maskfleet")
    async with Link(broker(mosquitto), "watcher") as watcher:
        await watcher.wait_online()
        async with watcher.receive("maskfleet", CoordinatorStatus) as statuses:
            async with Link(broker(mosquitto), "coordinator", Presence(fleet, lambda _: (), CoordinatorStatus)) as link:
                await link.wait_online()
                assert (await anext(statuses)).message == CoordinatorStatus(value="online")
            assert (await anext(statuses)).message == CoordinatorStatus(value="offline")


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


async def test_a_password_that_goes_in_clear_is_warned_of(caplog) -> None:
    async with Link(Broker.parse("mqtt://door:secret@broker.invalid"), "camera", presence()):
        pass
    (warning,) = [record.message for record in caplog.records if "in clear" in record.message]
    assert "secret" not in warning
