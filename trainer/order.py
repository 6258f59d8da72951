"""Asks the coordinator for something over MQTT, and waits for its answer."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from protocol.broker import Broker
from protocol.errors import LinkError, Reason, Rejected
from protocol.link import Link
from protocol.rollouts import RolloutAck, RolloutCommand
from protocol.topics import Fleet

Op = Literal["start", "pause", "resume", "abort", "rollback", "status"]

CONNECT_S = 10.0
ANSWER_S = 15.0
AGAIN_S = 5.0
"""The same order, under the same id, is said again while no answer comes: it is carried out once."""


@contextlib.asynccontextmanager
async def connected(broker: Broker, base: str) -> AsyncIterator[Link]:
    """An operator's link, once it is online; raises LinkError when the broker cannot be reached."""
    async with Link(broker, f"{base}-operator-{secrets.token_hex(4)}") as link:
        try:
            async with asyncio.timeout(CONNECT_S):
                await link.wait_online()
        except TimeoutError:
            why = f" ({link.problem})" if link.problem else ""
            raise LinkError(f"no connection to {broker.host}:{broker.port} in {CONNECT_S:.0f} s{why}; is the broker running?") from None
        yield link


async def order(link: Link, base: str, op: Op, rollout: str = "", **args: Any) -> RolloutAck:
    """The answer to an order, once it is done.

    Raises LinkError when no coordinator answers, Rejected with its reason when it refuses, or would not read so large an order.
    """
    command = RolloutCommand(id=secrets.token_hex(6), op=op, rollout=rollout, args=args, expires=datetime.now(UTC) + timedelta(seconds=ANSWER_S))
    if (size := len(command.encode())) > RolloutCommand.max_bytes:
        names = f" for {len(args['select']):,} names and patterns (a pattern names many at once)" if "select" in args else ""
        raise Rejected(Reason.TOO_LARGE, f"{op}: {size:,} bytes{names} do not fit into an order of at most {RolloutCommand.max_bytes:,}")
    try:
        async with asyncio.timeout(ANSWER_S):
            ack = await _answer(link, base, command)
    except TimeoutError:
        why = "is `maskfleet-trainer watch` running, and may this client write and read at the broker what it must?"
        raise LinkError(f"no coordinator answered in {ANSWER_S:.0f} s; {why}") from None
    if not ack.ok:
        raise Rejected(Reason.BAD_INPUT, ack.reason)
    return ack


async def _answer(link: Link, base: str, command: RolloutCommand) -> RolloutAck:
    async with link.receive(base, RolloutAck) as acks:
        asking = asyncio.create_task(_ask(link, base, command))
        try:
            async for _, ack, _ in acks:
                if ack.id == command.id:
                    return ack
        finally:
            asking.cancel()
    raise LinkError("the link has ended")


async def _ask(link: Link, base: str, command: RolloutCommand) -> None:
    while True:
        await link.wait_online()
        try:
            await link.send(Fleet(base), command)
        except LinkError:
            await asyncio.sleep(1)
            continue
        await asyncio.sleep(AGAIN_S)
