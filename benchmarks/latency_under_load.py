"""How long a live camera's frames wait for their decision, what the agent weighs meanwhile, and how much it says when nobody is there.

usage: python benchmarks/latency_under_load.py [--seconds 30]

The agent runs as a process at 1280x720 and 30 frames per second with a face in each picture: a film that it decodes itself, and pictures of
a GStreamer child, as of a CSI camera. Then it looks at a test picture without a face, and the bytes between it and mosquitto are
counted, both ways. Prints one JSON document.
"""

import argparse
import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import cv2
import numpy as np
from field import FPS, Camera, broker_in, write_film

from edge_agent.demo_scene import BARE_S, DemoScene
from edge_agent.vitals import memory_mb
from protocol.messages import Telemetry

SIZE = (1280, 720)
CSI = f"csi://0?width={SIZE[0]}&height={SIZE[1]}&fps={FPS}"
EMPTY = "videotestsrc is-live=true ! video/x-raw,width={width},height={height},framerate={fps}/1"
WARM_UP = 3
"""Telemetry messages of a second each that are left out."""


async def load(port: int, folder: Path, seconds: int, uri: str, csi_source: str) -> dict[str, float]:
    """Figures of the telemetry of each second."""
    async with Camera(port, folder, uri, TELEMETRY_S="1", CSI_SOURCE=csi_source) as camera, camera.listening() as heard:
        await asyncio.sleep(WARM_UP + seconds)
        weight = memory_mb(Path(f"/proc/{camera.pid}"))
    said = [one for one in heard if isinstance(one, Telemetry)][WARM_UP:]
    p95 = [one.latency_p95_ms for one in said if one.latency_p95_ms is not None]
    return {
        "latency_p95_ms_median": float(np.median(p95)),
        "latency_p95_ms_worst": max(p95),
        "two_frame_times_ms": round(2000 / FPS, 1),
        "fps_capture": round(float(np.mean([one.fps_capture for one in said])), 1),
        "fps_processed": round(float(np.mean([one.fps_processed for one in said])), 1),
        "frames_dropped": sum(one.frames_dropped for one in said),
        "faces": round(float(np.mean([one.faces for one in said])), 2),
        "memory_mb": round(weight, 1),
    }


class Count:
    """Bytes, both ways."""

    def __init__(self) -> None:
        self.bytes = 0


@contextlib.asynccontextmanager
async def counted(port: int) -> AsyncIterator[tuple[int, Count]]:
    """A door to the broker's port that counts what goes through."""
    count = Count()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            count.bytes += len(data)
            writer.write(data)
        writer.close()

    async def open_door(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(pass_on(reader, inner_writer), pass_on(inner_reader, writer))

    server = await asyncio.start_server(open_door, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1], count
    server.close()


async def idle_traffic(port: int, folder: Path, seconds: int) -> float:
    """Bytes in 10 s on the wire while nobody is seen, with the default settings."""
    async with counted(port) as (door, count), Camera(door, folder, CSI, CSI_SOURCE=EMPTY):
        await asyncio.sleep(10)
        before = count.bytes
        await asyncio.sleep(seconds)
        return round((count.bytes - before) * 10 / seconds, 1)


async def run(seconds: int, folder: Path) -> dict[str, object]:
    film = write_film(folder / "film.mp4", size=SIZE)
    cv2.imwrite(str(folder / "face.jpg"), cv2.resize(DemoScene().at(BARE_S - 0.05), SIZE))
    pictures = f"multifilesrc location={folder}/face.jpg loop=true caps=image/jpeg,framerate={FPS}/1 ! jpegdec ! identity sync=true"
    async with broker_in(folder) as port:
        return {
            "a film, decoded in the process": await load(port, folder, seconds, f"file:{film}?loop=1", EMPTY),
            "a GStreamer child": await load(port, folder, seconds, CSI, pictures),
            "idle_bytes_in_10_s": await idle_traffic(port, folder, max(60, seconds)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=30)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(run(parser.parse_args().seconds, Path(folder))), indent=1))


if __name__ == "__main__":
    main()
