"""Rolls releases out to simulated fleets on a real mosquitto: time, bytes, loss, bad models, and kill -9 of everything.

usage: python benchmarks/fleet.py [--cameras 100] [--large 1000] [--kills 10]

The coordinator and the cameras are the real ones, in one process; in the kill test the coordinator and each half of the cameras have
processes of their own. Prints one JSON document; exit code 1 when a camera ended on a bad model, a fleet did not get a good one, or a
report was not true.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mosquitto import PERSISTENT, command, free_port

from compose.simulate import Simulation, living, simulate
from compose.simulated import Faults, cameras
from compose.throwaway import shipped, sign_release
from protocol.broker import Broker
from protocol.link import Link
from protocol.rollouts import Reported, RolloutState
from protocol.signature import public_text, trusted_keys
from trainer.order import order
from trainer.shelf import Shelf
from trainer.watch import SHELF_FOLDER, Coordinator, WatchSettings

SIZE_BYTES = 400_000
BASE = "maskfleet"
BAD: dict[str, dict[str, Any]] = {
    **{model: {"faults": Faults(model=model)} for model in ("slow", "nan", "crash", "wrong")},
    **{fault: {"release_fault": fault} for fault in ("signature", "counter")},
    "truncated": {"release_fault": "truncated", "answer_s": 20},
}


class Process:
    """A program that is killed and started again."""

    def __init__(self, *command: object) -> None:
        self._command = [str(one) for one in command]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def end(self, number: int = signal.SIGKILL) -> None:
        self._process.send_signal(number)
        self._process.wait()


@contextlib.contextmanager
def mosquitto(folder: Path) -> Iterator[tuple[Process, int]]:
    """A mosquitto of our own, and its port."""
    port = free_port()
    broker = Process(*command(folder, port, *PERSISTENT))
    time.sleep(0.5)
    yield broker, port
    broker.end(signal.SIGTERM)


def roll_out(port: int, count: int, **what: Any) -> dict[str, Any]:
    """One simulated rollout's figures."""
    figures = asyncio.run(simulate(Simulation(count, f"mqtt://127.0.0.1:{port}", SIZE_BYTES, **what), lambda text: print(text, file=sys.stderr)))
    print(json.dumps(figures), file=sys.stderr, flush=True)
    return figures


# The kill test


async def be_cameras(port: int, folder: Path, first: int, count: int) -> None:
    keys = trusted_keys([(folder / "public").read_text()])
    async with living(cameras(Broker(port=port), BASE, folder / "cameras", keys, range(first, first + count), Faults())):
        await asyncio.Event().wait()


async def be_coordinator(port: int, folder: Path) -> None:
    await Coordinator(WatchSettings(Broker(port=port), BASE, folder / "coordinator")).run(asyncio.Event())


async def torment(folder: Path, count: int, kills: int) -> dict[str, Any]:
    """Kills coordinator, broker and half of the cameras in turn while rollouts run; figures, and whether every report is true in the end."""
    key = Ed25519PrivateKey.generate()
    (folder / "public").write_text(public_text(key.public_key()))
    manifest, _ = shipped()
    path = sign_release(folder / "release", manifest, random.randbytes(SIZE_BYTES), "2", 3, key)
    release = Shelf(folder / "coordinator" / SHELF_FOLDER, {}).put(path)
    with mosquitto(folder) as (broker, port):
        me = (sys.executable, __file__, "--port", port, "--folder", folder)
        parts = [
            Process(*me, "--be", "coordinator"),
            *(Process(*me, "--be", "cameras", "--first", n, "--cameras", count // 2) for n in (0, count // 2)),
        ]
        victims = [parts[0], broker, parts[1]]
        start_s = time.monotonic()
        try:
            async with Link(Broker(port=port), "fleet-benchmark") as link:
                await link.wait_online()
                await asyncio.sleep(10)
                states: list[RolloutState] = []
                truth: dict[str, Reported] = {}
                listening = [asyncio.create_task(_note_states(link, states)), asyncio.create_task(_note_reports(link, truth))]
                name = (await order(link, BASE, "start", release=release.name, soak_s=5, answer_s=90)).rollout
                for number in range(kills):
                    victim = victims[number % len(victims)]
                    await asyncio.sleep(random.uniform(1, 4))
                    victim.end()
                    await asyncio.sleep(random.uniform(0, 1))
                    victim.start()
                    print(f"kill {number + 1}: {('coordinator', 'broker', 'cameras')[number % 3]}", file=sys.stderr, flush=True)
                async with asyncio.timeout(400):
                    while not states or states[-1].phase not in ("done", "paused"):
                        await asyncio.sleep(0.5)
                await asyncio.sleep(10)
                for task in listening:
                    task.cancel()
        finally:
            for part in parts:
                part.end()
    keys = trusted_keys([(folder / "public").read_text()])
    fleet = cameras(Broker(port=port), BASE, folder / "cameras", keys, range(count), Faults())
    on_disk = {f"{own.address.site}/{own.address.camera}": own.slots.load().classifier.digest for own in fleet}
    untrue = [camera for camera, digest in on_disk.items() if camera not in truth or truth[camera].classifier.digest != digest]
    last = states[-1]
    return {
        "rollout": name,
        "cameras": count,
        "kills": kills,
        "phase": last.phase,
        "reason": last.reason,
        "committed": last.committed,
        "on_new_model": sum(digest == release.manifest.digest for digest in on_disk.values()),
        "untrue_reports": len(untrue),
        "seconds": round(time.monotonic() - start_s, 1),
    }


async def _note_states(link: Link, states: list[RolloutState]) -> None:
    async with link.receive(BASE, RolloutState) as messages:
        async for _, state, _ in messages:
            states.append(state)


async def _note_reports(link: Link, truth: dict[str, Reported]) -> None:
    async with link.receive(BASE, Reported) as messages:
        async for address, report, _ in messages:
            truth[f"{address.site}/{address.camera}"] = report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", type=int, default=100)
    parser.add_argument("--large", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=30, help="ten times each of coordinator, broker and half of the cameras")
    parser.add_argument("--be", choices=["coordinator", "cameras"], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.be == "coordinator":
        asyncio.run(be_coordinator(arguments.port, arguments.folder))
    elif arguments.be == "cameras":
        asyncio.run(be_cameras(arguments.port, arguments.folder, arguments.first, arguments.cameras))
    else:
        sys.exit(measure(arguments.cameras, arguments.large, arguments.kills))


def measure(count: int, large: int, kills: int) -> bool:
    """Prints all figures; whether something is wrong."""
    document: dict[str, Any] = {"machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0]}, "size_bytes": SIZE_BYTES}
    with tempfile.TemporaryDirectory() as folder, mosquitto(Path(folder)) as (_, port):
        if count:
            document["good"] = roll_out(port, count)
            document["loss_10_percent"] = roll_out(port, count, faults=Faults(loss=0.1))
            document["bad"] = {name: roll_out(port, count, **what) for name, what in BAD.items()}
        if large:
            document["large"] = roll_out(port, large, answer_s=400)
    if kills:
        with tempfile.TemporaryDirectory() as folder:
            document["kills"] = asyncio.run(torment(Path(folder), 40, kills))
    print(json.dumps(document))
    good = [document[name] for name in ("good", "loss_10_percent", "large") if name in document]
    is_wrong = any(one["on_new_model"] != one["cameras"] for one in good) or any(one["on_new_model"] for one in document.get("bad", {}).values())
    return is_wrong or bool(document.get("kills", {}).get("untrue_reports"))


if __name__ == "__main__":
    main()
