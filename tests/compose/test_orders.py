"""Orders from the command line to a coordinator that runs: what is too large, what is of nobody, what is broken off."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from live import killed_at_last, listening
from rig import MOSQUITTO, ROOT, Mosquitto, missing

from compose.simulate import coordinating
from compose.throwaway import shipped, sign_release
from protocol.broker import Broker
from protocol.messages import Status
from protocol.rollouts import RolloutAck, RolloutCommand
from protocol.topics import Address, Fleet
from trainer.order import connected, order
from trainer.watch import Coordinator

BASE = "maskfleet"


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """With the limit on sizes that we ship."""
    if MOSQUITTO is None:
        missing("mosquitto")
    limit = re.findall("^message_size_limit .*$", (ROOT / "compose" / "mosquitto-tls.conf").read_text(), re.MULTILINE)
    broker = Mosquitto(tmp_path, ("allow_anonymous true", *limit))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
async def coordinator(mosquitto, tmp_path: Path) -> AsyncIterator[Coordinator]:
    broker = Broker(port=mosquitto.port)
    async with coordinating(broker, BASE, tmp_path / "watch", 1e6) as own, connected(broker, BASE) as link:
        await order(link, BASE, "status")
        yield own


@contextlib.asynccontextmanager
async def command(mosquitto: Mosquitto, folder: Path, *arguments: object) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {**os.environ, "MASKFLEET_BROKER__URL": mosquitto.url, "MASKFLEET_STATE_DIR": str(folder / "watch")}
    words = [str(one) for one in arguments]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # children of what a shell runs in the background would be deaf to it
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "trainer", "rollout", *words, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    signal.signal(signal.SIGINT, before)
    async with killed_at_last(process):
        yield process


async def run(mosquitto: Mosquitto, folder: Path, *arguments: object) -> tuple[int, str]:
    async with command(mosquitto, folder, *arguments) as process:
        output, _ = await process.communicate()
    return process.returncode, output.decode()


def release(folder: Path) -> Path:
    return sign_release(folder / "release", shipped()[0], b"2" * 50_000, "2", 3, Ed25519PrivateKey.generate())


async def test_as_many_names_as_an_order_holds_begin_a_rollout_and_more_are_refused_at_once(mosquitto, coordinator, tmp_path: Path) -> None:
    names, signed = tmp_path / "names.txt", release(tmp_path)
    names.write_text("".join(f"lobby-{number:05}/door-1\n" for number in range(4000)))
    code, text = await run(mosquitto, tmp_path, "start", signed, "--cameras", names)
    assert (code, text.count("\n")) == (1, 1)
    assert re.search("start: 8.,... bytes for 4,000 names and patterns .* of at most 60,000", text)
    names.write_text("".join(f"lobby-{number:05}/door-1\n" for number in range(2700)))
    code, text = await run(mosquitto, tmp_path, "start", signed, "--cameras", names)
    assert code == 0, text
    (entry,) = coordinator._book.entries.values()
    assert len(entry.state.plan.select) == 2700


async def test_an_order_that_is_broken_off_does_not_pass_for_done(mosquitto, tmp_path: Path) -> None:
    """Nobody answers it."""
    async with listening(mosquitto) as ear, command(mosquitto, tmp_path, "abort") as process:
        await ear.until(lambda ear: ear.of(RolloutCommand))
        process.send_signal(signal.SIGINT)
        output, _ = await process.communicate()
    assert (process.returncode, output.count(b"\n")) == (130, 1)
    assert b"abort: interrupted, and not known whether it was done" in output


async def test_another_order_under_a_known_id_is_refused_and_the_same_is_done_once(mosquitto, coordinator, tmp_path: Path) -> None:
    assert (await run(mosquitto, tmp_path, "start", release(tmp_path)))[0] == 0
    (entry,) = coordinator._book.entries.values()
    pause, resume = RolloutCommand(id="7", op="pause", args={"reason": "lunch"}), RolloutCommand(id="8", op="resume")
    async with connected(Broker(port=mosquitto.port), BASE) as link, link.receive(BASE, RolloutAck) as acks:

        async def ask(command: RolloutCommand) -> RolloutAck:
            await link.send(Fleet(BASE), command)
            return (await anext(acks)).message

        paused = await ask(pause)
        assert paused.ok
        other = await ask(pause.model_copy(update={"op": "resume"}))
        assert (other.ok, other.reason) == (False, "this id was another command's (pause): each takes one of its own")
        assert not (await ask(pause.model_copy(update={"rollout": entry.state.plan.rollout}))).ok
        assert not (await ask(pause.model_copy(update={"args": {}}))).ok
        assert entry.state.phase == "paused"
        assert (await ask(resume)).ok
        assert await ask(pause) == paused
        assert entry.state.phase == "running"


async def test_a_rollout_that_no_known_camera_is_in_says_that_it_waits(mosquitto, coordinator, tmp_path: Path) -> None:
    signed, door = release(tmp_path), Address(BASE, "lobby", "door-1")
    async with connected(Broker(port=mosquitto.port), BASE) as link:
        await link.send(door, Status(value="online"))
        await asyncio.sleep(0.5)
        code, text = await run(mosquitto, tmp_path, "start", signed, "--site", "nowhere")
        assert (code, text.count("\n")) == (0, 1)
        assert "no camera that is known is among those" in text
        (entry,) = coordinator._book.entries.values()
        assert entry.state.cameras == {}
        assert (await order(link, BASE, "abort")).cameras == 0
        code, text = await run(mosquitto, tmp_path, "start", signed, "--site", "lobby")
        assert (code, "follows it" in text) == (0, True)
        assert (await order(link, BASE, "pause")).cameras == 1
