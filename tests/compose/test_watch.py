"""The coordinator as a program: orders over MQTT and from the command line, kill -9 in the middle, and the way back."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiomqtt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compose.simulate import living
from compose.simulated import Faults, cameras
from compose.throwaway import shipped, sign_release
from protocol.broker import Broker
from protocol.errors import LinkError, Rejected
from protocol.link import Link
from protocol.messages import Status
from protocol.rollouts import Desired, Report, Reported, RolloutAck, RolloutCommand, RolloutLog, RolloutState
from protocol.signature import public_text, trusted_keys
from protocol.topics import Address
from protocol.topics import Fleet as Everybody
from trainer import keys as trainer_keys
from trainer.order import connected, order

COUNT = 6
KEY = Ed25519PrivateKey.generate()
PUBLIC = public_text(KEY.public_key())
RULES = ("--soak-s", "0.2", "--answer-s", "60")


class Fleet:
    """A watch process, simulated cameras, and an operator's link that hears all states and lines."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port, self.folder = port, folder
        self.environment = {**os.environ, "MASKFLEET_BROKER__URL": f"mqtt://127.0.0.1:{port}", "MASKFLEET_STATE_DIR": str(folder / "watch")}
        self.states: list[RolloutState] = []
        self.lines: list[RolloutLog] = []
        self.process: asyncio.subprocess.Process | None = None
        self.link: Link | None = None

    async def watch(self) -> None:
        command = (sys.executable, "-m", "trainer", "watch", "--trust", PUBLIC)
        self.process = await asyncio.create_subprocess_exec(*command, env=self.environment, stderr=asyncio.subprocess.DEVNULL)
        for _ in range(5):  # a busy machine takes its time to start a program
            with contextlib.suppress(LinkError):
                await order(self.link, "maskfleet", "status")
                return

    async def command(self, *arguments: object) -> tuple[int, str]:
        words = [str(one) for one in arguments]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "trainer", *words, env=self.environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
        return process.returncode, output.decode()

    def release(self, version: str, counter: int, key: Ed25519PrivateKey = KEY, fill: bytes = b"") -> Path:
        manifest, _ = shipped()
        return sign_release(self.folder / f"release-{version}-{counter}", manifest, (fill or version.encode()) * 50_000, version, counter, key)

    async def until(self, holds, seconds: float = 120) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not holds():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"not in {seconds} s; states {self.states[-3:]}, lines {self.lines[-5:]}") from None

    async def ends(self, phase: str) -> RolloutState:
        await self.until(lambda: any(state.phase == phase for state in self.states))
        return next(state for state in self.states if state.phase == phase)


@pytest.fixture
async def fleet(mosquitto, tmp_path: Path) -> AsyncIterator[Fleet]:
    own = Fleet(mosquitto.port, tmp_path)
    broker = Broker(port=mosquitto.port)

    async def hear(link: Link) -> None:
        async with link.receive("maskfleet", RolloutState, RolloutLog) as messages:
            async for _, message, _ in messages:
                (own.states if isinstance(message, RolloutState) else own.lines).append(message)

    simulated = cameras(broker, "maskfleet", tmp_path / "cameras", trusted_keys([PUBLIC]), range(COUNT), Faults())
    async with connected(broker, "maskfleet") as link, living(simulated):
        own.link = link
        hearing = asyncio.create_task(hear(link))
        await own.watch()
        try:
            yield own
        finally:
            hearing.cancel()
            if own.process.returncode is None:
                own.process.kill()
            await own.process.wait()


async def test_a_rollout_from_the_command_line_survives_kill_9_and_goes_back(fleet: Fleet) -> None:
    code, text = await fleet.command("rollout", "start", fleet.release("2", 3), *RULES, "--waves", "1,50%,100%")
    assert code == 0, text
    await fleet.until(lambda: any(state.committed for state in fleet.states))
    fleet.process.kill()
    await fleet.process.wait()
    await fleet.watch()
    done = await fleet.ends("done")
    assert done.committed == COUNT
    assert done.epoch == 2
    await fleet.until(lambda: {"started", "running", "asked", "committed", "soaking", "done"} <= {line.event for line in fleet.lines})
    heard = list(dict.fromkeys(line.seq for line in fleet.lines))  # what was being said when it was killed is said again
    assert heard == sorted(heard)

    code, text = await fleet.command("rollout", "status", "--json")
    document = json.loads(text)
    assert document["coordinator"] == "online"
    assert [one["committed"] for one in document["rollouts"]] == [COUNT]

    code, text = await fleet.command("rollout", "start", fleet.release("3", 4), *RULES, "--site", "nowhere")
    assert code == 0, text
    code, text = await fleet.command("rollout", "rollback", fleet.release("1", 5, fill=b"0"))
    assert (code, text.count("\n")) == (1, 1)
    assert "rollout classifier-4 is running and has reached no camera" in text
    code, text = await fleet.command("rollout", "abort")
    assert code == 0, text

    code, text = await fleet.command("rollout", "rollback", fleet.release("1", 2, fill=b"0"))
    assert (code, text.count("\n")) == (1, 1)
    assert "counter above 3" in text
    stranger = trainer_keys.new(fleet.folder / "stranger")[0]
    code, text = await fleet.command("rollout", "rollback", fleet.release("1", 1, fill=b"0"), "--sign-with", stranger)
    assert (code, text.count("\n")) == (1, 1)
    assert "not trusted" in text
    stated = trainer_keys.vouch(stranger.with_suffix(".pub"), KEY, None)
    code, text = await fleet.command("rollout", "rollback", fleet.release("1", 0, fill=b"0"), "--sign-with", stranger, "--sign-trust", stated)
    assert code == 0, text
    back = await fleet.ends("rolled_back")
    assert back.counter == 3
    await fleet.until(lambda: fleet.states[-1].phase == "done" and fleet.states[-1].version == "1")
    assert fleet.states[-1].committed == COUNT

    newest = max((fleet.folder / "watch" / "releases").iterdir(), key=lambda path: path.stat().st_mtime)
    code, text = await fleet.command("rollout", "start", newest, *RULES)  # for who came too late for the way back
    assert code == 0, text
    await fleet.until(lambda: fleet.states[-1].phase == "done" and fleet.states[-1].waves == 4)
    assert (fleet.states[-1].committed, fleet.states[-1].version) == (COUNT, "1")


async def test_orders_that_cannot_be_are_answered_in_one_line(fleet: Fleet) -> None:
    assert fleet.link is not None
    for args, why in (
        ({"release": "nothing"}, "not on the shelf"),
        ({"release": "../../etc"}, "not on the shelf"),
        ({"release": "x", "threshold": "much"}, "threshold"),
        ({"release": "x", "treshold": 1}, "treshold"),
        ({}, "release"),
    ):
        with pytest.raises(Rejected, match=why):
            await order(fleet.link, "maskfleet", "start", **args)
    with pytest.raises(Rejected, match="no rollout 'r9'"):
        await order(fleet.link, "maskfleet", "pause", "r9")
    code, text = await fleet.command("rollout", "start", fleet.folder, *RULES)
    assert (code, text.count("\n")) == (1, 1)
    assert fleet.states == []


async def test_retained_and_expired_orders_are_not_carried_out(fleet: Fleet) -> None:
    topic = "maskfleet/rollout/command"
    await fleet.command("rollout", "start", fleet.release("2", 3), *RULES, "--site", "nowhere")
    await fleet.until(lambda: fleet.states)
    past = datetime.now(UTC) - timedelta(seconds=1)
    async with aiomqtt.Client("127.0.0.1", fleet.port) as client:
        async with fleet.link.receive("maskfleet", RolloutAck) as acks:
            await client.publish(topic, RolloutCommand(id="old", op="abort", expires=past).encode(), qos=1)
            ack = (await anext(acks)).message
        assert (ack.id, ack.ok) == ("old", False)
        assert "the coordinator's clock shows" in ack.reason
        async with fleet.link.receive("maskfleet", RolloutAck) as acks:
            for wrong in (b'{"id": "w", "op": "abort", "args": null}', b'{"id": "w", "op": "dance"}', b'{"id": "w", "v": 2, "op": "abort"}'):
                await client.publish(topic, wrong, qos=1)
                ack = (await anext(acks)).message
                assert (ack.id, ack.ok) == ("w", False)
                assert "rollout" in ack.reason or "command" in ack.reason
        await client.publish(topic, b"{not json", qos=1)
        await client.publish(topic, b"x" * 100_000, qos=1)
        await client.publish(topic, RolloutCommand(id="new", op="pause").encode(), qos=1)
        await fleet.ends("paused")
        fleet.process.kill()
        await fleet.process.wait()
        await client.publish(topic, RolloutCommand(id="kept", op="abort").encode(), qos=1, retain=True)
    await fleet.watch()
    await fleet.until(lambda: fleet.states[-1].epoch == 2)
    await asyncio.sleep(1)
    assert {state.phase for state in fleet.states} == {"running", "paused"}


MUTE = Address("maskfleet", "site-0", "mute")
"""A camera that says what a test says."""


async def test_a_report_that_cannot_be_read_stops_the_rollout(fleet: Fleet) -> None:
    await fleet.command("rollout", "start", fleet.release("2", 3), *RULES, "--camera", "site-0/mute")
    await fleet.until(lambda: fleet.states)
    async with aiomqtt.Client("127.0.0.1", fleet.port) as client:
        await client.publish(Status.topic.build(MUTE), b"online", qos=1)
        await fleet.until(lambda: fleet.states[-1].updating == 1)
        await client.publish(Reported.topic.build(MUTE), b'{"state": "commited"}', qos=1)
    paused = await fleet.ends("paused")
    assert "unreadable" in paused.reason


async def test_a_broker_that_is_away_longer_than_an_answer_may_take_does_not_stop_a_rollout(fleet: Fleet, mosquitto) -> None:
    """It says all wills when it is stopped: the coordinator knows that no camera is there, and can hear none that comes back."""
    await fleet.command("rollout", "start", fleet.release("2", 3), "--soak-s", "1", "--answer-s", "3", "--camera", "site-0/mute")
    async with aiomqtt.Client("127.0.0.1", fleet.port) as client:
        await client.publish(Status.topic.build(MUTE), b"online", qos=1)
        await fleet.until(lambda: fleet.states and fleet.states[-1].updating == 1)
        last, own = fleet.states[-1], {"name": "gate", "version": "2", "digest": fleet.states[-1].digest, "counter": 3}
        said = {"rollout": "classifier-3", "attempt": 1, "digest": last.digest, "boot": "b", "seq": 1, "state": "committed"}
        report = {**said, "installed_version": "gate 2", "latest_version": "gate 2", "classifier": own, "detector": own}
        await client.publish(Reported.topic.build(MUTE), json.dumps({"v": 1, **report}), qos=1)
        await fleet.ends("soaking")
        await client.publish(Status.topic.build(MUTE), b"offline", qos=1)
    mosquitto.stop()
    await asyncio.sleep(5)
    mosquitto.start()
    async with aiomqtt.Client("127.0.0.1", fleet.port) as client:
        await client.subscribe(Report.topic.build(Everybody("maskfleet")))
        await client.publish(Status.topic.build(MUTE), b"online", qos=1, retain=True)  # perhaps before the coordinator is back
        await anext(client.messages)
        await client.publish(Status.topic.build(MUTE), b"online", qos=1, retain=True)
        assert (await fleet.ends("done")).committed == 1


async def test_a_camera_of_which_only_the_broker_says_that_it_is_there_is_not_asked(fleet: Fleet) -> None:
    """It lost its power while the broker was away, which could not say its will. The others are found by a coordinator that starts anew."""
    async with aiomqtt.Client("127.0.0.1", fleet.port) as client:
        await client.publish(Status.topic.build(Address("maskfleet", "site-0", "a-ghost")), b"online", qos=1, retain=True)
    fleet.process.kill()
    await fleet.process.wait()
    await fleet.watch()
    code, text = await fleet.command("rollout", "start", fleet.release("2", 3), "--soak-s", "0.2", "--answer-s", "6", "--waves", "2,100%")
    assert code == 0, text
    await fleet.until(lambda: any(state.phase in ("done", "paused") for state in fleet.states))
    last = fleet.states[-1]
    assert (last.phase, last.cameras, last.committed, last.offline) == ("done", COUNT + 1, COUNT, 1), last.reason


async def test_a_camera_that_is_removed_while_it_waits_is_asked_for_nothing_by_the_next_coordinator(fleet: Fleet) -> None:
    await fleet.command("rollout", "start", fleet.release("2", 3), *RULES, "--camera", "site-0/a*", "--camera", "site-0/mute")
    gone, desired = Status.topic.build(MUTE), Desired.topic.build(MUTE)
    async with asyncio.timeout(60), aiomqtt.Client("127.0.0.1", fleet.port) as client:
        await client.subscribe(desired, qos=1)
        for camera in (Address("maskfleet", "site-0", "a"), MUTE):
            await client.publish(Status.topic.build(camera), b"online", qos=1)
        held = await anext(client.messages)
        assert Desired.decode(held.payload).hold
        for topic, word in ((gone, b"offline"), (gone, b""), (desired, b"")):
            await client.publish(topic, word, qos=1, retain=True)
        await fleet.until(lambda: "forgotten" in [line.event for line in fleet.lines])
        await fleet.until(lambda: fleet.states[-1].cameras == 1)
        fleet.process.kill()
        await fleet.process.wait()
        assert (await anext(client.messages)).payload == b""
        await fleet.watch()
        await fleet.until(lambda: fleet.states[-1].epoch == 2)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await anext(client.messages)


async def test_a_second_coordinator_waits(fleet: Fleet) -> None:
    await fleet.until((fleet.folder / "watch" / "rollouts.sqlite").exists)
    await fleet.command("rollout", "status", "--json")
    first = fleet.process
    await fleet.watch()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(fleet.process.wait(), 4)
    assert fleet.process.returncode is None
    first.kill()
    await first.wait()
    await fleet.command("rollout", "start", fleet.release("2", 3), *RULES)
    assert (await fleet.ends("done")).epoch == 2
