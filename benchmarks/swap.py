"""Exchanges a model under a running camera and measures what the frames notice of it.

usage: python benchmarks/swap.py [--kind classifier|detector] [--rounds 3]

The agent itself in this process, on a film of 30 frames per second at its own pace, in which a face takes its mask off and puts it
on; the embedded broker; and a coordinator that sends the chunks. In each round the model is replaced by the same network in other bytes, signed
with a throw-away key. Prints one JSON document: for each state of the update, frames, frames dropped, and the gaps between two decisions (p50, p99,
largest); the gap around the swap itself; and whether alerts came in their order.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
from chaos import write_film
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compose.broker import embedded_broker
from edge_agent.agent import Agent
from edge_agent.gate import Gate
from edge_agent.load import load_eyes, shipped
from edge_agent.scene import Frame
from edge_agent.settings import BrokerSettings, DecideSettings, Settings, UpdateSettings
from protocol.broker import Broker
from protocol.chunks import CHUNK_BYTES, cut, digests
from protocol.link import Link
from protocol.messages import Alert
from protocol.release import MANIFEST_FILE, MODEL_FILE, Manifest, digest
from protocol.rollouts import ENDED, Chunk, Desired, Kind, Reported, UpdateState, Want
from protocol.signature import Signature, public_text
from protocol.topics import ChunkAddress

BEFORE_S = 5.0
AROUND_S = 0.5


class Round:
    """One release and how it went."""

    def __init__(self, kind: Kind, number: int, key: Ed25519PrivateKey) -> None:
        folder = shipped(kind)
        # A doc_string (field 6 of ONNX's ModelProto) behind the file: the same network, another digest.
        self.model = (folder / MODEL_FILE).read_bytes() + b"\x32\x01" + str(number % 10).encode()
        changes = {"version": f"swap {number}", "counter": number, "digest": digest(self.model), "size_bytes": len(self.model)}
        cut_up = {"chunk_bytes": CHUNK_BYTES, "chunks": digests(self.model, CHUNK_BYTES)}
        manifest = Manifest.parse((folder / MANIFEST_FILE).read_bytes()).model_copy(update={**changes, **cut_up}).encode()
        self.desired = Desired.of(f"swap-{number}", 1, manifest, Signature.make(manifest, key))


class Watch:
    """Notes when each frame was decided, and in which state of the update."""

    def __init__(self, agent: Agent) -> None:
        self.times: list[tuple[float, UpdateState, int]] = []
        self.swaps_s: list[float] = []
        self._sight, self._see = agent._sight, agent._sight.see
        self._installer = agent._updates._installer
        self._camera = agent._camera
        agent._sight.see = self.see  # type: ignore[method-assign]

    def see(self, frame: Frame) -> Any:
        """As the sight does."""
        used = self._sight._used
        seen = self._see(frame)
        self.times.append((time.monotonic(), self._installer.state.state, self._camera.state().dropped))
        if self._sight._used is not used:
            self.swaps_s.append(self.times[-1][0])
        return seen

    def figures(self) -> dict[str, Any]:
        """Gaps and drops by state, and around each exchange."""
        by_state: dict[str, Any] = {}
        pairs = list(zip(self.times, self.times[1:], strict=False))
        for state in dict.fromkeys(own[1].value for own in self.times):
            own = [(b[0] - a[0], b[2] - a[2]) for a, b in pairs if b[1].value == state]
            by_state[state] = _row(own)
        around = [[(b[0] - a[0], b[2] - a[2]) for a, b in pairs if abs(b[0] - swap_s) < AROUND_S] for swap_s in self.swaps_s]
        return {"by_state": by_state, "swaps": [_row(own) for own in around]}


def _row(own: list[tuple[float, int]]) -> dict[str, Any]:
    gaps_ms = np.array([gap * 1000 for gap, _ in own] or [0.0])
    p50, p99 = (round(float(np.percentile(gaps_ms, q)), 1) for q in (50, 99))
    return {
        "frames": len(own),
        "dropped": sum(drop for _, drop in own),
        "gap_p50_ms": p50,
        "gap_p99_ms": p99,
        "gap_max_ms": round(float(gaps_ms.max()), 1),
    }


async def _serve(link: Link, rounds: list[Round], wishes: AsyncIterator[Any]) -> None:
    models = {digest(one.model)[:32]: one.model for one in rounds}
    async for address, want, _ in wishes:
        chunks = cut(models[address.release], CHUNK_BYTES)
        for number in want.chunks:
            await link.send(ChunkAddress(address.base, address.release, str(number)), Chunk(data=chunks[number]))


async def measure(kind: Kind, count: int) -> dict[str, Any]:
    """The figures of some rounds."""
    key = Ed25519PrivateKey.generate()
    rounds = [Round(kind, number + 1, key) for number in range(count)]
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_film(folder / "film.mp4")
        broker: Broker = await stack.enter_async_context(embedded_broker())
        settings = Settings(
            uri=f"file:{folder / 'film.mp4'}?loop=1",
            state_dir=folder,
            broker=BrokerSettings(url=f"mqtt://{broker.host}:{broker.port}"),
            decide=DecideSettings(votes_needed=2, votes_kept=3, age_s=0, cooldown_s=0),
            # Other programs on this machine must not decide whether the exchange is measured.
            updates=UpdateSettings(trusted_keys=(public_text(key.public_key()),), shadow_s=5, trial_s=5, gate=Gate(fps_share=0.3, latency_ratio=5)),
        )
        link = await stack.enter_async_context(Link(broker, "coordinator"))
        await link.wait_online()
        heard = await stack.enter_async_context(link.receive(settings.base, Alert, Reported))
        wishes = await stack.enter_async_context(link.receive(settings.base, Want))
        serving = asyncio.create_task(_serve(link, rounds, wishes))
        agent, stop = Agent(settings, load_eyes(settings)), asyncio.Event()
        watch, alerts, ended = Watch(agent), [], []
        running = asyncio.create_task(agent.run(stop))
        await asyncio.sleep(BEFORE_S)
        for one in rounds:
            await link.send(settings.address, one.desired)
            async for _, message, _ in heard:
                if isinstance(message, Alert):
                    alerts.append(message)
                elif isinstance(message, Reported) and message.state in ENDED and message.rollout == one.desired.rollout:
                    ended.append(f"{message.state} {message.reason}".strip())
                    break
        stop.set()
        await running
        serving.cancel()
    order = [alert.seq for alert in alerts]
    # From the first to the last that was heard none is missing, none came twice, and each came after the one before it.
    is_in_order = bool(order) and order == list(range(order[0], order[0] + len(order)))
    return {
        "kind": kind,
        "ended": ended,
        "alerts": len(alerts),
        "alerts_in_order": is_in_order,
        **watch.figures(),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0]},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("classifier", "detector"), default="classifier")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    print(json.dumps(asyncio.run(measure(arguments.kind, arguments.rounds)), indent=1))
