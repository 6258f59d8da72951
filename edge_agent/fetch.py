"""Gets the chunks of a model over MQTT: says which are missing, writes down what comes, and asks again."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable

from edge_agent.disk import in_thread
from edge_agent.slots import Part
from protocol.chunks import Parts, Piece
from protocol.errors import LinkError, Rejected
from protocol.link import Link, backoff_s
from protocol.receiver import Received
from protocol.release import Manifest
from protocol.rollouts import MAX_WISHES, Chunk, Want
from protocol.tasks import end
from protocol.topics import SHORT_DIGEST, Address, ReleaseAddress

log = logging.getLogger(__name__)

PATIENCE_S = 10.0
"""So long nothing may come before it is asked for again; doubles each time in vain."""
PATIENCE_CAP_S = 60.0
START_S = 1.0
"""All cameras of a wave hear of a release at once, and spread their first wish over this time."""
MAX_WAITING = 256
"""More messages than this, at most 48 KiB each, are dropped while the disk is busy: 12 MB."""


async def fetch(link: Link, camera: Address, manifest: Manifest, part: Part, progress: Callable[[int], None]) -> None:
    """Returns when every chunk is on disk, however long that takes; raises OSError when the disk fails.

    `progress` is told how many chunks are missing, whenever that changes.
    """
    release = ReleaseAddress(camera.base, manifest.digest[:SHORT_DIGEST])
    missing = set(await in_thread(part.missing))
    async with link.receive(release, Chunk, max_waiting=MAX_WAITING) as chunks:
        taking = asyncio.create_task(_take(chunks, Parts(manifest), part, missing, progress))
        try:
            await asyncio.sleep(random.uniform(0, START_S))
            attempt = 0
            while not taking.done():
                await _wish(link, release, camera, missing)
                has_come = await _quiet(taking, missing, backoff_s(attempt, random.uniform(0.7, 1), PATIENCE_S, PATIENCE_CAP_S))
                attempt = 0 if has_come else attempt + 1
            await taking
        finally:
            await end(taking)  # a chunk of this model that is being written must not fall into the next one's file
    await in_thread(part.finish)


async def _wish(link: Link, release: ReleaseAddress, camera: Address, missing: set[int]) -> None:
    await link.wait_online()
    if not missing:  # what was under way when the connection broke was all of it
        return
    try:
        await link.send(release, Want(site=camera.site, camera=camera.camera, chunks=tuple(sorted(missing)[:MAX_WISHES])))
    except LinkError as error:
        log.debug("wish not sent: %s", error)


async def _quiet(taking: asyncio.Task[None], missing: set[int], patience_s: float) -> bool:
    """Returns when all is here, or nothing new has come for so long: whether anything had."""
    first = before = len(missing)
    while True:
        await asyncio.wait({taking}, timeout=patience_s)
        if taking.done() or len(missing) == before:
            return len(missing) < first
        before = len(missing)


async def _take(chunks: AsyncIterator[Received[Chunk]], parts: Parts, part: Part, missing: set[int], progress: Callable[[int], None]) -> None:
    """Writes down each missing chunk that comes, until none is missing. What is not wanted is not looked at."""
    has_complained = False
    progress(len(missing))
    while missing:
        address, chunk, _ = await anext(chunks)
        try:
            piece = Piece.parse(address.piece)
            data = parts.add(piece, chunk.data) if piece.number in missing else None
        except Rejected as error:
            log.log(logging.DEBUG if has_complained else logging.WARNING, "a chunk is thrown away: %s", error)
            has_complained = True
            continue
        if data is not None:
            await in_thread(part.put, piece.number, data)
            missing.discard(piece.number)
            progress(len(missing))
