"""The demo's two rollouts: a release that is good and stays, and one that is called back in the middle of its trial."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compose.throwaway import shipped, sign_release
from protocol.broker import Broker
from protocol.errors import FleetError, in_one_line
from protocol.link import Link
from protocol.messages import Message
from protocol.rollouts import CoordinatorStatus, Desired, Reported, RolloutState, UpdateState
from protocol.signature import public_text, trusted_keys
from protocol.topics import Address, Fleet, RolloutAddress
from trainer.order import order
from trainer.shelf import Shelf
from trainer.watch import SHELF_FOLDER, Coordinator, WatchSettings

START_S = 1.0
"""The camera is seen at work before its model is exchanged."""
RATE_BYTES_S = 1e6
RULES: dict[str, Any] = {"waves": ["100%"], "soak_s": 0.5, "answer_s": 60}


class Rollouts:
    """Ships two releases to the demo's camera; `seen` is told what the camera reports."""

    def __init__(self, broker: Broker, address: Address, folder: Path, key: Ed25519PrivateKey, show: Callable[[str], None]) -> None:
        self._broker = broker
        self._address = address
        self._folder = folder
        self._key = key
        self._show = show
        self._reported: asyncio.Queue[Reported] = asyncio.Queue()

    def seen(self, message: Message) -> None:
        """Takes a message of the camera in."""
        if isinstance(message, Reported):
            self._reported.put_nowait(message)

    async def run(self, link: Link) -> None:
        """Both rollouts, until cancelled."""
        base = self._address.base
        trusted = trusted_keys([public_text(self._key.public_key())])
        try:
            async with coordinated(WatchSettings(self._broker, base, self._folder, trusted, rate_bytes_s=RATE_BYTES_S)):
                await asyncio.sleep(START_S)
                name = await self._ship(link, "2", 2)
                await self._until(2, UpdateState.COMMITTED)
                await until_done(link, RolloutAddress(base, name))
                await self._ship(link, "3", 3)
                await self._until(3, UpdateState.TRIAL)
                await order(link, base, "abort", reason="the demo calls it back")
                await self._until(3, UpdateState.ROLLED_BACK)
                await asyncio.Event().wait()  # the coordinator stays until the demo ends
        except (FleetError, OSError) as error:
            self._show(f"rollout: {in_one_line(error)}")

    async def tidy(self, link: Link) -> None:
        """Takes back what the broker would retain of the rollouts."""
        with contextlib.suppress(FleetError):
            await link.clear(self._address, Desired)
            await link.clear(Fleet(self._address.base), CoordinatorStatus)
            for counter in (2, 3):
                await link.clear(RolloutAddress(self._address.base, f"classifier-{counter}"), RolloutState)

    async def _ship(self, link: Link, version: str, counter: int) -> str:
        manifest, model = shipped()
        # The same network under another digest: a protobuf field that says so, doc_string, is set again at the end.
        note = f"demo {version}".encode()
        own = model + b"\x32" + bytes([len(note)]) + note
        release = sign_release(self._folder / f"release-{version}", manifest, own, version, counter, self._key)
        name = Shelf(self._folder / SHELF_FOLDER, {}).put(release).name
        select = [f"{self._address.site}/{self._address.camera}"]
        return (await order(link, self._address.base, "start", release=name, select=select, **RULES)).rollout

    async def _until(self, counter: int, state: UpdateState) -> None:
        while True:
            reported = await self._reported.get()
            if reported.counter == counter and reported.state is state:
                return


@contextlib.asynccontextmanager
async def coordinated(settings: WatchSettings) -> AsyncIterator[None]:
    """A coordinator that runs."""
    stop = asyncio.Event()
    running = asyncio.create_task(Coordinator(settings).run(stop))
    try:
        yield
    finally:
        stop.set()
        await running


async def until_done(link: Link, rollout: RolloutAddress) -> None:
    """Returns when a rollout has ended well."""
    async with link.receive(rollout, RolloutState) as states:
        await order(link, rollout.base, "status")
        async for _, state, _ in states:
            if state.phase == "done":
                return
