"""How the rollouts stand, as the coordinator says it: once, or for as long as somebody looks."""

import asyncio
import logging
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from protocol.errors import LinkError, Rejected
from protocol.link import Link
from protocol.messages import Message
from protocol.rollouts import CoordinatorStatus, RolloutLog, RolloutState
from trainer.order import order

log = logging.getLogger(__name__)

QUIET_S = 1.0
"""What is known has been said when nothing came for so long ..."""
MOST_S = 5.0
"""... and long before this: a fleet that is busy is never quiet."""
COUNTS = ("cameras", "waiting", "updating", "committed", "rejected", "failed", "rolled_back", "offline")
LINES = 8


class View:
    """What has been heard of the coordinator."""

    def __init__(self) -> None:
        self.coordinator = "unknown"
        self.states: dict[str, RolloutState] = {}
        self.lines: list[str] = []

    def take(self, address: Any, message: Message) -> None:
        """Takes a message in; an older state than the one known changes nothing."""
        match message:
            case CoordinatorStatus():
                self.coordinator = message.value
            case RolloutState():
                known = self.states.get(address.rollout)
                if known is None or (message.epoch, message.seq) >= (known.epoch, known.seq):
                    self.states[address.rollout] = message
            case RolloutLog():
                line = f"{message.at:%H:%M:%S} {address.rollout} {message.event} {message.camera} {message.text}"
                self.lines = [*self.lines, line.rstrip()][-LINES:]

    def document(self) -> dict[str, Any]:
        """All of it, the newest rollout last."""
        states = sorted(self.states.items(), key=lambda one: one[1].updated)
        return {"coordinator": self.coordinator, "rollouts": [{"rollout": name, **state.model_dump(mode="json")} for name, state in states]}


async def once(link: Link, base: str) -> dict[str, Any]:
    """What is known now: `coordinator` (online, offline, unknown) and `rollouts`."""
    view = View()
    async with link.receive(base, CoordinatorStatus, RolloutState) as messages:
        asking = asyncio.create_task(_ask(link, base))
        try:
            async with asyncio.timeout(MOST_S):
                await asyncio.wait({asking}, timeout=QUIET_S)
                while True:
                    async with asyncio.timeout(QUIET_S):
                        address, message, _ = await anext(messages)
                    view.take(address, message)
        except TimeoutError:
            return view.document()
        finally:
            asking.cancel()


async def follow(link: Link, base: str, console: Console) -> None:
    """A live table, until cancelled."""
    view = View()
    async with link.receive(base, CoordinatorStatus, RolloutState, RolloutLog) as messages:
        asking = asyncio.create_task(_ask(link, base))
        with Live(table(view.document()), console=console, auto_refresh=False) as live:
            try:
                async for address, message, _ in messages:
                    view.take(address, message)
                    live.update(table(view.document(), view.lines), refresh=True)
            finally:
                asking.cancel()


def table(document: dict[str, Any], lines: list[str] | None = None) -> Table:
    """The document for a person; below it why the release failed on cameras, and the last lines of the record."""
    failed = [
        f"{one['rollout']} {own['camera']} {own['fate'].replace('_', ' ')}: {own['reason']}"
        for one in document["rollouts"]
        for own in one["failures"]
    ]
    caption = "\n".join([*failed, *(lines or [])])
    shown = Table(title=f"coordinator {document['coordinator']}", title_justify="left", caption=caption, caption_justify="left", box=None)
    for name in ("rollout", "release", "phase", "wave", *COUNTS, "reason"):
        shown.add_column(name.replace("_", " "), justify="right" if name in COUNTS else "left")
    for one in document["rollouts"]:
        figures = [str(one[name]) for name in COUNTS]
        release, wave = f"{one['name']} {one['version']}", f"{one['wave']}/{one['waves']}"
        shown.add_row(one["rollout"], release, one["phase"], wave, *figures, one["reason"])
    return shown


async def _ask(link: Link, base: str) -> None:
    """Has every state said again: not every broker keeps them for a subscription with wildcards. A refusal is told, and what is known is shown."""
    try:
        await order(link, base, "status")
    except LinkError:
        return
    except Rejected as error:
        log.warning("the coordinator does not say them again: %s", error)
