"""One camera's installer on a real disk, over several starts of its agent; nothing sees, and every model is good unless it is told otherwise."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from made_releases import PUBLIC, TRUSTED, Made

from edge_agent.check import Owner
from edge_agent.crashes import Crashes
from edge_agent.disk import Disk
from edge_agent.gate import Gate
from edge_agent.install import Broken, Installer, _name
from edge_agent.installed import folder_of, recall, slots_of
from edge_agent.load import Eyes
from edge_agent.settings import Settings, UpdateSettings
from edge_agent.slots import Part, Slots
from edge_agent.update_state import State
from protocol.chunks import cut
from protocol.release import Manifest
from protocol.rollouts import ENDED, Desired, Kind, Trial, UpdateState

S = UpdateState
FIGURES = Trial(frames=100, faces=50, disagreed=1, fps=15, fps_before=15, latency_p95_ms=20, latency_p95_before_ms=20)


class Calm:
    """A host where every model is good, unless it is told otherwise."""

    def __init__(self, **failures: Exception | Trial) -> None:
        self._failures = failures
        self.calls: list[str] = []

    def _answer(self, action: str) -> Trial:
        self.calls.append(action)
        found = self._failures.get(action, FIGURES)
        if isinstance(found, Exception):
            raise found
        return found

    async def test(self, kind: Kind, folder: Path) -> None:
        self._answer("test")

    async def shadow(self, kind: Kind, folder: Path) -> Trial:
        return self._answer("shadow")

    async def attempt(self, kind: Kind, folder: Path, before: Trial | None) -> AsyncGenerator[Trial]:
        yield self._answer("attempt")

    async def fails(self) -> None:
        if "fails" in self._failures:
            self._answer("fails")
        await asyncio.Event().wait()

    async def breaks(self) -> Broken:
        if not isinstance(broken := self._failures.pop("breaks", None), Broken):
            await asyncio.Event().wait()
        return broken

    async def settle(self) -> None:
        self.calls.append("settle")

    async def restore(self) -> None:
        self.calls.append("restore")


def settings_of(folder: Path) -> Settings:
    return Settings(state_dir=folder, updates=UpdateSettings(trusted_keys=(PUBLIC,)))


class Device:
    """One camera's disk, over several starts of its agent."""

    def __init__(self, folder: Path, eyes: Eyes, owner: Owner | None = None) -> None:
        self.settings = settings_of(folder)
        self.eyes = eyes
        self.owner = owner or Owner(TRUSTED, "0.1.0")
        self.models: dict[str, bytes] = {}
        self.fetched: list[int] = []
        self.state = self.boot()[1]

    def boot(self, disk: Disk | None = None) -> tuple[Eyes, State, Slots]:
        slots = slots_of(self.settings, self.eyes)
        slots._disk = disk or Disk()
        eyes, state, _ = recall(self.settings, self.eyes, slots, Crashes(folder_of(self.settings)))
        return eyes, state, slots

    async def fetch(self, manifest: Manifest, part: Part, progress: Callable[[int], None]) -> None:
        chunks = cut(self.models[manifest.digest], manifest.chunk_bytes)
        for number in part.missing():
            part.put(number, chunks[number])
            self.fetched.append(number)
            progress(len(chunks) - number - 1)
        part.finish()

    async def connected(self) -> None:
        """The broker is there."""

    async def run(self, *asked: Made | Desired, host: Calm | None = None, disk: Disk | None = None, until=lambda state: False) -> State:
        """Starts the agent, asks for releases one after the other, and returns where the last one ended."""
        _, state, slots = self.boot(disk)
        installer = Installer(slots, state, self.owner, Gate(), host or Calm(), self.fetch, self.connected)
        running = asyncio.create_task(installer.run())
        try:
            for one in asked:
                if isinstance(one, Made):
                    self.models[one.digest] = one.model
                desired = one.desired() if isinstance(one, Made) else one
                installer.ask(desired)
                async with asyncio.timeout(30):
                    while not running.done() and not is_answered(installer.state, desired) and not (one is not asked[-1] and until(installer.state)):
                        await asyncio.sleep(0.001)
                await asyncio.sleep(0.005)  # what the last state asks for is done
                if running.done():
                    break
        finally:
            running.cancel()
            await asyncio.wait({running})
        self.state = installer.state
        if not running.cancelled():
            running.result()
        return installer.state


def is_answered(state: State, desired: Desired) -> bool:
    return state.asked == _name(desired) and state.state in (*ENDED, S.HELD, S.IDLE)
