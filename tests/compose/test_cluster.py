"""A fleet on a NATS cluster of three, behind one address; a node dies in mid-rollout."""

import asyncio
import contextlib
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiomqtt
import pytest
from brokers import Nats
from rig import free_port, missing

CAMERAS = 12


class Balancer:
    """One TCP address that leads to whichever node answers, in turn: what DNS or a load balancer does for a fleet."""

    def __init__(self, nodes: list[Nats]) -> None:
        self.nodes = nodes
        self.connections: Counter[str] = Counter()
        self._turn = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in self.nodes:
            self._turn += 1
            node = self.nodes[self._turn % len(self.nodes)]
            with contextlib.suppress(OSError):
                there = await asyncio.open_connection("127.0.0.1", node.port)
                break
        else:
            writer.close()
            return
        self.connections[node.name] += 1
        await asyncio.gather(_pass_on(reader, there[1]), _pass_on(there[0], writer))
        self.connections[node.name] -= 1


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[tuple[Balancer, int]]:
    if Nats.program is None:
        missing("nats-server")
    ports = tuple(free_port() for _ in range(3))
    nodes = []
    for number, port in enumerate(ports, 1):
        (folder := tmp_path / f"n{number}").mkdir()
        nodes.append(Nats(folder, f"n{number}", port, ports))
    for node in nodes:
        node.start()
    balancer = Balancer(nodes)
    server = await asyncio.start_server(balancer.serve, "127.0.0.1", port := free_port())
    yield balancer, port
    server.close()
    for node in nodes:
        node.stop(signal.SIGKILL)


async def test_a_node_that_dies_in_mid_rollout_costs_no_camera(cluster: tuple[Balancer, int]) -> None:
    balancer, port = cluster
    await _ready(port)
    command = ["simulate", "--cameras", CAMERAS, "--size", 200_000, "--broker", f"mqtt://127.0.0.1:{port}", "--soak-s", 1]
    simulation = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "compose", *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    shown, dies = [], None
    async with asyncio.timeout(240):
        async for line in simulation.stdout:
            shown.append(line.decode())
            if dies is None and "running wave 2 of" in shown[-1]:
                dies = max(balancer.nodes, key=lambda node: balancer.connections[node.name])
                hosted = balancer.connections[dies.name]
                dies.stop(signal.SIGKILL)
        code = await simulation.wait()
    text = "".join(shown)
    assert (code, dies is not None) == (0, True), text
    assert hosted >= CAMERAS // 3
    figures = dict(line.split(maxsplit=1) for line in shown if len(line.split()) == 2)
    assert figures["phase"].strip() == "done", text
    assert int(figures["on_new_model"]) == CAMERAS, text
    assert balancer.connections[dies.name] == 0


async def _ready(port: int) -> None:
    """Waits until the nodes have found each other: until then they take no MQTT client."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(aiomqtt.MqttError):
                async with aiomqtt.Client("127.0.0.1", port, timeout=5):
                    return
            await asyncio.sleep(0.5)
