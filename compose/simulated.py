"""Simulated cameras: the real link, update machine, installer and chunks; only the pixels, and what can go wrong, are made up."""

import asyncio
import contextlib
import functools
import random
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, cast, get_args

from edge_agent.check import Owner
from edge_agent.disk import Disk
from edge_agent.fetch import fetch
from edge_agent.gate import Gate
from edge_agent.install import Broken, Installer
from edge_agent.slots import Slots
from edge_agent.update_state import Event, Release
from edge_agent.updating import Updates
from protocol.broker import Broker
from protocol.errors import DeviceError, Reason, Rejected
from protocol.link import Link, Presence
from protocol.messages import Message
from protocol.receiver import M, Received
from protocol.rollouts import Chunk, Kind, Trial
from protocol.signature import TrustedKeys
from protocol.tasks import end_all
from protocol.topics import Address, Fleet

AGENT_VERSION = "0.1.0"
SITES = 10
"""Cameras are spread over so many sites."""
STEP_S = 0.1
"""What testing, shadow and trial take each, at most."""

ModelFault = Literal["good", "slow", "nan", "crash", "wrong"]
MODEL_FAULTS = get_args(ModelFault)


@dataclass(frozen=True)
class Faults:
    """What goes wrong."""

    model: ModelFault = "good"
    """How the new model behaves: it is slow, gives no numbers, crashes, or its golden answers are wrong."""
    loss: float = 0.0
    """Share of the chunks that never arrive."""
    link_bytes_s: float | None = None
    """How fast chunks arrive at each camera."""
    crash: float = 0.0
    """With this probability the agent dies at each change of its update's state, and starts again."""
    clock_off_s: float = 0.0
    """So wrong are the cameras' clocks."""
    duplicates: int = 0
    """So many cameras have the name of another one."""
    truncates: bool = False
    """Every chunk loses its last byte on the way."""


class RoughLink(Link):
    """A link over which chunks come slowly, or not at all."""

    def __init__(self, broker: Broker, identifier: str, presence: Presence, faults: Faults) -> None:
        super().__init__(broker, identifier, presence)
        self._faults = faults

    @contextlib.asynccontextmanager
    async def receive(self, scope: Fleet | str, *types: type[M], max_waiting: int = 0) -> AsyncIterator[AsyncIterator[Received[M]]]:
        """As the real one, less what is lost."""
        async with super().receive(scope, *types, max_waiting=max_waiting) as messages:
            yield self._survivors(messages) if Chunk in types else messages

    async def _survivors(self, messages: AsyncIterator[Received[M]]) -> AsyncIterator[Received[M]]:
        async for received in messages:
            if self._faults.link_bytes_s:
                await asyncio.sleep(len(cast("Chunk", received.message).data) / self._faults.link_bytes_s)
            if random.random() >= self._faults.loss:
                yield self._maimed(received) if self._faults.truncates else received

    def _maimed(self, received: Received[M]) -> Received[M]:
        message = cast("Chunk", received.message)
        return received._replace(message=cast("M", message.model_copy(update={"data": message.data[:-1]})))


class QuickDisk(Disk):
    """A disk that does not wait: a thousand cameras on one disk would."""

    def sync(self, path: Path) -> None:
        """Not simulated."""

    def sync_dir(self, path: Path) -> None:
        """Not simulated."""


class SimulatedHost:
    """Where a model is tried without pixels: the figures are made up, the gate that judges them is the real one."""

    def __init__(self, model: ModelFault) -> None:
        self._model = model

    async def test(self, kind: Kind, folder: Path) -> None:  # noqa: ARG002
        """Golden answers."""
        await _work()
        if self._model == "wrong":
            raise Rejected(Reason.WRONG_GOLDEN, "golden test: output differs by 5.0e-01")
        if self._model == "crash":
            raise DeviceError("the model crashed")

    async def shadow(self, kind: Kind, folder: Path) -> Trial:  # noqa: ARG002
        """Both models on the same faces."""
        await _work()
        if self._model == "nan":
            raise Rejected(Reason.NOT_A_NUMBER, "the model gave no number")
        return Trial(frames=100, faces=30, disagreed=1, fps_before=15.0, latency_p95_before_ms=20.0, latency_p95_ms=20.5)

    async def attempt(self, kind: Kind, folder: Path, before: Trial | None) -> AsyncGenerator[Trial]:  # noqa: ARG002
        """The new model decides."""
        await _work()
        figures = before or Trial(frames=100, faces=0, disagreed=0)
        p95_ms = 90.0 if self._model == "slow" else 20.5
        yield figures.model_copy(update={"fps": 15.0, "latency_p95_ms": p95_ms})

    async def fails(self) -> None:
        """What was good in its trial stays good."""
        await asyncio.Event().wait()

    async def breaks(self) -> Broken:
        """And ever after."""
        await asyncio.Event().wait()
        raise AssertionError("nothing sets that event")

    async def settle(self) -> None:
        """Nothing to let go."""

    async def restore(self) -> None:
        """Nothing to swap."""


class WrongClock(Installer):
    """An installer whose camera has the wrong time."""

    off_s = 0.0

    async def _check(self, now: datetime) -> Event:
        return await super()._check(now + timedelta(seconds=self.off_s))


@dataclass
class Camera:
    """One simulated camera; what is in its folder outlives a restart."""

    broker: Broker
    address: Address
    folder: Path
    keys: TrustedKeys
    faults: Faults = field(default_factory=Faults)
    starts: int = 0

    @property
    def slots(self) -> Slots:
        """What it keeps on its disk."""
        release = Release(digest="0" * 64, name="old", version="1", counter=2)
        return Slots(self.folder, {"classifier": (release, None), "detector": (release, None)}, QuickDisk())

    async def run(self) -> None:
        """Lives, dies and lives again, until cancelled."""
        while True:
            self.starts += 1
            await self._live()
            await asyncio.sleep(random.uniform(0.1, 1))

    async def _live(self) -> None:
        """One start of the agent, until it is cancelled or dies."""
        greeting: list[Updates] = []

        def greet(_: int) -> tuple[Message, ...]:
            return tuple(updates.report() for updates in greeting)

        async with RoughLink(self.broker, self.address.name, Presence(self.address, greet), self.faults) as link:
            owner = Owner(keys=self.keys, agent_version=AGENT_VERSION)
            fetching = functools.partial(fetch, link, self.address)
            slots = self.slots
            installer = WrongClock(slots, slots.load(), owner, Gate(), SimulatedHost(self.faults.model), fetching, link.wait_online)
            installer.off_s = self.faults.clock_off_s
            updates = Updates(link, self.address, installer, secrets.token_hex(6))
            greeting.append(updates)
            working = asyncio.create_task(updates.run())
            dying = asyncio.create_task(self._die(installer))
            try:
                done, _ = await asyncio.wait({working, dying}, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                await end_all(working, dying)

    async def _die(self, installer: Installer) -> None:
        """Returns when the agent is to die: at a change of state, by chance."""
        state = installer.state.state
        while True:  # a thousand cameras that look often would have no time to live
            await asyncio.sleep(STEP_S / 5 if self.faults.crash else 3600)
            if installer.state.state is not state:
                state = installer.state.state
                if random.random() < self.faults.crash:
                    return


def cameras(broker: Broker, base: str, folder: Path, keys: TrustedKeys, numbers: range, faults: Faults) -> list[Camera]:
    """Cameras of these numbers, spread over sites; the first ones have twins, if that is asked for."""
    names = [(f"site-{number % SITES}", f"camera-{number:04}") for number in numbers]
    twins = [(site, name, f"{name}-twin") for site, name in names[: faults.duplicates]]
    every = [(site, name, name) for site, name in names] + twins
    return [Camera(broker, Address(base, site, name), folder / disk, keys, faults) for site, name, disk in every]


async def _work() -> None:
    await asyncio.sleep(random.uniform(STEP_S / 2, STEP_S))
