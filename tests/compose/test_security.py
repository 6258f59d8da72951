"""mosquitto as compose/mosquitto-tls.conf and mosquitto.acl set it up: who may write what, and a rollout under these rules."""

import asyncio
import contextlib
import re
import shlex
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import aiomqtt
import pytest
from certificates import Authority
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from live import killed_at_last
from rig import ROOT, Mosquitto, running_mosquitto, shipped_lines

from compose.simulated import Camera
from compose.throwaway import shipped, sign_release
from edge_agent.outbox import Outbox
from protocol.broker import Broker
from protocol.errors import LinkError
from protocol.link import Link
from protocol.messages import Alert
from protocol.rollouts import RolloutState
from protocol.signature import public_text, trusted_keys
from protocol.topics import CAMERA_TOPICS, DESIRED, DISCOVERY, Address
from trainer.order import connected, order
from trainer.shelf import Shelf
from trainer.watch import SHELF_FOLDER, Coordinator, WatchSettings

CAMERAS = ("door-1", "door-2", "door-3")
USERS = (*CAMERAS, "coordinator", "admin", "operator")
OWN = ("status", "birth", "health", "telemetry", "alert", "incident", "no_mask", "command/ack", "model/reported")

DOOR = Address("maskfleet", "lobby", "door-1")
RENAMING = (ROOT / "docs" / "camera.md").read_text(encoding="utf-8").partition("systemd-run")[2]
RESENDING = RENAMING[RENAMING.index("    env ") : RENAMING.index("\n```")]
"""The command that sends what a camera left under its old name."""
REMOVAL = re.findall(r"^(mosquitto_sub --remove-retained .*) > /dev/null$", (ROOT / "docs" / "camera.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    folder = tmp_path / "certs"
    folder.mkdir()
    own = Authority(folder)
    for name in ("broker", *USERS):
        own.vouch(name)
    return own


@pytest.fixture
def guarded(tmp_path: Path, authority: Authority) -> Iterator[Mosquitto]:
    """mosquitto with the project's own files; only the port and the folders are the test's."""
    acl = tmp_path / "mosquitto.acl"
    acl.write_text((ROOT / "compose" / "mosquitto.acl").read_text())
    acl.chmod(0o600)
    places = {"/mosquitto/certs": authority.folder, "/mosquitto/config/mosquitto.acl": acl}
    with running_mosquitto(tmp_path, shipped_lines("mosquitto-tls.conf", tmp_path, places)) as broker:
        yield broker


def as_user(broker: Mosquitto, authority: Authority, name: str) -> Broker:
    folder = authority.folder
    return Broker("127.0.0.1", broker.port, is_tls=True, ca_file=folder / "ca.crt", cert_file=folder / f"{name}.crt", key_file=folder / f"{name}.key")


def client(broker: Mosquitto, authority: Authority, name: str) -> aiomqtt.Client:
    return aiomqtt.Client("127.0.0.1", broker.port, tls_context=as_user(broker, authority, name).tls_context())


async def heard_by(broker: Mosquitto, authority: Authority, listener: str, topic: str, speaker: str, *topics: str) -> set[str]:
    """Which of the topics that somebody writes to arrive at somebody else."""
    got: set[str] = set()
    async with client(broker, authority, listener) as ear, client(broker, authority, speaker) as mouth:
        await ear.subscribe(topic, qos=1)
        for one in topics:
            await mouth.publish(one, b"x", qos=1)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                async for message in ear.messages:
                    got.add(message.topic.value)
    return got


async def keep(broker: Mosquitto, authority: Authority, topics: dict[str, list[str]]) -> None:
    """Has users leave something on topics."""
    for user, own in topics.items():
        async with client(broker, authority, user) as mouth:
            for topic in own:
                await mouth.publish(topic, b"x", qos=1, retain=True)


async def kept(broker: Mosquitto, authority: Authority) -> set[str]:
    """What the broker keeps of the cameras, and for Home Assistant."""
    got: set[str] = set()
    async with client(broker, authority, "operator") as ear:
        for topic in ("maskfleet/camera/#", "homeassistant/#"):
            await ear.subscribe(topic, qos=1)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                async for message in ear.messages:
                    got.add(message.topic.value)
    return got


def as_tool(broker: Mosquitto, authority: Authority, name: str) -> list[str]:
    """What mosquitto's own tools are told of the broker and of a user."""
    own = authority.folder / name
    files = ["--cafile", str(authority.folder / "ca.crt"), "--cert", f"{own}.crt", "--key", f"{own}.key"]
    return ["-h", "127.0.0.1", "-p", str(broker.port), *files]


async def test_a_camera_writes_its_own_topics_and_no_others(guarded, authority) -> None:
    own = {f"maskfleet/camera/lobby/door-1/{leaf}" for leaf in OWN}
    others = {f"maskfleet/camera/lobby/door-2/{leaf}" for leaf in (*OWN, "command", "model/desired")}
    orders = {"maskfleet/camera/lobby/door-1/model/desired", "maskfleet/camera/lobby/door-1/command", "maskfleet/rollout/command"}
    orders |= {"maskfleet/rollout/r1/state", "maskfleet/coordinator/status", "maskfleet/report"}
    assert await heard_by(guarded, authority, "admin", "maskfleet/#", "door-1", *own, *others, *orders) == own


async def test_nobody_but_the_coordinator_and_who_removes_cameras_says_what_a_camera_should_run(guarded, authority) -> None:
    desired = "maskfleet/camera/lobby/door-1/model/desired"
    for user in set(USERS) - {"coordinator", "admin"}:
        assert await heard_by(guarded, authority, "door-1", desired, user, desired) == set()
    for user in ("coordinator", "admin"):
        assert await heard_by(guarded, authority, "door-1", desired, user, desired) == {desired}


async def test_the_admin_removes_a_camera_as_the_docs_say_and_nobody_else_does(guarded, authority) -> None:
    gone = [topic.build(DOOR) for topic in (*CAMERA_TOPICS, DISCOVERY) if topic.retained]
    stays = "maskfleet/camera/lobby/door-2/status"
    await keep(guarded, authority, {"coordinator": [DESIRED.build(DOOR)], "admin": [DISCOVERY.build(DOOR)], "door-2": [stays]})
    await keep(guarded, authority, {"door-1": [topic for topic in gone if topic not in (DESIRED.build(DOOR), DISCOVERY.build(DOOR))]})
    everything = {*gone, stays}
    assert await kept(guarded, authority) == everything
    for user, left in (("operator", everything), ("admin", {stays})):
        for line in REMOVAL:
            words = [*shlex.split(line), *as_tool(guarded, authority, user)]
            subprocess.run(words, stdout=subprocess.DEVNULL, check=False, timeout=20)
        assert await kept(guarded, authority) == left


@pytest.mark.parametrize("leaf", ["telemetry", "alert", "incident", "command/ack", "snapshot/a"])
async def test_the_admin_tells_of_no_alert_in_a_cameras_name(guarded, authority, leaf: str) -> None:
    topic = f"maskfleet/camera/lobby/door-1/{leaf}"
    assert await heard_by(guarded, authority, "operator", topic, "admin", topic) == set()


async def test_what_a_renamed_camera_had_not_sent_is_sent_as_the_docs_say(guarded, authority, tmp_path: Path) -> None:
    """Without systemd: what `systemd-run` would start. Only the places are the test's."""
    box = Outbox(tmp_path / "state" / "maskfleet.lobby.door-1.sqlite")
    box.put(Alert(id="left", boot="b", seq=1, started=datetime(2026, 1, 1, tzinfo=UTC), p_no_mask=0.9, votes="5/5", faces=1, model="m"))
    box.close()
    own = authority.folder
    settings = f"""site = "lobby"
camera = "door-2"
home_assistant = false
[broker]
url = "mqtts://127.0.0.1:{guarded.port}"
ca_file = "{own}/ca.crt"
cert_file = "{own}/door-2.crt"
key_file = "{own}/door-2.key"
"""
    (own / "agent.toml").write_text(settings)
    command = RESENDING
    places = {"/opt/maskfleet/bin/maskfleet-agent": f"{sys.executable} -m edge_agent", "/var/lib/maskfleet": str(tmp_path / "state")}
    for place, here in places.items():
        assert place in command
        command = command.replace(place, here)
    words = shlex.split(command.replace("/etc/maskfleet", str(own)).replace("\\\n", " "))
    async with client(guarded, authority, "operator") as ear, asyncio.timeout(60):
        await ear.subscribe("maskfleet/camera/lobby/+/alert", qos=1)
        process = await asyncio.create_subprocess_exec(*words, cwd=ROOT, stderr=asyncio.subprocess.DEVNULL)
        async with killed_at_last(process):
            heard = await anext(ear.messages)
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0
    assert (heard.topic.value, Alert.decode(heard.payload).id) == ("maskfleet/camera/lobby/door-1/alert", "left")


async def test_a_camera_hears_nothing_of_the_others(guarded, authority) -> None:
    topics = ("maskfleet/camera/lobby/door-2/alert", "maskfleet/camera/lobby/door-2/model/reported")
    assert await heard_by(guarded, authority, "door-1", "maskfleet/#", "door-2", *topics) == set()
    assert await heard_by(guarded, authority, "operator", "maskfleet/#", "door-2", *topics) == set(topics)


@pytest.mark.parametrize("user", ["operator", "admin", "coordinator"])
async def test_who_is_no_camera_cannot_speak_as_one(guarded, authority, user: str) -> None:
    """The patterns for cameras hold for every user."""
    own = [f"maskfleet/camera/lobby/{user}/{leaf}" for leaf in OWN]
    wishes = [] if user == "coordinator" else [f"maskfleet-release/{'a' * 32}/want"]
    listener = "coordinator" if user != "coordinator" else "admin"
    assert await heard_by(guarded, authority, listener, "maskfleet/#", user, *own) == set()
    assert await heard_by(guarded, authority, listener, "maskfleet-release/+/want", user, *wishes) == set()


async def test_chunks_come_from_the_coordinator_only(guarded, authority) -> None:
    chunk = f"maskfleet-release/{'a' * 32}/chunk/0"
    assert await heard_by(guarded, authority, "door-1", chunk, "door-2", chunk) == set()
    assert await heard_by(guarded, authority, "door-1", chunk, "coordinator", chunk) == {chunk}


async def test_without_a_certificate_of_the_authority_nobody_is_let_in(guarded, authority, tmp_path) -> None:
    with pytest.raises(aiomqtt.MqttError):
        async with aiomqtt.Client("127.0.0.1", guarded.port, timeout=5):
            pass
    nobody = ssl.create_default_context(cafile=authority.folder / "ca.crt")
    stranger = ssl.create_default_context(cafile=authority.folder / "ca.crt")
    other = tmp_path / "other"
    other.mkdir()
    stranger.load_cert_chain(*Authority(other).vouch("door-1"))
    for context in (nobody, stranger):
        with pytest.raises(aiomqtt.MqttError):
            async with aiomqtt.Client("127.0.0.1", guarded.port, tls_context=context, timeout=5) as own:
                await own.subscribe("maskfleet/#")  # TLS 1.3 tells the client only now


async def test_an_order_that_the_broker_drops_or_does_not_let_in_says_what_it_may_be(guarded, authority, monkeypatch) -> None:
    monkeypatch.setattr("trainer.order.ANSWER_S", 1)
    async with connected(as_user(guarded, authority, "operator"), "maskfleet") as link:
        with pytest.raises(LinkError, match="may this client write"):
            await order(link, "maskfleet", "pause")
    monkeypatch.setattr("trainer.order.CONNECT_S", 2)
    with pytest.raises(LinkError, match="certificate required"):
        async with connected(Broker("127.0.0.1", guarded.port, is_tls=True, ca_file=authority.folder / "ca.crt"), "maskfleet"):
            pass


async def test_a_rollout_works_under_these_rules(guarded, authority, tmp_path) -> None:
    key = Ed25519PrivateKey.generate()
    keys = trusted_keys([public_text(key.public_key())])
    manifest, _ = shipped()
    release = sign_release(tmp_path / "release", manifest, b"model" * 20_000, "2", 3, key)
    shipment = Shelf(tmp_path / "coordinator" / SHELF_FOLDER, keys).put(release)
    settings = WatchSettings(as_user(guarded, authority, "coordinator"), "maskfleet", tmp_path / "coordinator", keys, tick_s=0.1)
    fleet = [Camera(as_user(guarded, authority, name), Address("maskfleet", "lobby", name), tmp_path / name, keys) for name in CAMERAS]
    stop = asyncio.Event()
    coordinator = Coordinator(settings)
    tasks = [asyncio.create_task(coordinator.run(stop)), *(asyncio.create_task(camera.run()) for camera in fleet)]
    try:
        async with asyncio.timeout(120), Link(as_user(guarded, authority, "admin"), "admin") as link:
            await link.wait_online()
            while coordinator.online < len(CAMERAS):
                await asyncio.sleep(0.1)
            async with link.receive("maskfleet", RolloutState) as states:
                await order(link, "maskfleet", "start", release=shipment.name, soak_s=0.1, answer_s=60)
                async for _, state, _ in states:
                    if state.phase in ("done", "paused"):
                        break
        assert (state.phase, state.committed) == ("done", 3), state
    finally:
        stop.set()
        await tasks[0]
        for task in tasks[1:]:
            task.cancel()
        await asyncio.gather(*tasks[1:], return_exceptions=True)
