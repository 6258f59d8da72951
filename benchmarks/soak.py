"""Runs a camera at full speed on a looped clip for a while, and says whether its memory, threads or open files grow.

usage: python benchmarks/soak.py [--minutes 60] [--clip FILE]

The agent runs as a process and talks to a real mosquitto; without a clip it looks at a drawn-up film of the demo's face. Prints one JSON
document; the slope of the memory is a straight line's through all samples after the first tenth.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from field import Camera, broker_in, write_film
from pack import need

from edge_agent.vitals import memory_mb
from protocol.messages import Alert, IncidentEnded, Telemetry


@dataclass(frozen=True)
class Sample:
    """One look at the process."""

    minute: float
    memory_mb: float
    threads: int
    files: int


def look(pid: int, start_s: float) -> Sample:
    process = Path(f"/proc/{pid}")
    threads, files = (len(list((process / kind).iterdir())) for kind in ("task", "fd"))
    return Sample(round((time.monotonic() - start_s) / 60, 3), round(memory_mb(process), 2), threads, files)


async def soak(clip: Path | None, minutes: float, folder: Path) -> dict[str, object]:
    film = clip or write_film(folder / "film.mp4")
    async with broker_in(folder) as broker, Camera(broker, folder, f"file:{film}?loop=1&pace=max") as camera, camera.listening() as heard:
        start_s, samples = time.monotonic(), []
        while time.monotonic() - start_s < minutes * 60:
            await asyncio.sleep(max(0.5, minutes * 60 / 200))
            try:
                samples.append(look(camera.pid, start_s))
            except FileNotFoundError:  # the agent has ended
                break
            print(samples[-1], file=sys.stderr, flush=True)
    return verdict(samples, heard)


def verdict(samples: list[Sample], heard: list[object]) -> dict[str, object]:
    """What grew and what went through."""
    steady = samples[len(samples) // 10 :]
    slope = float(np.polyfit([one.minute / 60 for one in steady], [one.memory_mb for one in steady], 1)[0])
    fps = [one.fps_processed for one in heard if isinstance(one, Telemetry)]
    if not fps:
        sys.exit("error: the agent told no figures: the clip cannot be read, or this was too short")
    return {
        "minutes": samples[-1].minute,
        "memory_mb_per_hour": round(slope, 3),
        "first": asdict(steady[0]),
        "last": asdict(steady[-1]),
        "most": {name: max(asdict(one)[name] for one in steady) for name in ("memory_mb", "threads", "files")},
        "fps_processed_mean": round(float(np.mean(fps)), 1),
        "alerts": sum(isinstance(one, Alert) for one in heard),
        "incidents": sum(isinstance(one, IncidentEnded) for one in heard),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clip", type=Path)
    arguments = parser.parse_args()
    if arguments.clip:
        need(arguments.clip)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(KeyboardInterrupt):
        print(json.dumps(asyncio.run(soak(arguments.clip, arguments.minutes, Path(folder))), indent=1))


if __name__ == "__main__":
    main()
