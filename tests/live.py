"""An agent that runs as a process, and an ordinary MQTT client that hears it."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiomqtt

from protocol.messages import MESSAGES, Message
from protocol.rollouts import ROLLOUT_MESSAGES
from protocol.tasks import end


class Ear:
    """Hears all that is said, in order."""

    def __init__(self) -> None:
        self.heard: list[Message] = []

    def of(self, kind: type[Message]) -> list:
        return [message for message in self.heard if isinstance(message, kind)]

    async def until(self, holds, seconds: float = 30) -> None:
        async with asyncio.timeout(seconds):
            while not holds(self):
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def listening(mosquitto) -> AsyncIterator[Ear]:
    ear = Ear()

    async def listen() -> None:
        async with aiomqtt.Client("127.0.0.1", mosquitto.port) as client:
            await client.subscribe("maskfleet/#", qos=1)
            ready.set()
            async for raw in client.messages:
                for kind in (*MESSAGES, *ROLLOUT_MESSAGES):
                    if raw.topic.matches(kind.topic.filter("maskfleet")):
                        ear.heard.append(kind.decode(raw.payload))

    ready = asyncio.Event()
    task = asyncio.create_task(listen())
    await ready.wait()
    yield ear
    with contextlib.suppress(aiomqtt.MqttError):
        await end(task)


@contextlib.asynccontextmanager
async def running(mosquitto, tmp_path: Path, uri: str = "demo:", **settings: str) -> AsyncIterator[asyncio.subprocess.Process]:
    variables = {
        "MASKFLEET_BROKER__URL": mosquitto.url,
        "MASKFLEET_BROKER__KEEPALIVE_S": "5",
        "MASKFLEET_STATE_DIR": str(tmp_path / "state"),
        "MASKFLEET_TELEMETRY_S": "1",
        **settings,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edge_agent", "run", "--camera", uri, env={**os.environ, **variables}, stderr=asyncio.subprocess.PIPE
    )
    async with killed_at_last(process):
        yield process


@contextlib.asynccontextmanager
async def killed_at_last(process: asyncio.subprocess.Process) -> AsyncIterator[None]:
    """At the end the process is gone, whatever the test found."""
    try:
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
