"""What long runs need: a film, a mosquitto of their own, and the agent as a process that is listened to."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Self

import aiomqtt
import cv2
from mosquitto import command, free_port

from edge_agent.demo_scene import BARE_S, DemoScene
from protocol.messages import MESSAGES, Message

FPS, SIDE_FRAMES = 30, 8


def write_film(path: Path, side_frames: int = SIDE_FRAMES, size: tuple[int, int] = (960, 540)) -> Path:
    """Ten seconds of a face that stands nearly still, bare and masked in turn, each for `side_frames` frames."""
    scene = DemoScene()
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), FPS, size)
    bare, masked = (cv2.resize(scene.at(BARE_S + offset_s), size) for offset_s in (-0.05, 0.05))
    for number in range(10 * FPS):
        writer.write(masked if number // side_frames % 2 else bare)
    writer.release()
    return path


@contextlib.asynccontextmanager
async def broker_in(folder: Path) -> AsyncIterator[int]:
    """A mosquitto; gives its port."""
    port = free_port()
    null = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command(folder, port), stdout=null, stderr=null)
    await asyncio.sleep(0.5)
    try:
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()


class Camera:
    """`async with Camera(...)`: the agent as a process; it is stopped in good order at the end."""

    def __init__(self, port: int, folder: Path, uri: str, **settings: str) -> None:
        values = {"BROKER__URL": f"mqtt://127.0.0.1:{port}", "STATE_DIR": str(folder), "URI": uri, **settings}
        self._port = port
        self._environment = {**os.environ, **{f"MASKFLEET_{name}": value for name, value in values.items()}}

    @property
    def pid(self) -> int:
        return self._process.pid

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "edge_agent", "run", env=self._environment, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        await self._process.wait()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[list[Message]]:
        """All that is said meanwhile, in order."""
        heard: list[Message] = []
        listener = asyncio.create_task(self._listen(heard))
        try:
            yield heard
        finally:
            listener.cancel()

    async def _listen(self, heard: list[Message]) -> None:
        async with aiomqtt.Client("127.0.0.1", self._port) as client:
            await client.subscribe("maskfleet/#", qos=1)
            async for raw in client.messages:
                kinds = [kind for kind in MESSAGES if raw.topic.matches(kind.topic.filter("maskfleet"))]
                if kinds and isinstance(raw.payload, bytes):
                    heard.append(kinds[0].decode(raw.payload))
