"""A connection that is left leaves no socket, no thread and no complaint behind: against a real mosquitto."""

import asyncio
import contextlib
import gc
import logging
import os
import socket
import struct
import subprocess
import sys

import aiomqtt
import pytest
from greetings import broker, eventually, presence, retained, unanswered

from protocol import link as link_module
from protocol.broker import Broker
from protocol.client import Client
from protocol.link import Link
from protocol.messages import Status

CONNACK = b"\x20\x02\x00\x00"


async def test_a_frozen_broker_is_noticed_and_one_connection_is_left_when_it_thaws(mosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "SEND_TIMEOUT_S", 2)
    sessions: list[int] = []
    async with Link(broker(mosquitto), "camera", presence(sessions)) as link:
        await link.wait_online()
        open_before = len(os.listdir("/proc/self/fd"))
        mosquitto.freeze()
        await eventually(lambda: not link.is_online)
        await asyncio.sleep(5)  # at least one attempt connects and gets no answer
        assert len(os.listdir("/proc/self/fd")) <= open_before + 2
        mosquitto.thaw()
        await eventually(lambda: link.is_online)
        await asyncio.sleep(2)
        assert link.is_online
        assert await retained(mosquitto, Status) == Status(value="online")
        assert sessions[-1] <= 4


@pytest.mark.parametrize("moment", ["before", "after"])
def test_who_leaves_while_it_connects_leaves_nothing_behind(mosquitto, moment: str) -> None:
    """Its thread is still about to open the socket, or has just done so."""
    script = f"""
import asyncio, socket, time
from protocol.broker import Broker
from protocol import link as link_module
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


def test_who_leaves_while_a_nameserver_is_silent_does_not_wait_for_it() -> None:
    """Nor does the end of the process."""
    script = """
import asyncio, socket, time
from protocol.broker import Broker
from protocol.link import Link
asked = []
def silent(*where, **how):
    asked.append(where)
    time.sleep(60)
socket.getaddrinfo = silent
async def main():
    async with Link(Broker("broker.example"), "camera"):
        while not asked:
            await asyncio.sleep(0.01)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "")


async def test_an_answer_that_comes_late_is_no_error(mosquitto, monkeypatch, caplog) -> None:
    """As over a slow way, each time that an agent stops."""
    async with unanswered(mosquitto, monkeypatch, Status) as link:
        await asyncio.sleep(0.5)
        assert link.is_online
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_who_leaves_before_the_broker_answers_leaves_nothing_behind(mosquitto, caplog) -> None:
    mosquitto.freeze()
    async with Link(broker(mosquitto), "camera"):
        await asyncio.sleep(0.2)
    await asyncio.sleep(0.1)
    mosquitto.thaw()
    assert not [record for record in caplog.records if record.name == "asyncio"]
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


@pytest.mark.parametrize("answer", [CONNACK, b""], ids=["greeted", "not greeted"])
async def test_a_connection_that_is_lost_as_soon_as_it_is_made_is_made_again(caplog, answer: bytes) -> None:
    """As one's twin makes a broker do, or what stands before one that starts. Nobody is to wait on what is not there, nor hear of it from asyncio."""
    made = 0

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal made
        made += 1
        await reader.read(1000)
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1") as server:
        async with Link(Broker("127.0.0.1", server.sockets[0].getsockname()[1]), "operator") as link:
            await eventually(lambda: made > 2, seconds=8)
            assert not link.is_online
        gc.collect()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert "the connection was lost" in caplog.text


async def test_a_goodbye_to_who_left_while_connecting_is_no_traceback() -> None:
    client = Client("127.0.0.1", 1)
    client._connected.cancel()
    client._on_disconnect(client._client, None, None, 7)
    assert not client._disconnected.done()
    await client.let_go()


async def test_a_socket_that_is_reset_before_it_is_written_to_is_no_traceback(caplog) -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    async with await asyncio.start_server(reset, "127.0.0.1") as server:
        for _ in range(150):
            client = Client("127.0.0.1", server.sockets[0].getsockname()[1], timeout=5)
            with contextlib.suppress(aiomqtt.MqttError):
                await client.__aenter__()
            await client.let_go()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []
