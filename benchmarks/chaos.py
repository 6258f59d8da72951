"""Kills and freezes a camera and its broker over and over, fills its disk, and counts what the subscriber missed.

usage: python benchmarks/chaos.py [--kills 20] [--freezes 3] [--freeze-s 30] [--full-disks 2] [--full-disk-s 10]

Real mosquitto with persistence, the agent as a process on a film in which a face takes its mask off and puts it on several times a
second, and a subscriber with a persistent session. The agent's state lies on a file system of 8 MB of its own, where one may be mounted;
without that right its disk is not filled. Afterwards: in each boot the alerts that arrived are numbered without
a gap, the same id never came with another content, and every alert has its end. Prints one JSON document; exit code 1 when
something was lost.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import aiomqtt
from field import write_film
from mosquitto import PERSISTENT, command, free_port

from protocol.messages import Alert, IncidentEnded

RULES = {"VOTES_NEEDED": "2", "VOTES_KEPT": "3", "AGE_S": "0", "COOLDOWN_S": "0"}


class Process:
    """A program that is killed and started again."""

    def __init__(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        self._command, self._environment = command, environment
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        null = asyncio.subprocess.DEVNULL
        self._process = await asyncio.create_subprocess_exec(*self._command, env=self._environment, stdout=null, stderr=null)

    async def end(self, number: int = signal.SIGKILL) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        await self._process.wait()

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)


class Subscriber:
    """An ordinary MQTT client with a persistent session that writes everything down."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.alerts: dict[str, list[Alert]] = defaultdict(list)
        self.ends: dict[str, list[IncidentEnded]] = defaultdict(list)

    async def run(self) -> None:
        while True:
            with contextlib.suppress(aiomqtt.MqttError):
                async with aiomqtt.Client("127.0.0.1", self._port, identifier="chaos", clean_session=False, keepalive=5) as client:
                    await client.subscribe([("maskfleet/+/+/+/alert", 1), ("maskfleet/+/+/+/incident", 1)])
                    async for raw in client.messages:
                        self._note(raw)
            await asyncio.sleep(0.2)

    def _note(self, raw: aiomqtt.Message) -> None:
        assert isinstance(raw.payload, bytes)
        if raw.topic.value.endswith("/alert"):
            alert = Alert.decode(raw.payload)
            self.alerts[alert.id].append(alert)
        else:
            ended = IncidentEnded.decode(raw.payload)
            self.ends[ended.id].append(ended)

    def verdict(self) -> dict[str, int]:
        """Counts of what arrived, and of what is wrong."""
        boots: dict[str, set[int]] = defaultdict(set)
        for own in self.alerts.values():
            boots[own[0].boot].add(own[0].seq)
        copies = [*self.alerts.values(), *self.ends.values()]
        return {
            "boots": len(boots),
            "incidents": len(self.alerts),
            "replayed": sum(any(one.replayed for one in own) for own in self.alerts.values()),
            "repeated": sum(len(own) - 1 for own in self.alerts.values()),
            "lost": sum(max(seqs) - len(seqs) for seqs in boots.values()),
            "without_end": len(set(self.alerts) - set(self.ends)),
            "end_without_alert": len(set(self.ends) - set(self.alerts)),
            "same_id_other_content": sum(len({one.model_copy(update={"replayed": False, "delay_s": 0}) for one in own}) > 1 for own in copies),
        }


@dataclass(frozen=True)
class Blows:
    """How many of each, and how long they last."""

    kills: int
    freezes: int
    freeze_s: float
    full_disks: int
    full_disk_s: float


async def torment(camera: Process, broker: Process, state: Path, how: Blows) -> None:
    """All blows in a random order, a few seconds apart."""
    blows = ["camera"] * how.kills + ["broker"] * how.kills + ["freeze"] * how.freezes + ["disk"] * how.full_disks
    random.shuffle(blows)
    for blow in blows:
        await asyncio.sleep(random.uniform(2, 5))
        match blow:
            case "camera":
                await camera.end()
                await camera.start()
            case "broker":
                await broker.end()
                await asyncio.sleep(random.uniform(0, 2))
                await broker.start()
            case "disk":
                _fill(state / "ballast")
                await asyncio.sleep(how.full_disk_s)
                (state / "ballast").unlink()
            case _:
                broker.signal(signal.SIGSTOP)
                await asyncio.sleep(how.freeze_s)
                broker.signal(signal.SIGCONT)
        print(blow, file=sys.stderr, flush=True)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A file system of 8 MB in a folder; whether it could be mounted."""
    folder.mkdir()
    is_mounted = not subprocess.run(["/usr/bin/mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, check=False).returncode
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["/usr/bin/umount", "-l", folder], check=False)


async def run(how: Blows, folder: Path) -> dict[str, int | float]:
    film, port = folder / "film.mp4", free_port()
    write_film(film)
    broker = Process(command(folder, port, *PERSISTENT, "autosave_on_changes true"))
    settings = {
        "BROKER__URL": f"mqtt://127.0.0.1:{port}",
        "BROKER__KEEPALIVE_S": "5",
        "STATE_DIR": str(folder / "state"),
        "URI": f"file:{film}?loop=1",
    }
    settings |= {f"DECIDE__{name}": value for name, value in RULES.items()}
    camera = Process([sys.executable, "-m", "edge_agent", "run"], {**os.environ, **{f"MASKFLEET_{name}": value for name, value in settings.items()}})
    subscriber = Subscriber(port)
    await broker.start()
    await asyncio.sleep(0.5)
    listening = asyncio.create_task(subscriber.run())
    await asyncio.sleep(0.5)
    start = time.monotonic()
    with small_disk(folder / "state") as is_mounted:
        blows = how if is_mounted else replace(how, full_disks=0)
        await camera.start()
        await torment(camera, broker, folder / "state", blows)
        await asyncio.sleep(20)
        await camera.end(signal.SIGTERM)
    await asyncio.sleep(5)
    listening.cancel()
    await broker.end(signal.SIGTERM)
    return {**subscriber.verdict(), **asdict(blows), "seconds": round(time.monotonic() - start)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--freezes", type=int, default=3)
    parser.add_argument("--freeze-s", type=float, default=30)
    parser.add_argument("--full-disks", type=int, default=2)
    parser.add_argument("--full-disk-s", type=float, default=10)
    how = Blows(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory() as folder:
        verdict = asyncio.run(run(how, Path(folder)))
    print(json.dumps(verdict))
    wrong = ("lost", "without_end", "end_without_alert", "same_id_other_content")
    sys.exit(any(verdict[name] for name in wrong))


if __name__ == "__main__":
    main()
