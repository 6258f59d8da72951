"""Between the broker and the installer: what is desired goes in, what is reported comes out."""

import asyncio
import contextlib
import logging
import random

from edge_agent.install import Installer
from edge_agent.update_state import Release, State
from protocol.errors import LinkError
from protocol.link import Link
from protocol.messages import MAX_TEXT
from protocol.rollouts import ENDED, Desired, Installed, Report, Reported, UpdateState
from protocol.topics import Address, Fleet

log = logging.getLogger(__name__)

RETRY_S = 0.5
REPORT_S = 5.0
"""Asked for by all at once, cameras report within this time, at random."""
ASK_S = 0.5
"""Desired states that come faster than this are passed over, but for the latest: each is written to disk."""
RESTING = ENDED | {UpdateState.IDLE}


class Updates:
    """The update of one camera, on the wire. All methods belong to the event loop."""

    def __init__(self, link: Link, address: Address, installer: Installer, boot: str) -> None:
        self._link = link
        self._address = address
        self._installer = installer
        self._boot = boot
        self._seq = 0

    async def run(self) -> None:
        """Follows what is desired, and reports, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for job in (self._installer.run, self._listen, self._say, self._answer):
                tasks.create_task(job())

    def report(self) -> Reported:
        """What is to be known of this camera now; each report is newer than those before."""
        self._seq += 1
        return reported(self._installer.state, self._installer.percent, self._boot, self._seq)

    async def _listen(self) -> None:
        async with self._link.receive(self._address, Desired, max_waiting=1) as desired:
            async for _, message, _ in desired:
                self._installer.ask(message)
                await asyncio.sleep(ASK_S)

    async def _say(self) -> None:
        """Keeps the retained state true; at each connection the greeting says it anyway."""
        changed = self._installer.changed
        while True:
            await changed.wait()
            await self._link.wait_online()
            changed.clear()
            try:
                await self._link.send(self._address, self.report())
            except LinkError:
                changed.set()
                await asyncio.sleep(RETRY_S)

    async def _answer(self) -> None:
        """Says all retained state again when somebody asks the fleet to. Those who ask meanwhile are answered by the same."""
        async with self._link.receive(Fleet(self._address.base), Report, max_waiting=1) as reports:
            async for _, _, is_retained in reports:
                if not is_retained:
                    await asyncio.sleep(random.uniform(0, REPORT_S))
                    with contextlib.suppress(LinkError):  # the next connection greets
                        await self._link.greet()


def reported(state: State, percent: int | None, boot: str, seq: int) -> Reported:
    """The state of a camera's update, as others see it."""
    target = state.target
    kind = target.kind if target else "classifier"
    installed = state.installed(kind)
    own = _version(installed.name, installed.version)
    latest = own if target is None or state.state is UpdateState.REJECTED else _version(target.name, target.version)
    return Reported(
        installed_version=own,
        latest_version=latest,
        in_progress=state.state not in RESTING,
        update_percentage=percent if state.state is UpdateState.FETCHING else None,
        boot=boot,
        seq=seq,
        rollout=state.rollout,
        attempt=state.attempt,
        kind=target.kind if target else None,
        digest=target.digest if target else "",
        counter=target.counter if target else 0,
        state=state.state,
        reason=state.reason or "",
        detail=state.detail[:MAX_TEXT],
        trial=state.trial,
        classifier=_installed(state.classifier),
        detector=_installed(state.detector),
    )


def _version(name: str, version: str) -> str:
    return f"{name} {version}".strip()


def _installed(release: Release) -> Installed:
    return Installed(name=release.name, version=release.version, digest=release.digest, counter=release.counter)
