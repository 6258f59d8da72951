"""Commands to a live agent, sent as a person would with any MQTT client."""

import asyncio
import json
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiomqtt
from hypothesis import given
from hypothesis import strategies as st
from live import listening, running

from edge_agent.command import AnyCommand, obey, refusal
from protocol.errors import LinkError
from protocol.messages import Birth, Command, CommandAck, Health, IncidentEnded, NoMask, Status
from protocol.receiver import Received
from protocol.topics import COMMAND, COMMAND_ACK, Address

DOOR = Address("maskfleet", "home", "door")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@given(st.booleans(), st.none() | st.integers(-100, 100).map(lambda s: NOW + timedelta(seconds=s)))
def test_retained_and_expired_commands_are_refused(is_retained: bool, expires: datetime | None) -> None:
    is_refused = bool(refusal(Command(id="1", op="report", expires=expires), is_retained, NOW))
    assert is_refused == (is_retained or (expires is not None and expires <= NOW))


async def test_what_is_sent_forges_no_line_of_the_log(caplog) -> None:
    caplog.set_level("INFO")
    forged = "1\nERROR all: is lost"
    commands = (
        {"id": forged, "op": "report"},
        {"id": forged, "op": forged},
        {"id": "2", "op": "report", "args": {forged: [1]}},
        {"id": "3", forged: 1},
    )

    class Deaf:
        async def send(self, *_: object) -> None:
            raise LinkError("nobody hears")

    async def received():
        for command in commands:
            yield Received(DOOR, AnyCommand(payload=json.dumps(command).encode()), retained=False)

    async def report(_: Command) -> None:
        pass

    await obey(Deaf(), received(), {"report": report})
    assert len(caplog.records) >= len(commands)
    assert [record.getMessage() for record in caplog.records if "\n" in record.getMessage()] == []


async def test_commands_are_carried_out_once_and_answered(mosquitto, tmp_path: Path) -> None:
    async with listening(mosquitto) as ear, aiomqtt.Client("127.0.0.1", mosquitto.port) as user:

        async def ask(retain: bool = False, **fields: object) -> None:
            await user.publish(COMMAND.build(DOOR), json.dumps({"v": 1, **fields}), qos=1, retain=retain)

        def answers(id_: str) -> list[CommandAck]:
            return [ack for ack in ear.of(CommandAck) if ack.id == id_]

        await ask(id="old", op="report", retain=True)
        async with running(mosquitto, tmp_path) as process:
            await ear.until(lambda ear: ear.of(NoMask) and ear.of(NoMask)[-1].value == "ON")
            await ask(id="a", op="report")
            await ask(id="a", op="report")
            await ear.until(lambda _: len(answers("a")) == 2)
            assert len(ear.of(Birth)) <= 3  # at the start, when the camera's size was known, and once for the two
            await ask(id="b", op="dance")
            await ask(id="c", op="detect", args={"on": "perhaps"})
            await ask(id="c2", op="detect", args={"on": False, "for": 5})
            await ask(id="d", op="report", expires="2020-01-01T00:00:00Z")
            await ask(id="e", op="detect", args={"on": False})
            await ear.until(lambda ear: answers("e") and ear.of(IncidentEnded))
            assert (answers("b")[0].ok, answers("b")[0].reason) == (False, "no such operation; known are report, restart_capture, detect, snapshot")
            assert not answers("c")[0].ok
            assert (answers("c2")[0].ok, answers("c2")[0].reason) == (False, 'detect needs {"on": true} or {"on": false}, and nothing else')
            assert answers("d") == answers("old") == []
            await ear.until(lambda ear: not ear.of(Health)[-1].detecting)
            assert ear.of(IncidentEnded)[-1].ended == "stopped"
            await ask(id="e", op="detect", args={"on": True})
            await ask(id="e", op="detect", args={"on": False}, expires="2100-01-01T00:00:00Z")
            await ear.until(lambda _: len(answers("e")) == 3)
            assert [ack.ok for ack in answers("e")] == [True, False, True], "another command under its id, and the command again"
            assert answers("e")[1].reason == "this id was another command's (detect): each takes one of its own"
            await ask(id="f", op="detect", args={"on": True})
            await ask(id="g", op="restart_capture")
            await ear.until(lambda ear: answers("g") and ear.of(Health)[-1].restarts == 1 and ear.of(Health)[-1].capture == "ok")
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0


async def test_a_command_with_a_wrong_field_is_answered(mosquitto, tmp_path: Path) -> None:
    wrong = {"args": {"a": [1]}, "op": None, "v": 2, "expires": "2100-01-01T00:00:00"}
    acks: list[CommandAck] = []
    async with aiomqtt.Client("127.0.0.1", mosquitto.port) as user:
        await user.publish(COMMAND.build(DOOR), json.dumps({"id": "old", "op": 1}), qos=1, retain=True)
        await user.subscribe([(COMMAND_ACK.build(DOOR), 1), (Status.topic.build(DOOR), 1)])
        async with running(mosquitto, tmp_path), asyncio.timeout(30):
            while (await anext(user.messages)).payload != b"online":
                pass
            for unnamed in ("nonsense", "[1]", '{"op": "report"}', '{"id": null, "op": "report"}', '{"id": "", "op": "report"}'):
                await user.publish(COMMAND.build(DOOR), unnamed, qos=1)
            for field, value in wrong.items():
                await user.publish(COMMAND.build(DOOR), json.dumps({"id": field, "op": "report", field: value}), qos=1)
            await user.publish(COMMAND.build(DOOR), json.dumps({"id": "last", "op": "report"}), qos=1)
            async for message in user.messages:
                if message.topic.matches(COMMAND_ACK.build(DOOR)):
                    acks.append(CommandAck.decode(message.payload))
                    if acks[-1].id == "last":
                        break
    assert [(ack.id, ack.ok) for ack in acks] == [*((field, False) for field in wrong), ("last", True)]
    assert all(ack.reason.startswith(f"command: {ack.id}") for ack in acks[:-1])


async def test_home_assistant_is_told_and_untold(mosquitto, tmp_path: Path) -> None:
    async def retained() -> bytes | None:
        async with aiomqtt.Client("127.0.0.1", mosquitto.port) as client:
            await client.subscribe("homeassistant/#", qos=1)
            await client.publish("homeassistant/end", b"end")
            async for message in client.messages:
                return None if message.payload == b"end" else message.payload
        return None

    async with listening(mosquitto) as ear, running(mosquitto, tmp_path):
        await ear.until(lambda ear: ear.of(Birth))
        await ear.until(lambda ear: ear.of(Health) and ear.of(Health)[-1].capture == "ok")
        document = json.loads(await retained())
        assert document["device"]["identifiers"] == ["maskfleet_home_door"]
    async with listening(mosquitto) as ear, running(mosquitto, tmp_path, MASKFLEET_HOME_ASSISTANT="false"):
        await ear.until(lambda ear: len({birth.boot for birth in ear.of(Birth)}) == 2)
        async with asyncio.timeout(20):  # it goes after the birth, and the health that is heard may be the old one
            while await retained() is not None:
                await asyncio.sleep(0.1)
    async with aiomqtt.Client("127.0.0.1", mosquitto.port) as other:
        await other.subscribe("homeassistant/#", qos=1)
        async with listening(mosquitto) as ear, running(mosquitto, tmp_path, MASKFLEET_HOME_ASSISTANT="false"):
            await ear.until(lambda ear: len({health.boot for health in ear.of(Health)}) == 2)
            await other.publish("homeassistant/end", b"end")
            async for message in other.messages:
                assert message.payload == b"end", "a broker may not allow a word on this topic"
                break
